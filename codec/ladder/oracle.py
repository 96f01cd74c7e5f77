"""The ladder's walk once more, in NumPy int64: slow, plain, and sharing no arithmetic with PyTorch.

What the codec emits (symbols and tables of every step) must equal this integer for integer, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from ...bitstream.cdf import Int64Array
from ..exact.oracle import run, softmax_frequencies, stored
from ..family import LOSSLESS
from .exact import FRAC_BITS, REACHES, ExactLadder
from .pixels import HALF, StagedPixels
from .scales import LOG_SCALE_MAX, LOG_SCALE_MIN, SCALES, STEPS

_WEIGHT_BITS = 16  # of the posterior's weight


@dataclass(frozen=True)
class Emitted:
    """What is coded in a step: symbols int64 [B, n] with frequencies int64 [B, n, K]."""

    symbols: Int64Array
    frequencies: Int64Array


def walk(ladder: ExactLadder, values: Int64Array, setting: int) -> Iterator[Emitted]:
    """The encoder's walk over pixel values int64 [B, S, S] (0..255, or 0 and 1), at a setting (0: lossless)."""
    config = ladder.config
    features, below = _features(ladder, values), None
    for level in reversed(range(config.levels)):
        mean, log_scale = _prior(ladder, level, below, len(values), setting)
        reach = int(ladder.reach[setting, level])
        k = _offset(ladder, level, features[level], setting, mean, log_scale).clip(-REACHES[reach], REACHES[reach])
        tables = stored(getattr(ladder, f"tables{reach}"))
        yield Emitted(_flat(k) + REACHES[reach], tables[_flat(_scale_index(log_scale))])
        below = _down(ladder, level, below, k * 2**FRAC_BITS + mean, setting)
    if setting == LOSSLESS:
        assert below is not None
        yield from _pixels(ladder, below, run(nn.PixelUnshuffle(config.patch), values[:, None]))


def _flat(x: Int64Array) -> Int64Array:
    return x.reshape(len(x), -1)


def _features(ladder: ExactLadder, values: Int64Array) -> list[Int64Array]:
    """Bottom-up features of every level; 255 (or 1) is 2^F, halves rounded up."""
    x = values[:, None] << FRAC_BITS
    x = x if ladder.config.values == 2 else (2 * x + 255) // 510
    found = []
    for squeeze, net in zip(ladder.inference.squeeze, ladder.inference.nets, strict=True):
        x = run(net, run(squeeze, x))
        found.append(x)
    return found


def _prior(
    ladder: ExactLadder, level: int, below: Int64Array | None, batch: int, setting: int
) -> tuple[Int64Array, Int64Array]:
    """Mean and log scale [B, C, side, side]."""
    config, generative = ladder.config, ladder.generative
    if below is None:
        side = config.grids[level]
        top = run(generative.top, np.full((batch, side, side), setting)).transpose(0, 3, 1, 2)
        return np.zeros_like(top), top
    return _halves(run(_at(generative.heads[level], setting), below))


def _halves(x: Int64Array) -> tuple[Int64Array, Int64Array]:
    middle = x.shape[1] // 2
    return x[:, :middle], x[:, middle:]


def _at(modules: nn.Module, index: int) -> nn.Module:
    assert isinstance(modules, nn.ModuleList)
    return modules[index]


def _offset(
    ladder: ExactLadder, level: int, features: Int64Array, setting: int, mean: Int64Array, log_scale: Int64Array
) -> Int64Array:
    """round(w (m - m_p)), halves up; w = sigmoid(2 (log s_p - log s)) from the stored table."""
    own_mean, own_scale = _halves(run(_at(ladder.inference.heads[level], setting), features))
    low, high = round(LOG_SCALE_MIN * 2**FRAC_BITS), round(LOG_SCALE_MAX * 2**FRAC_BITS)
    difference = log_scale.clip(low, high) - own_scale.clip(low, high)
    weight = stored(ladder.sigmoid)[difference + high - low]
    shift = _WEIGHT_BITS + FRAC_BITS
    k: Int64Array = ((own_mean - mean) * weight + 2 ** (shift - 1)) >> shift
    return k


def _scale_index(log_scale: Int64Array) -> Int64Array:
    nearest: Int64Array = (log_scale * STEPS + 2 ** (FRAC_BITS - 1)) >> FRAC_BITS
    return (nearest - round(LOG_SCALE_MIN * STEPS)).clip(0, SCALES - 1)


def _down(ladder: ExactLadder, level: int, below: Int64Array | None, z: Int64Array, setting: int) -> Int64Array:
    """Features that the level below reads (for level 0, that everything about the image is read from)."""
    generative = ladder.generative
    entry = run(_at(generative.entries[level], setting), z)
    if below is not None and ladder.config.skip:
        entry = entry + below
    entry = run(generative.nets[level], entry)
    return run(generative.expand[level - 1], entry) if level else entry


def _pixels(ladder: ExactLadder, context: Int64Array, patches: Int64Array) -> Iterator[Emitted]:
    """The stages; patches int64 [B, patch**2, side, side]."""
    pixels, batch = ladder.generative.pixels, len(patches)
    assert isinstance(pixels, StagedPixels)
    known = [context]
    for number, places in enumerate(pixels.places):
        own = patches[:, places.numpy()]
        features = run(pixels.nets[number], np.concatenate(known, 1))
        features = features.reshape(batch, len(places), -1, *own.shape[2:]).transpose(0, 1, 3, 4, 2)
        features = features.reshape(batch, own[0].size, -1)
        linear = pixels.binary and not ladder.config.stages[number].width
        yield from _values(ladder, features if linear else np.maximum(features, 0), features, _flat(own))
        embedded = run(pixels.embedding, own).transpose(0, 1, 4, 2, 3)
        known.append(embedded.reshape(batch, -1, *own.shape[2:]))


def _values(ladder: ExactLadder, positive: Int64Array, features: Int64Array, own: Int64Array) -> Iterator[Emitted]:
    """Tables of the values own int64 [B, P] from features [B, P, F], as they are and as the heads read them."""
    pixels = ladder.generative.pixels
    first = run(pixels.high, positive)
    if pixels.binary:
        yield Emitted(own, softmax_frequencies(np.concatenate([np.zeros_like(first), first], -1), ladder.exp))
        return
    high, low = own // HALF, own % HALF
    yield Emitted(high, softmax_frequencies(first, ladder.exp))
    second = run(pixels.low, np.maximum(features + run(pixels.high_embedding, high), 0))
    yield Emitted(low, softmax_frequencies(second, ladder.exp))


def differing(symbols: Int64Array, frequencies: Int64Array, oracle: Emitted) -> int:
    """How many tables, or symbols coded with them, are not the oracle's."""
    tables = (frequencies != oracle.frequencies).any(-1)
    return int((tables | (symbols != oracle.symbols)).sum())
