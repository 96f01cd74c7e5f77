"""PNG files are taken apart exactly; damaged ones are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vqcodec.bitstream.errors import TooLarge, UnsupportedImage
from vqcodec.codec import png
from vqcodec.codec.png import PlainImage

RNG = np.random.default_rng(3)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return png.SIGNATURE + chunk(b"IHDR", header) + b"".join(more) + end


GREY_2X1 = png_file(2, 1, 8, png.GREY, b"\0\1\2")


def reference_unfilter(rows: bytes, height: int, row_bytes: int, step: int) -> bytes:
    """The specification's section 9, byte by byte."""
    out = bytearray()
    above = bytes(row_bytes)
    for y in range(height):
        kind, *line = rows[y * (row_bytes + 1) : (y + 1) * (row_bytes + 1)]
        row = bytearray()
        for i, value in enumerate(line):
            a, b, c = row[i - step] if i >= step else 0, above[i], above[i - step] if i >= step else 0
            paeth = min((a, b, c), key=lambda v: abs(a + b - c - v))
            row.append((value + [0, a, b, (a + b) // 2, paeth][kind]) % 256)
        out += row
        above = bytes(row)
    return bytes(out)


@pytest.mark.parametrize(("colour", "depth"), [(c, d) for c, depths in png.DEPTHS.items() for d in depths])
def test_all_filters_of_all_layouts_are_undone(colour: int, depth: int) -> None:
    layout = png.Layout(11, 10, depth, colour)
    body = RNG.integers(0, 256, (10, layout.row_bytes)).astype(np.uint8)
    rows = np.column_stack([np.arange(10, dtype=np.uint8) % 5, body]).tobytes()
    expected = np.frombuffer(reference_unfilter(rows, 10, layout.row_bytes, layout.pixel_bytes), np.uint8)
    assert np.array_equal(png.unfilter(rows, layout), png.unpack(expected.reshape(10, -1), layout))


@pytest.mark.parametrize(("colour", "depth"), [(c, d) for c, depths in png.DEPTHS.items() for d in depths if d >= 8])
def test_filtering_is_undone_by_the_specification(colour: int, depth: int) -> None:
    layout = png.Layout(40, 30, depth, colour)
    waves = np.add.outer(np.arange(30) * 3, np.arange(layout.row_bytes)).astype(np.uint8)
    waves[::7] = RNG.integers(0, 256, waves[::7].shape)
    palette = bytes(768) if colour == png.PALETTE else b""
    rows = png.filtered(PlainImage(png.unpack(waves, layout), depth, colour, palette))
    assert reference_unfilter(rows, 30, layout.row_bytes, layout.pixel_bytes) == waves.tobytes()


def test_filters_are_chosen_where_they_help() -> None:
    ramp = np.add.outer(np.arange(50) * 5, np.arange(50) * 3).astype(np.uint8)[:, :, None]
    image = PlainImage(ramp, 8, png.GREY)
    assert len(png.deflate(png.filtered(image), 9)) < len(png.deflate(png.unfiltered_rows(ramp, 8), 9)) / 4


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_packing_is_undone(depth: int, width: int) -> None:
    samples = RNG.integers(0, 2**depth, (5, width, 1)).astype(np.uint8)
    packed = png.pack(samples, depth)
    layout = png.Layout(width, 5, depth, png.GREY)
    assert packed.shape == (5, layout.row_bytes)
    assert np.array_equal(png.unpack(packed, layout), samples)


def test_leftmost_pixel_is_in_the_highest_bits() -> None:
    assert png.pack(np.array([[[1], [2], [3]]], np.uint8), 2).tobytes() == bytes([0b01101100])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_pillow_sees_the_same_image(mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (19, 23, 4)).astype(np.uint8)).convert("RGB" if mode == "P" else mode)
    image = image.quantize(50) if mode == "P" else image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with Image.open(io.BytesIO(PlainImage.from_png(buffer.getvalue()).to_png())) as back:
        assert (back.mode, back.size, back.tobytes()) == (image.mode, image.size, image.tobytes())


def adam7(samples: np.ndarray, depth: int) -> bytes:
    """Rows of the seven passes, unfiltered."""
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in png.ADAM7]
    return b"".join(png.unfiltered_rows(part, depth) for part in passes if part.size)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (3, 2), (8, 8), (13, 9)])
@pytest.mark.parametrize(("colour", "depth"), [(png.GREY, 2), (png.PALETTE, 8), (png.RGB, 8), (png.RGBA, 16)])
def test_interlaced_images_are_read(height: int, width: int, colour: int, depth: int) -> None:
    channels = png.CHANNELS[colour] * max(1, depth // 8)
    samples = RNG.integers(0, 2 ** min(depth, 8), (height, width, channels)).astype(np.uint8)
    palette = [chunk(b"PLTE", bytes(768))] if colour == png.PALETTE else []
    data = png_file(width, height, depth, colour, adam7(samples, depth), *palette, interlace=1)
    image = PlainImage.from_png(data)
    assert np.array_equal(image.pixels, samples)
    if depth == 8:
        with Image.open(io.BytesIO(data)) as reference:
            assert np.asarray(reference).tobytes() == samples.tobytes()
    assert PlainImage.from_png(image.to_png()).same_image(image)


def test_differences_are_seen() -> None:
    image = PlainImage.from_png(GREY_2X1)
    assert image.same_image(PlainImage(np.array([[[1], [2]]], np.uint8), 8, png.GREY))
    assert not image.same_image(PlainImage(np.array([[[1], [3]]], np.uint8), 8, png.GREY))
    assert not image.same_image(PlainImage(image.pixels, 8, png.GREY, transparency=b"\0\1"))


def test_chunks_that_only_describe_are_left_out() -> None:
    described = png_file(2, 1, 8, png.GREY, b"\0\1\2", chunk(b"tEXt", b"a\0b"), chunk(b"gAMA", b"\0\0\0\1"))
    assert PlainImage.from_png(described).to_png() == PlainImage.from_png(GREY_2X1).to_png()


def test_suggested_palettes_and_senseless_transparency_are_left_out() -> None:
    image = PlainImage.from_png(png_file(1, 1, 8, png.RGBA, bytes(5), chunk(b"PLTE", bytes(3)), chunk(b"tRNS", b"\0")))
    assert (image.palette, image.transparency) == (b"", b"")


def test_bytes_after_the_end_are_ignored() -> None:
    assert PlainImage.from_png(GREY_2X1 + b"more").same_image(PlainImage.from_png(GREY_2X1))


def test_too_many_pixels() -> None:
    with pytest.raises(TooLarge, match="2 x 1 pixels, limit 1"):
        PlainImage.from_png(GREY_2X1, max_pixels=1)


def test_every_truncation_is_refused() -> None:
    for length in range(len(GREY_2X1)):
        with pytest.raises(UnsupportedImage):
            PlainImage.from_png(GREY_2X1[:length])


def test_every_altered_byte_is_refused() -> None:
    for position in range(len(GREY_2X1)):
        altered = bytearray(GREY_2X1)
        altered[position] ^= 0xFF
        with pytest.raises(UnsupportedImage):
            PlainImage.from_png(bytes(altered))


IDAT = chunk(b"IDAT", zlib.compress(b"\0\1\2"))
IEND = chunk(b"IEND", b"")


def headed(header: bytes, *chunks: bytes) -> bytes:
    return png.SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks)


@pytest.mark.parametrize(("data", "message"), [
    (b"GIF89a", "signature"),
    (png_file(2, 1, 8, png.GREY, b"\0\1\2", chunk(b"acTL", b"\0\0\0\2" + bytes(4))), "animated PNG of 2"),
    (png_file(2, 1, 8, png.GREY, b"\0\1\2", chunk(b"CrIt", b"")), "unknown chunks"),
    (png.SIGNATURE + IDAT + IEND, "no IHDR"),
    (headed(struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0), IEND), "no IDAT"),
    (headed(b"short", IDAT, IEND), "IHDR of 5"),
    (headed(struct.pack(">IIBBBBB", 0, 1, 8, 0, 0, 0, 0), IDAT, IEND), "impossible header"),
    (headed(struct.pack(">IIBBBBB", 2, 1, 3, 0, 0, 0, 0), IDAT, IEND), "impossible header"),
    (headed(struct.pack(">IIBBBBB", 2, 1, 8, 5, 0, 0, 0), IDAT, IEND), "impossible header"),
    (headed(struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 2), IDAT, IEND), "impossible header"),
    (png_file(2, 1, 8, png.GREY, b"\0\1"), "do not end after 3 bytes"),
    (png_file(2, 1, 8, png.GREY, b"\0\1\2\3"), "do not end after 3 bytes"),
    (headed(struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0), chunk(b"IDAT", b"\0\0"), IEND), "damaged PNG"),
    (png_file(2, 1, 8, png.GREY, b"\7\1\2"), "row filter 7"),
    (png_file(2, 1, 8, png.PALETTE, b"\0\1\2"), "palette of 0 bytes"),
    (png_file(2, 1, 8, png.PALETTE, b"\0\1\2", chunk(b"PLTE", b"\0\0\0\0")), "palette of 4 bytes"),
    (png_file(2, 1, 8, png.PALETTE, b"\0\1\2", chunk(b"PLTE", bytes(3)), chunk(b"tRNS", b"\0\0")), "1 colours"),
    (png_file(2, 1, 8, png.GREY, b"\0\1\2", chunk(b"tRNS", b"\0")), "tRNS of 1 bytes"),
])  # fmt: skip
def test_damaged_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        PlainImage.from_png(data)
