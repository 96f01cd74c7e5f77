"""The index of an archive in its compressed forms, and what it takes to read one."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vqcodec.bitstream import BitstreamError, Corrupt, TooLarge, archive_index
from vqcodec.bitstream.archive import FILES, MAGIC, Block, Reader, Writer

BLOCK, NUMBERS = b"\1\1\1\0\0\7CRC.", b"\1\0\1"
BODY = BLOCK + NUMBERS + b"\1\1a1\0"  # one FILES block of 7 bytes with the images a1 and a2
SIZE = bytes([len(BODY)])


def opened(stored: bytes) -> Reader:
    """An archive with this stored index under a right checksum."""
    footer = struct.pack("<II4s", len(stored), zlib.crc32(stored), MAGIC)
    return Reader(io.BytesIO(MAGIC + b"\1payload" + stored + footer))


def packed(names: list[str]) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(Block(FILES, b"", b"x", range(len(names))))
    writer.finish(names)
    return stream.getvalue()


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        (b"\1" + SIZE + deflated(BODY) + b"\0", Corrupt, "nothing after them"),
        (b"\1" + SIZE + deflated(BODY)[:-1], Corrupt, "exactly"),
        (b"\1" + SIZE + deflated(BODY + b"\0"), Corrupt, "exactly"),
        (b"\1" + SIZE + deflated(BODY[:-1]), Corrupt, "exactly"),
        (b"\1" + SIZE + b"\xff" * 9, Corrupt, "invalid"),
        (b"\2" + SIZE + b"\xff" * 9, Corrupt, "(?i)corrupt"),
        (b"\2" + SIZE + b"\0", Corrupt, "exactly"),
        (b"\1\xff\xff\xff\x7f" + deflated(bytes(1 << 20)), TooLarge, "bytes once expanded, found 268435455"),
        (b"\1\x40" + deflated(bytes(1 << 24)), Corrupt, "exactly 64 bytes"),
    ],
)
def test_bad_compressed_indexes_are_refused(stored: bytes, error: type[BitstreamError], message: str) -> None:
    with memory_below(9 << 20), pytest.raises(error, match=message):  # LZMA2's dictionary alone is 8 MiB
        opened(stored)


def test_a_compressed_index_is_read() -> None:
    assert list(opened(b"\1" + SIZE + deflated(BODY)).names) == ["a1", "a2"]


@pytest.mark.parametrize(("size", "method"), [(2, 0), (100, 1), (1000, 2)])
def test_the_smallest_form_is_taken(size: int, method: int) -> None:
    names = [f"{number**2}/a" for number in range(size)]
    blob = packed(names)
    assert blob[6] == method
    assert list(Reader(io.BytesIO(blob)).names) == names


def test_an_index_that_compresses_too_well_takes_a_larger_form(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a" * length for length in range(1, 1000)]
    smallest = packed(names)
    monkeypatch.setattr(archive_index, "_most_expanded", lambda stored: 40 * len(stored))
    larger = packed(names)
    assert len(smallest) < len(larger)
    assert list(Reader(io.BytesIO(larger)).names) == names


def test_sixteen_million_images_in_a_block_are_refused() -> None:
    count = b"\xff\xff\xff\x07"  # 2^24 - 1
    with memory_below(1 << 20), pytest.raises(Corrupt, match="expected at most 1000 images"):
        opened(b"\0" + BLOCK + b"\1\0" + count + b"\1" + count + b"00000000\0")
