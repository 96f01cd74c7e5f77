"""What a file may cost is bounded: by the limits of an image, and by the bytes that the file has."""

from __future__ import annotations

import io
import lzma
import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import vqcodec
from vqcodec.bitstream import Corrupt, ModelHeader, PlainHeader, TooLarge, container, write
from vqcodec.bitstream.archive import BITS_BACK, FILES, Block, Reader, Writer
from vqcodec.bitstream.archive_index import most_images
from vqcodec.bitstream.numbers import leb128
from vqcodec.cli import main
from vqcodec.codec import models, photographs, plain
from vqcodec.codec.png import PlainImage

LONG = 1 << 20  # pixels of images that are a row or a column


def rows_of(width: int, height: int, bits: int, filters: tuple[int, ...]) -> bytes:
    table = np.zeros((height, 1 + (width * bits + 7) // 8), np.uint8)
    table[:, 0] = np.resize(filters, height)
    table[:, 1] = 3
    return table.tobytes()


def stored(method: int, rows: bytes) -> bytes:
    if method == plain.LZMA:
        return lzma.compress(rows, lzma.FORMAT_RAW, filters=plain.LZMA_FILTERS)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(rows) + packer.flush()


@pytest.mark.parametrize("size", [(1, LONG), (LONG, 1)])
@pytest.mark.parametrize(
    ("mode", "bits", "method", "extra", "filters"),
    [
        ("1", 1, plain.DEFLATE, b"", (0,)),
        ("1", 1, plain.DEFLATE, b"", (2, 0, 1)),
        ("1", 1, plain.LZMA, b"", (0,)),
        ("L", 1, plain.DEFLATE, b"\x03", (0,)),  # coded with one bit
        ("L", 8, plain.DEFLATE, b"", (0, 2, 4)),
        ("L", 8, plain.LZMA, b"", (3,)),
        ("RGB", 24, plain.DEFLATE, b"", (1, 2, 3, 4)),
        ("RGBA;16", 64, plain.DEFLATE, b"", (4,)),
    ],
)
def test_decoding_takes_at_most_thrice_the_decoded_bytes(
    mode: str, bits: int, method: int, extra: bytes, filters: tuple[int, ...], size: tuple[int, int]
) -> None:
    payload = stored(method, rows_of(*size, bits, filters))
    bytes_decoded = LONG * container.SAMPLE_BYTES[mode]
    tracemalloc.start()
    try:
        png = plain.to_png(method, extra, payload, *size, mode)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * bytes_decoded + (24 << 20)
    assert plain.decode(method, extra, payload, *size, mode).same_image(PlainImage.from_png(png))


def plain_file(mode: str, width: int = 5, height: int = 3) -> bytes:
    """A file of a black image."""
    depth = plain.KIND_OF[mode][1]
    channels = container.SAMPLE_BYTES[mode] // (1 + depth // 16)
    extra = bytes([0x33, 0, 1, 2, 3]) if mode == "P" else b""
    rows = bytes(height * (1 + (width * channels * depth + 7) // 8))
    return write(PlainHeader(0, mode, width, height, extra), stored(0, rows))


ENTRIES: dict[str, Callable[..., Any]] = {
    "decode": lambda blob, **limit: vqcodec.decode(blob, **limit),
    "decode to numpy": lambda blob, **limit: vqcodec.decode(blob, "numpy", **limit),
    "decode_batch": lambda blob, **limit: vqcodec.decode_batch([blob], **limit),
    "decode_to_png": lambda blob, **limit: vqcodec.decode_to_png(blob, **limit),
    "info": lambda blob, **limit: vqcodec.info(blob, **limit),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("mode", plain.KIND_OF)
def test_the_limits_hold_for_every_mode(mode: str, entry: str) -> None:
    if mode.endswith(";16") and mode != "I;16" and entry.startswith("decode") and entry != "decode_to_png":
        pytest.skip("Pillow has no 16-bit colour")
    blob, size = plain_file(mode), 15 * container.SAMPLE_BYTES[mode]
    ENTRIES[entry](blob, max_bytes=size, max_pixels=15)
    for limit in ({"max_bytes": size - 1}, {"max_pixels": 14}):
        with pytest.raises(TooLarge):
            ENTRIES[entry](blob, **limit)


def test_two_to_the_28_pixels_are_decoded_and_no_more() -> None:
    for mode, width, fine in (("RGBA", 1 << 28, True), ("RGBA", (1 << 28) + 1, False), ("RGBA;16", 1 << 28, False)):
        blob = write(PlainHeader(0, mode, width, 1), b"")
        with pytest.raises(Corrupt if fine else TooLarge):
            vqcodec.decode_to_png(blob)


@pytest.mark.parametrize("limit", [{"max_bytes": 28 * 28 - 1}, {"max_pixels": 28 * 28 - 1}])
def test_the_limits_hold_for_models(limit: dict[str, int]) -> None:
    compact = (Path(__file__).parents[1] / "golden" / "good-ladder-mnist-lossless.vqc").read_bytes()
    header, payload = container.read(compact)
    assert isinstance(header, container.CompactHeader)
    model = models.load("ladder-mnist")
    general = write(ModelHeader(header.parameter, "L", 28, 28, 3, model.sha256[:8], model.name), payload)
    for blob in (compact, general):
        for entry in (vqcodec.decode, vqcodec.decode_to_png, vqcodec.preview, vqcodec.info):
            entry(blob, max_bytes=28 * 28, max_pixels=28 * 28)
            with pytest.raises(TooLarge):
                entry(blob, **limit)


def image_file(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG"])
def test_the_limits_hold_for_images_in_archives(kind: str, tmp_path: Path) -> None:
    path, archive = tmp_path / f"a.{kind.lower()}", tmp_path / "a.vqa"
    path.write_bytes(image_file(kind))
    vqcodec.pack([path], archive)
    with vqcodec.Archive(archive, max_bytes=300, max_pixels=100) as opened:
        assert opened[0].size == (10, 10)
    for limit in ({"max_bytes": 299}, {"max_pixels": 99}):
        with vqcodec.Archive(archive, **limit) as opened, pytest.raises(TooLarge):
            opened[0]
        with pytest.raises(TooLarge):
            vqcodec.unpack(archive, tmp_path / "x.npy", **limit)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.npy"])
def test_the_limits_hold_for_what_is_packed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, np.zeros((2, 10, 10, 3), np.uint8))
    else:
        path.write_bytes(image_file(name[2:].upper()))
    vqcodec.pack([path], tmp_path / "a.vqa", max_bytes=300, max_pixels=100)
    for limit in ({"max_bytes": 299}, {"max_pixels": 99}):
        with pytest.raises((TooLarge, vqcodec.UnsupportedImage)):
            vqcodec.pack([path], tmp_path / "b.vqa", **limit)


def test_the_command_line_has_the_limits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_file("PNG"))
    (tmp_path / "a.vqc").write_bytes(plain_file("RGB"))
    vqcodec.pack([tmp_path / "a.png"], tmp_path / "a.vqa")
    for command, *names in (
        ("compress", "a.png", "b.vqc"), ("decompress", "a.vqc", "b.png"), ("decompress", "a.vqc", "b.bmp"),
        ("info", "a.vqc"),
        ("pack", "a.png", "b.vqa"), ("unpack", "a.vqa", "b.npy"),
    ):  # fmt: skip
        done = CliRunner().invoke(main, [command, *(str(tmp_path / name) for name in names), "--max-bytes", "44"])
        assert done.exit_code == 1, (command, done.output)
        assert "44" in done.output


@pytest.mark.parametrize("name", ["vq-photo", "ladder-photo", "lossless-photo"])
@pytest.mark.parametrize("size", [(4096, 4096), (1 << 14, 1 << 14), (1, 1 << 28), (1 << 28, 1)])
def test_few_bytes_are_no_large_photograph(name: str, size: tuple[int, int]) -> None:
    model = models.load(name)
    header = ModelHeader(1, "RGB", *size, model.number, model.sha256[:8], name)
    for payload in (b"", bytes(4), bytes(13), bytes(300)):
        with pytest.raises(vqcodec.BitstreamError, match="cannot hold"):
            vqcodec.decode(write(header, payload))
        if name == "vq-photo":
            with pytest.raises(vqcodec.BitstreamError, match="cannot hold"):
                vqcodec.preview(write(header, payload))


@pytest.mark.parametrize("name", ["vq-photo", "ladder-photo", "lossless-photo"])
def test_flat_photographs_are_far_from_the_bound(name: str) -> None:
    """The bound is some eight times what a model's flattest image takes."""
    model, side = models.load(name), 64 if name == "lossless-photo" else 256
    blob, _ = photographs.encode(Image.new("RGB", (side, side)), model, photographs.Wish(1))
    payload = len(blob) - container.GENERAL_OVERHEAD - 10 - len(name)
    assert payload * photographs.PIXELS_PER_BYTE > 7 * side * side
    assert vqcodec.decode(blob).size == (side, side)


def sealed(index: bytes, payloads: bytes = b"payload") -> bytes:
    """An archive with a compressed index."""
    body = b"\1" + leb128(len(index)) + stored(0, index)
    footer = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + b"VQA\x1a"
    return b"VQA\x1a\1" + payloads + body + footer


def blocks_of(kind: int, count: int, size: int) -> bytes:
    head = leb128(count) + b"\1" + bytes([kind, 0])
    return head + (b"\0" + leb128(size) + b"CRC.") * count


@pytest.mark.parametrize(("kind", "most"), [(FILES, 1000), (BITS_BACK, 5000)])
def test_images_of_a_block_are_counted_before_its_runs_are_read(kind: int, most: int) -> None:
    def opened(images: int, runs: int) -> Reader:
        each = images // runs
        numbers = leb128(runs) + (b"\0" + leb128(each - 1)) * runs
        names = b"\1" + leb128(images - 1) + b"00000000\0"
        return Reader(io.BytesIO(sealed(blocks_of(kind, 1, 7) + numbers + names)))

    assert len(opened(most, 1).names) == len(opened(most, most).names) == most
    tracemalloc.start()
    try:
        for images, runs in ((most + 1, 1), (1 << 24, 1), (1 << 20, 1 << 20), (most + 1, most + 1)):
            with pytest.raises(Corrupt, match=f"expected at most {most}"):
                opened(images, runs)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20  # the index itself takes some of it
    finally:
        tracemalloc.stop()


def test_images_of_an_archive_are_bounded_by_its_size() -> None:
    blocks, size = 40, 1
    assert most_images(blocks * size) < 5000 * blocks
    numbers = (leb128(1) + b"\0" + leb128(4999)) * blocks
    names = b"\1" + leb128(5000 * blocks - 1) + b"00000000\0"
    with pytest.raises(Corrupt, match="images in an archive of this size"):
        Reader(io.BytesIO(sealed(blocks_of(BITS_BACK, blocks, size) + numbers + names, b"x" * blocks)))


def test_writers_make_nothing_that_readers_refuse() -> None:
    with pytest.raises(ValueError, match="expected at most 1000 images"):
        Block(FILES, b"", b"x", range(1001))
    writer = Writer(io.BytesIO())
    for start in range(0, 70_000, 5000):
        writer.add(Block(BITS_BACK, b"", b"x", range(start, start + 5000)))
    with pytest.raises(TooLarge, match="70000 images are too many"):
        writer.finish(f"{number:06}" for number in range(70_000))


def test_the_recipe_for_servers_works() -> None:
    text = (Path(vqcodec.__file__).parent / "docs" / "servers.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)
    png, reason = names["decode_safely"](plain_file("RGB"))
    assert reason is None
    assert Image.open(io.BytesIO(png)).size == (5, 3)
    png, reason = names["decode_safely"](write(PlainHeader(0, "L", 1 << 13, 1 << 13), b""))
    assert png is None
    assert reason.startswith("refused: ")
