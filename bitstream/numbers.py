"""Numbers of a few bytes, as they stand in payloads and archives (LEB128)."""

from __future__ import annotations

from .errors import Corrupt, Truncated


def leb128(value: int) -> bytes:
    """7 bits a byte, lowest first, the top bit set in all but the last. value >= 0."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def read_leb128(data: bytes, place: int, where: str = "payload", most: int = 5) -> tuple[int, int]:
    """A number and the place after it. where: of messages.  most: bytes that it may have.

    Raises Truncated where the data end, and Corrupt for a longer number."""
    value = 0
    for number in range(most):
        if place + number >= len(data):
            raise Truncated(f"{where}: expected a number at offset {place}, found its end")
        value |= (data[place + number] & 0x7F) << (7 * number)
        if data[place + number] < 0x80:
            return value, place + number + 1
    raise Corrupt(f"{where}: a number at offset {place} has more than {most} bytes")
