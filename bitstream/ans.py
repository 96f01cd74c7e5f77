"""Asymmetric numeral systems: a stack of symbols over many lanes, exact, last in, first out.

Range variant (Duda 2013, arXiv:1311.2540, section 2; interleaved as in Giesen 2014, arXiv:1402.3392): every lane holds
a state s in [2^32, 2^64); pushing a symbol that owns [start, start + freq) of [0, 2^P) makes it

    s' = (s / freq) 2^P + start + s mod freq

after moving the low 32 bits of s to a common stack of words where s' would not fit. Popping is the inverse. One NumPy
operation serves all lanes; everything is integer arithmetic.

What lies below the bottom of the stack is a fixed sequence of pseudo-random words (`supply`). Popping from an empty
stack therefore works, which bits-back coding starts with; whoever has popped everything back finds exactly those words,
or the data were damaged.

Why not constriction 0.5.0 (an AnsCoder of one lane, compiled): on tables that are written out it is quicker, 85 and 49
million pairs of symbols a second against 42 and 33 here, and 50 and 28 against 34 and 20 with 16 symbols, pushed and
popped (`eval.bench.stacks`). But both are far quicker than the networks (7.8 million pixels take them a quarter of a
second, of ten), and latents on a grid have up to thousands of bins, whose exact tables would have to be written out,
row by row (128 symbols: 7 and 9 million), while here an interval is computed for the one symbol that is needed."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import Corrupt, Truncated

_WORD = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_LEAST = np.uint64(1 << 32)
_HEAD_LENGTH_BITS = 5

Integers = NDArray[np.int64]
States = NDArray[np.uint64]


class Distribution(Protocol):
    """Independent symbols, each with intervals that fill [0, 2^precision); a symbol without one cannot be coded."""

    precision: int

    def __len__(self) -> int:
        """How many symbols."""

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """Start and frequency of the symbols int64 [n], int64 [n] each."""

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """Symbol, start and frequency whose interval holds values int64 [m] in [0, 2^precision), of symbols `part`."""


class Bits:
    """Symbols 0 and 1; 0 comes first."""

    def __init__(self, ones: Integers, precision: int) -> None:
        """ones: frequency of 1, int64 [n] in [1, 2^precision)."""
        self.ones, self.precision = ones, precision
        self.zeros = (1 << precision) - ones

    def __len__(self) -> int:
        return len(self.ones)

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """See Distribution."""
        return symbols * self.zeros, np.where(symbols, self.ones, self.zeros)

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """See Distribution."""
        zeros = self.zeros[part]
        one = values >= zeros
        symbols = one.astype(np.int64)
        return symbols, symbols * zeros, np.where(one, self.ones[part], zeros)


class Tables:
    """Symbols 0..K - 1 with a table each."""

    def __init__(self, cdf: NDArray[np.signedinteger[Any]], precision: int) -> None:
        """cdf: integers [n, K + 1], increasing from 0 to 2^precision."""
        self.cdf, self.precision = cdf, precision
        self._inside = np.uint16 if precision <= 16 else np.uint32  # holds all below 2^precision
        self._flat = cdf.reshape(-1)
        self._first = np.arange(len(cdf)) * cdf.shape[1]

    def __len__(self) -> int:
        return len(self.cdf)

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """See Distribution."""
        return self._interval(symbols, slice(None))

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """See Distribution."""
        below = self._inner[:, part] <= values.astype(self._inside)
        symbols = np.add.reduce(below, 0)
        return symbols, *self._interval(symbols, part)

    @cached_property
    def _inner(self) -> NDArray[Any]:
        """All between 0 and 2^precision, [K - 1, n]: a symbol's column is compared with its value at once."""
        return self.cdf[:, 1:-1].astype(self._inside).T.copy()

    def _interval(self, symbols: Integers, part: slice) -> tuple[Integers, Integers]:
        at = self._first[part] + symbols
        start = self._flat[at]
        return start.astype(np.int64), (self._flat[at + 1] - start).astype(np.int64)


def bits(distribution: Distribution, symbols: Integers) -> NDArray[np.float64]:
    """Code length of symbols int64 [n] in bits, float64 [n]."""
    length: NDArray[np.float64] = distribution.precision - np.log2(distribution.intervals(symbols)[1])
    return length


def supply(first: int, count: int) -> NDArray[np.uint32]:
    """Words first..first + count - 1 below the bottom of every stack, uint32 [count].

    The upper halves of SplitMix64's outputs from seed 0 (Steele, Lea, Flood 2014), the first being number 1."""
    gamma, a, b = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64) * gamma
    z = (z ^ (z >> np.uint64(30))) * a
    z = (z ^ (z >> np.uint64(27))) * b
    return ((z ^ (z >> np.uint64(31))) >> _WORD).astype(np.uint32)


class Stack:
    """The coder: symbols are popped in the reverse order of pushing, with the distributions they were pushed with."""

    def __init__(self, lanes: int = 1) -> None:
        """An empty stack. Further lanes come with `widen`."""
        self.states: States = np.full(lanes, _LEAST)
        self._words: NDArray[np.uint32] = np.empty(1 << 12, np.uint32)
        self._top = 0
        self._borrowed = 0

    def __len__(self) -> int:
        """Words on the common stack, those that were borrowed from the supply included."""
        return self._top

    def push(self, symbols: Integers, distribution: Distribution) -> None:
        """Push symbols int64 [n], the last one first: popping gives them in their order.

        Raises Corrupt for symbols without an interval: unpacking sound data meets none."""
        self.push_intervals(*distribution.intervals(symbols), distribution.precision)

    def push_intervals(self, starts: NDArray[Any], freqs: NDArray[Any], bits: int) -> None:
        """Push symbols by their intervals: integers [n] each, of [0, 2^bits). Raises Corrupt as `push`."""
        starts, freqs = starts.astype(np.uint64), freqs.astype(np.uint64)
        if not freqs.all():
            raise Corrupt("bits-back payload: it holds latents that no encoder draws")
        precision, lanes = np.uint64(bits), len(self.states)
        # The largest state that has room for the symbol; a symbol that owns everything wraps to 2^64 - 1.
        limits, rests = (freqs << (np.uint64(64) - precision)) - np.uint64(1), (np.uint64(1) << precision) - freqs
        for begin in range((len(starts) - 1) // lanes * lanes, -1, -lanes):
            part = slice(begin, begin + lanes)
            states = self.states[: len(starts) - begin]
            full = (states > limits[part]).nonzero()[0]
            if len(full):
                moved = states[full]
                self._put(moved.astype(np.uint32))  # the low 32 bits
                states[full] = moved >> _WORD
            states += states // freqs[part] * rests[part]  # (s / freq) 2^P + s mod freq
            states += starts[part]

    def pop(self, distribution: Distribution) -> Integers:
        """Pop as many symbols as the distribution has, int64 [n]."""
        precision, lanes, count = np.uint64(distribution.precision), len(self.states), len(distribution)
        mask, symbols = np.uint64((1 << distribution.precision) - 1), np.empty(count, np.int64)
        for begin in range(0, count, lanes):
            part = slice(begin, begin + lanes)
            states = self.states[: count - begin]
            values = (states & mask).view(np.int64)
            symbols[part], start, freq = distribution.find(values, part)
            states >>= precision
            states *= freq.view(np.uint64)
            states += (values - start).view(np.uint64)
            low = (states < _LEAST).nonzero()[0]
            if len(low):
                states[low] = (states[low] << _WORD) | self._take(len(low))
        return symbols

    def widen(self, lanes: int) -> None:
        """Make lanes out of words of the stack, until there are so many: nothing is lost, and nothing stored."""
        self.states = np.concatenate([self.states, self._take(lanes - len(self.states)) | _LEAST])

    def narrow(self, lanes: int) -> None:
        """Inverse of `widen`. Raises Corrupt if a lane holds what `widen` does not make."""
        left = self.states[lanes:]
        if (left >> _WORD != 1).any():
            raise Corrupt("bits-back payload: a lane does not end where it began")
        self._put((left & _LOW).astype(np.uint32))
        self.states = self.states[:lanes].copy()

    def to_bytes(self) -> bytes:
        """Everything: the states' upper halves with their lengths, bit by bit, then the words, lower halves last."""
        packed, length = 0, 0
        for head in (int(state) for state in self.states >> _WORD):
            size = head.bit_length() - 1
            packed = (packed << (_HEAD_LENGTH_BITS + size)) | (size << size) | (head - (1 << size))
            length += _HEAD_LENGTH_BITS + size
        heads = (packed << (-length % 8)).to_bytes(-(-length // 8), "big")
        lows = (self.states & _LOW).astype("<u4")
        return heads + self._words[: self._top].astype("<u4").tobytes() + lows.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, lanes: int) -> Stack:
        """Inverse of `to_bytes`. Raises Truncated, or Corrupt."""
        stack = cls(lanes)
        heads, used = _heads(data, lanes)
        if (len(data) - used) % 4:
            raise Corrupt(f"bits-back payload: {len(data)} bytes are no whole number of words")
        words = np.frombuffer(data, "<u4", offset=used)
        if len(words) < lanes:
            raise Truncated(f"bits-back payload: expected at least {lanes} words, found {len(words)}")
        stack.states = (heads << _WORD) | words[len(words) - lanes :]
        stack._put(words[: len(words) - lanes])
        return stack

    def finish(self) -> None:
        """Check that everything was popped: only the supply is left. Raises Corrupt."""
        clean = len(self.states) == 1 and self.states[0] == _LEAST
        if not clean or not np.array_equal(self._words[: self._top], supply(0, self._top)[::-1]):
            raise Corrupt("bits-back payload: it does not end where it began")

    def check_empty(self) -> None:
        """Check that everything that was pushed was popped, and nothing more. Raises Corrupt."""
        if self.borrowed or self._top or (self.states != _LEAST).any():
            raise Corrupt("payload: its stream does not end where it began")

    @property
    def borrowed(self) -> int:
        """Words that were taken from the supply, as nothing else was left."""
        return self._borrowed

    def _put(self, words: NDArray[np.uint32]) -> None:
        end = self._top + len(words)
        if end > len(self._words):
            self._words = np.concatenate([self._words[: self._top], np.empty(end, np.uint32)])
        self._words[self._top : end] = words
        self._top = end

    def _take(self, count: int) -> States:
        if count > self._top:
            more = count - self._top
            self._words = np.concatenate([supply(self._borrowed, more)[::-1], self._words])
            self._borrowed += more
            self._top += more
        self._top -= count
        return self._words[self._top : self._top + count].astype(np.uint64)


def _heads(data: bytes, lanes: int) -> tuple[States, int]:
    """Upper halves of the states, and the bytes they take. Raises Truncated, or Corrupt."""
    most = -(-lanes * (_HEAD_LENGTH_BITS + 31) // 8)
    bits = "".join(f"{byte:08b}" for byte in data[:most])
    heads, at = [], 0
    for _ in range(lanes):
        size = int(bits[at : at + _HEAD_LENGTH_BITS] or "0", 2)
        end = at + _HEAD_LENGTH_BITS + size
        if end > len(bits):
            raise Truncated(f"bits-back payload: it ends inside the states of its {lanes} lanes")
        heads.append(int("1" + bits[at + _HEAD_LENGTH_BITS : end], 2))
        at = end
    used = -(-at // 8)
    if "1" in bits[at : 8 * used]:
        raise Corrupt("bits-back payload: bits after the states are not zero")
    return np.array(heads, np.uint64), used
