"""IDX files of unsigned bytes, the form that MNIST comes in: the header."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

MAX_BYTES = 2**31


def read_shape(read: Callable[[int], bytes], limit: int = MAX_BYTES) -> tuple[int, ...]:
    """Shape that a header states: two zero bytes, type 8 (unsigned byte), 1 to 4 dimensions, each a big-endian u32.

    read: gives the next n bytes. Raises ValueError, a message without the file's name, for another file, a header
    that is cut, or more than `limit` bytes."""
    magic = read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(f"not an IDX file of bytes: magic {magic.hex()}, expected 000008 and 01..04")
    sizes = read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError("cut short inside the header")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if math.prod(shape) > limit:
        raise ValueError(f"states {shape} bytes, more than {limit}")
    return shape


def header(shape: tuple[int, ...]) -> bytes:
    """The header that states a shape of 1 to 4 dimensions, each below 2^32."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
