"""The container: header, payload, checksum. Layouts and limits are those of FORMAT.md."""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from dataclasses import dataclass

from .errors import Corrupt, NotAVqcodecFile, TooLarge, Truncated, UnsupportedVersion

MODES = {
    1: "1",
    2: "L",
    3: "LA",
    4: "P",
    5: "RGB",
    6: "RGBA",
    7: "I;16",
    8: "I",
    9: "RGB;16",
    10: "RGBA;16",
    11: "LA;16",
    12: "PA",
}
"""Image mode codes of the general header. Names are Pillow's; ";16" means 16 bits per channel."""
SAMPLE_BYTES = {
    "1": 1,
    "L": 1,
    "LA": 2,
    "P": 1,
    "RGB": 3,
    "RGBA": 4,
    "I;16": 2,
    "I": 2,
    "RGB;16": 6,
    "RGBA;16": 8,
    "LA;16": 4,
    "PA": 2,
}
"""Bytes of a decoded pixel by mode: one for each sample of up to 8 bits, two above."""
MAX_PIXELS, MAX_BYTES = 1 << 28, 1 << 30
"""Pixels of an image, and bytes of its decoded samples, unless the user sets other limits."""
MAGIC = b"VQC\x1a"
VERSION = 1
KIND_PLAIN, KIND_MODEL = 1, 2

_CODES = {mode: code for code, mode in MODES.items()}
_COMPACT = 0xA8  # 0b10101ppp, p: parameter
_COMPACT_RESERVED = 0xB0  # 0b10110ppp
_COMPACT_OVERHEAD = 5
_CRC16_BYTES = 2
_FIXED = struct.Struct("<4sBBBBIIHQ")  # magic, version, kind, mode, parameter, width, height, extra and payload lengths
_CRC_BYTES = 4
GENERAL_OVERHEAD = _FIXED.size + _CRC_BYTES
"""Bytes of a general file besides its extra bytes and payload."""
_PREFIX_BYTES = 8
_MODEL_NAME = re.compile(r"[a-z0-9-]{1,255}")
_SIGNATURES = {
    b"VQA\x1a": "vqcodec archive (`vqcodec unpack` reads it), not a .vqc",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP or another RIFF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"PK": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x93NUMPY": "NumPy",
    b"%PDF": "PDF",
}


@dataclass(frozen=True)
class CompactHeader:
    """An image of a built-in model's own size and mode. Raises ValueError for values outside the ranges."""

    parameter: int
    """0..7, the model's own."""
    model_id: int
    """1..255."""
    weights_prefix: bytes
    """The first byte of the weights' SHA-256."""

    def __post_init__(self) -> None:
        _expect("parameter", self.parameter, 0, 7)
        _expect("model id", self.model_id, 1, 255)
        _expect("length of the weights' SHA-256 prefix", len(self.weights_prefix), 1, 1)


@dataclass(frozen=True)
class PlainHeader:
    """An image stored without a model. Raises ValueError for values outside the ranges."""

    method: int
    """0..255, see FORMAT.md, "Plain methods"."""
    mode: str
    """One of MODES."""
    width: int
    height: int
    """1..2^32 - 1 each."""
    extra: bytes = b""
    """At most 65,535 bytes, defined by the method."""

    def __post_init__(self) -> None:
        _expect("method", self.method, 0, 255)
        _check_image(self.mode, self.width, self.height)
        _expect("length of extra", len(self.extra), 0, 0xFFFF)


@dataclass(frozen=True)
class ModelHeader:
    """An image of any size coded with a model. Raises ValueError for values outside the ranges."""

    parameter: int
    """0..255, the model's own."""
    mode: str
    """One of MODES."""
    width: int
    height: int
    """1..2^32 - 1 each."""
    model_id: int
    """1..255, or 0 for a model that is not built in."""
    weights_prefix: bytes
    """The first 8 bytes of the weights' SHA-256."""
    name: str
    """1 to 255 characters a-z, 0-9 and -."""

    def __post_init__(self) -> None:
        _expect("parameter", self.parameter, 0, 255)
        _check_image(self.mode, self.width, self.height)
        _expect("model id", self.model_id, 0, 255)
        _expect("length of the weights' SHA-256 prefix", len(self.weights_prefix), _PREFIX_BYTES, _PREFIX_BYTES)
        if not _MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"model name: expected 1 to 255 characters a-z, 0-9 and -, found {self.name!r}")


GeneralHeader = PlainHeader | ModelHeader
Header = CompactHeader | GeneralHeader


def write(header: Header, payload: bytes) -> bytes:
    """The whole file. Overhead: 5 bytes for a CompactHeader, 30 and the extra bytes for the others."""
    if isinstance(header, CompactHeader):
        body = bytes([_COMPACT | header.parameter, header.model_id]) + header.weights_prefix + payload
        return body + _crc16(body)
    kind, parameter, extra = _general_fields(header)
    code = _CODES[header.mode]
    sizes = (header.width, header.height, len(extra), len(payload))
    body = _FIXED.pack(MAGIC, VERSION, kind, code, parameter, *sizes) + extra + payload
    return body + _crc32(body)


def check_size(mode: str, width: int, height: int, max_pixels: int, max_bytes: int, where: str) -> None:
    """Raises TooLarge for an image of more pixels, or of more bytes of decoded samples, than the limits."""
    size = width * height * SAMPLE_BYTES[mode]
    if width * height > max_pixels:
        raise TooLarge(f"{where}: expected at most {max_pixels} pixels, found {width} x {height}")
    if size > max_bytes:
        raise TooLarge(f"{where}: expected at most {max_bytes} bytes once decoded, found {size} in mode {mode}")


def read(blob: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[Header, bytes]:
    """Header and payload of a whole file whose checksum and header fields are right.

    Raises NotAVqcodecFile, UnsupportedVersion, Truncated, Corrupt, or TooLarge for an image beyond the limits
    (`check_size`; compact files do not tell their size)."""
    if not blob:
        raise Truncated("expected a vqcodec file, found an empty one")
    if blob[0] & 0xF8 == _COMPACT:
        return _read_compact(blob)
    if blob[0] & 0xF8 == _COMPACT_RESERVED:
        raise UnsupportedVersion(
            f"first byte: found 0x{blob[0]:02x}, a later compact format; this build reads 0xa8..0xaf"
        )
    if blob[: len(MAGIC)] != MAGIC[: len(blob)]:
        raise NotAVqcodecFile(f"expected a vqcodec file, found {_describe(blob)}")
    return _read_general(blob, max_pixels, max_bytes)


def read_start(blob: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[Header, bytes, bool]:
    """`read` for a file of which only the start may be there: header, what there is of the payload, and whether the
    whole file was there and its checksum right.

    A compact file does not tell its length, so a damaged one looks like a cut one, and its last two bytes may be the
    checksum: they are left out. Raises as `read` does, and Truncated if the cut is inside the header."""
    try:
        return *read(blob, max_pixels, max_bytes), True
    except (Corrupt, Truncated) as error:
        if blob[:1] and blob[0] & 0xF8 == _COMPACT and len(blob) >= _COMPACT_OVERHEAD - _CRC16_BYTES:
            return *_compact_fields(blob), False
        if isinstance(error, Corrupt) or len(blob) < _FIXED.size:
            raise
        return *_general_start(blob, max_pixels, max_bytes), False


def _general_start(blob: bytes, max_pixels: int, max_bytes: int) -> tuple[GeneralHeader, bytes]:
    """Header of a general file that was cut, and what there is of the payload."""
    _, _, kind, code, parameter, width, height, extra_length, payload_length = _FIXED.unpack_from(blob)
    begin = _FIXED.size + extra_length
    if len(blob) < begin:
        raise Truncated(f"header: expected {begin} bytes, found {len(blob)}")
    header = _checked_header(kind, code, parameter, (width, height), blob[_FIXED.size : begin], max_pixels, max_bytes)
    return header, blob[begin : begin + payload_length]


def _read_compact(blob: bytes) -> tuple[CompactHeader, bytes]:
    if len(blob) < _COMPACT_OVERHEAD:
        raise Truncated(f"the file is cut: expected at least {_COMPACT_OVERHEAD} bytes, found {len(blob)}")
    _check_crc(blob[:-2], blob[-2:], _crc16(blob[:-2]))
    return _compact_fields(blob)


def _compact_fields(blob: bytes) -> tuple[CompactHeader, bytes]:
    """Header and payload, unchecked but for the header's ranges."""
    try:
        return CompactHeader(blob[0] & 7, blob[1], blob[2:3]), blob[3:-_CRC16_BYTES]
    except ValueError as error:
        raise Corrupt(f"header at offset 0: {error}") from error


def _read_general(blob: bytes, max_pixels: int, max_bytes: int) -> tuple[GeneralHeader, bytes]:
    if len(blob) < _FIXED.size:
        raise Truncated(f"header: expected {_FIXED.size} bytes, found {len(blob)}")
    _, version, kind, code, parameter, width, height, extra_length, payload_length = _FIXED.unpack_from(blob)
    _check_supported(version, kind)
    begin = _FIXED.size + extra_length
    end = begin + payload_length
    if len(blob) < end + _CRC_BYTES:
        raise Truncated(f"the file is cut: expected {end + _CRC_BYTES} bytes, found {len(blob)}")
    if len(blob) > end + _CRC_BYTES:
        raise Corrupt(f"the file has bytes left over: expected {end + _CRC_BYTES} bytes, found {len(blob)}")
    _check_crc(blob[:end], blob[end:], _crc32(blob[:end]))
    header = _checked_header(kind, code, parameter, (width, height), blob[_FIXED.size : begin], max_pixels, max_bytes)
    return header, blob[begin:end]


def _checked_header(
    kind: int, code: int, parameter: int, size: tuple[int, int], extra: bytes, max_pixels: int, max_bytes: int
) -> GeneralHeader:
    width, height = size
    where = "image size at offset 8"
    if width * height > max_pixels:
        raise TooLarge(f"{where}: expected at most {max_pixels} pixels, found {width} x {height}")
    if code not in MODES:
        raise UnsupportedVersion(f"image mode at offset 6: found code {code}; this build has 1..{max(MODES)}")
    check_size(MODES[code], width, height, max_pixels, max_bytes, where)
    try:
        return _general_header(kind, MODES[code], parameter, width, height, extra)
    except ValueError as error:
        raise Corrupt(f"header at offset 0: {error}") from error


def _check_supported(version: int, kind: int) -> None:
    if version != VERSION:
        raise UnsupportedVersion(f"format version at offset 4: found {version}; this build reads {VERSION}")
    if kind not in (KIND_PLAIN, KIND_MODEL):
        raise UnsupportedVersion(f"kind at offset 5: found {kind}; this build reads {KIND_PLAIN} and {KIND_MODEL}")


def _general_fields(header: GeneralHeader) -> tuple[int, int, bytes]:
    """Kind, parameter and extra bytes."""
    if isinstance(header, PlainHeader):
        return KIND_PLAIN, header.method, header.extra
    name = header.name.encode("ascii")
    return KIND_MODEL, header.parameter, bytes([header.model_id]) + header.weights_prefix + bytes([len(name)]) + name


def _general_header(kind: int, mode: str, parameter: int, width: int, height: int, extra: bytes) -> GeneralHeader:
    """Inverse of _general_fields. Raises ValueError for fields out of range."""
    if kind == KIND_PLAIN:
        return PlainHeader(parameter, mode, width, height, extra)
    fixed, name = extra[: 2 + _PREFIX_BYTES], extra[2 + _PREFIX_BYTES :]
    if len(fixed) < 2 + _PREFIX_BYTES or fixed[-1] != len(name):
        raise ValueError(f"extra: expected 10 bytes and a name of the declared length, found {len(extra)} bytes")
    return ModelHeader(parameter, mode, width, height, fixed[0], fixed[1:-1], name.decode("latin-1"))


def _check_image(mode: str, width: int, height: int) -> None:
    if mode not in _CODES:
        raise ValueError(f"mode: expected one of {', '.join(_CODES)}, found {mode!r}")
    _expect("width", width, 1, 0xFFFFFFFF)
    _expect("height", height, 1, 0xFFFFFFFF)


def _expect(field: str, found: int, low: int, high: int) -> None:
    if not low <= found <= high:
        raise ValueError(f"{field}: expected {low}..{high}, found {found}")


def _crc16(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "little")


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def _check_crc(data: bytes, found: bytes, expected: bytes) -> None:
    if found != expected:
        where = f"checksum at offset {len(data)}"
        raise Corrupt(f"{where}: expected {expected.hex()}, found {found.hex()}; the file is damaged or cut")


def _describe(blob: bytes) -> str:
    for signature, name in _SIGNATURES.items():
        if blob.startswith(signature):
            return f"a {name} file"
    return f"bytes {blob[:4].hex(' ')} at offset 0"
