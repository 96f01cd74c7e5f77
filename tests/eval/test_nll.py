"""Bounds on log p(x) against known answers: linear Gaussian models, quadrature, and sums of given log weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import bernoulli, norm
from torch import Tensor
from torch.distributions import MultivariateNormal

from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.model import LadderModel, LatentStep
from vqcodec.codec.ladder.pixels import PixelStep
from vqcodec.eval import gaussian
from vqcodec.eval.nll import BoundsError, LogWeights, bounds, joined
from vqcodec.training.batchnorm import reestimate
from vqcodec.training.config import LadderRecipe
from vqcodec.training.data.datasets import Dataset, binarise
from vqcodec.training.ladder import LadderTask
from vqcodec.training.loop import load_task

Floats = NDArray[np.float64]


class Recorded:
    """Log weights as another callable gives them, kept."""

    def __init__(self, log_weights: LogWeights) -> None:
        self.log_weights = log_weights
        self.parts: list[Tensor] = []

    def __call__(self, images: Tensor, samples: int) -> Tensor:
        self.parts.append(self.log_weights(images, samples).double())
        return self.parts[-1]

    @property
    def all(self) -> Tensor:
        """[samples, B] of all calls, if all were for the same images."""
        return torch.cat(self.parts)


# A linear Gaussian model: x = W z + b + noise


@dataclass(frozen=True)
class Linear:
    """z ~ N(0, I) of two dimensions, x ~ N(W z + b, 0.25 I) of three; q: the posterior, moved and stretched."""

    shift: float = 0.0
    stretch: float = 1.0
    weight = torch.tensor([[0.8, -0.3], [0.2, 0.5], [-0.6, 0.1]], dtype=torch.float64)
    bias = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    noise = 0.5

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(x), [B]."""
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(3)
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """P(z | x)."""
        precision = torch.eye(2) + self.weight.T @ self.weight / self.noise**2
        mean = torch.linalg.solve(precision, self.weight.T @ (x - self.bias).T / self.noise**2).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def q(self, x: Tensor) -> MultivariateNormal:
        """Q(z | x)."""
        exact = self.posterior(x)
        return MultivariateNormal(exact.mean + self.shift, exact.covariance_matrix * self.stretch)

    def __call__(self, x: Tensor, samples: int) -> Tensor:
        q = self.q(x)
        z = q.sample((samples,))
        prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
        given = MultivariateNormal(z @ self.weight.T + self.bias, self.noise**2 * torch.eye(3, dtype=torch.float64))
        return prior.log_prob(z) + given.log_prob(x) - q.log_prob(z)


WRONG = Linear(shift=0.25, stretch=1.8)


def observed(count: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 3, dtype=torch.float64)


def test_bounds_of_the_exact_posterior_are_log_p_of_x() -> None:
    x = observed(60)
    found = bounds(Linear(), x, [1, 2, 7], rows=100)
    expected = Linear().log_likelihood(x)
    assert found.elbo.dtype == torch.float64
    for bound in (found.elbo, *found.importance.values()):
        # Weights do not vary: all that remains is float64 rounding of sums of about 10 nats.
        torch.testing.assert_close(bound, expected, rtol=0, atol=1e-11)


def test_elbo_is_log_p_of_x_less_the_kl_of_q() -> None:
    x, k = observed(20), 4000
    torch.manual_seed(1)
    weights = Recorded(WRONG)
    found = bounds(weights, x, [k])
    kl = torch.distributions.kl_divergence(WRONG.q(x), WRONG.posterior(x))
    assert float(kl.min()) > 0.1
    error = weights.all.std(0) / math.sqrt(k)
    expected = WRONG.log_likelihood(x) - kl
    assert bool(((found.elbo - expected).abs() < 4.5 * error).all())
    assert bool((expected < WRONG.log_likelihood(x)).all())


def test_more_samples_give_tighter_bounds() -> None:
    """On average over the draws L_k rises with k, stays below log p(x), and comes as near as the variance says."""
    x, repeats, ks = observed(1), 4000, (1, 2, 5, 20, 100)
    torch.manual_seed(1)
    found = bounds(WRONG, x.expand(repeats, -1), ks)
    log_p = WRONG.log_likelihood(x)
    gaps = {k: log_p - bound for k, bound in found.importance.items()}
    assert list(gaps) == list(ks)

    def error(values: Tensor) -> float:
        return float(values.std()) / math.sqrt(repeats)

    for less, more in pairwise(ks):
        tighter = gaps[less] - gaps[more]
        assert float(tighter.mean()) > 4 * error(tighter)
    # E[w] = p(x) whatever k is: the bound is biased, the likelihood is not.
    for gap in gaps.values():
        ratio = (-gap).exp()
        assert abs(float(ratio.mean()) - 1) < 4 * error(ratio)
    # log p - E[L_k] = variance / 2k + O(1/k^2), the variance that of w / p(x), whose square is 1 + chi^2.
    exact, q = WRONG.posterior(x), WRONG.q(x)
    difference = 2 * exact.precision_matrix - q.precision_matrix
    joint = 2 * exact.precision_matrix @ exact.mean[..., None] - q.precision_matrix @ q.mean[..., None]
    square = (
        (joint.mT @ torch.linalg.solve(difference, joint) - 2 * quadratic(exact) + quadratic(q)) / 2
    ).exp() * (exact.precision_matrix.det() / (q.precision_matrix.det() * difference.det()).sqrt())  # fmt: skip
    expected = float(square.squeeze() - 1) / (2 * ks[-1])
    assert 0.001 < expected < 0.02
    # At k = 100 the second-order term is a few hundredths of the first.
    assert float(gaps[ks[-1]].mean()) == pytest.approx(expected, abs=4 * error(gaps[ks[-1]]) + 0.1 * expected)


def quadratic(of: MultivariateNormal) -> Tensor:
    """mean' precision mean."""
    return of.mean[..., None, :] @ of.precision_matrix @ of.mean[..., None]


# Small ladders beside numerical integration


SIDE = 4
LADDERS = {
    "one level": {"latents": (1,)},
    "one level, bottom-up": {"latents": (1,), "inference": "bottom-up"},
    "shared": {"latents": (1, 1)},
    "shared, with skip": {"latents": (1, 1), "skip": True},
    "separate": {"latents": (1, 1), "top_down": "separate"},
    "bottom-up": {"latents": (1, 1), "inference": "bottom-up"},
}


def small_ladder(**values: object) -> LadderModel:
    """With random weights, large enough that z matters, and posteriors of about the prior's width."""
    levels = len(values["latents"])  # type: ignore[arg-type]
    config = LadderConfig(
        image_size=SIDE, form="mlp", widths=(4,) * levels, grids=(1,) * levels, posterior="gaussian", leak=3,
        stages=(Stage(SIDE**2, 0),), pixel_features=1, **({"skip": False} | values),  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(4)
    model = LadderModel(config).eval().requires_grad_(False)
    for parameter in model.generative.parameters():
        parameter.mul_(1.5)
    for heads in model.inference.heads:
        heads[0].bias[1:] += 0.6
    return model


def pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (count, SIDE, SIDE), generator=generator)


@dataclass(frozen=True)
class Grid:
    """Log densities of one image at all points of a grid over the latents, and the area of a cell."""

    joint: Floats
    q: Floats
    cell: float

    @property
    def log_p(self) -> float:
        return float(logsumexp(self.joint)) + math.log(self.cell)

    @property
    def elbo(self) -> float:
        return float((np.exp(self.q) * (self.joint - self.q)).sum()) * self.cell


def integrated(model: LadderModel, image: Tensor) -> Grid:
    """log p(x, z) and log q(z | x) on a grid: trapezoids, which are exact for smooth densities that vanish at its ends.

    The generative side is that of `walk`; q is written out here once more, in NumPy."""
    levels = model.config.levels
    line = torch.linspace(-12, 12, 241 if levels > 1 else 1201)
    z = torch.cartesian_prod(*[line] * levels).view(-1, levels)  # columns from the image up
    joint, priors = np.zeros(len(z)), {}
    walk = model.generative.walk(len(z))
    step = next(walk)
    while isinstance(step, LatentStep):
        own = z[:, step.level]
        priors[step.level] = mean, log_scale = step.mean.flatten().numpy(), step.log_scale.flatten().numpy()
        joint += norm.logpdf(own.numpy(), mean, np.exp(log_scale))
        step = walk.send(own.view(-1, 1, 1, 1))
    assert isinstance(step, PixelStep)
    chance = step.scores[..., 0].double().sigmoid().numpy()
    joint += bernoulli.logpmf(image.flatten().numpy(), chance).sum(1)
    q = sum(norm.logpdf(z[:, n].numpy(), *q_of(model, image, z, priors, n)) for n in range(levels))
    return Grid(joint, np.asarray(q), float(line[1] - line[0]) ** levels)


def q_of(
    model: LadderModel, image: Tensor, z: Tensor, priors: dict[int, tuple[Floats, Floats]], level: int
) -> tuple[Floats, Floats]:
    """Mean and scale of q(z_level | ...) at every point of a grid z [G, levels]."""
    inference, config = model.inference, model.config
    if config.inference == "bottom-up":
        below = image[None, None].float() if level == 0 else z[:, level - 1].view(-1, 1, 1, 1)
        mean, log_scale = inference.head(level, inference.up(level, below), 0)
        return mean.flatten().numpy(), log_scale.exp().flatten().numpy()
    x = image[None, None].float()
    for number in range(level + 1):
        x = inference.up(number, x)
    mean, log_scale = (value.flatten().double().numpy() for value in inference.head(level, x, 0))
    with_mean, with_scale = priors[level]
    if config.top_down == "separate" and level + 1 < config.levels:
        above = inference.down(level, z[:, level + 1].view(-1, 1, 1, 1))
        with_mean, with_scale = (value.flatten().double().numpy() for value in above)
    own, other = np.exp(-2 * log_scale), np.exp(-2 * with_scale)
    return (mean * own + with_mean * other) / (own + other), (own + other) ** -0.5


@pytest.mark.parametrize("name", LADDERS)
def test_bounds_of_ladders_are_those_of_quadrature(name: str) -> None:
    model, images, k = small_ladder(**LADDERS[name]), pictures(3), 20_000
    grids = [integrated(model, image) for image in images]
    for grid in grids:
        assert math.exp(logsumexp(grid.q)) * grid.cell == pytest.approx(1, abs=1e-4)
        assert grid.log_p - grid.elbo > 0.001  # q is not the posterior by chance
    log_p, elbo = (torch.tensor([getattr(grid, what) for grid in grids]) for what in ("log_p", "elbo"))
    torch.manual_seed(0)
    weights = Recorded(lambda x, samples: gaussian.log_weights(model, x, samples))
    found = bounds(weights, images, [1, k])
    assert bool(((found.elbo - elbo).abs() < 4.5 * weights.all.std(0) / math.sqrt(k)).all())
    ratio = (weights.all - log_p).exp()
    error = ratio.std(0) / math.sqrt(k)
    assert float(error.max()) < 0.03
    assert bool(((found.importance[k] - log_p).abs() < 4.5 * error + error.square()).all())
    assert torch.allclose(found.importance[1], weights.all[0])


def test_two_passes_differ() -> None:
    """The grids of the shared and of the separate pass are not the same by mistake."""
    first, second = (integrated(small_ladder(**LADDERS[name]), pictures(1)[0]) for name in ("shared", "separate"))
    assert not np.allclose(first.elbo, second.elbo, atol=0.01)


# Sums in parts


class Given:
    """Log weights from a table [samples, N]; an image is its own number, and gets its rows in order."""

    def __init__(self, table: Tensor, rows: int) -> None:
        self.table, self.rows = table, rows
        self.done = [0] * table.shape[1]

    def __call__(self, images: Tensor, samples: int) -> Tensor:
        assert 1 <= samples * len(images) <= self.rows
        columns = []
        for number in images.tolist():
            first = self.done[number]
            self.done[number] += samples
            columns.append(self.table[first : first + samples, number])
        return torch.stack(columns, 1)


def expected(table: Tensor, k: int) -> Floats:
    return np.asarray(logsumexp(table[:k].double().numpy(), axis=0)) - math.log(k)


@pytest.mark.parametrize("rows", [1, 3, 7, 10, 64, 2000])
@pytest.mark.parametrize("count", [1, 7, 120])
def test_chunks_do_not_change_the_bounds(count: int, rows: int) -> None:
    torch.manual_seed(0)
    table, ks = 5 * torch.randn(25, count), [10, 1, 25, 3, 10]
    weights = Given(table, rows)
    found = bounds(weights, torch.arange(count), ks, rows)
    assert weights.done == [25] * count  # all bounds are of one draw, of the largest k
    assert list(found.importance) == [1, 3, 10, 25]
    for k, bound in found.importance.items():
        np.testing.assert_allclose(bound.numpy(), expected(table, k), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.elbo.numpy(), table.double().mean(0).numpy(), rtol=0, atol=1e-12)


def noise(images: Tensor, samples: int) -> Tensor:
    return torch.randn(samples, len(images)) + images


def test_a_seed_gives_images_the_same_bounds_whoever_computes_them() -> None:
    images = torch.arange(120.0)
    whole = bounds(noise, images, [2, 5], seed=7)
    torch.rand(10)
    parts = [bounds(noise, images[a : a + 50], [2, 5], seed=7 + n) for n, a in enumerate((0, 50, 100))]
    together = joined(parts)
    assert torch.equal(together.elbo, whole.elbo)
    assert together.importance.keys() == whole.importance.keys()
    assert all(torch.equal(together.importance[k], whole.importance[k]) for k in (2, 5))
    assert not torch.equal(whole.elbo[:50] - images[:50], whole.elbo[50:100] - images[50:100])
    torch.manual_seed(7)
    assert torch.equal(bounds(noise, images[:50], [2, 5]).elbo, parts[0].elbo)
    assert not torch.equal(bounds(noise, images[:50], [2, 5]).elbo, parts[0].elbo)  # without one, randomness goes on


def test_few_images_see_many_samples_at_once() -> None:
    """Chunks are as large as they may be: k = 1000 of ten images are ten calls of 1000 rows."""
    calls: list[int] = []

    def weights(images: Tensor, samples: int) -> Tensor:
        calls.append(samples * len(images))
        return torch.zeros(samples, len(images))

    bounds(weights, torch.arange(10), [1000])
    assert calls == [1000] * 10


def test_sums_are_in_float64() -> None:
    """Log weights near -1e5, whose steps of float32 are 1/128: their sums have no such steps."""
    table = -1e5 + torch.arange(3000.0).remainder(37)[:, None] / 128
    table = torch.cat([table, table.flip(0) - 5e4], 1)
    assert table.dtype == torch.float32
    found = bounds(Given(table, 10), torch.arange(2), [1000, 3000], rows=10)
    np.testing.assert_allclose(found.elbo.numpy(), table.double().mean(0).numpy(), rtol=0, atol=1e-8)
    for k, bound in found.importance.items():
        np.testing.assert_allclose(bound.numpy(), expected(table, k), rtol=0, atol=1e-8)


def test_a_weight_of_zero_is_no_trouble_to_the_others() -> None:
    table = torch.tensor([[-math.inf, -math.inf], [-2.0, -math.inf]])
    found = bounds(Given(table, 2), torch.arange(2), [1, 2], rows=2)
    assert found.importance[1].tolist() == [-math.inf, -math.inf]
    assert found.importance[2].tolist() == [-2 - math.log(2), -math.inf]
    assert found.elbo.tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize(("samples", "message"), [
    ([], "at least 1, found none"), ([0], "at least 1, found 0"), ([5, -3, 1], "at least 1, found -3"),
])  # fmt: skip
def test_numbers_of_samples_below_one_are_refused(samples: Sequence[int], message: str) -> None:
    def never(images: Tensor, samples: int) -> Tensor:
        raise AssertionError

    with pytest.raises(BoundsError, match=message):
        bounds(never, torch.zeros(2), samples)


# A trained model


def test_bf16_agrees_with_float32(tiny_gaussian: Path, digit_set: Dataset) -> None:
    """The same noise. Weights and features of 8 bits move an image by 0.1 nats either way; over 64 images, and five
    models trained like this one, the mean moved by 0.03 (k = 100) and 0.04 (ELBO) at most."""
    many = binarise(np.tile(digit_set.images, (8, 1, 1)), "tests")
    exact, quick = (
        gaussian.measure(str(tiny_gaussian), dataclasses.replace(digit_set, images=many), samples=(100,), precision=of)
        for of in ("float32", "bf16")
    )
    assert (exact.precision, quick.precision) == ("float32", "bf16")
    assert quick.elbo_nats != exact.elbo_nats
    assert quick.elbo_nats == pytest.approx(exact.elbo_nats, abs=0.1)
    assert quick.bounds[0].nats == pytest.approx(exact.bounds[0].nats, abs=0.05)
    assert quick.levels == exact.levels  # only the bounds are of that precision


def test_exported_weights_give_the_log_weights_of_the_trained_model(
    tiny_gaussian: Path, tiny_gaussian_recipe: LadderRecipe, digits: NDArray[np.uint8], binary_set: Dataset
) -> None:
    """Batch norm folded and weights rounded to 15 bits, biases to finer than 2**-9, cost less than float32's noise of
    bounds: sums over 32 inputs and 784 pixels move by a few hundredths of a nat in 200."""
    task, _ = load_task(tiny_gaussian_recipe, tiny_gaussian.parent)
    assert isinstance(task, LadderTask)
    reestimate(task, torch.from_numpy(digits))
    stored = gaussian.load(str(tiny_gaussian)).model
    values = gaussian.values_of(stored, binary_set)
    found = []
    for model in (task.model, stored):
        torch.manual_seed(0)
        with torch.inference_mode():
            found.append(gaussian.log_weights(model, values, 20))
    assert float((found[0] - found[1]).abs().max()) < 0.1
