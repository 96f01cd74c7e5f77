"""Integer CDF tables: the definition that every back end and every machine must reproduce exactly.

A table of K symbols is int64 [K + 1], strictly increasing from 0 to 65536; symbol s owns the interval
[cdf[s], cdf[s + 1]), its frequency out of 65536. Arrays of tables are [..., K + 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

PRECISION = 16
TOTAL = 1 << PRECISION
MAX_ALPHABET = 32768
"""torchac's symbols are int16, so 0..32767."""
_SUM_LIMIT = 1 << (63 - PRECISION)

Int64Array = NDArray[np.int64]


def integers(name: str, values: ArrayLike) -> NDArray[np.signedinteger]:
    """`values` as an int32 or int64 array, copied only if it is not one. Raises ValueError unless of integer type."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"{name}: expected integers, found {array.dtype}")
    return array if array.dtype in (np.int32, np.int64) else array.astype(np.int64)


def quantise_weights(weights: ArrayLike) -> Int64Array:
    """Frequencies of every symbol, each at least 1, in proportion to non-negative integer weights.

    weights int [..., K], 1 <= K <= 32768, row sums in [1, 2^47) -> int64 [..., K] with row sums of exactly 65536:
    freq = 1 + floor(weights * (65536 - K) / sum(weights)); what is left over goes to the largest weight of the row,
    the lowest index on ties. Raises ValueError for anything outside these ranges."""
    w = integers("weights", weights).astype(np.int64)
    if w.ndim == 0 or not 1 <= w.shape[-1] <= MAX_ALPHABET:
        raise ValueError(f"weights: expected shape [..., K] with K in 1..{MAX_ALPHABET}, found {w.shape}")
    if (w < 0).any() or (w >= _SUM_LIMIT).any():
        raise ValueError("weights: expected values in [0, 2^47)")
    total = w.sum(-1, keepdims=True)  # below 2^15 * 2^47, so it cannot wrap
    if (total < 1).any() or (total >= _SUM_LIMIT).any():
        raise ValueError("weights: expected row sums in [1, 2^47)")
    freq: Int64Array = 1 + w * (TOTAL - w.shape[-1]) // total
    largest = w.argmax(-1)[..., None]
    left_over = TOTAL - freq.sum(-1, keepdims=True)
    np.put_along_axis(freq, largest, np.take_along_axis(freq, largest, -1) + left_over, -1)
    return freq


def cdf_from_frequencies(freq: ArrayLike) -> Int64Array:
    """Running sums from 0: freq int [..., K] -> int64 [..., K + 1]. Raises ValueError unless a valid table results."""
    f = integers("freq", freq)
    cdf = np.zeros((*f.shape[:-1], f.shape[-1] + 1), np.int64)
    np.cumsum(f, axis=-1, out=cdf[..., 1:])
    check_cdf(cdf)
    return cdf


def check_cdf(cdf: ArrayLike) -> None:
    """Raises ValueError unless cdf int [..., K + 1] holds valid tables of K symbols, 1 <= K <= 32768."""
    c = integers("cdf", cdf)
    if c.ndim == 0 or not 2 <= c.shape[-1] <= MAX_ALPHABET + 1:
        raise ValueError(f"cdf: expected shape [..., K + 1] with K in 1..{MAX_ALPHABET}, found {c.shape}")
    if (c[..., 0] != 0).any():
        raise ValueError("cdf: expected 0 as the first value of every table")
    if (c[..., -1] != TOTAL).any():
        raise ValueError(f"cdf: expected {TOTAL} as the last value of every table")
    if not (c[..., 1:] > c[..., :-1]).all():
        raise ValueError("cdf: expected strictly increasing tables (every frequency at least 1)")


def widen(cdf: ArrayLike, alphabet: int) -> NDArray[np.signedinteger]:
    """Tables of K symbols as tables of `alphabet` >= K symbols, of which only the first K may be coded.

    cdf int [..., K + 1] -> int [..., alphabet + 1]; the same tables if K == alphabet. Otherwise one count is taken from
    the most probable symbol (the lowest index on ties), so that the K symbols share [0, 65535). Symbols K..alphabet-2
    get no count and symbol alphabet-1 the last one, [65535, 65536). Raises ValueError if alphabet < K or > 32768.

    torchac finds the symbol of a 16-bit count by bisection. For counts below 65535 it ends on the only interval that
    holds the count, one of the first K; for 65535 on one of the symbols >= K, which only damage can bring about."""
    c = integers("cdf", cdf)
    k = c.shape[-1] - 1
    if not k <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"alphabet: expected {k}..{MAX_ALPHABET} for tables of {k} symbols, found {alphabet}")
    if k == alphabet:
        return c
    likeliest = np.diff(c, axis=-1).argmax(-1)[..., None]
    wide = np.full((*c.shape[:-1], alphabet + 1), TOTAL - 1, c.dtype)
    wide[..., -1] = TOTAL
    wide[..., : k + 1] = c - (np.arange(k + 1) > likeliest)
    return wide


def code_length_bits(symbols: ArrayLike, cdf: ArrayLike) -> NDArray[np.float64]:
    """Ideal length -log2(frequency / 65536) of each symbol: symbols int [...], cdf int [..., K + 1] -> float64 [...].

    Raises ValueError if a symbol is outside 0..K-1 or the shapes do not fit."""
    low, high = interval(symbols, cdf)
    bits: NDArray[np.float64] = PRECISION - np.log2((high - low).astype(np.float64))
    return bits


def interval(symbols: ArrayLike, cdf: ArrayLike) -> tuple[Int64Array, Int64Array]:
    """The interval [cdf[s], cdf[s + 1]) of each symbol s: symbols int [...], cdf int [..., K + 1] -> two int64 [...].

    Raises ValueError if a symbol is outside 0..K-1 or the shapes do not fit."""
    s, c = integers("symbols", symbols), integers("cdf", cdf)
    if s.shape != c.shape[:-1]:
        raise ValueError(f"symbols: expected shape {c.shape[:-1]} as the tables have, found {s.shape}")
    if ((s < 0) | (s >= c.shape[-1] - 1)).any():
        raise ValueError(f"symbols: expected values in 0..{c.shape[-1] - 2}, found {s.min()}..{s.max()}")
    at = s[..., None].astype(np.int64)
    low = np.take_along_axis(c, at, -1)[..., 0].astype(np.int64)
    high = np.take_along_axis(c, at + 1, -1)[..., 0].astype(np.int64)
    return low, high
