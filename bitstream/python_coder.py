"""torchac's arithmetic coder in plain Python: slow, the same bytes; the illustration of FORMAT.md, "Arithmetic coder".

The state is an interval [low, high] of 32-bit numbers, both ends included: the next 32 bits of the stream lie in it.
Between symbols low < 2^31 <= high and not (2^30 <= low and high < 3 * 2^30), so high - low > 2^30:
every count of 65536 gets at least 2^14 of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cdf import PRECISION, TOTAL

_QUARTER, _HALF, _MASK = 1 << 30, 1 << 31, (1 << 32) - 1

Int16Array = NDArray[np.int16]


class PythonCoder:
    """Same signatures, same bytes as TorchacCoder."""

    def encode(self, tables: Int16Array, symbols: Int16Array) -> bytes:
        """Stream of symbols: tables int16 [N, L + 1] (modulo 65536), symbols int16 [N] in 0..L-1 -> the stream."""
        low, high, pending = 0, _MASK, 0
        bits: list[int] = []
        for table, symbol in zip(tables.view(np.uint16), symbols.tolist(), strict=True):
            low, high = _narrow(low, high, *_interval(table, symbol))
            while (shift := _shift(low, high)) is not None:
                if shift == _QUARTER:  # low = 01..., high = 10...: the next bit is not known yet, the one after differs
                    pending += 1
                else:
                    bits += _with_pending(int(shift == _HALF), pending)
                    pending = 0
                low, high = 2 * (low - shift), 2 * (high - shift) + 1
        bits += _with_pending(int(low >= _QUARTER), pending + 1)
        return np.packbits(np.array(bits, np.uint8)).tobytes()

    def decode(self, tables: Int16Array, data: bytes) -> Int16Array:
        """First N symbols of a stream: tables int16 [N, L + 1] (modulo 65536) -> int16 [N]."""
        source = _bits(data)
        low, high, value = 0, _MASK, 0
        for _ in range(32):
            value = 2 * value + next(source)
        symbols = np.empty(len(tables), np.int16)
        for i, table in enumerate(tables.view(np.uint16)):
            count = ((value - low + 1) * TOTAL - 1) // (high - low + 1)
            symbols[i] = symbol = int(np.searchsorted(table[:-1], count, side="right")) - 1
            low, high = _narrow(low, high, *_interval(table, symbol))
            while (shift := _shift(low, high)) is not None:
                low, high = 2 * (low - shift), 2 * (high - shift) + 1
                value = 2 * (value - shift) + next(source)
        return symbols


def _interval(table: NDArray[np.uint16], symbol: int) -> tuple[int, int]:
    """Counts [c_low, c_high) of the symbol; the last of the table's numbers stands for 65536 whatever it is."""
    return int(table[symbol]), TOTAL if symbol == len(table) - 2 else int(table[symbol + 1])


def _narrow(low: int, high: int, c_low: int, c_high: int) -> tuple[int, int]:
    """The part of [low, high] that belongs to the counts [c_low, c_high) of 65536."""
    span = high - low + 1
    return low + (span * c_low >> PRECISION), low + (span * c_high >> PRECISION) - 1


def _shift(low: int, high: int) -> int | None:
    """What to subtract before doubling the interval, or None if it is wide enough to go on."""
    if high < _HALF:
        return 0
    if low >= _HALF:
        return _HALF
    return _QUARTER if low >= _QUARTER and high < 3 * _QUARTER else None


def _with_pending(bit: int, pending: int) -> list[int]:
    return [bit] + [1 - bit] * pending


def _bits(data: bytes) -> Iterator[int]:
    """The bits of data, most significant first, then zeros without end."""
    for byte in data:
        for position in range(7, -1, -1):
            yield byte >> position & 1
    while True:
        yield 0
