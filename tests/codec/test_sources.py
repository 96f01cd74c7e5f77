"""What archives are packed from: real folders, files and URLs, whole, odd and hostile."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream.errors import TooLarge, UnsupportedImage
from vqcodec.codec import idx
from vqcodec.codec.archive.io import arrays, places
from vqcodec.codec.archive.io.sources import Item, open_sources
from vqcodec.codec.files import FileError

ROOT = Path(__file__).parents[2]
DIGITS: NDArray[np.uint8] = np.load(ROOT / "tests" / "images" / "mnist_test_8.npy")
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)


def png(value: int = 0, size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, *names: str) -> Path:
    """Image files, whose grey level is their number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


def names(*paths: str | Path, **options: Any) -> list[str]:
    return [item.name for item in open_sources(paths, **options)]


def same(items: list[Item], expected: NDArray[Any]) -> bool:
    """Whether items are the images of an array, in order."""
    found = [item.array for item in items]
    return len(found) == len(expected) and all(
        one is not None and one.dtype == other.dtype and one.flags.c_contiguous and np.array_equal(one, other)
        for one, other in zip(found, expected, strict=True)
    )


# Folders and image files


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a/2.png", "a/10.png", "a.png", "a/deep/er/x.png", "Z.png", "ä b.png")
    sources = open_sources([tmp_path])
    found = list(sources)
    assert [item.name for item in found] == [
        "Z.png", "a/10.png", "a/2.png", "a/deep/er/x.png", "a.png", "b.png", "ä b.png",
    ]  # fmt: skip
    assert sources.total == 7
    assert found[5].file == png(0)
    assert found[5].array is None
    assert [item.name for item in sources] == [item.name for item in found]  # it can be read again


def test_files_that_are_no_images_are_told_and_hidden_ones_are_not(tmp_path: Path) -> None:
    write(tmp_path, "a.png", ".hidden.png", ".git/x.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes(png()[:20])
    (tmp_path / "large.png").write_bytes(png(size=(30, 30)))
    (tmp_path / "bad\nname.png").write_bytes(png())
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "round").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    told: dict[str, str] = {}
    sources = open_sources([tmp_path], lambda name, reason: told.update({Path(name).name: reason}), max_pixels=100)
    assert [item.name for item in sources] == ["a.png", "bad\nname.png", "link.png"]
    assert told.pop("notes.txt") == told.pop("empty.png") == "not a readable image"
    assert told.pop("large.png") == "PNG of 30 x 30 pixels, limit 100"
    assert told.pop("round") == "link to a folder"
    assert told.pop("pipe") == "not a regular file"
    assert told.pop("broken.png")
    assert not told
    assert (sources.left_out.files, sources.left_out.images) == (6, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_and_folders_without_permission(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c/d.png")
    (tmp_path / "b.png").chmod(0)
    told: list[str] = []
    assert names(tmp_path, skip=lambda name, reason: told.append(reason)) == ["a.png", "c/d.png"]
    assert "Permission denied" in told[0]
    (tmp_path / "c").chmod(0)
    assert names(tmp_path, skip=lambda name, reason: told.append(reason)) == ["a.png"]
    assert "Permission denied" in told[1]
    with pytest.raises(FileError, match="cannot read .*c: Permission denied"):
        names(tmp_path / "c")
    (tmp_path / "c").chmod(0o700)


def test_a_file_that_goes_while_packing_is_skipped(tmp_path: Path) -> None:
    sources, told = open_sources([write(tmp_path, "a.png", "b.png")], lambda *note: told.append(note)), []  # type: ignore[var-annotated]
    (tmp_path / "b.png").unlink()
    assert [item.name for item in sources] == ["a.png"]
    assert "No such file" in told[0][1]


def test_image_files_keep_their_names_and_folders_are_named_when_there_are_several(tmp_path: Path) -> None:
    write(tmp_path, "x/a.png", "y/b.png", "c.png")
    np.save(tmp_path / "digits.npy", DIGITS[:2])
    assert names(tmp_path / "c.png") == ["c.png"]
    found = names(tmp_path / "c.png", tmp_path / "y", tmp_path / "digits.npy", tmp_path / "x")
    assert found == ["c.png", "y/b.png", "digits/0", "digits/1", "x/a.png"]


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", "a.png")
    write(tmp_path, "b.png")
    monkeypatch.chdir(tmp_path / "here")
    assert names(".", "../b.png") == ["here/a.png", "b.png"]


def test_sources_that_are_missing_empty_or_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="nix: no such file or folder"):
        open_sources([tmp_path / "nix"])
    with pytest.raises(FileError, match="no images in .*empty: the folder is empty"):
        open_sources([tmp_path / "empty"])
    with pytest.raises(UnsupportedImage, match="no images in .*text"):
        names(tmp_path / "text")
    with pytest.raises(UnsupportedImage, match="a.txt: not a readable image"):
        names(tmp_path / "text" / "a.txt")
    with pytest.raises(FileError, match="pipe is not a regular file"):
        open_sources([tmp_path / "pipe"])
    with pytest.raises(FileError, match="File name too long"):
        open_sources(["x" * 300])


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(FileError, match=r"x/a.png and .*y/a.png would both be named 'a.png'"):
        open_sources([tmp_path / "x/a.png", tmp_path / "y/a.png"])


def test_the_archive_itself_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "out.vqa", "sub/out.vqa")
    assert names(tmp_path, leave_out=tmp_path / "sub" / ".." / "out.vqa") == ["a.png", "sub/out.vqa"]
    (tmp_path / "a.png").unlink()
    (tmp_path / "sub" / "out.vqa").unlink()
    with pytest.raises(FileError, match="the folder is empty"):
        open_sources([tmp_path], leave_out=tmp_path / "out.vqa")


# Lists


def test_a_list_names_images_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "x/a.png", "y/a.png", "b.png")
    monkeypatch.chdir(tmp_path / "x")
    Path("list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\n./../y//a.png\r\n" + f"{tmp_path}/b.png".encode())
    top = str(tmp_path).strip("/")
    assert names("@list.txt") == ["a.png", "y/a.png", f"{top}/b.png"]
    assert names("@list.txt", tmp_path / "b.png") == ["list/a.png", "list/y/a.png", f"list/{top}/b.png", "b.png"]


def test_lists_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "list.txt").write_text(f"nix.png\n{tmp_path}\n{tmp_path}/pipe\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="the list is empty"):
        open_sources([f"@{tmp_path}/empty.txt"])
    with pytest.raises(FileError, match=r"cannot read the list .*nix.txt: no such file"):
        open_sources([f"@{tmp_path}/nix.txt"])
    with pytest.raises(UnsupportedImage, match="utf-8"):
        open_sources([f"@{tmp_path}/binary.txt"])
    told: list[str] = []
    with pytest.raises(UnsupportedImage, match="no images"):
        names(f"@{tmp_path}/list.txt", skip=lambda name, reason: told.append(reason))
    assert ["No such file" in told[0], "is a folder" in told[1], "not a regular file" in told[2]] == [True] * 3
    monkeypatch.setattr("vqcodec.codec.archive.io.sources._MAX_LIST", 3)
    with pytest.raises(FileError, match="more than 3 bytes"):
        open_sources([f"@{tmp_path}/list.txt"])


# Arrays


def idx_file(array: NDArray[Any]) -> bytes:
    return idx.header(array.shape) + array.tobytes()


def npy_file(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("form", [idx_file, npy_file])
@pytest.mark.parametrize("array", [DIGITS, COLOURS, DIGITS[:1]], ids=["grey", "colour", "one"])
def test_arrays_plain_and_gzip(
    array: NDArray[Any], form: Callable[[NDArray[Any]], bytes], pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "x-ubyte").write_bytes(pack(form(array)))
    sources = open_sources([tmp_path / "x-ubyte"])
    items = list(sources)
    assert sources.total == len(array)
    assert [item.name for item in items] == [str(number) for number in range(len(array))]
    assert same(items, array)


@pytest.mark.parametrize(
    "array",
    [
        DIGITS[..., None],
        DIGITS > 99,
        DIGITS.astype(np.uint16) * 257,
        DIGITS.astype(">u2") * 257,
        np.asfortranarray(DIGITS),
        np.asfortranarray(COLOURS),
        np.asfortranarray(COLOURS[..., :2]),
        COLOURS[..., [0, 1, 2, 2]],
    ],
    ids=[
        "channel",
        "bool",
        "uint16",
        "big-endian",
        "Fortran",
        "Fortran colours",
        "grey and alpha",
        "colours and alpha",
    ],
)
def test_types_and_orders_of_arrays(array: NDArray[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    expected = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    assert same(list(open_sources([tmp_path / "x.npy"])), expected.astype(expected.dtype.newbyteorder("=")))


@pytest.mark.parametrize("array", [DIGITS[0], np.asfortranarray(DIGITS[0][:, :20])])
def test_an_array_of_one_image_is_named_after_its_file(array: NDArray[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "seven.npy", array)
    (item,) = open_sources([tmp_path / "seven.npy"])
    assert item.name == "seven"
    assert same([item], array[None])


def test_names_are_padded_to_the_width_of_the_count(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10, 2, 5), np.uint8))
    assert names(tmp_path / "x.npy") == [f"{number:02}" for number in range(10)]
    np.save(tmp_path / "x.npy", np.zeros((10000, 2, 5), np.uint8))
    assert names(tmp_path / "x.npy")[-1] == "09999"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "x.npz", train=DIGITS[:3], test=DIGITS[3:5], mask=DIGITS[5])
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    told: list[str] = []
    sources = open_sources([tmp_path / "x.npz"], lambda name, reason: told.append(f"{name}: {reason}"))
    items = list(sources)
    assert [item.name for item in items] == ["train/0", "train/1", "train/2", "test/0", "test/1", "mask"]
    assert same(items, DIGITS[:6])
    assert sources.total == 6
    assert told == [f"{tmp_path}/x.npz/readme.txt: no array"]
    assert (sources.left_out.files, sources.left_out.images) == (1, 0)
    assert names(tmp_path / "x.npz", write(tmp_path, "a.png") / "a.png")[-2:] == ["x/mask", "a.png"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (COLOURS[0], "may be one image or many: save it as"),
        (DIGITS.astype(np.float32), "type float32: expected uint8"),
        (DIGITS.astype(np.int16), "type int16: expected uint8"),
        (np.zeros(8, np.uint8), r"shape \[8\] .* expected \[N, H, W\]"),
        (np.zeros((), np.uint8), r"shape \[\] .* expected"),
        (np.zeros((2, 5, 4, 6), np.uint8), r"expected \[N, H, W\]"),
        (np.zeros((2, 3, 4, 3), np.uint16), r"expected \[N, H, W\]"),
        (np.zeros((1, 2, 3, 4, 1), np.uint8), r"expected \[N, H, W\]"),
        (np.zeros((0, 28, 28), np.uint8), "holds no images"),
        (np.zeros((5, 0, 28), np.uint8), "holds no images"),
        (np.array([None]), "type object: expected uint8"),  # it would have to be unpickled
        (np.zeros(3, [("语", "u1")]), "version 03.00 of .npy"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_arrays_that_are_no_images(array: NDArray[Any], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UnsupportedImage, match=message):
        open_sources([tmp_path / "x.npy"])


def test_labels_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx_file(np.arange(8, dtype=np.uint8)))
    with pytest.raises(UnsupportedImage, match=r"shape \[8\]"):
        open_sources([tmp_path / "labels-idx1-ubyte"])


SHORT, LONG = "has fewer bytes|is too short for them|ends inside image 8", "8 images, but the file has bytes left over"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_file(DIGITS)[:-1], SHORT),
        (idx_file(DIGITS) + b"\0", LONG),
        (npy_file(DIGITS)[:-1], SHORT),
        (npy_file(DIGITS) + b"\0", LONG),
        (npy_file(np.asfortranarray(DIGITS)) + b"\0", LONG),
        (gzip.compress(idx_file(DIGITS)[:-1], mtime=0), SHORT),
        (gzip.compress(idx_file(DIGITS) + b"\0", mtime=0), LONG),
        (
            gzip.compress(npy_file(np.asfortranarray(DIGITS))[:-1], mtime=0),
            "promises 8 images, but the file is too short",
        ),
        (gzip.compress(idx_file(DIGITS), mtime=0)[:-20], "cannot read .*end-of-stream"),
        (gzip.compress(idx_file(DIGITS), mtime=0)[:-8] + bytes(8), "cannot read .*CRC"),
        (b"\x1f\x8b\x08" + bytes(30), "cannot read"),
        (b"\0\0\x0d\3" + bytes(100), "magic 00000d03"),
        (b"\0\0\x08\3" + bytes(4), "cut short inside the header"),
        (b"\0\0\x08\3" + b"\xff" * 12, "states .* more than"),
        (b"\0\0\x08\4" + b"\xff" * 16, "states .* more than"),
        (gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 10**6, 1000, 1000), mtime=0), "file has fewer bytes"),
        (npy_file(DIGITS)[:60], "EOF"),
        (b"\x93NUMPY\x01\x00\x10\x00(1 + 1)         ", "x: malformed node"),
        (b"\x93NUMPY\x09\x00", "version 09.00"),
    ],
)
def test_damaged_arrays(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises((UnsupportedImage, FileError, TooLarge), match=message):
        names(tmp_path / "x")


def test_limits_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", DIGITS)
    with pytest.raises(TooLarge, match="images of 783 pixels"):
        open_sources([tmp_path / "x.npy"], max_pixels=783)
    np.save(tmp_path / "y.npy", np.asfortranarray(DIGITS))
    monkeypatch.setattr(arrays, "_MAX_TURNED", 6271)
    with pytest.raises(TooLarge, match="Fortran order"):
        open_sources([tmp_path / "y.npy"])
    monkeypatch.setattr(arrays, "MAX_IMAGES", 7)
    with pytest.raises(TooLarge, match="at most 7 images"):
        open_sources([tmp_path / "x.npy"])


def zip_file(path: Path, compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(f"{name}.npy", body)
    return path


def test_zip_files_that_are_not_numpys(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(FileError, match="encrypted or another compression"):
        open_sources([zip_file(path, zipfile.ZIP_LZMA, a=npy_file(DIGITS))])
    path.write_bytes(zip_file(path, a=npy_file(DIGITS), b=npy_file(DIGITS)).read_bytes().replace(b"b.npy", b"a.npy"))
    with pytest.raises(FileError, match="two members of one name"):
        open_sources([path])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("document.xml", "x")
    with pytest.raises(UnsupportedImage, match="a zip file without arrays"):
        open_sources([path])
    with pytest.raises(UnsupportedImage, match="x.npz/a: .* has fewer bytes"):
        open_sources([zip_file(path, a=npy_file(DIGITS)[:-1])])
    path.write_bytes(zip_file(path, a=npy_file(DIGITS)).read_bytes()[:-30])
    with pytest.raises(FileError, match="cannot read .*x.npz"):
        open_sources([path])
    body = zip_file(path, zipfile.ZIP_STORED, a=npy_file(DIGITS)).read_bytes()
    path.write_bytes(body[:1000] + bytes([body[1000] ^ 1]) + body[1001:])
    with pytest.raises(FileError, match="CRC"):
        names(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../up.npy", npy_file(DIGITS))
    with pytest.raises(FileError, match="x.npz: name '../up/0': expected a relative path"):
        names(path)


def test_zip_bombs_of_members_that_share_their_bytes(tmp_path: Path) -> None:
    """All members of the directory point at one body; the file states 26 times what deflate can reach."""
    path = zip_file(tmp_path / "x.npz", a=npy_file(np.zeros((1000, 64, 64), np.uint8)))
    body = path.read_bytes()
    begin = body.index(b"PK\x01\x02")
    end = body.index(b"PK\x05\x06")
    entry = body[begin:end]
    entries = b"".join(entry.replace(b"a.npy", b"%c.npy" % n) for n in range(ord("A"), ord("Z") + 1))
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 26, 26, len(entries), begin, 0)
    path.write_bytes(body[:begin] + entries + tail)
    with pytest.raises(FileError, match="more bytes than a file of .* bytes can hold"):
        open_sources([path])


def test_images_are_read_one_at_a_time(tmp_path: Path) -> None:
    """512 MiB of pixels go by in a process that may not have half of that."""
    code = (
        "import resource, sys; from vqcodec.codec.archive.io.sources import open_sources\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)\n"
        "print(sum(item.array[0, 0] == 0 for item in open_sources(sys.argv[1:])))"
    )
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (512, 1024, 1024)}
        )
        stream.truncate(stream.tell() + (512 << 20))
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links")}
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.npy"], env=environment, capture_output=True, text=True
    )
    assert result.stdout == "512\n", result.stderr


# URLs


@pytest.fixture
def memory() -> Any:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_urls_are_read_like_files(memory: Any, tmp_path: Path) -> None:
    for name in ("b.png", "a/2.png", "a.png", ".hidden/x.png", "a/.x.png", "readme.txt"):
        memory.pipe_file(f"/set/{name}", png())
    memory.pipe_file("/set/readme.txt", b"hello")
    told: list[str] = []
    sources = open_sources(["memory://set"], lambda name, reason: told.append(f"{name}: {reason}"))
    assert [item.name for item in sources] == ["a/2.png", "a.png", "b.png"]
    assert sources.total == 4
    assert told == ["memory://set/readme.txt: not a readable image"]
    memory.pipe_file("/x/digits.idx.gz", gzip.compress(idx_file(DIGITS)))
    memory.pipe_file("/x/digits.npz", zip_file(tmp_path / "x.npz", one=npy_file(DIGITS)).read_bytes())
    assert same(list(open_sources(["memory://x/digits.idx.gz"])), DIGITS)
    assert same(list(open_sources(["memory://x/digits.npz"])), DIGITS)
    memory.pipe_file("/x/list.txt", b"memory://set/a/2.png\n")
    assert names("@memory://x/list.txt") == ["set/a/2.png"]
    assert names("memory://set/", tmp_path / "x.npz")[:2] == ["set/a/2.png", "set/a.png"]
    assert names("memory://set", leave_out="memory://set/b.png") == ["a/2.png", "a.png"]
    with pytest.raises(FileError, match="memory://nix: no such file"):
        open_sources(["memory://nix"])


def test_file_urls_are_paths(tmp_path: Path) -> None:
    write(tmp_path, "a b.png")
    assert names(f"file://{tmp_path}") == ["a b.png"]
    assert names((tmp_path / "a b.png").as_uri()) == ["a b.png"]


def test_urls_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="nix://x: Protocol not known"):
        open_sources(["nix://x"])
    with pytest.raises(FileError, match=r"zip::memory://nix.zip: .*nix.zip"):
        open_sources(["zip::memory://nix.zip"])
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(FileError, match=r"memory://x: URLs need fsspec: pip install 'vqcodec\[remote\]'"):
        open_sources(["memory://x"])


def test_errors_while_reading_name_the_url(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/x.png", png())
    place = places.place_of("memory://x.png")
    memory.rm("/x.png")
    with pytest.raises(FileError, match=r"memory://x.png: .*x.png"):
        place.open()
    with pytest.raises(FileError, match=r"memory://x.png: .*x.png"):
        place.size()


def test_a_drive_is_no_url() -> None:
    assert not places.is_url("C://x")
    assert not places.is_url("a::b")
    assert not places.is_url("file:///x")
    assert places.is_url("zip::memory://x.zip")
