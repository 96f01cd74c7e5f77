"""Colour of more than 8 bits a sample, of which Pillow reads 8, is never called lossless."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import vqcodec

WIDTH, HEIGHT = 24, 18
VALUES = (np.arange(WIDTH * HEIGHT * 3) * 137 % 65536).astype(np.uint16)


def tiff(channels: int = 3) -> bytes:
    """A TIFF file of 16 bits a sample, little-endian."""
    pixels = np.resize(VALUES, WIDTH * HEIGHT * channels).astype("<u2").tobytes()
    count = 9 + (channels == 4)
    first = 8 + 2 + 12 * count + 4
    entries = [
        (256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, channels, first), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, first + 2 * channels), (277, 3, 1, channels), (278, 3, 1, HEIGHT), (279, 4, 1, len(pixels)),
        (338, 3, 1, 2),
    ][:count]  # fmt: skip
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, count) + fields + bytes(4) + struct.pack("<H", 16) * channels + pixels


def ppm(most: int = 65535) -> bytes:
    return f"P6 {WIDTH} {HEIGHT} {most}\n".encode() + (VALUES & most).astype(">u2").tobytes()


def sgi() -> bytes:
    header = struct.pack(">HBBHHHH", 474, 0, 2, 3, WIDTH, HEIGHT, 3).ljust(512, b"\0")
    return header + VALUES.astype(">u2").tobytes()


FILES: dict[str, Callable[[], bytes]] = {
    "tiff": tiff,
    "tiff with alpha": lambda: tiff(4),
    "ppm": ppm,
    "ppm of 12 bits": lambda: ppm(4095),
    "sgi": sgi,
}


@pytest.mark.parametrize("name", FILES)
def test_lossless_coding_is_refused(name: str) -> None:
    data = FILES[name]()
    for wish in ({"lossless": True}, {"model": "plain"}):
        with pytest.raises(vqcodec.UnsupportedImage, match="16-bit PNG"):
            vqcodec.encode(data, **wish)


@pytest.mark.parametrize("name", FILES)
def test_an_archive_keeps_the_file_as_it_came(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "deep.bin").write_bytes(FILES[name]())
    notes: list[str] = []
    summary = vqcodec.pack(
        tmp_path / "in", tmp_path / "a.vqa", model="plain", note=lambda name, reason: notes.append(reason)
    )
    assert summary.as_they_came == 1
    assert "16-bit PNG" in notes[0]
    vqcodec.unpack(tmp_path / "a.vqa", tmp_path / "out")
    assert (tmp_path / "out" / "deep.bin").read_bytes() == FILES[name]()


@pytest.mark.parametrize("name", ["ppm", "tiff"])
def test_lossy_coding_takes_them(name: str) -> None:
    assert vqcodec.decode(vqcodec.encode(FILES[name](), quality=50)).size == (WIDTH, HEIGHT)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_eight_bits_of_jpeg_2000_are_whole() -> None:
    picture = Image.fromarray((VALUES & 255).astype(np.uint8).reshape(HEIGHT, WIDTH, 3))
    for kind in ("JPEG2000", "TIFF", "PPM", "SGI", "BMP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        blob = vqcodec.encode(buffer.getvalue(), lossless=True)
        assert vqcodec.decode(blob).tobytes() == picture.tobytes()
