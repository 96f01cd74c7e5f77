"""Integers to bytes and back: integer CDF tables, the entropy coder, the container and its errors.

Needs NumPy and the standard library; torch and torchac only speed the coder up. The format is defined in FORMAT.md."""

from .cdf import (
    MAX_ALPHABET,
    PRECISION,
    TOTAL,
    cdf_from_frequencies,
    check_cdf,
    code_length_bits,
    quantise_weights,
    widen,
)
from .coder import BatchDecoder, BatchEncoder, StreamDecoder, StreamEncoder, decode, encode
from .container import MAX_PIXELS, MODES, CompactHeader, GeneralHeader, Header, ModelHeader, PlainHeader, read, write
from .errors import (
    BitstreamError,
    CoderUnavailable,
    Corrupt,
    ModelMismatch,
    NotAVqcodecFile,
    TooLarge,
    Truncated,
    UnsupportedImage,
    UnsupportedVersion,
    VqcodecError,
)

__all__ = [
    "MAX_ALPHABET",
    "MAX_PIXELS",
    "MODES",
    "PRECISION",
    "TOTAL",
    "BatchDecoder",
    "BatchEncoder",
    "BitstreamError",
    "CoderUnavailable",
    "CompactHeader",
    "Corrupt",
    "GeneralHeader",
    "Header",
    "ModelHeader",
    "ModelMismatch",
    "NotAVqcodecFile",
    "PlainHeader",
    "StreamDecoder",
    "StreamEncoder",
    "TooLarge",
    "Truncated",
    "UnsupportedImage",
    "UnsupportedVersion",
    "VqcodecError",
    "cdf_from_frequencies",
    "check_cdf",
    "code_length_bits",
    "decode",
    "encode",
    "quantise_weights",
    "read",
    "widen",
    "write",
]
