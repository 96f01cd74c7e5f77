"""The index of an archive: its blocks and names to bytes and back. Layout and limits are those of FORMAT.md."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .archive_names import Names, Run, name_of_stored, stored_name
from .archive_numbers import Numbers, Places
from .errors import Corrupt, TooLarge, UnsupportedVersion
from .numbers import leb128

FILES, BITS_BACK, SOLID = 1, 2, 4
KINDS = {FILES: "files", BITS_BACK: "bits-back", SOLID: "solid"}
"""Kinds of blocks, and their names."""
MOST_IMAGES = {FILES: 1000, BITS_BACK: 5000, SOLID: 1 << 17}
"""Images of a block, by kind."""
MAX_EXTRA = 0xFFFF
MAX_INDEX = 1 << 28
"""Bytes of an index once expanded."""

_FREE_IMAGES, _IMAGES_PER_BYTE = 1 << 16, 32  # images of an archive: so many, and so many for each byte of its blocks
_FEW = 32  # numbers that are read one by one, as arrays are not worth it
_MAX_RATIO = 1000  # close to deflate's own limit, 1032
_MAX_VARINT = 9  # bytes, so that values stay below 2^63
_CRC_BYTES = 4
_RAW, _DEFLATE, _LZMA = 0, 1, 2
_LZMA_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 23, "lc": 3, "lp": 0, "pb": 0}


@dataclass(frozen=True)
class BlockInfo:
    """What the index says of a block."""

    kind: int
    """One of KINDS."""
    extra: bytes
    """At most MAX_EXTRA bytes, defined by the kind."""
    offset: int
    """Of its payload in the file."""
    size: int
    """Bytes of its payload, >= 1."""
    crc: int
    """CRC-32 of its payload."""
    numbers: Numbers
    """Which images it holds, >= 1, in the payload's order."""


class Index(NamedTuple):
    """What the index of an archive says."""

    blocks: list[BlockInfo]
    names: Names
    places: Places


def most_images(block_bytes: int) -> int:
    """Images that an archive may have whose blocks take so many bytes: what opening it takes is bounded by its size."""
    return _FREE_IMAGES + _IMAGES_PER_BYTE * block_bytes


def write_index(blocks: Sequence[BlockInfo], names: Names) -> bytes:
    """The smallest of the stored forms. Raises TooLarge if it were more than MAX_INDEX bytes once expanded."""
    body = b"".join([*_block_fields(blocks), *_number_fields(blocks), *_name_fields(names)])
    if len(body) > MAX_INDEX:
        raise TooLarge(f"archive index: expected at most {MAX_INDEX} bytes, found {len(body)}")
    size = leb128(len(body))
    compressed = [bytes([_DEFLATE]) + size + _deflate(body), bytes([_LZMA]) + size + _to_lzma(body)]
    allowed = [form for form in compressed if len(body) <= _most_expanded(form)]
    return min([bytes([_RAW]) + body, *allowed], key=len)


def read_index(stored: bytes, begin: int, end: int, max_images: int, max_index: int) -> Index:
    """The index of an archive whose blocks fill the bytes from offset begin to end, where the index stands.

    Raises UnsupportedVersion, Corrupt, or TooLarge for more than max_images images or max_index bytes once expanded."""
    try:
        fields = _Fields(_expanded(stored, max_index))
        blocks = _read_blocks(fields, begin, end)
        numbers = _read_numbers(
            fields, [MOST_IMAGES[kind] for kind, *_ in blocks], max_images, most_images(end - begin)
        )
        places = Places(numbers)
        names = Names(_read_names(fields, len(places)))
    except ValueError as error:
        raise Corrupt(f"archive index at offset {end}: {error}") from error
    return Index([BlockInfo(*block, each) for block, each in zip(blocks, numbers, strict=True)], names, places)


def _block_fields(blocks: Sequence[BlockInfo]) -> Iterator[bytes]:
    table = {pair: at for at, pair in enumerate(dict.fromkeys((block.kind, block.extra) for block in blocks))}
    yield leb128(len(blocks)) + leb128(len(table))
    for kind, extra in table:
        yield bytes([kind]) + leb128(len(extra)) + extra
    for block in blocks:
        yield leb128(table[block.kind, block.extra]) + leb128(block.size) + block.crc.to_bytes(_CRC_BYTES, "little")


def _number_fields(blocks: Sequence[BlockInfo]) -> Iterator[bytes]:
    after = 0  # the number after the last of the run before, in whichever block
    for block in blocks:
        yield leb128(len(block.numbers.firsts))
        for first, length in block.numbers.runs():
            step = first - after
            yield leb128(2 * step if step >= 0 else -2 * step - 1) + leb128(length - 1)
            after = first + length


def _name_fields(names: Names) -> Iterator[bytes]:
    runs = list(names.runs())
    yield leb128(len(runs))
    yield from (leb128(run.length - 1) for run in runs)
    yield from (stored_name(run.first).encode() + b"\0" for run in runs)


def _most_expanded(stored: bytes) -> int:
    """Bytes that a compressed index may have once expanded, so that small files never take much memory."""
    return (1 << 20) + _MAX_RATIO * len(stored)


def _expanded(stored: bytes, limit: int) -> bytes:
    """The index expanded. Raises UnsupportedVersion, ValueError, and TooLarge before anything too large is made."""
    fields = _Fields(stored)
    method = fields.u8()
    if method == _RAW:
        return fields.take(fields.left)
    if method not in (_DEFLATE, _LZMA):
        raise UnsupportedVersion(f"archive index: found method {method}; this build reads {_RAW}..{_LZMA}")
    size, most = fields.varint(), min(limit, _most_expanded(stored))
    if size > most:
        raise TooLarge(f"archive index: expected at most {most} bytes once expanded, found {size}")
    body, whole = (_inflate if method == _DEFLATE else _from_lzma)(fields.take(fields.left), size)
    if len(body) != size or not whole:
        raise ValueError(f"expected exactly {size} bytes once expanded, and nothing after them")
    return body


def _deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(body) + packer.flush()


def _to_lzma(body: bytes) -> bytes:
    dictionary = min(max(len(body), 4096), 1 << 23)  # a larger one only costs memory
    return lzma.compress(body, lzma.FORMAT_RAW, filters=[{**_LZMA_FILTER, "dict_size": dictionary}])


def _inflate(data: bytes, size: int) -> tuple[bytes, bool]:
    """At most size + 1 bytes, and whether they are all of the stream and the stream is all of the data."""
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        body = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return body, unpacker.eof and not unpacker.unused_data


def _from_lzma(data: bytes, size: int) -> tuple[bytes, bool]:
    """The same of raw LZMA2."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_LZMA_FILTER])
    try:
        body = unpacker.decompress(data, size + 1)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error
    return body, unpacker.eof and not unpacker.unused_data


def _read_blocks(fields: _Fields, begin: int, end: int) -> list[tuple[int, bytes, int, int, int]]:
    """Kind, extra, offset, size and checksum of each block: they fill the bytes from begin to end."""
    count = fields.count("blocks", end - begin)
    table = [_read_kind(fields) for _ in range(fields.count("kinds of blocks", count))]
    blocks, offset = [], begin
    for _ in range(count):
        kind, extra = table[fields.count("kind of a block", len(table) - 1)]
        size = fields.count("size of a block", end - offset)
        if size == 0:
            raise ValueError("size of a block: expected at least 1, found 0")
        blocks.append((kind, extra, offset, size, int.from_bytes(fields.take(_CRC_BYTES), "little")))
        offset += size
    if offset != end:
        raise ValueError(f"sizes of the blocks: expected {end - begin} bytes together, found {offset - begin}")
    return blocks


def _read_kind(fields: _Fields) -> tuple[int, bytes]:
    """A kind of blocks and its extra bytes."""
    kind = fields.u8()
    if kind not in KINDS:
        raise UnsupportedVersion(
            f"archive index: found blocks of kind {kind}; this build reads {', '.join(map(str, KINDS))}"
        )
    return kind, fields.take(fields.count("extra bytes", MAX_EXTRA))


def _read_numbers(fields: _Fields, most: Sequence[int], limit: int, fits: int) -> list[Numbers]:
    """The numbers of each block. most: images that each may have; fits: all together.

    Raises ValueError, and TooLarge for more than limit images."""
    numbers: list[Numbers] = []
    after, left = 0, min(limit, fits)
    for most_of_block in most:
        found = _read_runs(fields, after, most_of_block, limit)
        left -= len(found)
        if left < 0 and fits < limit:
            raise ValueError(f"expected at most {fits} images in an archive of this size, found more")
        if left < 0:
            raise TooLarge(f"archive index: expected at most {limit} images, found more")
        numbers.append(found)
        after = found[-1] + 1
    return numbers


def _read_runs(fields: _Fields, after: int, most: int, limit: int) -> Numbers:
    """The numbers of one block, 1 to `most`, all below the limit; the first run counts from `after`."""
    count = fields.count("runs of numbers in a block", most)
    if not count:
        raise ValueError("block: expected at least 1 image, found 0")
    steps, lengths = fields.varints(2 * count).reshape(-1, 2).T
    if lengths.max() >= most or (images := int(lengths.sum()) + count) > most:
        raise ValueError(f"block: expected at most {most} images, found more")
    if steps.max() > 2 * (limit + images):
        raise TooLarge(f"archive index: expected at most {limit} images, found more")
    ends = after + np.cumsum(np.where(steps & 1, -(steps + 1 >> 1), steps >> 1) + lengths + 1)
    firsts = ends - lengths - 1
    if firsts.min() < 0:
        raise ValueError(f"number of an image: expected at least 0, found {firsts.min()}")
    if ends.max() > limit:
        raise TooLarge(f"archive index: expected at most {limit} images, found more")
    return Numbers(zip(firsts.tolist(), (lengths + 1).tolist(), strict=True))


def _read_names(fields: _Fields, images: int) -> Iterator[Run]:
    """The runs of names, of which there are as many as images. Raises ValueError."""
    lengths = [fields.varint() + 1 for _ in range(fields.count("runs of names", images))]
    if sum(lengths) != images:
        raise ValueError(f"names: expected {images}, found {sum(lengths)}")
    text, begin = fields.take(fields.left), 0
    for length in lengths:
        end = text.find(b"\0", begin)
        if end < 0:
            raise ValueError("names: end early")
        yield Run(name_of_stored(text[begin:end]), length)
        begin = end + 1
    if begin != len(text):
        raise ValueError(f"names: {len(text) - begin} bytes follow them")


class _Fields:
    """Bytes read from front to back. Every method raises ValueError if they end early."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def u8(self) -> int:
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"expected {size} bytes more, found {self.left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def varint(self) -> int:
        value = 0
        for place in range(_MAX_VARINT):
            byte = self.u8()
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise ValueError(f"variable-length number: expected at most {_MAX_VARINT} bytes, found more")

    def varints(self, count: int) -> NDArray[np.int64]:
        """So many varints, int64 [count]."""
        if count < _FEW:
            return np.array([self.varint() for _ in range(count)], np.int64)
        data = np.frombuffer(self._data, np.uint8, min(self.left, _MAX_VARINT * count), self._at)
        ends = np.flatnonzero(data < 0x80)[:count] + 1
        if len(ends) < count:
            raise ValueError(f"expected {count} variable-length numbers, found {len(ends)}")
        begins = np.concatenate([[0], ends[:-1]])
        if (ends - begins).max() > _MAX_VARINT:
            raise ValueError(f"variable-length number: expected at most {_MAX_VARINT} bytes, found more")
        values = np.zeros(count, np.int64)
        for place in range(int((ends - begins).max())):
            longer = ends - begins > place
            values[longer] |= (data[begins[longer] + place].astype(np.int64) & 0x7F) << 7 * place
        self._at += int(ends[-1])
        return values

    def count(self, what: str, limit: int) -> int:
        """A varint of at most the limit."""
        value = self.varint()
        if value > limit:
            raise ValueError(f"{what}: expected at most {limit}, found {value}")
        return value
