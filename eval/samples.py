"""Images drawn from a model: indices or latents from its prior, and pixels where they are coded too.

What is drawn of a codec follows its own integer tables: a symbol of frequency f has probability f / 65536 exactly, the
probability that code lengths are about. So a sample is what a stream of random bits decodes to. Gaussian latents have
no tables; they and the pixels given them are drawn in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codec.config import ConfigError
from ..codec.family import LOSSLESS
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.config import LadderConfig
from ..codec.ladder.model import LadderModel, LatentStep, Step
from ..codec.ladder.pixels import PixelStep
from ..codec.ladder.posterior import limited
from ..codec.vq.codec import VQCodec
from ..codec.vq.prior import walk
from .files import settings_of
from .metrics import Images

_BATCH = 256
_SPARE_BITS = np.uint64(64 - 16)  # of a raw number, of which tables with a total of 2**16 need 16

S = TypeVar("S")
R = TypeVar("R")


@torch.inference_mode()
def samples(codec: VQCodec | LadderCodec, count: int, setting: int, seed: int) -> Images:
    """Images uint8 [count, S, S], bright on black (black and white: 255 and 0); a seed gives the same ones everywhere.

    setting: of a VQ model, how many levels are drawn; of a Ladder VAE, 0 draws latents and pixels, 1 and above draw
    the latents of a lossy setting and render them. Raises ValueError for a setting that the model does not have or a
    count below 1, ConfigError for a Ladder VAE of Gaussian latents (see `gaussian_samples`)."""
    if count < 1 or setting not in settings_of(codec):
        raise ValueError(f"expected a count from 1 and a setting of {settings_of(codec)}, found {count} and {setting}")
    source = np.random.PCG64(seed)
    sizes = [min(_BATCH, count - start) for start in range(0, count, _BATCH)]
    return np.concatenate([_batch(codec, size, setting, source) for size in sizes])


@dataclass(frozen=True)
class GaussianSamples:
    """Images of Gaussian latents.

    latents: z as drawn or given, float32 [N, C, side, side] per level from the top down.
    mean: of p(x | z), float32 [N, S, S] in 0..1; None if there are several stages of pixels or 256 values.
    images: pixels drawn from p(x | z), uint8 [N, S, S], bright on black (black and white: 255 and 0)."""

    latents: list[Tensor]
    mean: NDArray[np.float32] | None
    images: Images


@torch.inference_mode()
def gaussian_samples(
    model: LadderModel, count: int, seed: int, temperature: float = 1.0, given: Sequence[Tensor] = ()
) -> GaussianSamples:
    """Samples of a float Ladder VAE with Gaussian latents, all at once: z from the prior from the top down, then x.

    temperature: factor of the prior's standard deviations, 0 for its means; pixels are drawn as they are.  given: z of
    the upper levels, float32 [count, C, side, side] from the top down, in place of draws. The random numbers of a seed
    are the CPU's on every device. Raises ValueError for a count below 1, a temperature below 0 or not finite, or given
    latents of another count or of more levels than the model has."""
    if count < 1 or not 0 <= temperature < math.inf:
        raise ValueError(f"expected a count from 1 and a temperature from 0, found {count} and {temperature}")
    if len(given) > model.config.levels or any(len(z) != count for z in given):
        sizes = [len(z) for z in given]
        raise ValueError(f"expected {count} latents of at most {model.config.levels} levels, found {sizes}")
    source, latents, steps = torch.Generator().manual_seed(seed), list[Tensor](), list[PixelStep]()

    def answer(step: Step) -> Tensor:
        if isinstance(step, PixelStep):
            steps.append(step)
            return _symbols(step, source)
        own = len(latents) < len(given)
        latents.append(given[len(latents)] if own else _from_prior(model.config, step, temperature, source))
        return latents[-1]

    _, patches = _finished(model.generative.walk(count), answer)
    assert patches is not None
    images = _grey(model.config, model.generative.pixels.from_patches(patches))
    return GaussianSamples(latents, _mean(model, steps, patches.shape), images)


def _from_prior(config: LadderConfig, step: LatentStep, temperature: float, source: torch.Generator) -> Tensor:
    noise = torch.randn(step.mean.shape, generator=source).to(step.mean)
    return step.mean + temperature * limited(config, step.log_scale).exp() * noise


def _symbols(step: PixelStep, source: torch.Generator) -> Tensor:
    """A symbol int64 [B, P] from each of a step's distributions: the inverse of its CDF."""
    cdf = step.logits.softmax(-1).cumsum(-1)
    uniform = torch.rand(cdf.shape[:-1], generator=source).to(cdf)
    symbols = torch.searchsorted(cdf, uniform[..., None], right=True)[..., 0]
    return symbols.clamp(max=cdf.shape[-1] - 1)  # rounding may leave the last sum below 1


def _mean(model: LadderModel, steps: Sequence[PixelStep], shape: torch.Size) -> NDArray[np.float32] | None:
    """Of p(x | z), if one step has all pixels. shape: of the pixels by patch, [N, patch**2, side, side]."""
    if len(steps) > 1:
        return None
    mean = model.generative.pixels.from_patches(steps[0].scores.sigmoid().view(shape))
    result: NDArray[np.float32] = mean.cpu().numpy()
    return result


def drawn(freq: Tensor, source: np.random.PCG64) -> Tensor:
    """A symbol int64 [B, n] from every table of frequencies int32 [B, n, K] with sum 65536.

    The inverse of the table's CDF at 16 random bits: raw ones, which NumPy keeps the same for ever."""
    raw = source.random_raw(freq[..., 0].numel()).reshape(freq.shape[:-1]) >> _SPARE_BITS
    bits = torch.from_numpy(raw.astype(np.int32)).to(freq.device)
    upper = freq.cumsum(-1, dtype=torch.int32)
    return torch.searchsorted(upper, bits[..., None], right=True)[..., 0]  # the first symbol whose upper end lies above


def _batch(codec: VQCodec | LadderCodec, count: int, setting: int, source: np.random.PCG64) -> Images:
    if isinstance(codec, VQCodec):
        return _vq(codec, count, setting, source)
    return _ladder(codec, count, setting, source)


def _vq(codec: VQCodec, count: int, levels: int, source: np.random.PCG64) -> Images:
    steps = walk(codec.prior, count, levels, codec.device)
    return codec.reconstruct(_finished(steps, lambda asked: drawn(asked[1], source)), levels)


def _ladder(codec: LadderCodec, count: int, setting: int, source: np.random.PCG64) -> Images:
    if codec.config.posterior == "gaussian":
        raise ConfigError("no samples of Gaussian latents: only models with posterior 'uniform' have tables of latents")

    def answer(step: Step) -> Tensor:
        if isinstance(step, LatentStep):
            return _rounded_latents(codec, step, setting, source)
        return drawn(codec.pixel_frequencies(step), source)

    context, patches = _finished(codec.generative.walk(count, setting, setting == LOSSLESS), answer)
    values = codec.render(context) if patches is None else codec.generative.pixels.from_patches(patches)
    return _grey(codec.config, values)


def _rounded_latents(codec: LadderCodec, step: LatentStep, setting: int, source: np.random.PCG64) -> Tensor:
    """Latents z of a level on the grid around their prior's means, float64 integers [B, C, side, side]."""
    symbols = drawn(codec.latent_frequencies(step, setting), source)
    k = symbols.double() - codec.reach_of(step, setting)
    return codec.place(step, k.view(step.mean.shape))


def _grey(config: LadderConfig, values: Tensor) -> Images:
    """Values of pixels [B, S, S], 0..255 or 0 and 1, as grey levels."""
    grey: Images = (values * (255 // (config.values - 1))).to(torch.uint8).cpu().numpy()
    return grey


def _finished(steps: Generator[S, Tensor, R], answer: Callable[[S], Tensor]) -> R:
    """What a walk returns when every step was answered."""
    try:
        step = next(steps)
        while True:
            step = steps.send(answer(step))
    except StopIteration as stop:
        result: R = stop.value
        return result
