"""The command line ends cleanly when it is told to; files get the permissions that the umask leaves."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqcodec
from vqcodec.codec import files
from vqcodec.codec.archive.io.outputs import whole_file
from vqcodec.codec.archive.io.places import Local

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose packing takes many seconds: images of noise."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    for number in range(16):
        Image.fromarray(np.roll(noise, number, 0)).save(folder / f"{number:02}.bmp")
    return folder


def started(images: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [sys.executable, "-m", "vqcodec.cli", "pack", str(images), "out.vqa", "--model", "plain", *options]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_signals_leave_nothing_behind(images: Path, tmp_path: Path) -> None:
    """Workers hold the pipes too: these are closed once all processes have ended."""
    cases = [(signal.SIGTERM, "1"), (signal.SIGTERM, "2"), (signal.SIGHUP, "1")]
    folders = [tmp_path / str(number) for number in range(len(cases))]
    processes = [started(images, folder, "--jobs", jobs) for folder, (_, jobs) in zip(folders, cases, strict=True)]
    for process, folder, (number, _) in zip(processes, folders, cases, strict=True):
        begin = time.monotonic()
        while not list(folder.iterdir()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < begin + 100
            time.sleep(0.05)
        assert [path.name[:9] for path in folder.iterdir()] == [".vqcodec-"]
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 128 + number
        assert (out, err) == (b"", b"")
        assert not list(folder.iterdir())


def test_the_library_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    vqcodec.decode(vqcodec.encode(Image.new("L", (3, 3)), "plain"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def _by_files(path: Path) -> None:
    files.write_bytes(path, b"new", force=True)


def _by_outputs(path: Path) -> None:
    with whole_file(Local(path), force=True) as stream:
        stream.write(b"new")


def _by_pack(path: Path) -> None:
    vqcodec.pack([vqcodec.Item("a", array=np.zeros((3, 3), np.uint8))], path, model="plain", force=True)


def _by_unpack(path: Path) -> None:
    packed = io.BytesIO()
    vqcodec.pack([vqcodec.Item("a", array=np.zeros((3, 3), np.uint8))], packed, model="plain")
    packed.seek(0)
    vqcodec.unpack(vqcodec.Archive(packed), path, force=True)


WRITERS = [_by_files, _by_outputs, _by_pack, _by_unpack]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize("write", WRITERS)
def test_modes(write: Callable[[Path], None], tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of the process is not touched: other threads make files too."""
    asked: list[int] = []
    monkeypatch.setattr(os, "umask", lambda mask: asked.append(mask) or 0o022)
    path = tmp_path / "a.npy"
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not asked
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_private_file_stays_private_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with whole_file(Local(path), force=True) as stream:
        stream.write(b"new")
        stream.flush()
        assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}
    assert path.read_bytes() == b"new"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), whole_file(Local(path), force=True):
        raise KeyError
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a": b"old"}
