"""Compiled code is loaded only from folders that nobody but this user and root can write to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vqcodec.bitstream import CoderUnavailable, torchac_build

OTHER = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
LINKS = str(Path(__file__).parents[2] / ".links")

LOAD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from vqcodec.bitstream import torchac_build as build
build.torchac_source = lambda: Path(__file__)
build._environment_key = lambda source: "key"
build._load = lambda library: library
def made(library):
    library.write_bytes(b"mine")
    library.chmod(0o755)
build._build_once = made
sys.modules["torch"] = sys
os.setuid(int(sys.argv[2]))
try:
    found = build.load_extension()
    print(json.dumps([str(found), found.read_bytes().decode()]))
except build.CoderUnavailable as error:
    print(json.dumps([None, str(error)]))
"""
"""Prints the library that would be loaded, and what is in it. Nothing is compiled: making one writes "mine"."""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "load.py"
    path.write_text(LOAD)
    return path


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of this user, whose folders above others can enter, and which has a folder for temporary ones."""
    folder = Path(tempfile.mkdtemp(prefix="vqcodec-test-"))
    folder.chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def loaded(home: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str | None, str]]:
    """loaded(**environment): the library, None if there is none, and its content or the error. None is compiled."""

    def make(library: Path) -> None:
        library.write_bytes(b"mine")
        library.chmod(0o755)

    def run(cwd: Path = home, **environment: str) -> tuple[str | None, str]:
        for name in ("VQCODEC_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(cwd)
        try:
            library: Any = torchac_build.load_extension()
            return str(library), library.read_bytes().decode()
        except CoderUnavailable as error:
            return None, str(error)

    monkeypatch.setattr(torchac_build, "_environment_key", lambda source: "key")
    monkeypatch.setattr(torchac_build, "_build_once", make)
    monkeypatch.setattr(torchac_build, "_load", lambda library: library)
    monkeypatch.setattr(tempfile, "tempdir", str(home / "tmp"))
    return run


@pytest.fixture
def loaded_by_other(home: Path, script: Path) -> Callable[..., tuple[str | None, str]]:
    """The same in a process of another user, who has no entry in passwd."""

    def run(user: int, cwd: Path = home, **environment: str) -> tuple[str | None, str]:
        known = {"PATH": os.environ["PATH"], "TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", LOAD.replace("__file__", repr(str(script))), LINKS, str(user)]
        done = subprocess.run(
            command, env=known | environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=True
        )
        found: tuple[str | None, str] = tuple(json.loads(done.stdout))
        return found

    return run


def planted(cache: Path, user: int, folder: int = 0o777, library: int = 0o755) -> Path:
    """A library of a user in a cache that was there before."""
    path = cache / "torchac-key" / "vqcodec_torchac.so"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"planted")
    path.chmod(library)
    for part in (path.parent, cache):
        part.chmod(folder)
    if user != os.geteuid():
        os.chown(path, user, user)
    return path


@AS_ROOT
@pytest.mark.parametrize("variable", ["VQCODEC_CACHE", "XDG_CACHE_HOME", "HOME"])
@pytest.mark.parametrize(
    ("owner", "folder", "library"),
    [
        (OTHER, 0o777, 0o755),  # anybody could put it there
        (OTHER, 0o755, 0o755),  # somebody else's
        (OTHER, 0o1777, 0o755),  # as in /tmp
        (0, 0o777, 0o755),  # others could replace it
        (0, 0o775, 0o755),
        (0, 0o755, 0o777),  # others could write to it
        (0, 0o755, 0o775),
    ],
)
def test_a_library_that_others_could_write_is_never_loaded(
    variable: str, owner: int, folder: int, library: int, home: Path, loaded: Callable[..., Any]
) -> None:
    below = {"VQCODEC_CACHE": "", "XDG_CACHE_HOME": "vqcodec", "HOME": ".cache/vqcodec"}[variable]
    planted(home / "place" / below, owner, folder, library)
    _, content = loaded(**{variable: str(home / "place")})
    assert content != "planted"


@AS_ROOT
@pytest.mark.parametrize("variable", ["VQCODEC_CACHE", "HOME"])
def test_a_folder_above_that_others_can_write_to_is_not_trusted(
    variable: str, home: Path, loaded: Callable[..., Any]
) -> None:
    below = {"VQCODEC_CACHE": "", "HOME": ".cache/vqcodec"}[variable]
    planted(home / "open" / "place" / below, 0, 0o755)
    (home / "open").chmod(0o777)
    path, content = loaded(**{variable: str(home / "open" / "place")})
    assert content == "mine"
    assert str(path).startswith(str(home / "tmp"))


@AS_ROOT
def test_what_a_link_leads_to_counts(home: Path, loaded: Callable[..., Any]) -> None:
    planted(home / "theirs", OTHER)
    (home / "cache").symlink_to("theirs")
    assert loaded(VQCODEC_CACHE=str(home / "cache"))[1] != "planted"
    planted(home / "mine", 0, 0o755)
    (home / "link").symlink_to(home / "mine")
    assert loaded(VQCODEC_CACHE=str(home / "link"))[1] == "planted"


@AS_ROOT
def test_a_link_of_another_user_is_not_followed(home: Path, loaded: Callable[..., Any]) -> None:
    planted(home / "mine", 0, 0o755)
    (home / "tmp" / "cache").symlink_to(home / "mine")
    os.lchown(home / "tmp" / "cache", OTHER, OTHER)
    assert loaded(VQCODEC_CACHE=str(home / "tmp" / "cache"))[1] != "planted"


@AS_ROOT
@pytest.mark.parametrize("owner", [0, OTHER])
def test_a_sound_cache_that_cannot_be_written_is_used(
    owner: int, home: Path, loaded_by_other: Callable[..., Any]
) -> None:
    path = planted(home / "cache", owner, 0o555)
    for part in (path.parent, home / "cache"):
        os.chown(part, owner, owner)
    assert loaded_by_other(OTHER, VQCODEC_CACHE=str(home / "cache")) == (str(path), "planted")


@AS_ROOT
def test_without_a_home_there_is_no_folder_of_that_name(home: Path, loaded_by_other: Callable[..., Any]) -> None:
    work = home / "work"
    for cache in (work / "~" / ".cache" / "vqcodec", work / ".cache" / "vqcodec"):
        planted(cache, 54321, 0o777)
    path, content = loaded_by_other(54321, cwd=work)
    assert content == "mine"
    assert str(path).startswith(str(home / "tmp"))


def test_a_relative_home_is_none(home: Path, loaded: Callable[..., Any]) -> None:
    work = home / "work"
    planted(work / "relative" / ".cache" / "vqcodec", os.geteuid(), 0o755)
    path, content = loaded(cwd=work, HOME="relative")
    assert content == "mine"
    assert str(path).startswith(str(home / "tmp"))


def test_a_relative_cache_of_xdg_is_ignored(home: Path, loaded: Callable[..., Any]) -> None:
    planted(home / "work" / "caches" / "vqcodec", os.geteuid(), 0o755)
    path, content = loaded(cwd=home / "work", XDG_CACHE_HOME="caches", HOME=str(home / "me"))
    assert (path, content) == (str(home / "me" / ".cache" / "vqcodec" / "torchac-key" / "vqcodec_torchac.so"), "mine")


@AS_ROOT
def test_a_temporary_folder_of_another_user_is_refused(home: Path, loaded: Callable[..., Any]) -> None:
    planted(home / "tmp" / f"vqcodec-{os.geteuid()}", OTHER)
    (home / "file").touch()
    path, reason = loaded(VQCODEC_CACHE=str(home / "file" / "none"))
    assert path is None
    assert "can be written by others" in reason


def test_folders_are_made_for_this_user_alone(home: Path, loaded: Callable[..., Any]) -> None:
    before = os.umask(0)
    try:
        path, content = loaded(HOME=str(home / "me"))
    finally:
        os.umask(before)
    assert content == "mine"
    made = [home / "me", *(home / "me").rglob("*")]
    assert {part.stat().st_mode & 0o777 for part in made if part.is_dir()} == {0o700}
    assert str(path).startswith(str(home / "me"))


def test_the_library_in_use_is_sound() -> None:
    folder = torchac_build.cache_folder()
    assert torchac_build.fault_of(folder) is None
