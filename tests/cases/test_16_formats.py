"""Image files are opened if they are of a format that Pillow decodes by itself: no other program is ever started."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive import Writer
from vqcodec.bitstream.errors import UnsupportedImage, VqcodecError
from vqcodec.codec import files, opening
from vqcodec.codec.archive.blocks import ORIGINAL, Form, files_block
from vqcodec.codec.archive.io.sources import open_sources

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
BINARY_EPS = struct.pack("<IIIIIIIH", 0xC6D3D0C5, 32, len(EPS), 0, 0, 0, 0, 0xFFFF)[:30] + bytes(2) + EPS
WMF = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 100, 100, 1440, 0, 0) + b"\x01\0\t\0\0\3" + bytes(30)
EMF = b"\1\0\0\0" + struct.pack("<IiiiiiiiiI", 108, 0, 0, 100, 100, 0, 0, 1000, 1000, 0x464D4520) + bytes(80)
HOSTILE = {"EPS": EPS, "binary EPS": BINARY_EPS, "WMF": WMF, "EMF": EMF, "PDF": b"%PDF-1.4\n%%EOF\n",
           "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99), "GRIB": b"GRIB\0\0\0\1" + bytes(99), "BUFR": b"BUFR" + bytes(99),
           "MPEG": b"\0\0\1\xb3\x10\0\x10" + bytes(100), "IPTC": b"\x1c\x01\x5a\0\1" + bytes(100),
           "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "text": b"hello, this is no image at all" * 9,
           "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "empty": b""}  # fmt: skip


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that comes into being if Ghostscript is started."""
    folder, found = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (folder / name).write_text(f"#!/bin/sh\necho $0 $@ >> {found}\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return found


def archive_of(data: bytes) -> bytes:
    """An archive that keeps a file as it came, as `image`."""
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.add(files_block([0], [Form(ORIGINAL, data)]))
    writer.finish(["image"])
    return buffer.getvalue()


def test_the_mark_is_left_by_pillow_itself(mark: Path) -> None:
    with suppress(OSError, subprocess.SubprocessError), Image.open(io.BytesIO(EPS)) as image:
        image.load()
    assert mark.exists()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["x.eps", "photo.jpg", "photo"])
def test_no_way_in_opens_them(kind: str, name: str, mark: Path, tmp_path: Path) -> None:
    data, path = HOSTILE[kind], tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_bytes(data)
    (tmp_path / "list.txt").write_text(str(path))
    for form in (path, data, io.BytesIO(data)):
        with pytest.raises(VqcodecError):
            vqcodec.encode(form)
    with pytest.raises(VqcodecError):
        files.compress(str(path), path.read_bytes())
    for source in (path, path.parent, f"@{tmp_path}/list.txt"):
        with pytest.raises(VqcodecError):
            list(open_sources([source]))
    with vqcodec.Archive(archive_of(data)) as archive:
        with pytest.raises(UnsupportedImage):
            archive[0]
        assert archive.verify() == []
        vqcodec.unpack(archive, tmp_path / "out")  # as it came
    assert not mark.exists()


@pytest.mark.parametrize(
    "kind", ["GIF", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS", "ICO", "JPEG2000", "MSP"]
)
def test_formats_that_pillow_decodes_are_opened(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    image = {"GIF": image.convert("L"), "MSP": image.convert("1")}.get(kind, image)
    image.save(tmp_path / "x", kind)
    back = vqcodec.decode(vqcodec.encode(tmp_path / "x", "plain"))
    assert np.array_equal(np.asarray(back.convert("RGB")), np.asarray(image.convert("RGB"))) or kind == "JPEG2000"


def test_the_list_names_formats_that_pillow_has() -> None:
    assert len(opening.formats()) >= len(opening.FORMATS) - 4
    assert not {"EPS", "WMF", "FPX", "MIC", "IPTC", "FLI", "MPEG", "BUFR", "GRIB", "HDF5", "PDF"} & set(opening.FORMATS)


def dds(fourcc: bytes) -> bytes:
    """A DDS file of 4 x 4 pixels of a format."""
    pixel_format = struct.pack("<II4s5I", 32, 4, fourcc, 0, 0, 0, 0, 0)
    return b"DDS " + struct.pack("<7I44x", 124, 0x1007, 4, 4, 0, 0, 0) + pixel_format + bytes(20 + 64)


def ftex(kind: int, pixels: bytes) -> bytes:
    """An FTEX file of 4 x 4 pixels; Pillow's plug-in closes it when it is opened."""
    return b"FTEX" + struct.pack("<iiiiiii", 1, 4, 4, 1, 1, kind, 32) + struct.pack("<i", len(pixels)) + pixels


@pytest.mark.parametrize("form", ["path", "bytes", "folder"])
def test_files_that_their_plug_in_closes_are_read(form: str, tmp_path: Path) -> None:
    data = ftex(1, bytes(range(48)))
    path = tmp_path / "folder" / "x.ftu"
    path.parent.mkdir()
    path.write_bytes(data)
    if form == "folder":
        vqcodec.pack(path.parent, tmp_path / "x.vqa", model="plain")
        with vqcodec.Archive(tmp_path / "x.vqa", output="numpy") as archive:
            pixels = archive[0]
    else:
        pixels = vqcodec.decode(vqcodec.encode(path if form == "path" else data, "plain"), "numpy")
    assert pixels.tobytes() == bytes(range(48))


PNG = io.BytesIO()
Image.new("L", (9, 9), 7).save(PNG, "PNG")


@pytest.mark.parametrize(
    "data",
    [
        dds(b"WHAT"),
        dds(b"DX10"),
        ftex(7, bytes(48)),
        ftex(1, bytes(5)),
        ftex(0, bytes(5)),
        b"GIF89a" + bytes(20),
        b"BM" + bytes(60),
        b"II*\0" + struct.pack("<I", 8) + b"\xff\xff" + bytes(40),
        b"\xff\xd8\xff\xe0" + bytes(40),
        b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + b"\xff",
        b"P5 4 4 70000\n" + bytes(16),
        b"P5 x 4 255\n",
        b"8BPS\0\1" + bytes(40),
        b"\x59\xa6\x6a\x95" + bytes(40),
        b"RIFF\x10\0\0\0WEBPVP8L" + bytes(20),
        b"\0\0\1\0\1\0" + bytes(40),
        b"\n\5\1\x08" + bytes(140),
        b"\1\xda\1\1\0\1\0\2\0\2" + bytes(600),
        b"/* XPM */\nstatic char *x[] = {\n\"4 4 1 1\",\n\"a c #zz\",\n",
        b"BLP2" + bytes(300),
        b"icns" + struct.pack(">I", 8),
        b"SIMPLE  =                    T" + b" " * 50 + b"END",
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        PNG.getvalue()[:-20],
        PNG.getvalue()[:40] + zlib.compress(b""),
    ],
)  # fmt: skip
def test_whatever_a_plug_in_raises_is_a_clear_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "good.png").write_bytes(PNG.getvalue())
    (tmp_path / "x" / "bad").write_bytes(data)
    with pytest.raises(UnsupportedImage):
        vqcodec.encode(data)
    told: list[str] = []
    vqcodec.pack(
        tmp_path / "x", tmp_path / "x.vqa", model="plain",
        skip=lambda name, reason: told.append(reason), note=lambda name, reason: told.append(reason),
    )  # fmt: skip
    assert len(told) == 1
    with vqcodec.Archive(tmp_path / "x.vqa", output="numpy") as archive:
        assert np.array_equal(archive["good.png"], np.full((9, 9), 7))
