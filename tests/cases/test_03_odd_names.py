"""No image is dropped in silence: odd names are packed and come back; what is left out is noted and counted."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive import FILES, MAGIC, Block, Writer
from vqcodec.bitstream.archive_names import Names, Run, checked_name, name_of_stored, shown, stored_name
from vqcodec.bitstream.errors import Corrupt, UnsupportedImage
from vqcodec.codec.archive.io.signatures import suffix_of
from vqcodec.codec.archive.io.sources import Item, open_sources
from vqcodec.codec.archive.pack import pack
from vqcodec.tests.reference.archive import read_archive

LINKS = str(Path(__file__).parents[2] / ".links")
ODD = {
    "a:b.png": r"a\3ab.png",
    "Z:": r"Z\3a",
    "back\\slash.png": r"back\5cslash.png",
    "\\": r"\5c",
    "looks\\5c.png": r"looks\5c5c.png",
    "new\nline.png": r"new\0aline.png",
    "esc\x1b[31m.png": r"esc\1b[31m.png",
    "tab\t/deep\r.png": r"tab\09/deep\0d.png",
    "del\x7f.png": r"del\7f.png",
    "next\x85.png": r"next\c2\85.png",
    "latin-\udce9.png": r"latin-\e9.png",
    "\udcff\udcfe/x\udc80": r"\ff\fe/x\80",
    "cut-\udcc3.png": r"cut-\c3.png",
}
PLAIN = ["ab:c", "x/a:b.png", "é.png", "日本.png", " ", "%41", "a\u2028b", "\u202eevil", "=x", "~"]


def png(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(values).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def write(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    return folder


def pixels(file: Path | io.BytesIO) -> tuple[str, bytes]:
    with Image.open(file) as image:
        return image.mode, image.tobytes()


def tree(folder: Path) -> dict[bytes, tuple[str, bytes]]:
    """Pixels by the bytes of the names."""
    paths = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    return {os.fsencode(path.relative_to(folder)): pixels(path) for path in paths}


def vqcodec_command(*lines: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Command lines in one process; its exit code has a bit for each that fails."""
    code = (
        "import sys; from vqcodec.cli import main\n"
        "def run(words):\n"
        "    try: return int(bool(main(words, standalone_mode=True)))\n"
        "    except SystemExit as end: return int(bool(end.code))\n"
        f"sys.exit(sum(run(words) << n for n, words in enumerate({[line.split() for line in lines]!r})))"
    )
    known = os.environ | {"PYTHONPATH": LINKS} | environment
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=known, capture_output=True, timeout=300)


# Names


@pytest.mark.parametrize(("name", "stored"), ODD.items())
def test_odd_names_are_stored_escaped(name: str, stored: str) -> None:
    assert stored_name(name) == stored
    assert name_of_stored(stored.encode()) == name


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_stored_as_they_are(name: str) -> None:
    assert stored_name(name) == name
    assert name_of_stored(name.encode()) == name


@pytest.mark.parametrize(
    "stored",
    [
        *(rb"\2e\2e/x", rb"..\2fx", rb"a\2fb", rb"\2fetc", rb"x\00", rb"\00", rb"a/\2e\2e", rb"..", rb"/x", b""),
        *(rb"\41", rb"a\5C", rb"a\\b", b"a\\", rb"a\3", rb"\zz", rb"\c3\a9", rb"ab\3ac", b"\xff", b"a:b", b"a\nb"),
        *(rb"x/a\3ab", b"\\5c" * 4097, rb"\20"),
    ],
)
def test_an_escape_smuggles_nothing(stored: bytes) -> None:
    with pytest.raises(ValueError, match="^name"):
        name_of_stored(stored)
    index = b"\0\1\1\1\0\0\2" + zlib.crc32(b"xx").to_bytes(4, "little") + b"\1\0\0\1\0" + stored + b"\0"
    footer = struct.pack("<II4s", len(index), zlib.crc32(index), MAGIC)
    with pytest.raises(Corrupt, match="name"):
        vqcodec.Archive(io.BytesIO(MAGIC + b"\1xx" + index + footer))


@pytest.mark.parametrize("name", ["\ud800", "\udbff.png", "\udcc3\udca9", "a\0", "x" * 4096 + "\n"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(ValueError, match="^name .*expected"):
        checked_name(name)


def test_odd_names_count_on_by_their_own_digits() -> None:
    run = Run("a\\b\t09", 3)
    assert list(Names([run])) == ["a\\b\t09", "a\\b\t10", "a\\b\t11"]
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(Block(FILES, b"", b"xyz", range(6)))
    names = ["a\t8.png", "a\t9.png", "\udcff/1", "\udcff/2", "C:3", "C:4"]
    writer.finish(names)
    assert read_archive(stream.getvalue())[1] == names
    assert list(vqcodec.Archive(stream).names) == names


def test_what_is_shown_has_no_effect() -> None:
    for name in (*ODD, *PLAIN):
        assert shown(name).isprintable()
        assert shown(name, "ascii").isascii()
    assert shown("é\x1b") == r"é\1b"
    assert shown("é", "ascii") == r"\c3\a9"


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse some of the names")
def test_odd_names_come_back(tmp_path: Path) -> None:
    names = [*ODD, *PLAIN]
    source = write(tmp_path / "in\x1b:\udcff", *names)
    assert vqcodec.pack(source, tmp_path / "a.vqa", model="plain").skipped == 0
    told = vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out")
    assert told.renamed == ()
    assert tree(tmp_path / "out") == tree(source)
    with vqcodec.Archive(tmp_path / "a.vqa") as archive:
        assert sorted(archive.names) == sorted(names)
        for seed, name in enumerate(names):
            assert archive[name].tobytes() == pixels(io.BytesIO(png(seed)))[1]
            assert name in archive
        assert read_archive((tmp_path / "a.vqa").read_bytes())[1] == list(archive.names)
    vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "one", ["latin-\udce9.png"])
    assert list(tree(tmp_path / "one")) == [b"latin-\xe9.png"]
    vqcodec.pack([source, write(tmp_path / "b", "x.png")], tmp_path / "two.vqa", model="plain")
    assert vqcodec.unpack(tmp_path / "two.vqa", tmp_path / "both").images == len(names) + 1
    vqcodec.unpack(tmp_path / "two.vqa", tmp_path / "arrays.npz")
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert sum(len(array) for array in arrays.values()) == len(names) + 1


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse some of the names")
def test_lists_of_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in ODD if "\n" not in name]
    monkeypatch.chdir(write(tmp_path / "in", *names))
    (tmp_path / "list").write_bytes(b"\n".join(map(os.fsencode, names)))
    vqcodec.pack(f"@{tmp_path}/list", tmp_path / "a.vqa", model="plain")
    with vqcodec.Archive(tmp_path / "a.vqa") as archive:
        assert list(archive.names) == names
    (tmp_path / "list").write_bytes("a.png\n".encode("utf-16"))
    with pytest.raises(UnsupportedImage, match="a list of paths in utf-8"):
        vqcodec.pack(f"@{tmp_path}/list", tmp_path / "b.vqa", model="plain")


def test_the_folder_above_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "top", "a.png", "sub/b.png")
    monkeypatch.chdir(tmp_path / "top" / "sub")
    vqcodec.pack(["..", "b.png"], tmp_path / "a.vqa", model="plain")
    with vqcodec.Archive(tmp_path / "a.vqa") as archive:
        assert list(archive.names) == ["top/a.png", "top/sub/b.png", "b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse some of the names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_odd_names_do_a_terminal_no_harm(encoding: str, tmp_path: Path) -> None:
    names = [*ODD, *PLAIN]
    write(tmp_path / "in", *names)
    (tmp_path / "in" / "text\x1b[2J\udcff").write_text("no image")
    lines = ["pack in a.vqa --model plain", "info a.vqa --names", "info a.vqa --names --json", "verify a.vqa"]
    lines += ["unpack a.vqa out", "unpack a.vqa o\x1b --only \x1b", "unpack a.vqa \x1b[2J\udcff --json"]
    result = vqcodec_command(*lines, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert result.returncode == 1 << 5, result.stderr
    for output in (result.stdout, result.stderr):
        assert not set(output) & ({*range(32), 127} - {10}), output
    assert json.loads(next(line for line in result.stdout.splitlines() if line[:1] == b"{"))["names"] == sorted(names)
    assert rb"esc\1b[31m.png" in result.stdout.splitlines()
    assert b"a:b.png" in result.stdout.splitlines()


# What is left out


@contextmanager
def without_rights() -> Iterator[Path]:
    """A folder, as a user whom permissions concern."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    with without_rights() as folder:
        write(folder / "in", "a.png", "b.png", "c/d.png", "e/f.png", "e/g/h.png")
        (folder / "in" / "b.png").chmod(0)
        (folder / "in" / "c").chmod(0)
        (folder / "in" / "e" / "g").chmod(0o600)
        told: list[tuple[str, str]] = []
        summary = vqcodec.pack(folder / "in", folder / "a.vqa", model="plain", skip=lambda *one: told.append(one))
        for name in ("c", "e/g"):
            (folder / "in" / name).chmod(0o700)
        assert (summary.images, summary.skipped, summary.images_skipped) == (2, 3, 3)
        assert [Path(name).name for name, _ in told] == ["c", "b.png", "h.png"]


def test_links_pipes_and_sockets_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a.png", "sub/b.png")
    (folder / "dangling.png").symlink_to("nothing")
    (folder / "round.png").symlink_to("round.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "link.png").symlink_to("a.png")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(".", os.O_RDONLY)
        os.chdir(folder)
        try:
            listener.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)
        told: dict[str, str] = {}
        summary = vqcodec.pack(
            folder, tmp_path / "a.vqa", model="plain", skip=lambda name, why: told.update({Path(name).name: why})
        )
    assert (summary.images, summary.skipped, summary.images_skipped) == (3, 5, 2)
    assert told["up"] == "link to a folder"
    assert told["pipe.png"] == told["socket"] == "not a regular file"
    assert "No such file" in told["dangling.png"]
    assert "levels of symbolic links" in told["round.png"]


def test_files_that_vanish_are_counted(tmp_path: Path) -> None:
    sources = open_sources([write(tmp_path / "in", "a.png", "b.png", "c.txt")])
    (tmp_path / "in" / "b.png").unlink()
    (tmp_path / "in" / "c.txt").write_text("text")
    for _ in range(2):
        summary = pack(sources, io.BytesIO(), model="plain")
        assert (summary.images, summary.skipped, summary.images_skipped) == (1, 2, 1)


NO_IMAGES = {"text.txt": b"hello", "empty": b"", "document.pdf": b"%PDF-1.4", "program": b"\x7fELF", "BM": b"BMX"}
LOST_IMAGES = {
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "no-suffix": b"\x89PNG\r\n\x1a\n",
    "text.jpg": b"hello",
    "phone.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "phone": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "new.jxl": b"\xff\x0a" + bytes(9),
    "large.gif": b"GIF89a\xff\xff\xff\xff\0\0\0",
    "x.tif": b"II\x2a\0" + b"\xff" * 4,
    "unknown.dds": b"DDS "
    + struct.pack("<7I", 124, 0x1007, 4, 4, 8, 0, 0)
    + bytes(44)
    + struct.pack("<8I", 32, 4, 1, *[0] * 5),
}


@pytest.mark.parametrize("name", [*NO_IMAGES, *LOST_IMAGES])
def test_only_images_that_are_left_out_are_a_failure(name: str, tmp_path: Path) -> None:
    write(tmp_path / "in", "a.png")
    (tmp_path / "in" / name).write_bytes((NO_IMAGES | LOST_IMAGES)[name])
    told: list[str] = []
    summary = vqcodec.pack(
        tmp_path / "in", tmp_path / "a.vqa", model="plain", skip=lambda name, why: told.append(Path(name).name)
    )
    assert (summary.images, summary.skipped, summary.images_skipped) == (1, 1, name in LOST_IMAGES)
    assert told == [name]


def test_names_that_are_too_long_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in", "a.png")
    (tmp_path / "list").write_text("in/a.png\n" + "/".join(["x" * 200] * 30) + ".png\n..\n")
    monkeypatch.chdir(tmp_path)
    summary = vqcodec.pack("@list", "a.vqa", model="plain")
    assert (summary.images, summary.skipped, summary.images_skipped) == (1, 2, 2)


def test_the_command_line_counts_what_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path / "texts", "a.png")
    write(tmp_path / "images", "a.png", "b.png", "large.png")
    for name, data in NO_IMAGES.items():
        (tmp_path / "texts" / name).write_bytes(data)
    (tmp_path / "images" / "cut.png").write_bytes(LOST_IMAGES["cut.png"])
    (tmp_path / "images" / "half.png").write_bytes(png(0)[:-60])
    (tmp_path / "images" / "large.png").write_bytes(png(0, (50, 50)))
    (tmp_path / "images" / "b.txt").write_text("text")
    lines = ["pack texts a.vqa --model plain", "pack images b.vqa --model plain --max-pixels 999 --json"]
    result = vqcodec_command(*lines, "pack images c.vqa --model plain", cwd=tmp_path)
    assert result.returncode == 0b110, result.stderr
    texts, as_json, images = result.stdout.decode().splitlines()
    assert texts.endswith("), 5 skipped")
    assert images.endswith("), 1 stored as they came, 2 skipped (1 of them images or unreadable)")
    told = json.loads(as_json)
    assert (told["images"], told["as_they_came"], told["skipped"], told["images_skipped"]) == (3, 1, 3, 2)
    notes = result.stderr.decode().splitlines()
    assert sum("skipped texts/" in note for note in notes) == 5
    assert sum("skipped images/" in note for note in notes) == 5


def test_first_bytes_of_real_files() -> None:
    for kind in ("PNG", "GIF", "BMP", "WEBP", "PPM", "DDS", "ICO", "PCX", "SGI", "JPEG", "TIFF"):
        suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
        buffer = io.BytesIO()
        Image.new("L" if kind != "DDS" else "RGB", (16, 16)).save(buffer, kind)
        assert suffix_of(buffer.getvalue()[:32]) == suffix, kind
    assert suffix_of(b"%!PS-Adobe") == suffix_of(b"") == suffix_of(b"BMI is weight / height^2, of 20 to 25") == ""


def test_items_of_odd_names() -> None:
    stream = io.BytesIO()
    pack([Item(name, file=png(0)) for name in ODD], stream, model="plain")
    assert list(vqcodec.Archive(stream).names) == list(ODD)
