"""Rounded latents of many scales as bytes: integers near 0, each with a scale that both sides know.

Scales come in classes. A latent of the first scale is not coded: it is 0. Those of a class share a stream of tables of
equal width, whose last symbol says that the value lies outside and stands among the escapes. In a class with low bits
the tables are of the value divided by 2**low, and the rest follows uncompressed. FORMAT.md, "Latents by scale"."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .cdf import Int64Array, cdf_from_frequencies, check_cdf, quantise_weights
from .coder import SEGMENT, StreamDecoder, StreamEncoder, segment_symbols
from .errors import Corrupt, Truncated
from .numbers import leb128, read_leb128

ESCAPE_LIMIT = 2**15 - 1
"""Largest distance of a latent from 0."""
_WEIGHT_BITS = 40


@dataclass(frozen=True)
class ScaleClass:
    """Scales from the one before's `until` to below `until`.  reach: tables hold -reach..reach and the escape.

    low: bits of a value that its table leaves out."""

    until: int
    reach: int
    low: int = 0

    @property
    def symbols(self) -> int:
        """Width of the tables."""
        return 2 * self.reach + 2


def scale_tables(scales: Sequence[float], classes: Sequence[ScaleClass]) -> list[NDArray[np.int32]]:
    """CDF tables int32 [scales of the class, symbols + 1] of every class, for the standard deviations of all scales.

    The mass of N(0, s^2) over the 2**low values of a symbol, each value standing for itself +- 1/2; the escape has what
    is outside. Made when a model is exported and stored with it, so that no decoder evaluates erf."""
    tables, first = [], 1
    for each in classes:
        rows = []
        for scale in scales[first : each.until]:
            edges = [((k << each.low) - 0.5) / (scale * math.sqrt(2)) for k in range(-each.reach, each.reach + 2)]
            above = [0.5 * math.erfc(edge) for edge in edges]
            inside = [a - b for a, b in pairwise(above)]
            mass = [*inside, max(0.0, 1 - sum(inside))]
            rows.append(cdf_from_frequencies(quantise_weights([round(m * 2**_WEIGHT_BITS) for m in mass])))
        tables.append(np.stack(rows).astype(np.int32))
        first = each.until
    return tables


class _Classes:
    """Which latents a class has, and their tables."""

    def __init__(self, classes: Sequence[ScaleClass], tables: Sequence[NDArray[np.int32]]) -> None:
        for table in tables:  # a few hundred rows, of which every latent takes one
            check_cdf(table)
        self.classes, self.tables = classes, tables
        self.firsts = [1, *(each.until for each in classes[:-1])]

    def members(self, number: int, scale: Int64Array) -> Int64Array:
        """Places of the latents of a class, in order."""
        found = np.flatnonzero((scale >= self.firsts[number]) & (scale < self.classes[number].until))
        return found.astype(np.int64, copy=False)

    def pieces(self, number: int, scale: Int64Array) -> Iterator[tuple[Int64Array, NDArray[np.int32]]]:
        """Places and tables of a class's latents, some at a time."""
        members = self.members(number, scale)
        for start in range(0, len(members), SEGMENT):
            part = members[start : start + SEGMENT]
            yield part, self.tables[number][scale[part] - self.firsts[number]]


class LatentWriter:
    """Collects latents, part by part, and gives their bytes."""

    def __init__(self, classes: Sequence[ScaleClass], tables: Sequence[NDArray[np.int32]]) -> None:
        """Tables as `scale_tables` makes them."""
        self._parts = _Classes(classes, tables)
        self._streams = [StreamEncoder(each.symbols) for each in classes]
        self._counts = [0] * len(classes)
        self._lows: list[NDArray[np.uint8]] = []
        self._escapes: list[NDArray[np.int16]] = []

    def push(self, values: Int64Array, scale: Int64Array) -> None:
        """Values int64 [n] within +-ESCAPE_LIMIT of scales int64 [n]; where the scale is 0 the value has to be."""
        for number, each in enumerate(self._parts.classes):
            for places, tables in self._parts.pieces(number, scale):
                value = values[places]
                high = value >> each.low
                inside = np.abs(high) <= each.reach
                self._streams[number].push(np.where(inside, high + each.reach, each.symbols - 1), tables, checked=True)
                self._counts[number] += len(places)
                self._escapes.append(value[~inside].astype("<i2"))
                self._lows.append(((value[inside, None] >> np.arange(each.low)) & 1).astype(np.uint8).ravel())

    def finish(self) -> bytes:
        """For every class the number of its segments and its stream, then the low bits and the escapes; each with its
        length in front, as LEB128."""
        parts = []
        for each, stream, count in zip(self._parts.classes, self._streams, self._counts, strict=True):
            parts += [leb128(-(-count // segment_symbols(each.symbols))), _sized(stream.finish() if count else b"")]
        lows = np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._lows])).tobytes()
        escapes = np.concatenate([np.zeros(0, "<i2"), *self._escapes]).tobytes()
        return b"".join([*parts, _sized(lows), _sized(escapes)])


class LatentReader:
    """Gives back, part by part, the latents of a LatentWriter. Raises Truncated and Corrupt."""

    def __init__(
        self, classes: Sequence[ScaleClass], tables: Sequence[NDArray[np.int32]], data: bytes, most: int
    ) -> None:
        """most: how many latents there are in all."""
        self._parts = _Classes(classes, tables)
        place, self._streams = 0, []
        for each in classes:
            segments, place = read_leb128(data, place)
            stream, place = _taken(data, place)
            size = segment_symbols(each.symbols)
            if segments > -(-most // size):
                raise Corrupt(f"payload: expected at most {-(-most // size)} segments, found {segments}")
            self._streams.append(StreamDecoder(stream, each.symbols, min(segments * size, most)))
        lows, place = _taken(data, place)
        escapes, place = _taken(data, place)
        if place != len(data) or len(escapes) % 2:
            raise Corrupt(f"payload: expected {place} bytes, found {len(data)}")
        self._lows, self._low = np.unpackbits(np.frombuffer(lows, np.uint8)), 0
        self._escapes, self._escape = np.frombuffer(escapes, "<i2"), 0

    def pop(self, scale: Int64Array) -> Int64Array:
        """The next values int64 [n], for scales int64 [n], of as many latents as one `push` had."""
        values = np.zeros(len(scale), np.int64)
        for number, each in enumerate(self._parts.classes):
            for places, tables in self._parts.pieces(number, scale):
                symbols = self._popped(number, tables)
                inside = symbols < each.symbols - 1
                value = (symbols - each.reach) << each.low
                value[~inside] = self._take_escapes(int((~inside).sum()))
                value[inside] += self._take_lows(int(inside.sum()), each.low)
                values[places] = value
        return values

    def finish(self) -> None:
        """Raises Corrupt if something is left over."""
        if len(self._escapes) != self._escape or len(self._lows) - self._low >= 8:
            raise Corrupt("payload: bytes are left over")

    def _popped(self, number: int, tables: NDArray[np.int32]) -> Int64Array:
        try:
            return self._streams[number].pop(tables, checked=True)
        except ValueError as error:  # more than the declared segments hold
            raise Corrupt(f"payload: stream {number} is shorter than its latents") from error

    def _take_escapes(self, count: int) -> NDArray[np.int16]:
        found = self._escapes[self._escape : self._escape + count]
        self._escape += count
        if len(found) < count:
            raise Corrupt("payload: an escape is missing")
        return found

    def _take_lows(self, count: int, bits: int) -> Int64Array:
        found = self._lows[self._low : self._low + count * bits].astype(np.int64)
        self._low += count * bits
        if len(found) < count * bits:
            raise Corrupt("payload: low bits are missing")
        values: Int64Array = (found.reshape(count, bits) << np.arange(bits)).sum(1)
        return values


def _sized(data: bytes) -> bytes:
    return leb128(len(data)) + data


def _taken(data: bytes, place: int) -> tuple[bytes, int]:
    length, place = read_leb128(data, place)
    if place + length > len(data):
        raise Truncated(f"payload: expected {length} bytes at offset {place}, found {len(data) - place}")
    return data[place : place + length], place + length
