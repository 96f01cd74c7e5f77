"""Archives: what was written is read, one block at a time, and everything else is refused."""

import io
import random
import re
import struct
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import (
    BitstreamError,
    CompactHeader,
    Corrupt,
    NotAVqcodecFile,
    PlainHeader,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    archive_index,
    read,
    write,
)
from vqcodec.bitstream.archive import BITS_BACK, FILES, MAGIC, Block, Reader, Writer

EXTRA = bytes([2, 7]) + bytes(8) + bytes([25]) + b"archive-omniglot28-binary"
NAMES = ["a/09.png", "a/10.png", "b.png", "c"]
BLOCKS = [
    Block(FILES, b"", b"one", [1, 0]),
    Block(BITS_BACK, EXTRA, b"second", [3]),
    Block(FILES, b"", b"3", [2]),
]

laws = settings(deadline=None, derandomize=True, max_examples=100)


def packed(blocks: list[Block], names: list[str]) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream)
    for block in blocks:
        writer.add(block)
    writer.finish(names)
    return stream.getvalue()


def opened(blob: bytes, **limits: int) -> Reader:
    return Reader(io.BytesIO(blob), **limits)


def content(reader: Reader) -> list[tuple[object, ...]]:
    """Names, then all of every block."""
    blocks = [reader.block(number) for number in range(len(reader.blocks))]
    return [tuple(reader.names), *((b.kind, b.extra, b.payload, tuple(b.numbers)) for b in blocks)]


def sealed(index: bytes, payload: bytes = b"payload") -> bytes:
    """An archive with this stored index under a right checksum."""
    return MAGIC + b"\1" + payload + index + struct.pack("<II4s", len(index), zlib.crc32(index), MAGIC)


def index_of(
    blocks: bytes = b"\1\1\1\0\0\7CRC.", numbers: bytes = b"\1\0\1", names: bytes = b"\1\1a1\0", method: bytes = b"\0"
) -> bytes:
    """A stored index, by default of one FILES block of 7 bytes with the images a1 and a2."""
    return method + blocks + numbers + names


@st.composite
def archives(draw: st.DrawFn) -> tuple[list[Block], list[str]]:
    names = draw(st.lists(st.from_regex(r"[a-c]?[0-9]{1,2}(\.p2)?", fullmatch=True), unique=True, max_size=40))
    order = draw(st.permutations(range(len(names))))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(names) - 1)), max_size=4)) if len(names) > 1 else [])
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)] if names else []
    kinds = st.tuples(st.sampled_from([FILES, BITS_BACK]), st.binary(max_size=3), st.binary(min_size=1, max_size=9))
    return [Block(*draw(kinds), part) for part in parts], names


@laws
@given(archives())
def test_reading_gives_what_was_written(archive: tuple[list[Block], list[str]]) -> None:
    blocks, names = archive
    reader = opened(packed(blocks, names))
    assert content(reader) == [tuple(names), *((b.kind, b.extra, b.payload, tuple(b.numbers)) for b in blocks)]
    for number, name in enumerate(names):
        block, position = reader.place(name)
        assert reader.place(number) == (block, position)
        assert blocks[block].numbers[position] == number


def test_what_the_index_says_of_a_block() -> None:
    info = opened(packed(BLOCKS, NAMES)).blocks[1]
    assert (info.kind, info.extra, list(info.numbers)) == (BITS_BACK, EXTRA, [3])
    assert (info.offset, info.size, info.crc) == (5 + 3, 6, zlib.crc32(b"second"))


@pytest.mark.parametrize(("extra", "limit"), [(b"", 70), (EXTRA, 100)])
def test_ten_thousand_images_in_two_blocks_cost_at_most_100_bytes(extra: bytes, limit: int) -> None:
    payload = random.Random(0).randbytes(5000)
    blocks = [Block(BITS_BACK, extra, payload, range(begin, begin + 5000)) for begin in (0, 5000)]
    blob = packed(blocks, [f"{number:05}" for number in range(10_000)])
    assert len(blob) - 2 * len(payload) <= limit
    assert list(opened(blob).names) == [f"{number:05}" for number in range(10_000)]


def test_images_in_turn_in_two_blocks_cost_little() -> None:
    blocks = [Block(BITS_BACK, EXTRA, b"x", range(begin, 4000, 2)) for begin in range(2)]
    blob = packed(blocks, [f"{number:04}" for number in range(4000)])
    assert len(blob) < 150
    assert [list(block.numbers) for block in opened(blob).blocks] == [list(block.numbers) for block in blocks]


def test_an_archive_without_images() -> None:
    reader = opened(packed([], []))
    assert (list(reader.names), list(reader.blocks)) == ([], [])
    with pytest.raises(IndexError, match="image 0"):
        reader.place(0)


def test_numbers_may_be_an_array() -> None:
    blob = packed([Block(FILES, b"", b"x", np.array([2, 0, 1]))], ["a", "b", "c"])
    assert list(opened(blob).blocks[0].numbers) == [2, 0, 1]


def test_blocks_are_written_as_they_come(tmp_path: Path) -> None:
    with (tmp_path / "a.vqa").open("wb", buffering=0) as stream:
        writer = Writer(stream)
        writer.add(BLOCKS[0])
        assert (tmp_path / "a.vqa").read_bytes() == MAGIC + b"\1" + b"one"
        for block in BLOCKS[1:]:
            writer.add(block)
        writer.finish(iter(NAMES))
    with (tmp_path / "a.vqa").open("rb") as stream:
        assert tuple(Reader(stream).names) == tuple(NAMES)


class Watched(io.BytesIO):
    """Gives at most 2 bytes at a time, and notes which."""

    def __init__(self, blob: bytes) -> None:
        super().__init__(blob)
        self.seen: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0
        begin = self.tell()
        data = super().read(min(size, 2))
        self.seen |= set(range(begin, begin + len(data)))
        return data


def test_an_image_takes_header_index_and_its_block_only() -> None:
    payloads = [bytes([number]) * 100 for number in range(3)]
    stream = Watched(
        packed([Block(FILES, b"", each, [number]) for number, each in enumerate(payloads)], ["a", "b", "c"])
    )
    reader = Reader(stream)
    stream.seen.clear()
    assert reader.block(reader.place("b")[0]).payload == payloads[1]
    assert stream.seen == set(range(5 + 100, 5 + 200))


def test_a_damaged_block_is_named_and_the_others_are_read() -> None:
    blob = bytearray(packed(BLOCKS, NAMES))
    blob[5 + 3 + 2] ^= 1
    reader = opened(bytes(blob))
    with pytest.raises(Corrupt, match="block 1 at offset 8: expected checksum .* is damaged"):
        reader.block(1)
    assert [reader.block(number).payload for number in (0, 2)] == [b"one", b"3"]


def test_a_file_that_shrinks_while_it_is_open() -> None:
    stream = io.BytesIO(packed(BLOCKS, NAMES))
    reader = Reader(stream)
    stream.truncate(10)
    with pytest.raises(Truncated, match="block 1 at offset 8: expected 6 bytes, found 2"):
        reader.block(1)


def test_numbers_of_blocks_that_are_not_there() -> None:
    with pytest.raises(IndexError):
        opened(packed(BLOCKS, NAMES)).block(3)


@pytest.mark.parametrize(
    ("image", "error"), [(4, IndexError), (-1, IndexError), ("d", KeyError), ("a/11.png", KeyError)]
)
def test_places_of_images_that_are_not_there(image: int | str, error: type[Exception]) -> None:
    with pytest.raises(error):
        opened(packed(BLOCKS, NAMES)).place(image)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((3, b"", b"x", [0]), "kind of a block: expected one of 1, 2, 4, found 3"),
        ((FILES, bytes(0x10000), b"x", [0]), "extra bytes of a block"),
        ((FILES, b"", b"", [0]), "payload of a block"),
        ((FILES, b"", b"x", []), "numbers of a block"),
    ],
)
def test_blocks_out_of_range_are_refused(fields: tuple[int, bytes, bytes, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Block(*fields)


@pytest.mark.parametrize(
    ("numbers", "names", "message"),
    [
        ([[0], [0]], ["a", "b"], "each of 0..1 once"),
        ([[0], [2]], ["a", "b"], "each of 0..1 once"),
        ([[1, 2]], ["a", "b"], "each of 0..1 once"),
        ([[0, 1, 0]], ["a", "b"], "each of 0..2 once"),
        ([[-1]], ["a"], "expected 0..16777215, found -1"),
        ([[1 << 24]], ["a"], "expected 0..16777215, found 16777216"),
        ([[0, 1]], ["a"], "names: expected 2, found 1"),
        ([[0]], ["a", "b"], "names: expected 1, found 2"),
        ([[0, 1]], ["a", "a"], "name 'a': there twice"),
        ([[0, 1]], ["a", "../b"], "name '../b'"),
    ],
)
def test_what_makes_no_archive_is_refused(numbers: list[list[int]], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed([Block(FILES, b"", b"x", each) for each in numbers], names)


def test_too_much_for_one_archive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(io.BytesIO())
    monkeypatch.setattr("vqcodec.bitstream.archive.MAX_IMAGES", 1500)
    writer.add(Block(FILES, b"", b"x", range(1000)))
    with pytest.raises(TooLarge, match="expected at most 1500 images, found 1501"):
        writer.add(Block(FILES, b"", b"x", range(1000, 1501)))
    monkeypatch.setattr(archive_index, "MAX_INDEX", 20)
    with pytest.raises(TooLarge, match="archive index: expected at most 20 bytes"):
        packed(BLOCKS, NAMES)


# Files that are no archive, or a damaged one


COMPACT = write(CompactHeader(2, 7, b"\x5e"), b"\x8b")
GENERAL = write(PlainHeader(0, "L", 9, 9), b"payload")


@pytest.mark.parametrize(
    ("blob", "error", "message"),
    [
        (b"", Truncated, "at least 17 bytes, found 0"),
        (b"VQA", Truncated, "at least 17 bytes, found 3"),
        (MAGIC + b"\1", Truncated, "at least 17 bytes, found 5"),
        (MAGIC + b"\2", UnsupportedVersion, "found 2; this build reads 1"),
        (b"\x89PNG\r\n\x1a\n", NotAVqcodecFile, "found a PNG file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", NotAVqcodecFile, "found a JPEG XL file"),
        (b"hello", NotAVqcodecFile, "68 65 6c 6c"),
        (COMPACT, NotAVqcodecFile, "single image .*vqcodec decompress"),
        (GENERAL, NotAVqcodecFile, "single image .*vqcodec decompress"),
        (b"\xb0rest", NotAVqcodecFile, "single image"),
        (packed(BLOCKS, NAMES) + b"\0", Truncated, "cut, or bytes were added"),
        (packed(BLOCKS, NAMES)[:-1], Truncated, "cut, or bytes were added"),
        (MAGIC + b"\1" + struct.pack("<II4s", 1, 0, MAGIC), Corrupt, "an index of at most 0 bytes, found 1"),
        (MAGIC + b"\1i" + struct.pack("<II4s", 1, 0, MAGIC), Corrupt, "index at offset 5: expected checksum 00000000"),
        (sealed(b""), Corrupt, "expected 1 bytes more, found 0"),
        (sealed(index_of(method=b"\3")), UnsupportedVersion, "method 3; this build reads 0..2"),
        (sealed(index_of(b"\1\1\3\0\0\7CRC.")), UnsupportedVersion, "kind 3; this build reads 1, 2"),
        (sealed(index_of(b"\1\1\1\x80\x80\4\0\7CRC.")), Corrupt, "extra bytes: expected at most 65535, found 65536"),
        (sealed(index_of(b"\1\2\1\0\1\0\0\7CRC.")), Corrupt, "kinds of blocks: expected at most 1, found 2"),
        (sealed(index_of(b"\1\1\1\0\1\7CRC.")), Corrupt, "kind of a block: expected at most 0, found 1"),
        (sealed(index_of(b"\x08\1\1\0\0\7CRC.")), Corrupt, "blocks: expected at most 7, found 8"),
        (sealed(index_of(b"\1\1\1\0\0\x08CRC.")), Corrupt, "size of a block: expected at most 7, found 8"),
        (sealed(index_of(b"\1\1\1\0\0\6CRC.")), Corrupt, "sizes of the blocks: expected 7 bytes together, found 6"),
        (sealed(index_of(b"\2\1\1\0\0\0CRC.\0\7CRC.")), Corrupt, "size of a block: expected at least 1"),
        (sealed(index_of(b"\xff" * 9)), Corrupt, "variable-length number: expected at most 9 bytes"),
        (sealed(index_of(numbers=b"\0")), Corrupt, "block: expected at least 1 image"),
        (sealed(index_of(numbers=b"\1\1\1")), Corrupt, "number of an image: expected at least 0, found -1"),
        (sealed(index_of(numbers=b"\1\2\1")), Corrupt, "each of 0..1 once"),
        (sealed(index_of(numbers=b"\2\0\0\1\0")), Corrupt, "each of 0..1 once"),
        (sealed(index_of(numbers=b"\x7f\0\1")), Corrupt, "expected 254 variable-length numbers, found 7"),
        (sealed(index_of(numbers=b"\1\0\x80\x80\x80\x08")), Corrupt, "at most 1000 images"),
        (sealed(index_of(numbers=b"\1" + b"\xfe" * 8 + b"\x7f\0")), TooLarge, "at most 16777216 images"),
        (sealed(index_of(names=b"\1\0a1\0")), Corrupt, "names: expected 2, found 1"),
        (sealed(index_of(names=b"\3\0\0\0a\0b\0c\0")), Corrupt, "runs of names: expected at most 2, found 3"),
        (sealed(index_of(names=b"\1\1a1")), Corrupt, "names: end early"),
        (sealed(index_of(names=b"\1\1a1\0b\0")), Corrupt, "names: 2 bytes follow them"),
        (sealed(index_of(names=b"\1\1a9\0")), Corrupt, "'a9': its digits do not count on to 2 names"),
        (sealed(index_of(names=b"\1\1a\0")), Corrupt, "'a': its digits do not count on"),
        (sealed(index_of(names=b"\2\0\0a\0a\0")), Corrupt, "'a': there twice"),
        (sealed(index_of(names=b"\1\1../1\0")), Corrupt, "name '../1'"),
        (sealed(index_of(names=b"\2\0\0a\0/b\0")), Corrupt, "name '/b'"),
        (sealed(index_of(names=b"\1\1\xff1\0")), Corrupt, "expected another form"),
        (sealed(index_of(names=b"\1\1\xed\xa0\x801\0")), Corrupt, "expected another form"),
    ],
)
def test_bad_archives_are_named(blob: bytes, error: type[BitstreamError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        opened(blob)
    assert caught.type is error
    assert "\n" not in str(caught.value)


def test_the_index_that_the_bad_ones_alter_is_right() -> None:
    assert list(opened(sealed(index_of())).names) == ["a1", "a2"]


def test_the_reader_of_single_images_points_to_unpack() -> None:
    with pytest.raises(NotAVqcodecFile, match="archive .*vqcodec unpack"):
        read(packed(BLOCKS, NAMES))


def test_limits_can_be_moved() -> None:
    blob = packed(BLOCKS, NAMES)
    assert len(opened(blob, max_images=4).names) == 4
    with pytest.raises(TooLarge, match="at most 3 images"):
        opened(blob, max_images=3)
    with pytest.raises(TooLarge, match="archive index: expected at most 11 bytes"):
        opened(blob, max_index=10)


# Damage


def reading_is_right_or_refused(blob: bytes, expected: list[tuple[object, ...]]) -> None:
    try:
        found = opened(blob)
    except BitstreamError:
        return
    assert tuple(found.names) == expected[0]
    for number in range(len(found.blocks)):
        try:
            block = found.block(number)
        except BitstreamError:
            continue
        assert (block.kind, block.extra, block.payload, tuple(block.numbers)) == expected[1 + number]


def test_every_other_bit_and_every_cut_is_noticed() -> None:
    blob = packed(BLOCKS, NAMES)
    expected = content(opened(blob))
    for offset in range(len(blob)):
        with pytest.raises(BitstreamError):
            opened(blob[:offset])
        for bit in range(8):
            altered = blob[:offset] + bytes([blob[offset] ^ 1 << bit]) + blob[offset + 1 :]
            with pytest.raises(BitstreamError):
                content(opened(altered))
            reading_is_right_or_refused(altered, expected)


def test_random_damage_raises_only_bitstream_errors() -> None:
    noise = random.Random(5)
    names = [f"{number % 7}/x{number:03}.png" for number in range(300)]
    blob = packed([Block(FILES, b"", noise.randbytes(50), range(a, a + 60)) for a in range(0, 300, 60)], names)
    expected = content(opened(blob))
    for _ in range(500):
        altered = bytearray(blob)
        begin = noise.randrange(len(blob))
        altered[begin : begin + noise.randrange(9)] = noise.randbytes(noise.randrange(9))
        reading_is_right_or_refused(bytes(altered), expected)


def test_random_indexes_under_a_right_checksum_raise_only_bitstream_errors() -> None:
    noise = random.Random(6)
    for _ in range(3000):
        index = bytearray(index_of(method=noise.choice([b"\0", b"\0", b"\1\x20", b"\2\x20"])))
        for _ in range(noise.randrange(1, 4)):
            index[noise.randrange(len(index))] = noise.choice([0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF])
        try:
            reader = opened(sealed(bytes(index)))
        except BitstreamError:
            continue
        assert sum(len(block.numbers) for block in reader.blocks) == len(reader.names)


def test_the_worked_example_of_the_format() -> None:
    page = (files("vqcodec.bitstream") / "FORMAT.md").read_text(encoding="utf-8")
    example = re.search(r"```hex archive\n(.*?)```", page, re.DOTALL)
    assert example
    payload = b"\6\0" + COMPACT + b"\1\1\xff"
    assert packed([Block(FILES, b"", payload, [1, 0])], ["a/09.png", "a/10.png"]) == bytes.fromhex(example[1])
