"""Headers, checksums and what is refused."""

import binascii
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import (
    MODES,
    BitstreamError,
    CompactHeader,
    Corrupt,
    Header,
    ModelHeader,
    NotAVqcodecFile,
    PlainHeader,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    read,
    write,
)
from vqcodec.bitstream.container import read_start

COMPACT = CompactHeader(3, 7, b"\x5e")
PLAIN = PlainHeader(1, "RGBA", 3, 2, b"extra")
MODEL = ModelHeader(9, "L", 28, 27, 0, bytes(range(8)), "digits-16")
HEADERS = [COMPACT, PLAIN, MODEL]

laws = settings(deadline=None, derandomize=True, max_examples=200)
sizes = st.integers(1, 1 << 14)
modes = st.sampled_from(list(MODES.values()))
octets = st.integers(0, 255)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=255)
headers = st.one_of(
    st.builds(CompactHeader, st.integers(0, 7), st.integers(1, 255), st.binary(min_size=1, max_size=1)),
    st.builds(PlainHeader, octets, modes, sizes, sizes, st.binary(max_size=1000)),
    st.builds(ModelHeader, octets, modes, sizes, sizes, octets, st.binary(min_size=8, max_size=8), names),
)


def resealed(blob: bytes, offset: int, value: bytes) -> bytes:
    """The general file with other bytes at the offset and the checksum that goes with them."""
    body = blob[:offset] + value + blob[offset + len(value) : -4]
    return body + struct.pack("<I", zlib.crc32(body))


def compact(body: bytes) -> bytes:
    return body + struct.pack("<H", binascii.crc_hqx(body, 0xFFFF))


@laws
@given(headers, st.binary(max_size=200))
def test_reading_gives_what_was_written(header: Header, payload: bytes) -> None:
    assert read(write(header, payload)) == (header, payload)


def test_overheads_are_5_and_30_bytes() -> None:
    assert len(write(COMPACT, b"abc")) == 3 + 5
    assert len(write(PLAIN, b"abc")) == 3 + 30 + len(PLAIN.extra)
    assert len(write(MODEL, b"abc")) == 3 + 30 + 10 + len(MODEL.name)


def test_the_largest_extra_is_written() -> None:
    header = PlainHeader(0, "P", 1, 1, bytes(0xFFFF))
    assert read(write(header, b"")) == (header, b"")


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("payload", [b"", b"\0", bytes(range(40))])
def test_every_truncation_is_noticed(header: Header, payload: bytes) -> None:
    blob = write(header, payload)
    for length in range(len(blob)):
        with pytest.raises(BitstreamError):
            read(blob[:length])


@pytest.mark.parametrize("header", HEADERS)
def test_every_other_byte_anywhere_is_noticed(header: Header) -> None:
    blob = write(header, b"payload")
    for offset in range(len(blob)):
        for value in range(256):
            if value != blob[offset]:
                with pytest.raises(BitstreamError):
                    read(blob[:offset] + bytes([value]) + blob[offset + 1 :])


@laws
@given(st.binary(max_size=60))
@example(b"VQC\x1a")
def test_random_bytes_raise_only_bitstream_errors(noise: bytes) -> None:
    for start in (b"", b"\xa8", b"VQC\x1a\x01", b"VQC\x1a\x01\x01", b"VQC\x1a\x01\x02"):
        with pytest.raises(BitstreamError):
            read(start + noise)


@laws
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_random_fields_under_a_right_checksum_give_a_header_or_a_bitstream_error(front: bytes, extra: bytes) -> None:
    fields = struct.pack("<4sBB", b"VQC\x1a", 1, 2) + front[:10].ljust(10, b"\1")
    body = fields + struct.pack("<HQ", len(extra), 0) + extra
    try:
        header, payload = read(body + struct.pack("<I", zlib.crc32(body)))
    except BitstreamError:
        return
    assert isinstance(header, ModelHeader)
    assert payload == b""


@pytest.mark.parametrize(
    ("blob", "error", "message"),
    [
        (b"", Truncated, "empty"),
        (b"V", Truncated, "26 bytes, found 1"),
        (b"VQC\x1a", Truncated, "26 bytes, found 4"),
        (b"\xa8\x01", Truncated, "5 bytes, found 2"),
        (b"\xb0rest", UnsupportedVersion, "0xb0"),
        (b"\xb7rest", UnsupportedVersion, "0xb7"),
        (b"\x89PNG\r\n\x1a\n", NotAVqcodecFile, "PNG"),
        (b"\xff\xd8\xff\xe0", NotAVqcodecFile, "JPEG"),
        (b"GIF89a", NotAVqcodecFile, "GIF"),
        (b"RIFF....WEBP", NotAVqcodecFile, "WebP"),
        (b"PK\x03\x04", NotAVqcodecFile, "zip"),
        (b"\x1f\x8b\x08", NotAVqcodecFile, "gzip"),
        (b"hello", NotAVqcodecFile, "68 65 6c 6c"),
        (b"VQC\x1b", NotAVqcodecFile, "56 51 43 1b"),
        (write(PLAIN, b"abc")[:-1], Truncated, "38 bytes, found 37"),
        (write(PLAIN, b"abc") + b"\0", Corrupt, "38 bytes, found 39"),
        (write(PLAIN, b"abc")[:-1] + b"\0", Corrupt, "checksum at offset 34"),
        (write(COMPACT, b"abc") + b"\0", Corrupt, "checksum at offset 7"),
        (compact(b"\xa8\x00\x01"), Corrupt, "model id"),
        (resealed(write(PLAIN, b""), 4, b"\2"), UnsupportedVersion, "found 2; this build reads 1"),
        (resealed(write(PLAIN, b""), 5, b"\3"), UnsupportedVersion, "found 3; this build reads 1 and 2"),
        (resealed(write(PLAIN, b""), 6, b"\0"), UnsupportedVersion, "code 0"),
        (resealed(write(PLAIN, b""), 6, b"\x0d"), UnsupportedVersion, "code 13"),
        (resealed(write(PLAIN, b""), 8, bytes(4)), Corrupt, "width"),
        (resealed(write(PLAIN, b""), 12, bytes(4)), Corrupt, "height"),
        (resealed(write(PLAIN, b""), 8, b"\xff" * 8), TooLarge, "4294967295 x 4294967295"),
        (resealed(write(PLAIN, b""), 18, b"\xff" * 8), Truncated, "bytes, found"),
        (resealed(write(PLAIN, b""), 5, b"\2"), Corrupt, "extra"),
        (resealed(write(MODEL, b""), 35, b"\x08"), Corrupt, "extra"),
        (resealed(write(MODEL, b""), 36, b"D"), Corrupt, "model name"),
        (resealed(write(MODEL, b""), 36, b"\xff"), Corrupt, "model name"),
    ],
)
def test_bad_files_are_named(blob: bytes, error: type[BitstreamError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(blob)


def test_a_model_header_without_a_name_is_corrupt() -> None:
    body = struct.pack("<4sBBBBIIHQ", b"VQC\x1a", 1, 2, 2, 0, 1, 1, 10, 0) + bytes(10)
    with pytest.raises(Corrupt, match="model name"):
        read(body + struct.pack("<I", zlib.crc32(body)))


def test_the_pixel_limit_can_be_moved() -> None:
    blob = write(PlainHeader(0, "L", 1 << 14, (1 << 14) + 1), b"")
    with pytest.raises(TooLarge, match="at most 268435456"):
        read(blob)
    assert read(blob, max_pixels=1 << 29)[0].width == 1 << 14
    with pytest.raises(TooLarge, match="at most 5 "):
        read(write(PLAIN, b""), max_pixels=5)
    assert read(write(PLAIN, b""), max_pixels=6) == (PLAIN, b"")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (CompactHeader, (8, 1, b"x"), "parameter"),
        (CompactHeader, (-1, 1, b"x"), "parameter"),
        (CompactHeader, (0, 0, b"x"), "model id"),
        (CompactHeader, (0, 256, b"x"), "model id"),
        (CompactHeader, (0, 1, b"xy"), "prefix"),
        (PlainHeader, (256, "L", 1, 1), "method"),
        (PlainHeader, (0, "CMYK", 1, 1), "mode"),
        (PlainHeader, (0, "L", 0, 1), "width"),
        (PlainHeader, (0, "L", 1, 1 << 32), "height"),
        (PlainHeader, (0, "L", 1, 1, bytes(0x10000)), "extra"),
        (ModelHeader, (256, "L", 1, 1, 0, bytes(8), "m"), "parameter"),
        (ModelHeader, (0, "F", 1, 1, 0, bytes(8), "m"), "mode"),
        (ModelHeader, (0, "L", 1, 1, 256, bytes(8), "m"), "model id"),
        (ModelHeader, (0, "L", 1, 1, 0, bytes(7), "m"), "prefix"),
        (ModelHeader, (0, "L", 1, 1, 0, bytes(8), ""), "name"),
        (ModelHeader, (0, "L", 1, 1, 0, bytes(8), "Digits"), "name"),
        (ModelHeader, (0, "L", 1, 1, 0, bytes(8), "m" * 256), "name"),
    ],
)
def test_headers_out_of_range_are_refused(kind: type, fields: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*fields)


# The start of a file that may have been cut


@pytest.mark.parametrize("header", HEADERS)
def test_a_whole_file_is_read_as_ever(header: Header) -> None:
    assert read_start(write(header, b"payload")) == (header, b"payload", True)


def test_the_start_of_a_general_file() -> None:
    for header in (PLAIN, MODEL):
        blob = write(header, bytes(range(9)))
        begin = len(blob) - 9 - 4
        for length in range(len(blob)):
            if length < begin:
                with pytest.raises(Truncated):
                    read_start(blob[:length])
            else:
                assert read_start(blob[:length]) == (header, bytes(range(9))[: length - begin], False)


def test_the_start_of_a_compact_file_leaves_out_what_may_be_its_checksum() -> None:
    blob = write(COMPACT, bytes(range(9)))
    for length in range(3):
        with pytest.raises(Truncated):
            read_start(blob[:length])
    for length in range(3, len(blob)):
        assert read_start(blob[:length]) == (COMPACT, bytes(range(9))[: max(0, length - 5)], False)
    assert read_start(blob[:-1] + bytes([blob[-1] ^ 1])) == (COMPACT, bytes(range(9)), False)


def test_starts_that_are_refused() -> None:
    with pytest.raises(Truncated):
        read_start(b"")
    with pytest.raises(NotAVqcodecFile):
        read_start(b"\x89PNG")
    with pytest.raises(UnsupportedVersion):
        read_start(b"\xb0\1\1\1\1\1")
    with pytest.raises(Corrupt, match="model id: expected 1..255, found 0"):
        read_start(b"\xa8\0\1\2\3\4")
    blob = write(MODEL, b"payload")
    with pytest.raises(Corrupt, match="checksum"):
        read_start(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(Corrupt, match="expected 56 bytes, found 59"):
        read_start(blob + bytes(3))
    with pytest.raises(TooLarge):
        read_start(blob[:-1], max_pixels=100)
    for offset, value, error in ((4, 2, UnsupportedVersion), (5, 3, UnsupportedVersion), (6, 99, UnsupportedVersion),
                                 (8, 0, Corrupt), (26 + 9, 3, Corrupt), (26 + 10, 0, Corrupt)):  # fmt: skip
        with pytest.raises(error):
            read_start(blob[:offset] + bytes([value]) + blob[offset + 1 : -1])


@laws
@given(st.binary(max_size=60))
def test_random_starts_raise_only_bitstream_errors(noise: bytes) -> None:
    for start in (b"", b"\xa8", b"VQC\x1a\x01", b"VQC\x1a\x01\x01\x02", b"VQC\x1a\x01\x02\x02"):
        with suppress(BitstreamError):
            header, payload, whole = read_start(start + noise)
            assert not whole
            assert len(payload) <= len(noise)
            assert header
