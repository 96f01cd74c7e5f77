"""Symbols with integer tables to bytes and back, in stages, for one stream or a batch of streams of equal structure.

Several levels share one stream: the encoder pushes them in order; the decoder pops level 1, computes the tables of
level 2 from it, pops level 2, and so on. Streams, segments and widening are defined in FORMAT.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backend import backend
from .cdf import MAX_ALPHABET, TOTAL, Int64Array, check_cdf, integers, interval, widen
from .errors import Corrupt, Truncated

SEGMENT = 1 << 18
"""Most symbols of one segment."""
SEGMENT_VALUES = 1 << 28
"""Most table values of one segment; bounds memory and keeps torchac's int offsets below 2^31."""
_LENGTH_BYTES = 4
_TAIL = 3


def segment_symbols(alphabet: int) -> int:
    """Symbols in every segment but the last: 2^18, or fewer where tables have more than 1,023 columns."""
    return min(SEGMENT, SEGMENT_VALUES // (alphabet + 1))


class BatchEncoder:
    """Pushes symbols of B streams in stages. Raises ValueError if alphabet is outside 1..32768."""

    def __init__(self, alphabet: int) -> None:
        _check_alphabet(alphabet)
        self._alphabet = alphabet
        self._low: list[NDArray[np.int32]] = []
        self._high: list[NDArray[np.int32]] = []

    def push(self, symbols: ArrayLike, cdf: ArrayLike, checked: bool = False) -> None:
        """Appends symbols int [B, n], each below K, with tables cdf int [B, n, K + 1], K <= alphabet.

        checked: the tables are known to be valid, which takes a while to see. Raises ValueError for symbols, tables or
        shapes outside these ranges, or another B than before."""
        tables = _checked_tables(cdf, 3, self._alphabet, checked)
        if self._low and len(tables) != len(self._low[0]):
            raise ValueError(f"cdf: expected {len(self._low[0])} streams as before, found {len(tables)}")
        k = tables.shape[-1] - 1
        coded = widen(tables, min(k + 1, self._alphabet))[..., : k + 1]  # the K intervals of every wider table too
        low, high = interval(symbols, coded)
        self._low.append(low.astype(np.int32))
        self._high.append(high.astype(np.int32))

    def finish(self) -> list[bytes]:
        """The B streams; an empty list if nothing was pushed."""
        if not self._low:
            return []
        low, high = np.concatenate(self._low, 1), np.concatenate(self._high, 1)
        size = segment_symbols(self._alphabet)
        parts = [_encode_segments(low[:, i : i + size], high[:, i : i + size]) for i in range(0, low.shape[1], size)]
        return [_join_segments([part[b] for part in parts]) for b in range(len(low))]


class BatchDecoder:
    """Pops the symbols of streams written by BatchEncoder, `count` from each in all.

    Raises ValueError if alphabet is outside 1..32768 or count negative, Truncated if a stream is shorter than its
    segments' declared lengths."""

    def __init__(self, streams: list[bytes], alphabet: int, count: int) -> None:
        _check_alphabet(alphabet)
        if count < 0:
            raise ValueError(f"count: expected 0 or more, found {count}")
        self._alphabet, self._count, self._done = alphabet, count, 0
        self._size = segment_symbols(alphabet)
        segments = -(-count // self._size)
        self._segments = [_split_segments(stream, segments) for stream in streams]
        self._tables = np.empty((len(streams), min(count, self._size), alphabet + 1), np.int16)

    def pop(self, cdf: ArrayLike, checked: bool = False) -> Int64Array:
        """The next symbols int64 [B, n], each below K, for tables cdf int [B, n, K + 1], K <= alphabet.

        checked: the tables are known to be valid. Raises Corrupt if a stream holds a symbol that no encoder writes,
        ValueError for invalid tables, another number of streams, or more symbols than `count`. Each call decodes its
        segment from the start."""
        tables = _checked_tables(cdf, 3, self._alphabet, checked)
        streams, n, columns = tables.shape
        if streams != len(self._segments):
            raise ValueError(f"cdf: expected {len(self._segments)} streams, found {streams}")
        if self._done + n > self._count:
            raise ValueError(f"cdf: expected at most {self._count - self._done} more symbols, found {n}")
        symbols = np.empty((streams, n), np.int64)
        popped = 0
        while popped < n:
            piece = slice(popped, min(n, popped + self._size - self._done % self._size))
            symbols[:, piece] = self._pop_within_segment(tables[:, piece])
            popped = piece.stop
        if (symbols >= columns - 1).any():
            raise Corrupt(f"payload: expected symbols below {columns - 1}, found {symbols.max()}")
        return symbols

    def _pop_within_segment(self, cdf: NDArray[np.signedinteger]) -> NDArray[np.int16]:
        index, begin = divmod(self._done, self._size)
        end = begin + cdf.shape[1]
        k, target = cdf.shape[2] - 1, self._tables[:, begin:end]
        narrow = widen(cdf, min(k + 1, self._alphabet))[..., : k + 1]  # the K intervals of every wider table too
        np.copyto(target[..., : k + 1], narrow, casting="unsafe")  # 65536 becomes 0
        target[..., k + 1 :] = -1  # 65535
        target[..., -1] = 0
        decode = backend().decode
        symbols = np.empty(cdf.shape[:2], np.int16)
        for b, segments in enumerate(self._segments):
            symbols[b] = decode(self._tables[b, :end], segments[index])[begin:]
        self._done += cdf.shape[1]
        return symbols


class StreamEncoder:
    """Pushes symbols of one stream in stages. Raises ValueError if alphabet is outside 1..32768."""

    def __init__(self, alphabet: int) -> None:
        self._batch = BatchEncoder(alphabet)

    def push(self, symbols: ArrayLike, cdf: ArrayLike, checked: bool = False) -> None:
        """Appends symbols int [n] with tables cdf int [n, K + 1]. checked, raises: as BatchEncoder.push."""
        self._batch.push(np.asarray(symbols)[None], np.asarray(cdf)[None], checked)

    def finish(self) -> bytes:
        """The stream; empty if no symbol was pushed."""
        return b"".join(self._batch.finish())


class StreamDecoder:
    """Pops the symbols of one stream of `count` symbols. Raises as BatchDecoder does."""

    def __init__(self, data: bytes, alphabet: int, count: int) -> None:
        self._batch = BatchDecoder([data], alphabet, count)

    def pop(self, cdf: ArrayLike, checked: bool = False) -> Int64Array:
        """The next symbols int64 [n] for tables cdf int [n, K + 1]. checked, raises: as BatchDecoder.pop."""
        symbols: Int64Array = self._batch.pop(np.asarray(cdf)[None], checked)[0]
        return symbols


def encode(symbols: ArrayLike, cdf: ArrayLike) -> bytes:
    """One stream of symbols int [N] with tables cdf int [N, K + 1]. Raises ValueError as BatchEncoder.push does."""
    encoder = StreamEncoder(_alphabet_of(cdf))
    encoder.push(symbols, cdf)
    return encoder.finish()


def decode(data: bytes, cdf: ArrayLike) -> Int64Array:
    """The symbols int64 [N] of a stream written with the same tables cdf int [N, K + 1].

    Raises Truncated, ValueError as BatchDecoder does. Damage may also give wrong symbols: check a checksum first."""
    return StreamDecoder(data, _alphabet_of(cdf), len(np.asarray(cdf))).pop(cdf)


def _alphabet_of(cdf: ArrayLike) -> int:
    columns: int = _checked_tables(cdf, 2, MAX_ALPHABET).shape[-1]
    return columns - 1


def _check_alphabet(alphabet: int) -> None:
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"alphabet: expected 1..{MAX_ALPHABET}, found {alphabet}")


def _checked_tables(cdf: ArrayLike, dimensions: int, alphabet: int, checked: bool = False) -> NDArray[np.signedinteger]:
    tables = integers("cdf", cdf)
    if tables.ndim != dimensions:
        raise ValueError(f"cdf: expected {dimensions} dimensions, found shape {tables.shape}")
    if not checked:
        check_cdf(tables)
    if tables.shape[-1] - 1 > alphabet:
        raise ValueError(f"cdf: expected tables of at most {alphabet} symbols, found {tables.shape[-1] - 1}")
    return tables


def _encode_segments(low: NDArray[np.int32], high: NDArray[np.int32]) -> list[bytes]:
    """One segment of each stream, the shortest byte strings that decode to intervals [low, high), int32 [B, n], n > 0.

    The state after the last symbol is an interval, and any string whose continuation with zeros lies in it will do.
    Its lowest point and one just below its highest are found by coding the outermost count of 65536 three times more;
    then no bit of the 32-bit state is left open."""
    streams, n = low.shape
    tables = np.empty((streams, n + _TAIL, 3), np.int16)
    symbols = np.empty((streams, n + _TAIL), np.int16)
    _fill_narrow(tables[:, :n], symbols[:, :n], low, high)
    lowest = _encode_with_tail(tables, symbols, 0)
    highest = _encode_with_tail(tables, symbols, TOTAL - 1)
    return [_shortest_between(_drop_last_one(a), b) for a, b in zip(lowest, highest, strict=True)]


def _fill_narrow(
    tables: NDArray[np.int16], symbols: NDArray[np.int16], low: NDArray[np.int32], high: NDArray[np.int32]
) -> None:
    """Tables of two symbols that give the same intervals: torchac's encoder reads just the two ends of an interval.

    (low, high, -) with symbol 0, or (-, low, -) with symbol 1, whose end torchac takes as 65536."""
    last = high == TOTAL
    symbols[...] = last
    tables[..., 0] = low.astype(np.int16)
    tables[..., 1] = np.where(last, low, high).astype(np.int16)
    tables[..., 2] = 0


def _encode_with_tail(tables: NDArray[np.int16], symbols: NDArray[np.int16], count: int) -> list[bytes]:
    """Each stream with the interval [count, count + 1) coded after its symbols, in the last places of the arrays."""
    tail = np.full((len(tables), _TAIL), count, np.int32)
    _fill_narrow(tables[:, -_TAIL:], symbols[:, -_TAIL:], tail, tail + 1)
    code = backend().encode
    return [code(table, symbol) for table, symbol in zip(tables, symbols, strict=True)]


def _drop_last_one(stream: bytes) -> bytes:
    """The stream less its last 1 bit and all after it: the point [0, 1) leads to, which torchac marks with that bit."""
    stream = stream.rstrip(b"\0")
    return (stream[:-1] + bytes([stream[-1] & (stream[-1] - 1)])).rstrip(b"\0")


def _shortest_between(low: bytes, high: bytes) -> bytes:
    """The shortest string s with low <= s <= high, all three continued with zeros; low < high, low without them."""
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low if same == len(low) else low[:same] + bytes([low[same] + 1])


def _join_segments(segments: list[bytes]) -> bytes:
    prefixed = [len(segment).to_bytes(_LENGTH_BYTES, "little") + segment for segment in segments[:-1]]
    return b"".join(prefixed + segments[-1:])


def _split_segments(stream: bytes, count: int) -> list[bytes]:
    """The segments of a stream that has `count` of them. Raises Truncated."""
    segments, offset = [], 0
    for index in range(count - 1):
        begin = offset + _LENGTH_BYTES
        length = int.from_bytes(stream[offset:begin], "little")
        if begin + length > len(stream):
            found = max(0, len(stream) - begin)
            raise Truncated(f"payload segment {index}: expected {length} bytes at offset {begin}, found {found}")
        segments.append(stream[begin : begin + length])
        offset = begin + length
    return [*segments, stream[offset:]] if count else []
