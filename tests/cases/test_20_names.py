"""Deep names, and folders that others prepared: no recursion, and nothing is written outside of the target."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive_names import Names, runs_of
from vqcodec.codec.archive.io.folders import entries_below, make_folders, remove
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.files import FileError


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def archive_of(path: Path, *names: str) -> Path:
    vqcodec.pack([Item(name, file=png(seed)) for seed, name in enumerate(names)], path, model="plain")
    return path


def files(folder: Path) -> list[str]:
    """Files below a folder of any depth, relative to it."""
    return sorted(
        entry.path[len(str(folder)) + 1 :]
        for entry in entries_below(str(folder))
        if not entry.is_dir(follow_symlinks=False)
    )


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed at once with all below it, which may be too deep for others to remove."""
    yield tmp_path
    remove(str(tmp_path))
    assert not tmp_path.exists()


# Depth


@pytest.mark.parametrize("depth", [1, 1500, 2047])
def test_deep_names(depth: int, deep: Path) -> None:
    name = "d/" * depth + "x.png"
    if len(name) > 4096:
        with pytest.raises(FileError, match="at most 4096 bytes"):
            archive_of(deep / "a.vqa", name)
        return
    archive_of(deep / "a.vqa", name, "other/z.png")
    told = vqcodec.unpack(deep / "a.vqa", deep / "out", force=True)
    assert told.images == 2
    assert files(deep / "out") == sorted(["other/z.png", dict(told.renamed).get(name, name)])
    assert (name in dict(told.renamed)) is (len(name) > 4095 - len(str(deep / "out")) - 32)
    summary = vqcodec.pack([deep / "out"], deep / "b.vqa", model="plain")
    assert (summary.images, summary.skipped) == (2, 0)


def test_a_failure_leaves_no_deep_folder(deep: Path) -> None:
    name = "d/" * 1100
    items = [Item(f"{name}x.png", file=png()), Item(f"{name}cut.gif", file=b"GIF89a")]
    vqcodec.pack(items, deep / "a.vqa", model="plain")
    (deep / "out").mkdir()
    (deep / "out" / "d").write_text("in the way")
    with pytest.raises(FileError, match="it is a file"):
        vqcodec.unpack(deep / "a.vqa", deep / "out", force=True)
    assert os.listdir(deep / "out") == ["d"]
    (deep / "out" / "d").unlink()
    assert vqcodec.unpack(deep / "a.vqa", deep / "out", force=True).images == 2
    assert files(deep / "out") == [f"{name}cut.gif", f"{name}x.png"]


@pytest.mark.parametrize(("part", "levels"), [("d", 1200), ("longer-than-a-path-may-be", 200)])
def test_deep_folders(part: str, levels: int, tmp_path: Path) -> None:
    """Folders whose whole path is too long for the system are noted; the rest is packed."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path / "in")
        for _ in range(levels):
            os.mkdir(part)
            os.chdir(part)
        Path("x.png").write_bytes(png(1))
        told: list[str] = []
        summary = vqcodec.pack(
            tmp_path / "in", tmp_path / "a.vqa", model="plain", skip=lambda name, reason: told.append(reason)
        )
    finally:
        Path("x.png").unlink()
        for _ in range(levels):
            os.chdir("..")
            os.rmdir(part)
        os.fchdir(here)
        os.close(here)
    reached = part == "d"
    assert summary.images == 1 + reached
    assert (summary.skipped, summary.images_skipped) == ((0, 0) if reached else (1, 1))
    assert reached or "File name too long" in told[0]


def test_folders_of_names_take_no_memory() -> None:
    """2,000 names of 2,000 parts have 4 million folders."""
    names = Names(runs_of(f"{number}x" + "/d" * 1999 for number in range(2000)))
    assert names.is_folder("7x" + "/d" * 1000)
    assert not names.is_folder("7x" + "/d" * 1999)
    assert not names.is_folder("2000x")
    counting = Names(runs_of(f"a{number:09}/b/c" for number in range(1000)))
    assert [counting.is_folder(path) for path in ("a000000999", "a000000999/b", "a000001000", "a999", "a")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_folders_are_made_once(tmp_path: Path) -> None:
    make_folders(str(tmp_path / "a" / "b"))
    make_folders(str(tmp_path / "a" / "b" / "c"))
    (tmp_path / "a" / "file").write_text("x")
    with pytest.raises(OSError, match="ile exists|ot a directory"):
        make_folders(str(tmp_path / "a" / "file"))
    with pytest.raises(OSError, match="ot a directory"):
        make_folders(str(tmp_path / "a" / "file" / "x" / "y"))
    (tmp_path / "link").symlink_to("a")
    remove(str(tmp_path / "a" / "b"))
    assert [entry.name for entry in entries_below(str(tmp_path))] == ["a", "link", "file"]


# Links


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder out with a link sub to a folder outside, and an archive of sub/a.png, sub/deep/b.png and c.png."""
    archive_of(tmp_path / "a.vqa", "aa.png", "c.png", "sub/a.png", "sub/deep/b.png")
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "a.png").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("to", ["../outside", "inside", "nowhere"])
@pytest.mark.parametrize("where", ["sub", "sub/deep"])
def test_nothing_is_written_through_a_link(where: str, to: str, prepared: Path) -> None:
    out = prepared / "out"
    (out / "inside").mkdir()
    (out / where).parent.mkdir(exist_ok=True)
    (out / where).symlink_to(("../" if "/" in where else "") + to)
    before = everything(prepared)
    with pytest.raises(FileError, match=f"cannot write below .*out/{where}: it is a link"):
        vqcodec.unpack(prepared / "a.vqa", out, force=True)
    assert everything(prepared) == before
    assert vqcodec.unpack(prepared / "a.vqa", out, ["c.png"], force=True).images == 1


def test_a_link_in_place_of_a_file_is_replaced(prepared: Path) -> None:
    out = prepared / "out"
    (out / "sub").mkdir()
    (out / "sub" / "a.png").symlink_to("../../outside/a.png")
    (out / "c.png").symlink_to("dangling")
    vqcodec.unpack(prepared / "a.vqa", out, force=True)
    assert (prepared / "outside" / "a.png").read_text() == "precious"
    assert not (out / "sub" / "a.png").is_symlink()
    assert not (out / "c.png").is_symlink()
    assert Image.open(out / "c.png").tobytes() == Image.open(io.BytesIO(png(1))).tobytes()
    assert (out / "mine.txt").read_text() == "mine"
    assert not [name for name in os.listdir(out) if name.startswith(".")]


@pytest.mark.parametrize("blocked", ["c.png", "sub/deep/b.png"])
def test_nothing_moves_if_not_all_can(blocked: str, prepared: Path) -> None:
    """A folder lies where a file should go."""
    (prepared / "out" / blocked).mkdir(parents=True)
    (prepared / "out" / "aa.png").write_text("old")
    with pytest.raises(FileError, match="it is a folder"):
        vqcodec.unpack(prepared / "a.vqa", prepared / "out", force=True)
    assert (prepared / "out" / "aa.png").read_text() == "old"
    assert files(prepared / "out") == ["aa.png", "mine.txt"]


def test_the_target_itself_may_be_a_link(prepared: Path) -> None:
    (prepared / "link").symlink_to("out")
    vqcodec.unpack(prepared / "a.vqa", prepared / "link", force=True)
    assert files(prepared / "out") == ["aa.png", "c.png", "mine.txt", "sub/a.png", "sub/deep/b.png"]
    assert (prepared / "link").is_symlink()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize(
    "name", ["x" * 300, "é" * 200 + ".png", "x" * 300 + "/y.png", "x" * 253, "/".join(["x" * 250] * 16)]
)
def test_names_too_long_for_the_file_system(name: str, tmp_path: Path) -> None:
    archive_of(tmp_path / "a.vqa", name, "y.png")
    told = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out")
    assert len(files(tmp_path / "out")) == 2
    assert (name in dict(told.renamed)) is (name != "x" * 253)
    alone = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "one", [name])
    assert alone.renamed == told.renamed
    assert files(tmp_path / "one") == [dict(told.renamed).get(name, name)]
