"""Many images in one stack by bits-back coding (Townsend et al. 2019, BB-ANS): nearly -ELBO bits each.

To push an image: pop its latents from the stack with the posterior q(z | x) (bits that the decoder gets back), then
push the pixels with p(x | z) and the latents with p(z). Images go in batches. The first images are coded cleanly: they
take the latents nearest to the posterior's mean and pop nothing. Then batches grow with what lies on the stack, so that
popping hardly reaches the bottom and the initial bits are those of the clean images; lanes grow with the batches.

The ladder infers its latents from the top down, in the order in which they are generated, so that all must be popped
before the first is pushed; the level-wise interleaving of Bit-Swap (Kingma et al. 2019) needs inference from the image
up. Coarse grids for latents that say little (`GaussianTables`) and the growing batches take its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.ans import Bits, Distribution, Integers, Stack, Tables, bits, supply
from ...bitstream.errors import Corrupt, Truncated
from ..exact.guard import guarded
from ..family import LOSSLESS, upright
from .causal import wave_of_pixels
from .codec import LadderCodec
from .exact import FRAC_BITS
from .gaussian import PRECISION, GaussianTables, Normal
from .model import LadderModel, LatentStep, Step
from .pixels import PixelStep

MAX_BATCH = 1024
"""Images of a batch of models in raster order."""
_HEADER = 3  # bytes
_MAX_LANES_LOG2 = 8
_INVERTED = 1 << 15  # of 2^24: how often an image is expected to be brighter than not
_CLEAN = 2
_SAMPLE = 64
_LANE_BITS = 8  # what a lane costs at the end
_LANE_SHARE = 0.0006  # of the block: what lanes may cost
_SLACK = 0.9
_AT_ONCE = 32  # images whose pixels are computed together, so that they stay in the caches
S = TypeVar("S")
R = TypeVar("R")
_Numbers = NDArray[np.uint32]


class Posterior(Distribution, Protocol):
    """Of latents."""

    def nearest(self) -> Integers:
        """The symbols that clean images take, int64 [n]."""


Draw = Callable[[Posterior], Integers]


@dataclass(frozen=True)
class Push:
    """Symbols to push, in the order in which they are popped again, as their intervals of [0, 2^precision).

    starts, freqs, and images, whose they are, in [0, B): uint32 [n], as whole tables would fill the memory."""

    starts: _Numbers
    freqs: _Numbers
    images: _Numbers
    precision: int

    @classmethod
    def of(cls, symbols: Integers, distribution: Distribution, images: Integers) -> Push:
        """Symbols int64 [n] of a distribution."""
        starts, freqs, owners = (array.astype(np.uint32) for array in (*distribution.intervals(symbols), images))
        return cls(starts, freqs, owners, distribution.precision)

    def take(self, chosen: Integers | slice) -> Push:
        """Some of the symbols."""
        return Push(self.starts[chosen], self.freqs[chosen], self.images[chosen], self.precision)

    def bits(self, images: int) -> NDArray[np.float64]:
        """Code length of every image in bits, float64 [images]."""
        taken: NDArray[np.float64] = self.precision - np.log2(self.freqs)
        return np.bincount(self.images.astype(np.int64), taken, images).astype(np.float64)


@dataclass(frozen=True)
class Schedule:
    """Batches and lanes of a block, the same for packing and unpacking."""

    count: int
    lanes_log2: int
    clean: int
    growth: int
    most: int = MAX_BATCH

    def batches(self) -> list[int]:
        """Sizes: the clean images, then growth / 16 times all images before, from 1 to `most`."""
        sizes: list[int] = []
        done = 0
        while done < self.count:
            wish = (done * self.growth) >> 4 if sizes else self.clean
            sizes.append(min(max(wish, 1), self.most, self.count - done))
            done += sizes[-1]
        return sizes

    def lanes(self) -> list[int]:
        """Of every batch: the greatest power of two within half its images, never fewer than before."""
        found, most = [], 1
        for size in self.batches():
            most = max(most, min(1 << self.lanes_log2, 1 << max(size // 2, 1).bit_length() - 1))
            found.append(most)
        return found

    def to_bytes(self) -> bytes:
        """The payload's header."""
        return bytes([self.lanes_log2, self.clean, self.growth])

    @classmethod
    def from_bytes(cls, payload: bytes, count: int, most: int = MAX_BATCH) -> Schedule:
        """Of a payload with `count` images, at most `most` in a batch. Raises Truncated, or Corrupt."""
        if len(payload) < _HEADER:
            raise Truncated(f"bits-back payload: expected at least {_HEADER} bytes, found {len(payload)}")
        lanes_log2, clean, growth = payload[:_HEADER]
        found = cls(count, lanes_log2, clean, growth, most)
        if found.lanes_log2 > _MAX_LANES_LOG2 or not found.clean or not found.growth:
            raise Corrupt(f"bits-back payload: impossible header {payload[:_HEADER].hex()}")
        return found


class BitsBack(LadderCodec, ABC):
    """Images of one size to a block's payload and back. What latents are is up to subclasses."""

    archives = True
    most = MAX_BATCH
    """Images of a batch, part of the format."""

    @abstractmethod
    def prior(self, step: LatentStep) -> Distribution:
        """Of a level's latents [B * C * side * side]."""

    @abstractmethod
    def posterior(self, step: LatentStep, features: Tensor) -> Posterior:
        """The same, given what the level sees of the images."""

    @abstractmethod
    def placed(self, step: LatentStep, symbols: Integers) -> Tensor:
        """The latents z, float64 integers [B, C, side, side], of their symbols int64 [B * C * side * side]."""

    @abstractmethod
    def pixels(self, step: PixelStep) -> Distribution:
        """Of the pixels of a step, row by row."""

    @guarded(lambda codec, pixels: _AT_ONCE * codec.image_size**2)
    def pack_images(self, pixels: NDArray[np.uint8]) -> bytes:
        """Payload of images uint8 [N, S, S], N >= 1."""
        schedule = self._schedule(pixels)
        stack, done = Stack(), 0
        for size, lanes in zip(schedule.batches(), schedule.lanes(), strict=True):
            stack.widen(lanes)
            pushes = self._pushes(pixels[done : done + size], stack.pop if done else _nearest)
            for push in reversed(pushes):
                stack.push_intervals(push.starts, push.freqs, push.precision)
            done += size
        return schedule.to_bytes() + stack.to_bytes()

    @guarded(lambda codec, payload, count: _AT_ONCE * codec.image_size**2)
    def unpack_images(self, payload: bytes, count: int) -> NDArray[np.uint8]:
        """Images uint8 [count, S, S]. Raises Truncated, or Corrupt."""
        schedule = Schedule.from_bytes(payload, count, self.most)
        sizes, lanes = schedule.batches(), schedule.lanes()
        stack, end = Stack.from_bytes(payload[_HEADER:], lanes[-1]), count
        pixels = np.empty((count, self.image_size, self.image_size), np.uint8)
        for number in reversed(range(len(sizes))):
            stack.narrow(lanes[number])
            pixels[end - sizes[number] : end] = self._popped(stack, sizes[number], clean=number == 0)
            end -= sizes[number]
        stack.narrow(1)
        if stack.borrowed:
            raise Corrupt("bits-back payload: more was popped than it holds")
        stack.finish()
        return pixels

    @guarded(lambda codec, pixels: _AT_ONCE * codec.image_size**2)
    def cost_bits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What images uint8 [N, S, S] take, a sample of -ELBO each, bits, float64 [N]. The same every time."""
        return self._costs(pixels)[0]

    def _costs(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bits that images take, and bits of their latents under the posterior, float64 [N] each."""
        parts = [self._batch_costs(pixels[n : n + self.most]) for n in range(0, len(pixels), self.most)]
        taken, popped = (np.concatenate(part) for part in zip(*parts, strict=True))
        return taken, popped

    def _batch_costs(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        popped, used = np.zeros(len(pixels)), 0

        def draw(posterior: Posterior) -> Integers:
            nonlocal used
            values = supply(used, len(posterior)).astype(np.int64) >> (32 - posterior.precision)
            used += len(posterior)
            symbols = posterior.find(values, slice(None))[0]
            popped[:] += bits(posterior, symbols).reshape(len(pixels), -1).sum(1)
            return symbols

        taken = np.zeros(len(pixels))
        for push in self._pushes(pixels, draw):
            taken += push.bits(len(pixels))
        return taken - popped, popped

    def _schedule(self, pixels: NDArray[np.uint8]) -> Schedule:
        """What suits these images: lanes that cost little, and batches whose latents' bits lie ready on the stack."""
        taken, popped = (float(costs.mean()) for costs in self._costs(pixels[:_SAMPLE]))
        growth = int(16 * _SLACK * taken / popped) if popped else 255
        lanes = max(1.0, _LANE_SHARE * taken * len(pixels) / _LANE_BITS)
        lanes_log2 = min(int(np.log2(lanes)), _MAX_LANES_LOG2)
        return Schedule(len(pixels), lanes_log2, _CLEAN, min(max(growth, 1), 255), self.most)

    def _pushes(self, pixels: NDArray[np.uint8], draw: Draw) -> list[Push]:
        """What to push for images uint8 [B, S, S], in the order of popping; draw gives the latents of a posterior."""
        inverted = pixels.mean((1, 2)) > 127.5
        values = self.values(upright(pixels, inverted))
        features, patches = self.features(self.pixels_in(values)), self.generative.pixels.to_patches(values)
        images = np.arange(len(pixels))
        pushes = [Push.of(inverted.astype(np.int64), _inverted(len(pixels)), images)]

        def answer(step: Step) -> Tensor:
            assert isinstance(step, LatentStep)
            symbols = draw(self.posterior(step, features[step.level]))
            pushes.append(Push.of(symbols, self.prior(step), images.repeat(len(symbols) // len(images))))
            return self.placed(step, symbols)

        context, _ = _driven(self.generative.walk(len(pixels), pixels=False), answer)
        return pushes + self._pixel_pushes(context, patches)

    def _pixel_pushes(self, context: Tensor, patches: Tensor) -> list[Push]:
        """Pixels are all known here, so that few images are computed to the end at a time.

        Those in raster order are even known all at once, but popped wave by wave."""
        seen: dict[tuple[int, int], list[Push]] = {}
        waves: dict[tuple[int, int], list[Integers]] = {}
        pixels, wave = self.generative.pixels, wave_of_pixels(self.config.image_size, self.config.context).numpy()
        for first in range(0, len(context), _AT_ONCE):
            known = patches[first : first + _AT_ONCE]

            def answer(step: PixelStep, known: Tensor = known, first: int = first) -> Tensor:
                symbols, key = pixels.symbols(known, step), (step.stage, step.part)
                push = Push.of(_flat(symbols), self.pixels(step), first + _owners(step, symbols))
                seen.setdefault(key, []).append(push)
                if self.config.context:
                    waves.setdefault(key, []).append(_waves(wave, step, len(known)))
                return symbols

            _driven(pixels.walk(context[first : first + _AT_ONCE], known), answer)
        if not self.config.context:
            return [_joined(pushes) for pushes in seen.values()]
        return _by_wave([(_joined(seen[key]), np.concatenate(waves[key])) for key in seen], len(set(wave)))

    def _popped(self, stack: Stack, size: int, clean: bool) -> NDArray[np.uint8]:
        """A batch of images uint8 [size, S, S], the inverse of pushing it."""
        inverted = stack.pop(_inverted(size)).astype(np.bool_)
        drawn: list[tuple[LatentStep, Integers]] = []

        def answer(step: Step) -> Tensor:
            assert isinstance(step, LatentStep)
            drawn.append((step, stack.pop(self.prior(step))))
            return self.placed(*drawn[-1])

        context, _ = _driven(self.generative.walk(size, pixels=False), answer)
        values = self._from_patches(self._popped_pixels(stack, context))
        if not clean:
            features = self.features(self.pixels_in(values.long()))
            for step, symbols in reversed(drawn):
                stack.push(symbols, self.posterior(step, features[step.level]))
        return self._shown(values, inverted)

    def _popped_pixels(self, stack: Stack, context: Tensor) -> Tensor:
        """The pixels (`to_patches`) of a batch, popped step by step; in stages, few images are computed at a time."""

        def answer(steps: Sequence[PixelStep]) -> Sequence[Tensor]:
            step = _joined_step(steps)
            symbols = torch.from_numpy(stack.pop(self.pixels(step))).to(self.device).view(step.scores.shape[:2])
            return list(torch.split(symbols, [len(one.scores) for one in steps]))

        at_once = len(context) if self.config.context else _AT_ONCE  # waves are small enough
        walks = [self.generative.pixels.walk(part) for part in context.split(at_once)]
        return torch.cat(_driven_together(walks, answer))


class ArchiveCodec(BitsBack):
    """By an exact Ladder VAE with Gaussian latents."""

    def __init__(self, model: LadderModel) -> None:
        """Convert a trained model, or a new one to load stored integers into. Raises ValueError as GaussianTables."""
        super().__init__(model)
        self.archive = GaussianTables(model.config)

    def prior(self, step: LatentStep) -> Normal:
        """See BitsBack."""
        return self.archive.prior(step)

    def posterior(self, step: LatentStep, features: Tensor) -> Normal:
        """See BitsBack."""
        return self.archive.posterior(step, *self._head(step, features))

    def placed(self, step: LatentStep, symbols: Integers) -> Tensor:
        """See BitsBack."""
        return self.archive.place(step, symbols)

    def pixels(self, step: PixelStep) -> Bits | Tables:
        """See BitsBack."""
        return self.archive.pixels(step, self.exp.double())

    @guarded(lambda codec, pixels: pixels.size)
    def posterior_log_scales(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Of every level from the image up, the mean log scale of each channel's posteriors, float64 [C].

        pixels uint8 [N, S, S]; latents nearest to their means stand for samples."""
        found: dict[int, Tensor] = {}
        values = self.values(pixels)
        features = self.features(self.pixels_in(values))

        def answer(step: Step) -> Tensor:
            assert isinstance(step, LatentStep)
            scale = self.archive.merged(step, *self._head(step, features[step.level]))[1]
            found[step.level] = scale.mean((0, 2, 3)) / 2.0**FRAC_BITS
            return self.placed(step, self.posterior(step, features[step.level]).nearest())

        _driven(self.generative.walk(len(values), pixels=False), answer)
        return [found[level] for level in range(self.config.levels)]

    def _head(self, step: LatentStep, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference.head(step.level, features, LOSSLESS)


def _driven(walk: Generator[S, Tensor, R], answer: Callable[[S], Tensor]) -> R:
    """Answers every step of a walk; what the walk returns."""
    return _driven_together([walk], lambda steps: [answer(steps[0])])[0]


def _driven_together(
    walks: Sequence[Generator[S, Tensor, R]], answer: Callable[[Sequence[S]], Sequence[Tensor]]
) -> list[R]:
    """Answers walks of equal length step by step, all of their first steps first; what the walks return."""
    steps, results = [next(walk) for walk in walks], list[R]()
    while not results:
        sent, steps = zip(walks, answer(steps), strict=True), []
        for walk, given in sent:
            try:
                steps.append(walk.send(given))
            except StopIteration as stop:
                results.append(stop.value)
    return results


def _nearest(posterior: Posterior) -> Integers:
    return posterior.nearest()


def _joined(pushes: Sequence[Push]) -> Push:
    """Pixels of one part, one push after another."""
    starts, freqs, images = (
        np.concatenate([getattr(push, name) for push in pushes]) for name in ("starts", "freqs", "images")
    )
    return Push(starts, freqs, images, pushes[0].precision)


def _joined_step(steps: Sequence[PixelStep]) -> PixelStep:
    """A step of some images after another's, of all pixels of its stage."""
    if len(steps) == 1:
        return steps[0]
    return PixelStep(steps[0].stage, steps[0].part, torch.cat([step.scores for step in steps]))


def _by_wave(parts: Sequence[tuple[Push, Integers]], waves: int) -> list[Push]:
    """Pushes of all parts of the pixels, with their waves, wave by wave."""
    found = []
    for push, wave in parts:
        order = np.argsort(wave, kind="stable")
        ends = np.searchsorted(wave[order], np.arange(waves + 1))
        found.append((push.take(order), ends))
    return [push.take(slice(ends[n], ends[n + 1])) for n in range(waves) for push, ends in found]


def _waves(wave: Integers, step: PixelStep, images: int) -> Integers:
    """The wave of every symbol of a step in which all pixels are known. wave: of every pixel."""
    found: Integers = np.tile(wave, images) if step.chosen is None else wave[_flat(step.chosen.nonzero()[:, 1])]
    return found


def _inverted(size: int) -> Bits:
    return Bits(np.full(size, _INVERTED), PRECISION)


def _owners(step: PixelStep, symbols: Tensor) -> Integers:
    """Which image every symbol [B, P], or [M, 1] of chosen pixels, belongs to, int64."""
    if step.chosen is None:
        return np.arange(len(symbols)).repeat(symbols.shape[1])
    return _flat(step.chosen.nonzero()[:, 0])


def _flat(x: Tensor) -> Integers:
    flat: Integers = x.flatten().cpu().numpy()
    return flat
