"""Solid blocks: every mode, size and arrangement comes back; damaged ones are refused. Golden archives: this command
writes them anew.

PYTHONPATH=.links python tests/codec/test_archive_solid.py
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqcodec.bitstream.archive import SOLID, Block, Writer
from vqcodec.bitstream.errors import BitstreamError, Corrupt, TooLarge, Truncated, UnsupportedImage
from vqcodec.bitstream.numbers import leb128
from vqcodec.codec import plain
from vqcodec.codec.archive import solid
from vqcodec.codec.archive.blocks import Options, kind_of, open_block
from vqcodec.codec.archive.reader import Archive
from vqcodec.codec.archive.solid import COLUMNS, PLANES, ROWS, Arrangement, Coded, Run, SolidImages, body_of, payload_of
from vqcodec.codec.archive.solid_search import Family, blocks_of, families
from vqcodec.codec.png import DEPTHS, GREY, PALETTE, RGB, RGBA, TRANSPARENCY_BYTES, PlainImage
from vqcodec.tests.reference import archive as reference_archive
from vqcodec.tests.reference.archive import read_archive, solid_images_of

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]
ARRANGEMENTS = [
    Arrangement(filter_, differences, order)
    for filter_, differences, order in product(range(5), (False, True), (ROWS, PLANES, COLUMNS))
]


def image_of(colour: int, depth: int, width: int, height: int, seed: int = 0, clear: bool = False) -> PlainImage:
    """An image with structure and noise; clear: with a tRNS chunk where the colour type has one."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    y, x, c = np.mgrid[:height, :width, :channels]
    values = (x * 7 + y * 3 + c * 50 + (x * y * (seed + 3)) % 5) * 2**depth // 64 % 2**depth
    pixels = values.astype(np.uint8) if depth <= 8 else np.stack([values >> 8, values & 255], 3).astype(np.uint8)
    palette = bytes((n * 11 + seed) % 256 for n in range(3 * 2**depth)) if colour == PALETTE else b""
    size = min(3, 2**depth) if colour == PALETTE else TRANSPARENCY_BYTES.get(colour, 0)
    clear_bytes = bytes(n % 2 for n in range(size)) if clear else b""
    return PlainImage(pixels.reshape(height, width, -1), depth, colour, palette, clear_bytes)


def runs_of(images: Sequence[PlainImage]) -> list[Run]:
    return solid.joined(Run.of([number], [image]) for number, image in enumerate(images))


def block_of(images: Sequence[PlainImage]) -> Block:
    (block,) = blocks_of(families(runs_of(images)))
    return block


def in_order(block: Block) -> list[PlainImage]:
    opened = SolidImages(block.payload, len(block.numbers))
    return [opened[position] for position in np.argsort(block.numbers)]


def assert_same(found: Sequence[PlainImage], images: Sequence[PlainImage]) -> None:
    assert len(found) == len(images)
    assert all(one.same_image(other) for one, other in zip(found, images, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(1, 20), st.integers(1, 20), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_images_of_any_kinds_and_sizes_come_back(told: list[tuple[tuple[int, int], int, int, int, bool]]) -> None:
    images = [image_of(*kind, width, height, seed, clear) for kind, width, height, seed, clear in told]
    assert_same(in_order(block_of(images)), images)


def cases() -> Iterator[tuple[int, int, Arrangement]]:
    for (colour, depth), arrangement in product(KINDS, ARRANGEMENTS):
        if not arrangement.differences or (colour in (RGB, RGBA) and depth == 8):
            yield colour, depth, arrangement


@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_arrangements_come_back_here_and_in_the_second_decoder(colour: int, depth: int) -> None:
    images = [image_of(colour, depth, 13, 6, seed) for seed in (0, 0, 1)]
    for arrangement in [each for *kind, each in cases() if kind == [colour, depth]]:
        run = Run.of(range(2), images[:2]), Run.of([2], images[2:])
        block = Block(SOLID, b"", payload_of(body_of([Coded(run, depth, arrangement)]), (3, 0, 0)), range(3))
        assert_same(in_order(block), images)
        assert_same([plain_of(image) for image in solid_images_of(block)], images)


@pytest.mark.parametrize("colour", [GREY, PALETTE])
@pytest.mark.parametrize(("depth", "coded"), [(1, 8), (8, 1), (8, 2), (8, 4), (4, 8), (2, 1), (4, 2)])
def test_samples_may_be_coded_with_other_depths(colour: int, depth: int, coded: int) -> None:
    own = plain.with_depth(image_of(colour, min(depth, coded), 11, 5).pixels, colour, min(depth, coded), depth)
    assert own is not None
    image = PlainImage(own, depth, colour, b"abc" if colour == PALETTE else b"")
    run = Run.of([0], [image])
    assert solid.fits(run, coded)
    block = Block(SOLID, b"", payload_of(body_of([Coded([run], coded, Arrangement(order=COLUMNS))]), (4, 0, 0)), [0])
    assert_same(in_order(block), [image])
    assert_same([plain_of(one) for one in solid_images_of(block)], [image])


def test_samples_that_do_not_fit_a_depth_are_not_coded_with_it() -> None:
    run = Run.of([0], [image_of(GREY, 8, 9, 9)])
    assert not solid.fits(run, 4)
    with pytest.raises(ValueError, match="do not fit 4 bits"):
        body_of([Coded([run], 4, Arrangement())])


def plain_of(image: reference_archive.SolidImage) -> PlainImage:
    """The same image in our terms."""
    colour, depth = plain.KIND_OF[solid.MODES[image.mode]]
    samples = image.samples.astype(np.uint8)
    if depth == 16:
        samples = np.stack([image.samples >> 8, image.samples & 255], 3).astype(np.uint8)
    height, width = image.samples.shape[:2]
    return PlainImage(samples.reshape(height, width, -1), image.depth, colour, image.palette, image.transparency)


@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_pillow_and_png_show_the_same(colour: int, depth: int) -> None:
    image = image_of(colour, depth, 10, 7, clear=True)
    stored = open_block(block_of([image]), Options())[0]
    assert PlainImage.from_png(stored.png()).same_image(image)
    if depth == 16 and colour != GREY:
        with pytest.raises(UnsupportedImage, match="16-bit colour"):
            stored.pil()
        return
    with Image.open(io.BytesIO(image.to_png())) as expected:
        assert (stored.pil().mode, stored.pil().tobytes()) == (expected.mode, expected.tobytes())


def test_max_pixels_holds_for_each_image() -> None:
    opened = open_block(block_of([image_of(GREY, 8, 10, 10), image_of(GREY, 8, 10, 11)]), Options(max_pixels=100))
    assert opened[0].pil().size == (10, 10)
    with pytest.raises(TooLarge, match="10 x 11 pixels, limit 100"):
        opened[1]


def test_the_kind_has_a_name() -> None:
    assert kind_of(SOLID, b"") == ("solid", None, None)


def test_samples_are_taken_from_everywhere() -> None:
    rng = np.random.default_rng(0)
    images = [PlainImage(rng.integers(0, 256, (side, 200, 1), np.uint8), 8, GREY) for side in rng.integers(1, 200, 40)]
    kind = Family(runs_of(images))
    sampled = sum(run.nbytes for run in kind._sample)
    assert 200_000 < sampled < 400_000 < kind.nbytes
    assert kind.sampled == pytest.approx(kind.nbytes, rel=0.1)
    assert kind.estimate == pytest.approx(kind.nbytes, rel=0.1)


KIND = b"\2\0\0"  # mode L, as it is, no extra bytes
ONE = b"\1" + KIND + b"\1\0\0\1\1"  # one image of 2 x 2 pixels


def test_the_layout_is_that_of_the_format() -> None:
    image = PlainImage(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), 8, GREY)
    assert body_of([Coded([Run.of([0], [image])], 8, Arrangement())]) == ONE + bytes(range(4))


@pytest.mark.parametrize(
    ("body", "count", "message"),
    [
        (ONE + bytes(3), 1, "expected a body of 13 bytes, found 12"),
        (ONE + bytes(5), 1, "expected a body of 13 bytes, found 14"),
        (ONE + bytes(4), 2, "expected 2 images, found 1"),
        (ONE + bytes(4), 0, "expected 1 to 131072 images, found 0"),
        (ONE + bytes(4), solid.MAX_IMAGES + 1, "expected 1 to 131072 images, found 131073"),
        (b"\0\1\0\0\1\1" + bytes(4), 1, "expected at most -1, found 0"),
        (b"\2" + KIND + KIND + b"\1\0\0\1\1" + bytes(4), 1, "expected at most 1, found 2"),
        (b"\1" + KIND + b"\1\1\0\1\1" + bytes(4), 1, "expected at most 0, found 1"),
        (b"\1\x08\0\0\1\0\0\1\1" + bytes(4), 1, "kind of images that begins 0800"),
        (b"\1\2\5\0\1\0\0\1\1" + bytes(4), 1, "arrangement 5 has no meaning"),
        (b"\1\2\x30\0\1\0\0\1\1" + bytes(4), 1, "arrangement 48 has no meaning"),
        (b"\1\2\x08\0\1\0\0\1\1" + bytes(4), 1, "colour differences in mode L"),
        (b"\1\2\0\1\x45\1\0\0\1\1" + bytes(4), 1, "depth 32 coded with 16 bits in mode L"),
        (b"\1" + KIND + b"\1\0\0\xff\xff\xff\xff\x0f\1" + bytes(4), 1, "expected at most 4294967294"),
        (b"\1" + KIND + b"\1\0\0\xfe\xff\xff\xff\x0f\xfe\xff\xff\xff\x0f" + bytes(4), 1, "expected a body of"),
        (b"\1" + KIND + b"\1\0\0\x80\x80\x80\x80\x80\x80\0", 1, "more than 5 bytes"),
        (b"\1\2\0\x7f" + bytes(10), 1, "expected at most 11, found 127"),
    ],
)
def test_impossible_bodies_are_corrupt(body: bytes, count: int, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        SolidImages(payload_of(body, (3, 0, 2)), count)


@pytest.mark.parametrize("cut", range(1, len(ONE)))
def test_tables_that_end_early_are_refused(cut: int) -> None:
    with pytest.raises((Truncated, Corrupt)):
        SolidImages(payload_of(ONE[:cut], (3, 0, 2)), 1)


def test_samples_that_do_not_fit_the_image_are_corrupt() -> None:
    body = b"\1\2\0\1\x30\1\0\0\1\1" + bytes([0, 255, 7, 0])  # depth 1 in mode L is not allowed; depth 2 is
    with pytest.raises(Corrupt, match="depth 1 coded with 8 bits in mode L"):
        SolidImages(payload_of(body, (3, 0, 2)), 1)
    opened = SolidImages(payload_of(body.replace(b"\x30", b"\x31"), (3, 0, 2)), 1)
    with pytest.raises(Corrupt, match="samples of 8 bits do not fit the image's 2"):
        opened[0]


@pytest.mark.parametrize("size", [solid.MAX_BODY + 1, 1 << 20, 1 << 34])
def test_bodies_beyond_the_limits_are_not_expanded(size: int) -> None:
    with pytest.raises(TooLarge, match="bytes once expanded"):
        SolidImages(leb128(size) + bytes(100), 1)


def test_other_streams_are_corrupt() -> None:
    payload = payload_of(ONE + bytes(4), (3, 0, 2))
    longer = lzma.compress(ONE + bytes(9), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    for wrong in (payload + b"x", payload[:-1], payload[:1] + b"\xff" + payload[2:], payload[:1] + longer, b"\x04"):
        with pytest.raises(Corrupt, match="LZMA stream"):
            SolidImages(wrong, 1)
    with pytest.raises(Truncated):
        SolidImages(b"", 1)


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_are_images_or_errors(seed: int) -> None:
    """Payloads and bodies with right checksums around them."""
    rng = np.random.default_rng(seed)
    images = [image_of(*kind, 9, 5, clear=True) for kind in KINDS]
    block = block_of(images)
    body = solid._expanded(block.payload, 1 << 27)
    for _ in range(150):
        inside = rng.integers(2)
        data = bytearray(body if inside else block.payload)
        for place in rng.integers(0, min(len(data), 2000 if rng.integers(2) else 80), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        payload = payload_of(bytes(data), (3, 0, 2), 0) if inside else bytes(data)
        try:
            opened = open_block(Block(SOLID, b"", payload, block.numbers), Options(max_pixels=1 << 20))
            for position in range(len(images)):
                opened[position].png()
        except BitstreamError:
            continue


def kinds_of_golden() -> list[PlainImage]:
    return [
        image_of(*kind, 11, 6, seed, clear) for kind in KINDS for seed, clear in ((0, False), (0, False), (1, True))
    ]


def sizes_of_golden() -> list[PlainImage]:
    return [image_of(RGB if n % 3 else GREY, 8, 5 + n * 7 % 11, 3 + n * 5 % 13, n) for n in range(40)]


GOLDENS = {"good-archive-solid-kinds.vqa": kinds_of_golden, "good-archive-solid-sizes.vqa": sizes_of_golden}


def golden_block(images: Sequence[PlainImage]) -> Block:
    """A block of all arrangements that fit the images, in turn."""
    parts, numbers = [], []
    for part, kind in enumerate(families(runs_of(images))):
        look = kind.runs[0].look
        fit = [each for colour, depth, each in cases() if (colour, depth) == (look.colour, look.depth)]
        for number, run in enumerate(kind.runs):
            parts.append(Coded([run], look.depth, fit[(7 * part + 11 * number) % len(fit)]))
            numbers += run.numbers
    return Block(SOLID, b"", payload_of(body_of(parts), (3, 0, 0)), numbers)


def golden(images: Sequence[PlainImage]) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(golden_block(images))
    writer.finish([f"{number:03}.png" for number in range(len(images))])
    return stream.getvalue()


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_archives_are_read_twice(name: str) -> None:
    blob, images = (GOLDEN / name).read_bytes(), GOLDENS[name]()
    with Archive(io.BytesIO(blob)) as archive:
        assert not archive.verify()
        found = {number: PlainImage.from_png(stored.png()) for number, stored in archive.stored()}
    assert_same([found[number] for number in range(len(images))], images)
    (block,), names = read_archive(blob)
    decoded = [plain_of(image) for image in solid_images_of(block)]
    assert_same([decoded[position] for position in np.argsort(block.numbers)], images)
    assert names[-1] == f"{len(images) - 1:03}.png"
    assert f"| {name} |" in (GOLDEN / "README.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    for file, made in GOLDENS.items():
        (GOLDEN / file).write_bytes(golden(made()))
