"""Choosing the coder, building torchac, and doing without it."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vqcodec.bitstream import CoderUnavailable, backend, torchac_build
from vqcodec.bitstream.python_coder import PythonCoder
from vqcodec.bitstream.torchac_backend import TorchacCoder

ROUND_TRIP = """
from vqcodec.bitstream import decode, encode
cdf = [[0, 9, 65535, 65536]] * 3
assert decode(encode([0, 1, 2], cdf), cdf).tolist() == [0, 1, 2]
"""


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Another Python that runs the code, with vqcodec importable."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / ".links"), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_works_with_numpy_alone() -> None:
    code = "import sys\nfor name in ('torch', 'torchac', 'PIL'): sys.modules[name] = None\n" + ROUND_TRIP
    process = start(code, VQCODEC_CODER="auto")
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == [
        "vqcodec: using the slow pure-Python coder, the files are the same: torch is not installed"
    ]


def test_importing_does_not_import_torch() -> None:
    process = start("import sys, vqcodec.bitstream; sys.exit('torch' in sys.modules)")
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_a_choice_of_coder_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CODER", "python")
    assert isinstance(backend.backend(), PythonCoder)
    for choice in ("torchac", "auto", ""):
        monkeypatch.setenv("VQCODEC_CODER", choice)
        assert isinstance(backend.backend(), TorchacCoder)


def test_an_unknown_coder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CODER", "fast")
    with pytest.raises(ValueError, match="found 'fast'"):
        backend.backend()


@pytest.mark.usefixtures("empty_cache")
def test_without_a_compiler_python_codes_after_one_notice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    backend._backend.cache_clear()
    try:
        monkeypatch.setenv("VQCODEC_CODER", "torchac")
        with pytest.raises(CoderUnavailable, match=r"no C\+\+ compiler \(no-such-compiler\)"):
            backend.backend()
        monkeypatch.setenv("VQCODEC_CODER", "auto")
        assert isinstance(backend.backend(), PythonCoder)
        assert isinstance(backend.backend(), PythonCoder)
    finally:
        backend._backend.cache_clear()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == err.count("pure-Python") == 1


@pytest.mark.usefixtures("empty_cache")
def test_a_failing_compiler_is_reported_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CoderUnavailable, match=r"compiling torchac failed, see .*build\.log") as caught:
        torchac_build.load_extension()
    assert "'false'" in Path(str(caught.value).split("see ")[1]).read_text(encoding="utf-8")


@pytest.mark.usefixtures("empty_cache")
def test_missing_python_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(CoderUnavailable, match="python3-dev"):
        torchac_build.load_extension()


@pytest.mark.parametrize("package", ["torch", "torchac"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CoderUnavailable, match=f"{package} is not installed"):
        torchac_build.load_extension()


def test_a_damaged_library_is_reported(empty_cache: Path) -> None:
    key = torchac_build._environment_key(torchac_build.torchac_source())
    library = empty_cache / f"torchac-{key}" / "vqcodec_torchac.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    with pytest.raises(CoderUnavailable, match="cannot be built or loaded"):
        torchac_build.load_extension()


def test_the_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VQCODEC_CACHE", raising=False)
    assert torchac_build.cache_folder() == tmp_path / "home" / ".cache" / "vqcodec"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert torchac_build.cache_folder() == tmp_path / "xdg" / "vqcodec"
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "own"))
    assert torchac_build.cache_folder() == tmp_path / "own"


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = torchac_build.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(CoderUnavailable, match="written by others"):
        torchac_build.cache_folder()


def test_pips_ninja_is_found_without_the_environment_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    import ninja

    monkeypatch.setenv("PATH", "/nowhere")
    assert torchac_build._build_environment()["PATH"].split(os.pathsep) == [ninja.BIN_DIR, "/nowhere"]


@pytest.mark.slow
def test_two_processes_build_once_and_quietly_over_a_killed_build(empty_cache: Path) -> None:
    key = torchac_build._environment_key(torchac_build.torchac_source())
    work = empty_cache / f"torchac-{key}" / "build"
    work.mkdir(parents=True)
    (work / "lock").touch()  # torch's cpp_extension would wait for ever
    (work / "vqcodec_torchac.so").write_bytes(b"half a library")
    processes = [start(ROUND_TRIP, VQCODEC_CODER="torchac") for _ in range(2)]
    results = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [out for out, _ in results] == ["", ""]
    assert sorted(err.count("\n") for _, err in results) == [0, 1]
    assert {path.name for path in work.parent.iterdir()} == {"vqcodec_torchac.so", "build.log", "mutex"}


@pytest.mark.parametrize("array", [np.zeros((4, 3), np.int32), np.zeros((4, 6), np.int16)[:, ::2]])
def test_arrays_that_torchac_would_read_wrongly_are_refused(array: np.ndarray) -> None:
    coder = TorchacCoder()
    with pytest.raises(ValueError, match="contiguous int16"):
        coder.decode(array, b"")
    with pytest.raises(ValueError, match="contiguous int16"):
        coder.encode(np.zeros((4, 3), np.int16), array)
