"""Archives of version 1, byte for byte. A missing one fails; this command writes all of them anew:

PYTHONPATH=.links python tests/bitstream/test_archive_golden.py
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vqcodec.bitstream import BitstreamError, Corrupt, TooLarge, Truncated, UnsupportedVersion
from vqcodec.bitstream.archive import BITS_BACK, FILES, Block, Reader, Writer
from vqcodec.tests.reference.archive import read_archive

GOLDEN = Path(__file__).parents[1] / "golden"
EXTRA = b"\2\7" + bytes.fromhex("5e884898da280471") + b"\6digits"

Archive = tuple[list[Block], list[str]]

ARCHIVES: dict[str, Archive] = {
    "good-archive.vqa": (
        [
            Block(BITS_BACK, EXTRA, b"some bits", [0, 1, 2, 7]),
            Block(FILES, b"", b"\1\0\x8b\1\1\xff", [6, 3]),
            Block(BITS_BACK, EXTRA, b"more", [5, 4]),
        ],
        ["0008", "0009", "0010", "9/a.png", "a/é.png", "b.jp2", "x1.jp2", "x2.jp2"],
    ),
    "good-archive-empty.vqa": ([], []),
    "good-archive-deflate.vqa": (
        [Block(FILES, b"", b"even", range(0, 40, 2)), Block(FILES, b"", b"odd", range(1, 40, 2))],
        [f"{number**2}/a" for number in range(40)],
    ),
    "good-archive-lzma.vqa": ([Block(FILES, b"", b"many", range(1000))], [f"{number**2}/a" for number in range(1000)]),
}
STORED_AS_IT_IS = ["good-archive.vqa", "good-archive-empty.vqa"]


def packed(archive: Archive) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream)
    for block in archive[0]:
        writer.add(block)
    writer.finish(archive[1])
    return stream.getvalue()


def sealed(index: bytes) -> bytes:
    """An archive of one block with this stored index under a right checksum."""
    return b"VQA\x1a\1payload" + index + struct.pack("<II4s", len(index), zlib.crc32(index), b"VQA\x1a")


def index(kind: bytes = b"\1", numbers: bytes = b"\1\0\1", names: bytes = b"\1\1a1\0", method: bytes = b"\0") -> bytes:
    return method + b"\1\1" + kind + b"\0\0\7" + struct.pack("<I", zlib.crc32(b"payload")) + numbers + names


def altered(blob: bytes, offset: int) -> bytes:
    place = offset % len(blob)
    return blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]


def refused_files() -> dict[str, tuple[bytes, type[BitstreamError]]]:
    good = packed(ARCHIVES["good-archive.vqa"])
    return {
        "bad-archive-cut.vqa": (good[:-1], Truncated),
        "bad-archive-index.vqa": (altered(good, -20), Corrupt),
        "bad-archive-name.vqa": (sealed(index(names=b"\2\0\0../a\0b\0")), Corrupt),
        "bad-archive-twice.vqa": (sealed(index(numbers=b"\2\0\0\1\0")), Corrupt),
        "bad-archive-bomb.vqa": (sealed(b"\1\x80\x80\x80\x40" + bytes(35)), TooLarge),
        "unsupported-archive-version.vqa": (good[:4] + b"\2" + good[5:], UnsupportedVersion),
        "unsupported-archive-kind.vqa": (sealed(index(kind=b"\3")), UnsupportedVersion),
        "unsupported-archive-method.vqa": (sealed(index(method=b"\3")), UnsupportedVersion),
    }


def damaged() -> bytes:
    return altered(packed(ARCHIVES["good-archive.vqa"]), 5 + len(b"some bits"))


def fixed_files() -> dict[str, bytes]:
    """Those whose bytes depend on nobody's deflate or LZMA."""
    files = {name: packed(ARCHIVES[name]) for name in STORED_AS_IT_IS}
    files |= {name: blob for name, (blob, _) in refused_files().items()}
    return files | {"damaged-archive-block.vqa": damaged()}


def content(blob: bytes) -> Archive:
    reader = Reader(io.BytesIO(blob))
    blocks = [reader.block(number) for number in range(len(reader.blocks))]
    return [Block(b.kind, b.extra, b.payload, list(b.numbers)) for b in blocks], list(reader.names)


def plain(archive: Archive) -> Archive:
    blocks, names = archive
    return [Block(b.kind, b.extra, b.payload, list(b.numbers)) for b in blocks], names


@pytest.mark.parametrize("name", fixed_files())
def test_the_bytes_are_those_of_version_1(name: str) -> None:
    assert (GOLDEN / name).read_bytes() == fixed_files()[name]


@pytest.mark.parametrize("read", [content, read_archive])
@pytest.mark.parametrize("name", ARCHIVES)
def test_good_archives_are_read(name: str, read: Callable[[bytes], Archive]) -> None:
    blob = (GOLDEN / name).read_bytes()
    assert read(blob) == plain(ARCHIVES[name])


@pytest.mark.parametrize(("name", "method"), [("good-archive-deflate.vqa", 1), ("good-archive-lzma.vqa", 2)])
def test_compressed_indexes_are_what_their_names_say(name: str, method: int) -> None:
    blob = (GOLDEN / name).read_bytes()
    assert blob[-12 - struct.unpack("<I", blob[-12:-8])[0]] == method


@pytest.mark.parametrize("name", refused_files())
def test_bad_and_unsupported_archives_are_refused(name: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        Reader(io.BytesIO((GOLDEN / name).read_bytes()))
    assert caught.type is refused_files()[name][1]


def test_a_damaged_block_spares_the_others() -> None:
    reader = Reader(io.BytesIO((GOLDEN / "damaged-archive-block.vqa").read_bytes()))
    assert [reader.block(number).payload for number in (0, 2)] == [b"some bits", b"more"]
    with pytest.raises(Corrupt, match="block 1 at offset 14"):
        reader.block(1)


def test_every_file_has_a_line_in_the_readme() -> None:
    readme = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert [name for name in {**ARCHIVES, **fixed_files()} if f"| {name} |" not in readme] == []


if __name__ == "__main__":
    for file, archive in ARCHIVES.items():
        (GOLDEN / file).write_bytes(packed(archive))
    for file, written in fixed_files().items():
        (GOLDEN / file).write_bytes(written)
