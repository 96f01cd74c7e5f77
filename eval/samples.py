"""Images drawn from a model: indices or latents from its prior, and pixels where they are coded too.

What is drawn follows the coder's own integer tables: a symbol of frequency f has probability f / 65536 exactly, the
probability that code lengths are about. So a sample is what a stream of random bits decodes to."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..codec.config import ConfigError
from ..codec.family import LOSSLESS
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.model import LatentStep, Step
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
    count below 1, ConfigError for a Ladder VAE of Gaussian latents."""
    if count < 1 or setting not in settings_of(codec):
        raise ValueError(f"expected a count from 1 and a setting of {settings_of(codec)}, found {count} and {setting}")
    source = np.random.PCG64(seed)
    sizes = [min(_BATCH, count - start) for start in range(0, count, _BATCH)]
    return np.concatenate([_batch(codec, size, setting, source) for size in sizes])


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
    return _grey(codec, values)


def _rounded_latents(codec: LadderCodec, step: LatentStep, setting: int, source: np.random.PCG64) -> Tensor:
    """Latents z of a level on the grid around their prior's means, float64 integers [B, C, side, side]."""
    symbols = drawn(codec.latent_frequencies(step, setting), source)
    k = symbols.double() - codec.reach_of(step, setting)
    return codec.place(step, k.view(step.mean.shape))


def _grey(codec: LadderCodec, values: Tensor) -> Images:
    """Values of pixels [B, S, S], 0..255 or 0 and 1, as grey levels."""
    grey: Images = (values * (255 // (codec.config.values - 1))).to(torch.uint8).cpu().numpy()
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
