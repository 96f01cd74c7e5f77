"""Archives (.vqa): blocks of images, each with a checksum, and an index at the end. FORMAT.md, "Archives".

    writer = Writer(stream)
    writer.add(Block(FILES, b"", payload, range(0, 3)))
    writer.finish(["a.png", "b.png", "c.png"])

    reader = Reader(stream)
    block, position = reader.place("b.png")
    reader.block(block).payload            # checked; its image at that position is b.png

What the payloads hold is not known here."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, Protocol, runtime_checkable

from . import archive_names, archive_numbers, container
from .archive_index import (
    BITS_BACK,
    FILES,
    KINDS,
    MAX_EXTRA,
    MAX_INDEX,
    MOST_IMAGES,
    SOLID,
    BlockInfo,
    most_images,
    read_index,
    write_index,
)
from .archive_names import Names, checked_name
from .archive_numbers import MAX_IMAGES, Numbers, Places
from .errors import Corrupt, NotAVqcodecFile, TooLarge, Truncated, UnsupportedVersion

__all__ = [
    "BITS_BACK", "FILES", "MAGIC", "SOLID", "VERSION", "Block", "BlockInfo", "Names", "Reader", "Writer",
    "checked_name",
]  # fmt: skip

MAGIC = b"VQA\x1a"
VERSION = 1
_HEADER = struct.Struct("<4sB")  # magic, version
_FOOTER = struct.Struct("<II4s")  # length and CRC-32 of the index, magic
_SIGNATURE_BYTES = 16  # enough to name the program that made a foreign file


@dataclass(frozen=True)
class Block:
    """Images coded together. Raises ValueError for values outside the ranges."""

    kind: int
    """FILES, BITS_BACK or SOLID."""
    extra: bytes
    """At most 65,535 bytes, defined by the kind."""
    payload: bytes
    """At least 1 byte."""
    numbers: Sequence[int]
    """Which images (0-based, in the archive's order) it holds, 1 to MOST_IMAGES of the kind, in the payload's order."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of a block: expected one of {', '.join(map(str, KINDS))}, found {self.kind}")
        if len(self.extra) > MAX_EXTRA:
            raise ValueError(f"extra bytes of a block: expected at most {MAX_EXTRA}, found {len(self.extra)}")
        if len(self.payload) == 0:
            raise ValueError("payload of a block: expected at least 1 byte, found 0")
        if len(self.numbers) == 0:
            raise ValueError("numbers of a block: expected at least 1 image, found 0")
        if len(self.numbers) > MOST_IMAGES[self.kind]:
            found = f"at most {MOST_IMAGES[self.kind]} images, found {len(self.numbers)}"
            raise ValueError(f"numbers of a block of kind {self.kind}: expected {found}")


class Sink(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of the bytes."""


@runtime_checkable
class RandomAccess(Protocol):
    """What is read at any place, by whoever wants to at the same time."""

    def size(self) -> int:
        """Bytes in all."""

    def read_at(self, offset: int, size: int) -> bytes:
        """So many bytes, or as many as there are."""


class Writer:
    """Writes an archive from front to back: blocks as they come, the index at the end. It keeps no payload."""

    def __init__(self, stream: Sink):
        self._stream = stream
        self._blocks: list[BlockInfo] = []
        self._images = 0
        self._offset = _HEADER.size
        stream.write(_HEADER.pack(MAGIC, VERSION))

    def add(self, block: Block) -> None:
        """Write a block. Raises ValueError for numbers outside 0..2^24 - 1, TooLarge for more than 2^24 in all."""
        numbers = Numbers(archive_numbers.runs_of(block.numbers))
        self._images += len(numbers)
        if self._images > MAX_IMAGES:
            raise TooLarge(f"archive: expected at most {MAX_IMAGES} images, found {self._images}")
        size = len(block.payload)
        self._blocks.append(BlockInfo(block.kind, block.extra, self._offset, size, zlib.crc32(block.payload), numbers))
        self._stream.write(block.payload)
        self._offset += size

    def finish(self, names: Iterable[str]) -> None:
        """Write the index. Call it once, last.

        Raises ValueError for bad names (see checked_name), a name that is there twice, or blocks that do not hold each
        of 0..n - 1 once, where n is the number of names; TooLarge if names and numbers take more than 2^28 bytes, or
        for more images than an archive of this size may have."""
        images = len(Places([block.numbers for block in self._blocks]))
        listed = Names(archive_names.runs_of(names))
        if len(listed) != images:
            raise ValueError(f"names: expected {images}, found {len(listed)}")
        if images > most_images(self._offset - _HEADER.size):
            raise TooLarge(f"archive: {images} images are too many for blocks of {self._offset - _HEADER.size} bytes")
        index = write_index(self._blocks, listed)
        self._stream.write(index + _FOOTER.pack(len(index), zlib.crc32(index), MAGIC))


class Reader:
    """Reads an archive. Opening it reads header and index only, and takes memory in proportion to the index.

    Raises NotAVqcodecFile, UnsupportedVersion, Truncated, Corrupt, or TooLarge for more than max_images images or more
    than max_index bytes of index. The source stays the caller's to close; one thread may use a stream at a time."""

    names: Names
    """A Sequence[str], in the archive's order, made as they are asked for; `name in names` is fast."""
    blocks: Sequence[BlockInfo]
    """In the file's order."""

    def __init__(self, source: BinaryIO | RandomAccess, *, max_images: int = MAX_IMAGES, max_index: int = MAX_INDEX):
        self._source = source if isinstance(source, RandomAccess) else _Seeking(source)
        size = self._source.size()
        self._check_start(size)
        index, begin = self._read_footer(size, max_index)
        self.blocks, self.names, self._places = read_index(index, _HEADER.size, begin, max_images, max_index)

    def block(self, number: int) -> Block:
        """A block, numbered from 0, once its checksum was found right.

        Raises Corrupt or Truncated, naming the block, and IndexError."""
        info = self.blocks[number]
        where = f"block {number} at offset {info.offset}"
        payload = self._read(info.offset, info.size, where)
        found = zlib.crc32(payload)
        if found != info.crc:
            raise Corrupt(f"{where}: expected checksum {info.crc:08x}, found {found:08x}; the block is damaged")
        return Block(info.kind, info.extra, payload, info.numbers)

    def place(self, image: int | str) -> tuple[int, int]:
        """Block and position in its payload of an image, by number (>= 0) or name. Raises IndexError or KeyError."""
        return self._places.find(self.names.number(image) if isinstance(image, str) else image)

    def _check_start(self, size: int) -> None:
        start = self._read(0, min(size, _SIGNATURE_BYTES), "archive header")
        if start[: len(MAGIC)] != MAGIC[: len(start)]:
            _refuse_foreign(start)
        version = start[len(MAGIC) : _HEADER.size]
        if version not in (b"", bytes([VERSION])):
            raise UnsupportedVersion(f"archive version at offset 4: found {version[0]}; this build reads {VERSION}")
        if size < _HEADER.size + _FOOTER.size:
            raise Truncated(f"archive: expected at least {_HEADER.size + _FOOTER.size} bytes, found {size}")

    def _read_footer(self, size: int, max_index: int) -> tuple[bytes, int]:
        """The stored index, once its checksum was found right, and its offset."""
        at = size - _FOOTER.size
        length, crc, magic = _FOOTER.unpack(self._read(at, _FOOTER.size, "archive footer"))
        if magic != MAGIC:
            found = f"expected {MAGIC.hex(' ')} at its end, found {magic.hex(' ')}"
            raise Truncated(f"archive footer at offset {at}: {found}; the archive was cut, or bytes were added")
        if length > at - _HEADER.size:
            most = at - _HEADER.size
            raise Corrupt(f"archive footer at offset {at}: expected an index of at most {most} bytes, found {length}")
        if length > max_index + 1:
            raise TooLarge(f"archive index: expected at most {max_index + 1} bytes, found {length}")
        index = self._read(at - length, length, "archive index")
        found_crc = zlib.crc32(index)
        if found_crc != crc:
            where = f"archive index at offset {at - length}"
            raise Corrupt(f"{where}: expected checksum {crc:08x}, found {found_crc:08x}; the index is damaged")
        return index, at - length

    def _read(self, offset: int, size: int, where: str) -> bytes:
        """So many bytes. Raises Truncated."""
        data = self._source.read_at(offset, size)
        if len(data) < size:
            raise Truncated(f"{where}: expected {size} bytes, found {len(data)}")
        return data


class _Seeking(RandomAccess):
    """A stream."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def size(self) -> int:
        return self._stream.seek(0, os.SEEK_END)

    def read_at(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        data = bytearray()
        while len(data) < size and (part := self._stream.read(size - len(data))):
            data += part
        return bytes(data)


def _refuse_foreign(start: bytes) -> NoReturn:
    """Raises NotAVqcodecFile for a file that starts so: in the container's words, unless it is a single image."""
    with suppress(Corrupt, TooLarge, Truncated, UnsupportedVersion):
        container.read(start)
    raise NotAVqcodecFile("expected an archive, found a single image (`vqcodec decompress` reads it)")
