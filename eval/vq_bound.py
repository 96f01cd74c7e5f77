"""The bound of a VQ-VAE on log p(x): log p(x | z_q(x)) + log p(z_q(x)) (van den Oord et al. 2017, section 3.2).

p(z_q) is the prior, by its integer tables. p(x | z_q) is a Gaussian of one scale around every decoded pixel (0..255),
discretised to 256 grey levels. Squared errors, which the decoder was trained on, make it the mean of just such a
Gaussian; a logistic would raise the bound by 1 % on vq-mnist. The scale is fitted on training images, never on test
images. Both factors are distributions, and p(x) is a sum over all z without negative terms, so one of them bounds it
from below."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..codec.models import Model
from ..codec.vq.codec import VQCodec
from ..training.data.datasets import DataError, load
from . import files
from .metrics import Images, bits_per_dim

TRAINING_IMAGES = 4096
"""How many of the first training images a scale is fitted on."""
_SCALES = 0.1, 256.0  # grey levels, between which the best is sought
_GOLDEN = (math.sqrt(5) - 1) / 2
_ITERATIONS = 32  # leave 2e-7 of the interval


@dataclass(frozen=True)
class Bound:
    """The bound and its parts, means per image. scale: of the Gaussian, grey levels, fitted on so many images.

    likelihood_nats: log p(x | z_q).  prior_nats: log p(z_q).  nats: their sum.  bpd: -nats as bits per dimension.
    """

    scale: float
    fitted_on: int
    likelihood_nats: float
    prior_nats: float
    nats: float
    bpd: float


@dataclass(frozen=True)
class PixelLikelihood:
    """p(x | z_q) of a model at one number of levels. scale: grey levels, fitted on `images` images."""

    scale: float
    images: int

    def bound(self, x: Images, x_hat: Images, prior_bits: float) -> Bound:
        """Of images uint8 [N, H, W] that decode to x_hat. prior_bits: mean code length of their indices, per image."""
        likelihood, prior = Pairs.of(x, x_hat).log_likelihood(self.scale) / len(x), -prior_bits * math.log(2)
        nats = likelihood + prior
        bpd = bits_per_dim(-nats / math.log(2) / 8, x)
        return Bound(self.scale, self.images, likelihood, prior, nats, bpd)


@dataclass(frozen=True)
class Pairs:
    """All that p(x | z_q) depends on: how often a pixel of grey level `value` is decoded to `mean`.

    value, mean: int64 [n], the pairs that occur.  count: float64 [n]."""

    value: Tensor
    mean: Tensor
    count: Tensor

    @staticmethod
    def of(x: Images, x_hat: Images) -> Pairs:
        """Count the pixels of x and x_hat, both uint8 of the same shape."""
        return Pairs.from_table(_table(x, x_hat))

    @staticmethod
    def from_table(table: Tensor) -> Pairs:
        """Of counts [256, 256], a row per value and a column per mean."""
        value, mean = table.nonzero().unbind(1)
        return Pairs(value, mean, table[value, mean].double())

    def log_likelihood(self, scale: float) -> float:
        """Sum of log p(value | mean) over all pixels, nats."""
        return float((self.count * log_mass(self.value, self.mean, scale)).sum())


def log_mass(value: Tensor, mean: Tensor, scale: float) -> Tensor:
    """Log of the mass of N(mean, scale^2) in value +- 1/2, nats; 0 also has all below it, and 255 all above.

    value and mean int64 in 0..255, of shapes that broadcast -> float64. The masses of the 256 values sum to 1."""
    distance = (value - mean).double()
    lower = ((distance - 0.5) / scale).masked_fill(value == 0, -math.inf)
    upper = ((distance + 0.5) / scale).masked_fill(value == 255, math.inf)
    mirrored = lower + upper > 0  # into the lower tail, where log Phi keeps its digits
    near = torch.special.log_ndtr(torch.where(mirrored, -lower, upper))
    far = torch.special.log_ndtr(torch.where(mirrored, -upper, lower))
    mass: Tensor = near + torch.log1p(-(far - near).exp())
    return mass


def fit_scale(pairs: Pairs) -> float:
    """The scale in 0.1..256 grey levels under which the pixels are likeliest.

    Log masses of intervals under a log-concave density are concave in 1 / scale (Pratt 1981, "Concavity of the log
    likelihood"), so there is one maximum, which golden-section search over the log scale finds."""
    low, high = map(math.log, _SCALES)
    for _ in range(_ITERATIONS):
        step = _GOLDEN * (high - low)
        left, right = high - step, low + step
        if pairs.log_likelihood(math.exp(left)) >= pairs.log_likelihood(math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def fitted(model: Model) -> list[PixelLikelihood] | None:
    """The likelihood of a VQ model at every number of levels, by the first training images of its own data set.

    They are looked for where `datasets.load` looks without a folder; None if they are not there."""
    try:
        images = load(str(model.description.recipe.get("data")), "train").images[:TRAINING_IMAGES]
    except DataError:
        return None
    assert isinstance(model.codec, VQCodec)
    return [PixelLikelihood(fit_scale(pairs), len(images)) for pairs in decoded_pairs(model.codec, images)]


def decoded_pairs(codec: VQCodec, images: Images) -> list[Pairs]:
    """What pixels of images uint8 [N, S, S] are decoded to at 1, 2, ... levels."""
    tables = torch.zeros(codec.lossy_settings, 256, 256, dtype=torch.int64)
    for batch in files.batches(files.upright_dark(images)):
        _, indices = codec.encode(batch, codec.lossy_settings)
        for number, table in enumerate(tables):
            table += _table(batch, codec.reconstruct(indices, number + 1))
    return [Pairs.from_table(table) for table in tables]


def _table(x: Images, x_hat: Images) -> Tensor:
    """Counts int64 [256, 256], a row per grey level of x and a column per one of x_hat."""
    pair = x.astype(np.int64).ravel() * 256 + x_hat.ravel()
    return torch.from_numpy(np.bincount(pair, minlength=256 * 256)).view(256, 256)
