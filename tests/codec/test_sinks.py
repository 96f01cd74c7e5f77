"""What archives are unpacked to: real folders, arrays and URLs, whole or not at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream.errors import UnsupportedImage
from vqcodec.codec import plain
from vqcodec.codec.archive.io.outputs import whole_file
from vqcodec.codec.archive.io.places import place_of
from vqcodec.codec.archive.io.sinks import open_sink
from vqcodec.codec.archive.io.sources import open_sources
from vqcodec.codec.files import FileError
from vqcodec.training.data.datasets import read_idx

DIGITS: NDArray[np.uint8] = np.load(Path(__file__).parents[1] / "images" / "mnist_test_8.npy")
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)


@dataclass
class Held:
    """An image as an archive would give it."""

    array: NDArray[Any] | None = None
    original: bytes | None = None

    def pil(self) -> Image.Image:
        if self.array is None:
            raise UnsupportedImage("Pillow cannot hold this")
        return Image.fromarray(self.array)

    def png(self) -> bytes:
        return plain.from_pil(self.pil()).to_png()


def put(
    target: object, images: Iterable[tuple[str, NDArray[Any] | bytes | None]], force: bool = False, order: int = 1
) -> None:
    """Unpack images by name; order -1: the last comes first."""
    listed = list(images)
    names = [name for name, _ in listed]
    with open_sink(str(target), range(len(names)), names.__getitem__, force) as sink:
        for number, (name, image) in list(enumerate(listed))[::order]:
            sink(number, name, Held(original=image) if isinstance(image, bytes) else Held(image))


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def numbered(array: NDArray[Any], prefix: str = "") -> list[tuple[str, NDArray[Any]]]:
    return [(f"{prefix}{number}", image) for number, image in enumerate(array)]


# Folders


def test_names_become_files(tmp_path: Path) -> None:
    images = [
        ("00", DIGITS[0]),
        ("a.PNG", DIGITS[1]),
        ("b/c.jpg", COLOURS[0]),
        ("b/d.tiff", DIGITS[2]),
        ("e.webp", COLOURS[1]),
        ("f.bmp", COLOURS[2]),
        ("g.x/1.5", DIGITS[3] > 99),
        ("photo.jpg", b"as it came"),
        ("odd", b"as it came, too"),
        ("deep.webp", DIGITS[0].astype(np.uint16) * 257),
        ("deep.bmp", DIGITS[0].astype(np.uint16) * 257),
    ]
    put(tmp_path / "out", images)
    deep = ["deep.bmp.png", "deep.webp.png"]
    files = ["00.png", "a.PNG", "b/c.jpg.png", "b/d.tiff", "e.webp", "f.bmp", "g.x/1.5", "odd", "photo.jpg"]
    assert tree(tmp_path / "out") == sorted(files + deep)
    assert (tmp_path / "out" / "photo.jpg").read_bytes() == b"as it came"
    for name in deep:
        with Image.open(tmp_path / "out" / name) as image:
            assert np.array_equal(np.asarray(image), DIGITS[0].astype(np.uint16) * 257)
    for name, (_, pixels) in zip(files[:7], images, strict=False):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.format == {".tiff": "TIFF", ".webp": "WEBP", ".bmp": "BMP"}.get(Path(name).suffix, "PNG")
            assert np.array_equal(np.asarray(image), pixels)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_left_of_a_folder_that_is_not_finished(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out", range(2), str) as sink:
        sink(0, "a/b", Held(DIGITS[0]))
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".vqcodec-")
    with pytest.raises(UnsupportedImage, match="Pillow cannot hold this"):
        put(tmp_path / "other", [("a", DIGITS[0]), ("b", None)])
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "out" / "b").mkdir(parents=True)
    with pytest.raises(FileError, match="out exists; use --force to put the images into it"):
        put(tmp_path / "out", numbered(DIGITS[:1]))
    (tmp_path / "out" / "b").rmdir()
    put(tmp_path / "out", numbered(DIGITS[:2]))  # it was empty
    (tmp_path / "out" / "mine.txt").write_text("precious")
    put(tmp_path / "out", [("1", DIGITS[5]), ("b/2", DIGITS[2])], force=True)
    assert tree(tmp_path / "out") == ["0.png", "1.png", "b/2.png", "mine.txt"]
    with Image.open(tmp_path / "out" / "1.png") as image:
        assert np.array_equal(np.asarray(image), DIGITS[5])
    with pytest.raises(FileError, match="cannot write .*out"):
        put(tmp_path / "out", [("mine.txt/1", DIGITS[5])], force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="file is a file; name a folder"):
        put(tmp_path / "file", numbered(DIGITS), force=True)
    with pytest.raises(FileError, match="the folder .*nix does not exist"):
        put(tmp_path / "nix" / "out", numbered(DIGITS))
    with pytest.raises(ValueError, match="relative path"):
        put(tmp_path / "out", [("../x", DIGITS[0])])
    assert tree(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everything")
def test_folders_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="you may not write"):
        put(tmp_path / "out", numbered(DIGITS))
    tmp_path.chmod(0o700)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", numbered(DIGITS[:1]))
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "real") == ["0.png"]


# Arrays


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "array",
    [DIGITS, COLOURS, DIGITS > 99, DIGITS.astype(np.uint16) * 257, COLOURS[..., :2], COLOURS[..., [0, 1, 2, 0]]],
    ids=["grey", "colour", "bool", "uint16", "grey and alpha", "colour and alpha"],
)
def test_npy_files(array: NDArray[Any], order: int, tmp_path: Path) -> None:
    put(tmp_path / "x.npy", numbered(array), order=order)
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    np.save(tmp_path / "y.npy", array)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert (tmp_path / "x.npy").stat().st_mode & 0o777 == 0o666 & ~umask()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["x-ubyte", "x.idx"])
@pytest.mark.parametrize("array", [DIGITS, COLOURS], ids=["grey", "colour"])
def test_idx_files(array: NDArray[np.uint8], name: str, tmp_path: Path) -> None:
    put(tmp_path / name, numbered(array), order=-1)
    assert np.array_equal(read_idx(tmp_path / name), array)


def test_npz_files_have_an_array_for_each_folder(tmp_path: Path) -> None:
    images = [*numbered(DIGITS[:3], "train/"), *numbered(COLOURS, "test/x/"), *numbered(DIGITS[3:5])]
    put(tmp_path / "x.npz", images, order=-1)
    with np.load(tmp_path / "x.npz") as found:
        assert list(found) == ["train", "test/x", "images"]
        assert np.array_equal(found["train"], DIGITS[:3])
        assert np.array_equal(found["test/x"], COLOURS)
        assert np.array_equal(found["images"], DIGITS[3:5])
    put(tmp_path / "y.npz", images)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    back = [item.name for item in open_sources([tmp_path / "x.npz"])]
    assert back[:6] == [name for name, _ in images[:6]]


def test_images_that_never_come_leave_no_gap(tmp_path: Path) -> None:
    with open_sink(tmp_path / "x.npy", range(10, 18), str) as sink:
        for number in (17, 10, 12):
            sink(number, str(number), Held(DIGITS[number - 10]))
    assert np.array_equal(np.load(tmp_path / "x.npy"), DIGITS[[0, 2, 7]])


def test_images_that_make_no_array(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedImage, match=r"b is uint8 \[5, 7, 3\], but a is uint8 \[28, 28\]; .* unpack into a folder"
    ):
        put(tmp_path / "x.npy", [("a", DIGITS[0]), ("b", COLOURS[0])])
    with pytest.raises(UnsupportedImage, match="b is bool"):
        put(tmp_path / "x.npy", [("a", DIGITS[0]), ("b", DIGITS[0] > 99)])
    with pytest.raises(UnsupportedImage, match="IDX files hold 8-bit pixels, found uint16; use .npy"):
        put(tmp_path / "x.idx", [("a", DIGITS[0].astype(np.uint16))])
    with pytest.raises(UnsupportedImage, match="x.npy: no images to write"):
        put(tmp_path / "x.npy", [])
    with pytest.raises(UnsupportedImage, match="Pillow cannot hold this"):
        put(tmp_path / "x.npy", [("a", b"an original")])
    assert not list(tmp_path.iterdir())


def test_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_text("precious")
    (tmp_path / "x.npy").chmod(0o640)
    (tmp_path / "d.npy").mkdir()
    (tmp_path / "link.npy").symlink_to("x.npy")
    with pytest.raises(FileError, match="x.npy exists; use --force"):
        put(tmp_path / "x.npy", numbered(DIGITS))
    with pytest.raises(FileError, match="d.npy is a folder"):
        put(tmp_path / "d.npy", numbered(DIGITS), force=True)
    assert (tmp_path / "x.npy").read_text() == "precious"
    put(tmp_path / "link.npy", numbered(DIGITS), force=True)
    assert (tmp_path / "link.npy").is_symlink()
    assert np.array_equal(np.load(tmp_path / "x.npy"), DIGITS)
    assert (tmp_path / "x.npy").stat().st_mode & 0o777 == 0o640


LIMITED = """
import resource, sys
import numpy as np
from PIL import Image
from vqcodec.codec.archive.io.sinks import open_sink
class Held:
    original = None
    def pil(self):
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8))
    def png(self):
        return bytes(5000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with open_sink(sys.argv[1], range(3), str) as put:
        for number in range(3):
            put(number, str(number), Held())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("name", ["out", "x.npy", "x.npz", "x.idx"])
def test_a_full_disk_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / ".links")}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / name)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.stdout.startswith(f"FileError: cannot write {tmp_path / name}"), result.stderr
    assert "File too large" in result.stdout
    assert not list(tmp_path.iterdir())


# Files that appear whole


def test_a_file_appears_when_its_context_ends(tmp_path: Path) -> None:
    place = place_of(tmp_path / "x")
    with whole_file(place) as stream:
        stream.write(b"whole")
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".vqcodec-")
    assert (tmp_path / "x").read_bytes() == b"whole"
    with suppress(KeyboardInterrupt), whole_file(place, force=True) as stream:
        stream.write(b"part")
        raise KeyboardInterrupt
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


# URLs


@pytest.fixture
def memory() -> Any:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_folders_at_urls(memory: Any) -> None:
    put("memory://top/out", [("0", DIGITS[0]), ("a/b.jpg", b"original")])
    assert sorted(memory.store) == ["/top/out/0.png", "/top/out/a/b.jpg"]
    with Image.open(io.BytesIO(memory.cat_file("/top/out/0.png"))) as image:
        assert np.array_equal(np.asarray(image), DIGITS[0])
    with pytest.raises(FileError, match="memory://top/out exists; use --force"):
        put("memory://top/out", numbered(DIGITS))
    put("memory://top/out/", [("c", DIGITS[0])], force=True)
    assert sorted(memory.store) == ["/top/out/0.png", "/top/out/a/b.jpg", "/top/out/c"]


def test_arrays_at_urls(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put("memory://x.npy", numbered(DIGITS))
    assert np.array_equal(np.load(io.BytesIO(memory.cat_file("/x.npy"))), DIGITS)
    with pytest.raises(FileError, match="memory://x.npy exists; use --force to overwrite it"):
        put("memory://x.npy", numbered(DIGITS))
    put("memory://x.npy", numbered(COLOURS), force=True)
    assert np.array_equal(np.load(io.BytesIO(memory.cat_file("/x.npy"))), COLOURS)
    with pytest.raises(UnsupportedImage):
        put("memory://y.npy", [("a", DIGITS[0]), ("b", COLOURS[0])])

    def fail(*arguments: object) -> None:
        raise OSError("no more room")

    monkeypatch.setattr(memory, "mv", fail)
    with pytest.raises(FileError, match="memory://y.npy: no more room"):
        put("memory://y.npy", numbered(DIGITS))
    with pytest.raises(FileError, match="memory://out: no more room"):
        put("memory://out", numbered(DIGITS))
    assert sorted(memory.store) == ["/x.npy"]
