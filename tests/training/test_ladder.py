"""Training of Ladder VAEs on eight real digits: objective, start, resume and export."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from vqcodec.bitstream.errors import ModelMismatch
from vqcodec.cli import main
from vqcodec.codec import models, weights_file
from vqcodec.codec.config import ConfigError
from vqcodec.codec.exact.export import to_exact
from vqcodec.codec.exact.layers import ExactConv2d
from vqcodec.codec.images import psnr_db
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.exact import REACHES
from vqcodec.codec.ladder.model import LadderModel, precision_weighted
from vqcodec.codec.ladder.pixels import PixelStep
from vqcodec.codec.ladder.posterior import gaussian_kl, gaussian_log_density, limited
from vqcodec.codec.ladder.scales import LOG_SCALE_MAX, LOG_SCALE_MIN
from vqcodec.training.config import LadderRecipe, LadderTrain, Recipe, TrainConfig, read_recipe
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset, binarise
from vqcodec.training.export import export
from vqcodec.training.ladder import LadderTask, importance_bound, pixel_nats, rate, terms, turned
from vqcodec.training.loop import build_task, load_task, train
from vqcodec.training.start import cosine_basis, loudness

MINIMAL = 'family = "ladder"\nname = "a"\ndata = "mnist"\nnote = ""\n[model]\n[train]\n'
PAPER = LadderConfig(
    form="mlp", latents=(64, 32, 16, 8, 4), widths=(512, 256, 128, 64, 64), grids=(1, 1, 1, 1, 1), posterior="gaussian",
    skip=False, batch_norm=True, leak=3, stages=(Stage(784, 0, 0),), pixel_features=1,
)  # fmt: skip
PLAIN = dataclasses.replace(PAPER, inference="bottom-up")
SEPARATE = dataclasses.replace(PAPER, top_down="separate")


def changed(recipe: LadderRecipe, **train_values: object) -> LadderRecipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train_values))


@pytest.fixture
def short(tiny_ladder_recipe: LadderRecipe) -> LadderRecipe:
    """6 steps, 3 epochs of two batches of four digits, the last ones with rounded latents."""
    return changed(tiny_ladder_recipe, epochs=3, batch_size=4, turns=True)


@pytest.fixture
def images(digits: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(digits)


# Recipes


def test_minimal_recipe_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MINIMAL)
    assert read_recipe(tmp_path / "a.toml") == LadderRecipe("a", "mnist", "", LadderConfig(), LadderTrain())


def test_stages_and_tuples_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        MINIMAL.replace(
            "[train]",
            'latents = [1, 2, 3]\nqualities = 3\nlikelihood = "categorical"\n'
            "stages = [{ until = 4, width = 0 }, { until = 16, blocks = 1 }]\n"
            "[train]",
        )
        + "rd_weights = [1, 2.5]\n"
    )
    recipe = read_recipe(tmp_path / "a.toml")
    assert isinstance(recipe, LadderRecipe)
    assert recipe.model.stages == (Stage(4, 0, 2), Stage(16, 64, 1))
    assert recipe.model.latents == (1, 2, 3)
    assert recipe.train.rd_weights == (1.0, 2.5)


@pytest.mark.parametrize(("text", "message"), [
    (MINIMAL + "rd_weights = [0.1]\n", "train.rd_weights needs one entry per lossy quality, 0 in all"),
    (MINIMAL.replace("[model]", '[model]\nqualities = 3\nlikelihood = "categorical"'),
     "needs one entry per lossy quality, 2 in all"),
    (MINIMAL + "kl_warmup = 1.5\n", r"kl_warmup, round_from and lossy_share must be in 0\.\.1"),
    (MINIMAL + "round_from = -1\n", r"kl_warmup, round_from and lossy_share must be in 0\.\.1"),
    (MINIMAL + "lossy_share = 2\n", r"kl_warmup, round_from and lossy_share must be in 0\.\.1"),
    (MINIMAL + "epochs = 0\n", "epochs, batch_size, warmup_steps and evaluate_every"),
    (MINIMAL + "warmup_steps = 0\n", "epochs, batch_size, warmup_steps and evaluate_every"),
    (MINIMAL + 'precision = "int8"\n', "precision"),
    (MINIMAL + 'schedule = "step"\n', "schedule must be 'cosine', 'constant' or 'steps', found 'step'"),
    (MINIMAL + "importance = 0\n", "importance must be at least 1"),
    (MINIMAL + "importance = 2\n", "train.importance needs a Gaussian posterior"),
    (MINIMAL + "rate_bits = [50]\n", "unknown key 'rate_bits'"),
    (MINIMAL.replace("[model]", "[model]\ncodebook = 1"), "unknown key 'codebook'"),
    (MINIMAL.replace("[model]", "[model]\nstages = [{ until = 0 }]"), "a stage needs until >= 1"),
    (MINIMAL.replace("[model]", "[model]\nstages = [{ til = 1 }]"), "unknown key 'til'"),
    (MINIMAL.replace("[model]", '[model]\ninference = "bottom-up"'), "rounded latents need the ladder's inference"),
    (MINIMAL.replace("[model]", "[model]\nskip = 1"), "model.skip: expected bool, found 1"),
])  # fmt: skip
def test_bad_recipes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "a.toml")


def test_recipes_of_no_family_cannot_be_trained() -> None:
    with pytest.raises(ConfigError, match="x: no training for Recipe"):
        build_task(Recipe("x", "mnist", "", LadderConfig(), TrainConfig()))


# Densities


@pytest.mark.parametrize("log_scale", [LOG_SCALE_MIN, -1.0, 0.0, 1.0, LOG_SCALE_MAX])
def test_rate_is_the_mass_of_a_unit_interval(log_scale: float) -> None:
    scale = math.exp(log_scale)
    k = torch.linspace(-1, 1, 101, dtype=torch.float64) * (0.5 + 3 * scale)
    nats = rate(k, torch.tensor(scale, dtype=torch.float64))
    lower, upper = (k.abs().numpy() + side for side in (-0.5, 0.5))
    exact = -np.log(norm.sf(lower / scale) - norm.sf(upper / scale))
    # Masses are at least 0.0013 / e^2.75 here, and their differences err by a few 1e-16.
    np.testing.assert_allclose(nats.numpy(), exact, rtol=1e-9, atol=1e-11)
    single = rate(k.float(), torch.tensor(scale))
    np.testing.assert_allclose(single.numpy(), exact, rtol=1e-4, atol=1e-4)  # the same in float32


def test_rate_goes_on_as_a_line_beyond_three_scales() -> None:
    scale = torch.tensor(0.5, dtype=torch.float64)
    k = torch.tensor([2.0 + 1e-9, 2.5, 3.0, 50.0], dtype=torch.float64, requires_grad=True)
    nats = rate(k, scale)
    edge = rate(torch.tensor([2.0], dtype=torch.float64), scale)
    slope = norm.pdf(3) / norm.cdf(-3) / 0.5  # of -log Phi at -3, which is nearly all of the mass there
    np.testing.assert_allclose(nats.detach().numpy(), (edge + slope * (k - 2.0)).detach().numpy(), rtol=1e-4)
    nats.sum().backward()
    np.testing.assert_allclose(k.grad, slope, rtol=1e-4)
    assert torch.equal(rate(-k, scale), nats)


def test_rate_sums_to_one_over_the_integers() -> None:
    k = torch.arange(-60.0, 61.0, dtype=torch.float64)
    inside = k.abs() < 0.5 + 3 * math.exp(2)
    mass = (-rate(k, torch.tensor(math.exp(2.0), dtype=torch.float64))).exp()
    assert float(mass[inside].sum()) == pytest.approx(1 - 2 * norm.cdf(-3), abs=2e-3)  # up to half a step at either end


def test_gaussian_kl_agrees_with_sampling() -> None:
    torch.manual_seed(0)
    shape = (4, 3, 2, 2)
    mean, log_scale, prior_mean, prior_scale = (torch.randn(shape, dtype=torch.float64) / 2 for _ in range(4))
    z = mean + log_scale.exp() * torch.randn(20_000, *shape, dtype=torch.float64)
    log_q = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z)
    log_p = torch.distributions.Normal(prior_mean, prior_scale.exp()).log_prob(z)
    sampled = (log_q - log_p).flatten(2).sum(2)  # [20000, 4]
    error = sampled.std(0) / math.sqrt(len(sampled))
    kl = gaussian_kl(mean, log_scale, prior_mean, prior_scale)
    assert bool(((kl.flatten(1).sum(1) - sampled.mean(0)).abs() < 4 * error).all())
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_scale.exp()), torch.distributions.Normal(prior_mean, prior_scale.exp())
    )
    assert torch.allclose(kl, exact, rtol=1e-12)
    assert float(gaussian_kl(mean, log_scale, mean, log_scale).abs().max()) < 1e-12


def test_precision_weighting_is_the_textbook_product() -> None:
    torch.manual_seed(0)
    mean, log_scale, prior_mean, prior_scale = (2 * torch.randn(1000, dtype=torch.float64) for _ in range(4))
    precision, prior_precision = (-2 * log_scale).exp(), (-2 * prior_scale).exp()
    merged, merged_scale = precision_weighted(mean, log_scale, prior_mean, prior_scale)
    expected = (mean * precision + prior_mean * prior_precision) / (precision + prior_precision)
    assert torch.allclose(merged, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(merged_scale, -0.5 * (precision + prior_precision).log(), rtol=1e-9, atol=1e-9)


def test_limits_let_gradients_back_in_only() -> None:
    for posterior, low, high in (("uniform", LOG_SCALE_MIN, LOG_SCALE_MAX), ("gaussian", -4.0, 4.0)):
        config = LadderConfig(posterior=posterior)
        for sign in (1.0, -1.0):
            x = torch.tensor([low - 1, low + 0.1, high - 0.1, high + 1], requires_grad=True)
            y = limited(config, x)
            assert y.tolist() == pytest.approx([low, low + 0.1, high - 0.1, high])
            (sign * y.sum()).backward()
            # A descent step subtracts the gradient: below the range only a negative one leads back, above a positive.
            assert x.grad is not None
            assert x.grad.tolist() == ([0.0, 1.0, 1.0, 1.0] if sign > 0 else [-1.0, -1.0, -1.0, 0.0])


# The objective


def test_turned_images_are_the_eight_symmetries(images: Tensor) -> None:
    torch.manual_seed(0)
    batch = images[:1].expand(400, -1, -1)
    symmetries = [
        torch.rot90(base, times, (0, 1)) for base in (images[0], images[0].flip(0)) for times in range(4)
    ]  # fmt: skip
    found = turned(batch)
    counts = [sum(torch.equal(one, image) for image in found) for one in symmetries]
    assert sum(counts) == 400
    assert min(counts) > 20  # 50 expected
    several = turned(images)
    assert torch.equal(several.flatten(1).sort(1).values, images.flatten(1).sort(1).values)


def test_binary_models_see_a_new_sample_every_time(tiny_binary_recipe: LadderRecipe, images: Tensor) -> None:
    task = LadderTask(tiny_binary_recipe.model, tiny_binary_recipe.train)
    torch.manual_seed(0)
    samples = torch.stack([task.values(images) for _ in range(400)])
    assert samples.dtype == torch.int64
    assert set(samples.unique().tolist()) == {0, 1}
    assert not torch.equal(samples[0], samples[1])
    p = images / 255
    deviation = (p * (1 - p) / 400).sqrt()
    assert bool(((samples.float().mean(0) - p).abs() <= 6 * deviation).all())  # 0 and 255 are certain


def test_grey_models_see_the_pixels(tiny_ladder_recipe: LadderRecipe, images: Tensor) -> None:
    task = LadderTask(tiny_ladder_recipe.model, tiny_ladder_recipe.train)
    assert torch.equal(task.values(images), images.long())


def test_the_loss_is_warmed_up_rate_and_distortion(tiny_ladder_recipe: LadderRecipe, images: Tensor) -> None:
    recipe = changed(tiny_ladder_recipe, kl_warmup=0.5, lossy_share=0.25)
    torch.manual_seed(0)
    task = LadderTask(recipe.model, recipe.train)
    for step, (progress, weight) in enumerate(((0.0, 0.0), (0.125, 0.25), (0.5, 1.0), (0.55, 1.0))):
        torch.manual_seed(1)
        loss, metrics = task.loss(images, step, progress)
        told = {name: float(value) for name, value in metrics.items()}
        quality = 1 + step % 2
        assert told.keys() == {"nats", "kl", "log_likelihood", "preview_sse", f"bits_q{quality}", f"sse_q{quality}"}
        expected = told["nats"] - told["kl"] + weight * told["kl"]
        expected += math.log(2) * recipe.train.preview_weight * told["preview_sse"]
        expected += math.log(2) * weight * told[f"bits_q{quality}"]
        expected += math.log(2) * recipe.train.rd_weights[quality - 1] * told[f"sse_q{quality}"]
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    without, metrics = LadderTask(recipe.model, dataclasses.replace(recipe.train, lossy_share=0.0)).loss(images, 0, 1.0)
    assert metrics.keys() == {"nats", "kl", "log_likelihood", "preview_sse"}
    assert without.isfinite()


def test_latents_are_rounded_from_the_share_of_training_that_says_so(
    tiny_ladder_recipe: LadderRecipe, images: Tensor
) -> None:
    torch.manual_seed(0)
    task = LadderTask(tiny_ladder_recipe.model, changed(tiny_ladder_recipe, round_from=0.5, lossy_share=0.0).train)
    losses = [float(task.loss(images, 0, progress)[0].detach()) for progress in (0.4, 0.4, 0.5, 0.5)]
    assert losses[0] != losses[1]  # noise
    assert losses[2] == losses[3]


def test_gradients_reach_every_parameter_that_learns(
    tiny_ladder_recipe: LadderRecipe, tiny_binary_recipe: LadderRecipe, images: Tensor
) -> None:
    for model, schedule, rounded in (
        (tiny_ladder_recipe.model, tiny_ladder_recipe.train, 1.0),
        (tiny_ladder_recipe.model, tiny_ladder_recipe.train, 0.1),
        (tiny_binary_recipe.model, tiny_binary_recipe.train, 1.0),
        (PAPER, tiny_binary_recipe.train, 0.1),
        (PLAIN, tiny_binary_recipe.train, 0.1),
        (SEPARATE, tiny_binary_recipe.train, 0.1),
        (SEPARATE, LadderTrain(importance=2), 0.1),
    ):
        torch.manual_seed(0)
        task = LadderTask(model, schedule)
        for step in range(max(1, model.qualities - 1)):
            task.loss(images, step, rounded)[0].backward()
        groups = [parameter for group in task.parameter_groups() for parameter in group.parameters]
        learning = [parameter for parameter in task.parameters() if parameter.requires_grad]
        assert len({id(p) for p in groups}) == len(groups)
        assert {id(p) for p in groups} == {id(p) for p in learning}
        # A categorical model's embeddings have rows for values that these images lack, so tensors count, not rows.
        unreached = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
        # Binary models of one stage know no pixel before any other.
        assert unreached == (["model.generative.pixels.embedding.weight"] if len(model.stages) == 1 else [])


@pytest.mark.parametrize("model", [PAPER, PLAIN, SEPARATE], ids=["ladder", "bottom-up", "separate"])
def test_the_papers_models_learn(model: LadderConfig, images: Tensor) -> None:
    torch.manual_seed(0)
    task = LadderTask(model, LadderTrain(kl_warmup=0.0))
    optimiser = torch.optim.Adam(task.parameters(), lr=2e-3)
    nats = []
    for step in range(30):
        loss, metrics = task.loss(images, step, step / 30)
        nats.append(float(metrics["nats"]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert nats[-1] < min(nats[0] - 100, 350)  # even chances need 784 log 2 = 543 nats
    values = task.eval().evaluate(images)
    assert all(values[f"kl_q0_z{level}"] >= 0 for level in range(1, 6))
    assert values["nats"] == pytest.approx(sum(values[f"kl_q0_z{n}"] for n in range(1, 6)), abs=400)


@torch.no_grad()
def test_the_plain_posterior_is_drawn_from_the_image_up(images: Tensor) -> None:
    """q(z_1 | x), q(z_2 | z_1): the KL of an upper level hangs on noise below it, that of the ladder's does not."""
    torch.manual_seed(0)
    values = (images > 127).long()
    for model, moves in ((PLAIN, True), (PAPER, False)):
        task = LadderTask(dataclasses.replace(model, batch_norm=False), LadderTrain())
        kl = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            kl.append(terms(task.model, values).kl)
        top = [float(own[-1].sum()) for own in kl]
        assert (top[0] != top[1]) == moves


@torch.no_grad()
def test_a_gaussian_step_is_noise_of_the_posteriors_scale(images: Tensor) -> None:
    """Heads of zero weights say N(0.5, e^-2) everywhere; z is drawn from the product with the prior N(0, 1)."""
    torch.manual_seed(0)
    model = LadderModel(dataclasses.replace(PAPER, latents=(4000,), widths=(8,), grids=(1,), batch_norm=False))
    head = model.inference.heads[0][0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias[:4000], head.bias[4000:] = 0.5, -1.0
    seen: list[Tensor] = []
    hook = model.generative.entries[0][0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = terms(model, (images[:2] > 127).long())
    hook.remove()
    precision = math.exp(2) + 1
    mean, scale = 0.5 * math.exp(2) / precision, precision**-0.5
    assert float(seen[0].mean()) == pytest.approx(mean, abs=5 * scale / math.sqrt(8000))
    assert float(seen[0].std()) == pytest.approx(scale, rel=5 / math.sqrt(2 * 8000))
    kl = 4000 * (0.5 * (scale**2 + mean**2 - 1) - math.log(scale))
    assert found.total_kl.tolist() == pytest.approx([kl, kl], rel=1e-4)


# The start


@pytest.mark.parametrize("patch", [1, 2, 4, 7])
def test_cosine_basis_is_orthonormal_and_rises(patch: int) -> None:
    basis = cosine_basis(patch)
    assert torch.allclose(basis @ basis.T, torch.eye(patch**2), atol=1e-6)
    assert torch.allclose(basis[0], torch.full((patch**2,), 1 / patch))
    rough = [int((row.view(patch, patch).sign().diff(dim=0) != 0).any()) for row in basis]
    assert rough[0] == 0


def test_loudness_is_one_over_the_step_of_quantisation() -> None:
    for weight in (0.001, 0.01, 0.1):
        step = 255 / loudness(weight)
        distortion = step**2 / 12  # of uniform quantisation; at high rate dR/dD = -1 / (2 ln 2 D)
        assert weight == pytest.approx(1 / (2 * math.log(2) * distortion))


def test_a_new_model_renders_the_image(images: Tensor) -> None:
    """The untrained model is a transform codec: with all 16 coefficients of a patch, only rounding loses anything."""
    config = LadderConfig(
        latents=(16, 4), widths=(24, 24), grids=(7, 1), qualities=2, likelihood="categorical", stages=(Stage(16, 8, 1),)
    )
    torch.manual_seed(0)
    task = LadderTask(config, LadderTrain(rd_weights=(0.05,))).eval()
    found = task.evaluate(images)
    step = 255 / loudness(0.05)
    # Uniform quantisation of an orthonormal transform errs by step^2 / 12 at most on average; black patches by nothing.
    ideal = 10 * math.log10(255**2 / (step**2 / 12))
    assert ideal < found["psnr_db_q1"] < ideal + 10


def test_narrow_levels_start_at_random() -> None:
    config = LadderConfig(latents=(4,), widths=(15,), grids=(7,), stages=(Stage(16, 0),), blocks=1)
    torch.manual_seed(0)
    plain = LadderModel(config)
    torch.manual_seed(0)
    task = LadderTask(config, LadderTrain())
    for (name, a), (_, b) in zip(plain.state_dict().items(), task.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


# The loop


def test_resume_is_bit_for_bit(short: LadderRecipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path / "whole")
    steps = 0
    while train(short, images, tmp_path / "parts", resume=steps > 0, max_seconds=-1) is None:
        steps += 1
    assert steps == 5
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 6
    assert torch.equal(whole["rng"][0], parts["rng"][0])
    for name, tensor in whole["task"].items():
        assert torch.equal(tensor, parts["task"][name]), name
    for one, other in zip(whole["optimiser"]["state"].values(), parts["optimiser"]["state"].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_metrics_of_a_run(short: LadderRecipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path, validation=images)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "val_nats" in row]
    assert [row["step"] for row in validated] == [2, 4, 6]
    names = {f"val_kl_q{quality}_z{level}" for quality in range(3) for level in range(1, 4)}
    assert names | {f"val_psnr_db_q{quality}" for quality in range(3)} < validated[0].keys()
    assert {"nats", "kl", "preview_sse", "bits_q2", "sse_q2", "loss"} < rows[-2].keys()
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_training_lowers_the_rate(
    tiny_ladder_recipe: LadderRecipe, images: Tensor, tiny_ladder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    new = LadderTask(tiny_ladder_recipe.model, tiny_ladder_recipe.train).eval().evaluate(images)
    trained, _ = load_task(tiny_ladder_recipe, tiny_ladder.parent)
    values = trained.evaluate(images)
    assert values["nats"] < new["nats"] / 2
    assert values["psnr_db_q2"] > values["psnr_db_q1"]
    assert values["kl_q2_z1"] > values["kl_q1_z1"]
    # The codec's payloads have 8 bits a byte: fixed point costs a few per cent of the tiny model, ends and flag a byte.
    codec = models.load(str(tiny_ladder)).codec
    for setting, names in (
        (0, ["nats"]),
        (1, [f"kl_q1_z{n}" for n in (1, 2, 3)]),
        (2, [f"kl_q2_z{n}" for n in (1, 2, 3)]),
    ):
        bits = np.mean([8 * len(coded.payload) for coded in codec.encode_images(images.numpy(), setting)])
        ideal = sum(values[name] for name in names) / math.log(2)
        assert 0.97 * ideal < bits < 1.03 * ideal + 8


def test_evaluation_changes_nothing(tiny_binary_recipe: LadderRecipe, images: Tensor) -> None:
    torch.manual_seed(0)
    task = LadderTask(tiny_binary_recipe.model, tiny_binary_recipe.train).eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = torch.get_rng_state()
    first = task.evaluate(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert task.evaluate(images) == first
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_evaluation_of_gaussian_latents_draws_the_same(images: Tensor) -> None:
    task = LadderTask(PAPER, LadderTrain()).eval()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = task.evaluate(images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert task.evaluate(images) == first


# Export


def test_export_is_deterministic(short: LadderRecipe, digit_set: Dataset, tmp_path: Path) -> None:
    task = train(short, torch.from_numpy(digit_set.images), tmp_path)
    assert task is not None
    paths = [export(task, short, digit_set, tmp_path / name, steps=6) for name in ("a", "b")]
    reloaded, steps = load_task(short, tmp_path)
    paths.append(export(reloaded, short, digit_set, tmp_path / "c", steps))
    for suffix in (".safetensors", ".md"):
        assert len({path.with_suffix(suffix).read_bytes() for path in paths}) == 1


def test_the_reach_holds_the_latents_of_training(
    tiny_ladder: Path, tiny_binary: Path, digits: NDArray[np.uint8]
) -> None:
    known = binarise(digits, "known images of bernoulli")  # the sample that export measures
    for weights, images in ((tiny_ladder, digits), (tiny_binary, known)):
        codec = models.load(str(weights)).codec
        assert isinstance(codec, LadderCodec)
        reach = codec.reach.clone()
        codec.reach = torch.full_like(reach, len(REACHES) - 1)
        farthest = [[int(k.abs().max()) for k in codec.latents(images, q)] for q in range(codec.config.qualities)]
        codec.reach = reach
        least = [[next(i for i, size in enumerate(REACHES) if size >= far) for far in row] for row in farthest]
        assert reach.tolist() == least


def test_psnr_floors_are_below_every_training_image(tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = models.load(str(tiny_ladder)).codec
    for setting in (1, 2):
        coded = codec.encode_images(digits, setting)
        error = np.stack([one.x_hat for one in coded]).astype(int) - digits
        worst = min(psnr_db(int(square), 784) for square in (error**2).sum((1, 2)))
        # The 0.1 % quantile of eight values lies within 0.05 dB of the worst here; then 1 dB is taken off.
        assert worst - 1.01 <= codec.floor(setting) <= worst - 0.9


def test_description_and_card(tiny_ladder: Path, tiny_binary: Path, digit_set: Dataset) -> None:
    for weights, name, steps, takes in (
        (tiny_ladder, "tiny-ladder", 100, "grey images of 28 x 28"),
        (tiny_binary, "tiny-binary", 100, "black and white (pixels 0 and 255 only) images"),
    ):
        described = weights_file.describe(weights)
        assert (described.name, described.family, described.results["steps"]) == (name, "ladder", steps)
        assert described.config["stages"] == [
            {"until": 4, "width": 8, "blocks": 1}, {"until": 16, "width": 8, "blocks": 1}
        ]  # fmt: skip
        card = " ".join(weights.with_suffix(".md").read_text().split())
        for fact in (f"# {name} ", "Ladder VAE, 3 levels", "2 x 7 x 7, 2 x 7 x 7, 4 x 1 x 1", "in 2 stages", takes,
                     digit_set.licence, weights_file.sha256(weights).hex(), f"vqcodec eval {name}"):  # fmt: skip
            assert fact in card


@pytest.mark.parametrize("model", [PAPER, PLAIN, SEPARATE], ids=["ladder", "bottom-up", "separate"])
def test_gaussian_models_are_exported_but_cannot_code(model: LadderConfig, digit_set: Dataset, tmp_path: Path) -> None:
    recipe = LadderRecipe("gaussian", "mnist", "", model, LadderTrain())
    path = export(LadderTask(model, recipe.train), recipe, digit_set, tmp_path, steps=0)
    assert weights_file.describe(path).config["inference"] == model.inference
    with pytest.raises(
        ModelMismatch, match=f"posterior 'gaussian' and inference '{model.inference}' cannot code images"
    ):
        models.load(str(path))


def test_batch_norm_is_folded_exactly(images: Tensor) -> None:
    """Exact features are the float ones in evaluation, up to the rounding of weights and activations."""
    config = dataclasses.replace(
        PAPER, image_size=7, posterior="uniform", latents=(4, 3), widths=(12, 8), grids=(1, 1), skip=True,
        stages=(Stage(49, 0, 0),),
    )  # fmt: skip
    torch.manual_seed(0)
    small = images[:, ::4, ::4].contiguous()
    task = LadderTask(config, LadderTrain())
    for step in range(20):
        task.loss(small, step, 0.0)  # moves the running statistics
    model = task.eval().model.double().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 2)
            layer.bias.uniform_(-1, 1)
    bits = 12  # finer than the codec's 9, so that the bound below is a sharp one
    exact = to_exact(model.inference, bits)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in exact.modules())
    x, bound = (small[:, None] > 127).double(), 0.0
    y = x * 2**bits
    for level in range(2):
        squeeze = model.inference.squeeze[level]
        inputs, hidden = squeeze(x), model.inference.nets[level][:3](squeeze(x))
        for layer, given in zip((exact.nets[level][0], exact.nets[level][2]), (inputs, hidden), strict=True):
            assert isinstance(layer, ExactConv2d)
            unit = 2.0 ** -int(layer.shift)
            gain = float(layer.weight.double().abs().flatten(1).sum(1).max()) * unit
            # Errors of the input, of weights (half a unit each), and two steps: of the sum's floor and the rectifier's.
            bound = gain * bound + 0.5 * unit * layer.weight[0].numel() * float(given.abs().max()) + 2 * 2**-bits
        x, y = model.inference.up(level, x), exact.up(level, y)
        assert float((y / 2**bits - x).abs().max()) <= bound
        assert bound < 0.25 * float(x.abs().max())


def test_train_command(digit_set: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._LOADERS, "digits8", lambda split, folder: digit_set)
    recipe = tmp_path / "a.toml"
    recipe.write_text(
        'family = "ladder"\nname = "small"\ndata = "digits8"\nnote = ""\n[model]\nlatents = [2]\nwidths = [4]\n'
        "grids = [7]\nblocks = 0\npixel_features = 2\nstages = [{ until = 16, width = 0 }]\n"
        "[train]\nepochs = 3\nbatch_size = 8\n"
    )
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    stopped = CliRunner().invoke(main, [*arguments, "--max-seconds", "0"])
    assert stopped.stdout == "stopped before the end; continue with --resume\n", stopped.output
    finished = CliRunner().invoke(main, [*arguments, "--resume"])
    assert finished.exit_code == 0, finished.output
    path = Path(finished.stdout.strip())
    assert path == tmp_path / "run" / "small.safetensors"
    assert models.load(str(path)).name == "small"


def test_a_run_of_the_other_family_is_not_resumed(
    tiny_recipe: Recipe, short: LadderRecipe, images: Tensor, tmp_path: Path, edited: Callable[..., Path]
) -> None:
    train(short, images, tmp_path, max_seconds=-1)
    with pytest.raises(ConfigError, match="another recipe"):
        train(tiny_recipe, images, tmp_path, resume=True)


# Several samples per image


_TWO = LadderConfig(
    form="mlp", latents=(3, 2), widths=(8, 4), grids=(1, 1), posterior="gaussian", skip=False, leak=3,
    stages=(Stage(784, 0, 0),), pixel_features=1,
)  # fmt: skip
_STAGED = LadderConfig(
    latents=(2, 3), widths=(8, 8), grids=(7, 1), blocks=1, posterior="gaussian", stages=(Stage(4, 6, 1), Stage(16, 0)),
    pixel_features=4,
)  # fmt: skip
GAUSSIANS = {
    "ladder": _TWO,
    "separate": dataclasses.replace(_TWO, top_down="separate"),
    "bottom-up": dataclasses.replace(_TWO, inference="bottom-up"),
    "in stages": _STAGED,
    "categorical": dataclasses.replace(_STAGED, likelihood="categorical"),
}


def new_model(config: LadderConfig) -> LadderModel:
    torch.manual_seed(0)
    return LadderModel(config).eval().requires_grad_(False)


def values_for(config: LadderConfig, images: Tensor) -> Tensor:
    return images.long() if config.values == 256 else (images > 127).long()


@pytest.mark.parametrize("name", GAUSSIANS)
def test_rows_go_sample_by_sample(name: str, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row s * B + b is sample s of image b: without noise, all samples of an image are what one sample is."""
    model, values = new_model(GAUSSIANS[name]), values_for(GAUSSIANS[name], images[:3])
    noisy = terms(model, values, samples=4).log_weights().view(4, 3)
    assert bool((noisy[0] != noisy[1]).all())
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    one, many = terms(model, values), terms(model, values, samples=4)
    assert one.log_likelihood is not None
    assert many.log_likelihood is not None
    # Other batches sum in another order: float32 likelihoods of up to 5,000 nats differ by some thousandths.
    torch.testing.assert_close(many.log_likelihood, one.log_likelihood.repeat(4), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(many.log_weights(), one.log_weights().repeat(4), rtol=1e-5, atol=1e-4)
    for several, single in zip(many.kl, one.kl, strict=True):
        torch.testing.assert_close(several, single.repeat(4, 1), rtol=1e-4, atol=1e-5)
    for several, single in zip(many.latents, one.latents, strict=True):
        torch.testing.assert_close(several.mean, single.mean.repeat(4, 1, 1, 1), rtol=1e-4, atol=1e-5)
    assert len(one.log_likelihood.unique()) == 3


@pytest.mark.parametrize("name", ["ladder", "bottom-up"])
def test_log_weights_are_log_densities(name: str, images: Tensor) -> None:
    found = terms(new_model(GAUSSIANS[name]), (images > 127).long(), samples=500)
    assert found.log_likelihood is not None
    ratio = torch.zeros(())
    for own in found.latents:
        q, p = norm(own.mean, own.log_scale.exp()), norm(own.prior_mean, own.prior_log_scale.exp())
        ratio = ratio + torch.from_numpy(q.logpdf(own.z) - p.logpdf(own.z)).flatten(1).sum(1)
    for weight in (0.0, 0.25, 1.0):
        expected = found.log_likelihood - weight * ratio
        torch.testing.assert_close(found.log_weights(weight), expected.float(), rtol=1e-6, atol=1e-3)
    difference = (ratio - found.total_kl).double()  # a sampled KL is the KL on average
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(len(difference))
    assert float(difference.std()) > 0.1


def test_importance_bound() -> None:
    torch.manual_seed(0)
    weights = 3 * torch.randn(7, 5, dtype=torch.float64) - 1000  # whose exponentials are all zero
    expected = np.log(np.exp(weights.numpy() + 1000).mean(0)) - 1000
    np.testing.assert_allclose(importance_bound(weights).numpy(), expected, rtol=1e-12)
    assert torch.equal(importance_bound(weights[:1]), weights[0])
    assert bool((importance_bound(weights) > weights.mean(0)).all())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("samples", [2, 5])
def test_the_loss_of_several_samples_is_their_bound(samples: int, batch_norm: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    model = dataclasses.replace(_TWO, batch_norm=batch_norm)
    task = LadderTask(model, LadderTrain(importance=samples, kl_warmup=0.5))
    for progress, weight in ((0.0, 0.0), (0.125, 0.25), (0.7, 1.0)):
        torch.manual_seed(1)
        loss, metrics = task.loss(images, 0, progress)
        torch.manual_seed(1)
        with torch.no_grad():
            found = terms(task.model, task.values(images), samples=samples)
        weights = found.log_weights(weight).view(samples, 8)
        assert float(loss.detach()) == pytest.approx(-float(importance_bound(weights).mean()), rel=1e-5)
        assert float(loss.detach()) < -float(weights.mean())  # Jensen
        assert found.log_likelihood is not None
        kl, likelihood = float(found.total_kl.mean()), float(found.log_likelihood.mean())
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
            {"nats": kl - likelihood, "kl": kl, "log_likelihood": likelihood}, rel=1e-5
        )


def test_importance_weighted_training_lowers_the_bound(images: Tensor, tmp_path: Path) -> None:
    schedule = LadderTrain(
        epochs=25, batch_size=8, learning_rate=1e-2, ladder_rate=1.0, warmup_steps=5, importance=4, schedule="constant"
    )
    recipe = LadderRecipe("a", "mnist", "", GAUSSIANS["separate"], schedule)
    new = LadderTask(recipe.model, schedule).eval().evaluate(images)["nats"]
    task = train(recipe, images, tmp_path)
    assert task is not None
    assert task.eval().evaluate(images)["nats"] < 0.6 * new


@torch.no_grad()
def test_the_separate_pass_with_the_priors_weights_is_the_shared_one(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with others it is not, below the top; what z is measured against stays the prior."""
    shared, separate = new_model(PAPER), new_model(SEPARATE)
    own = {name for name in separate.state_dict() if name.startswith(("inference.down_nets.", "inference.down_heads."))}
    assert separate.state_dict().keys() - own == shared.state_dict().keys()
    separate.load_state_dict(shared.state_dict() | {name: separate.state_dict()[name] for name in own})
    values = (images > 127).long()
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    one, other = terms(shared, values).latents, terms(separate, values).latents
    assert torch.equal(one[0].mean, other[0].mean)
    assert torch.equal(one[1].prior_mean, other[1].prior_mean)
    assert not torch.allclose(one[1].mean, other[1].mean, atol=1e-3)
    for level in range(4):
        separate.inference.down_nets[level].load_state_dict(shared.generative.nets[level + 1].state_dict())
        separate.inference.down_heads[level].load_state_dict(shared.generative.heads[level][0].state_dict())
    for first, second in zip(one, terms(separate, values).latents, strict=True):
        assert torch.equal(first.z, second.z)
        assert torch.equal(first.log_scale, second.log_scale)


# Densities of latents and pixels


def test_log_densities_are_those_of_scipy() -> None:
    torch.manual_seed(0)
    z, mean, log_scale = (2 * torch.randn(1000, dtype=torch.float64) for _ in range(3))
    expected = norm.logpdf(z, mean, log_scale.exp())
    np.testing.assert_allclose(gaussian_log_density(z, mean, log_scale).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("values", [1, 2, 16])
def test_pixel_nats_are_those_of_the_tables(values: int, samples: int) -> None:
    """values: columns of the table; a single one is that of 1 against 0."""
    torch.manual_seed(0)
    scores = 3 * torch.randn(samples * 2, 5, values, dtype=torch.float64)
    symbols = torch.randint(0, max(2, values), (2, 5))
    mass = PixelStep(0, 0, scores).logits.softmax(-1).numpy()
    expected = [
        -sum(math.log(mass[row, n, int(symbols[row % 2, n])]) for n in range(5)) for row in range(samples * 2)
    ]  # fmt: skip
    assert pixel_nats(PixelStep(0, 0, scores), symbols).tolist() == pytest.approx(expected, rel=1e-10)
    coarse = scores.bfloat16()
    found = pixel_nats(PixelStep(0, 0, coarse), symbols)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(pixel_nats(PixelStep(0, 0, coarse.double()), symbols).tolist(), rel=1e-5)


def test_certain_pixels_cost_nothing() -> None:
    symbols = torch.tensor([[1, 0, 1, 0]])
    sure = torch.tensor([[[300.0], [-300.0], [300.0], [-300.0]]])
    assert pixel_nats(PixelStep(0, 0, sure), symbols).tolist() == [0.0]
    assert pixel_nats(PixelStep(0, 0, -sure), symbols).tolist() == [1200.0]


def test_evaluation_counts_active_units(images: Tensor) -> None:
    config = dataclasses.replace(PLAIN, latents=(3,), widths=(8,), grids=(1,), batch_norm=False)
    task = LadderTask(config, LadderTrain()).eval()
    head = task.model.inference.heads[0][0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.1, 1.0, 0.0, 0.0, 0.0]))  # half a mean's square, against N(0, 1)
    found = task.evaluate(images, batch_size=3)
    assert found["active_q0_z1"] == 1  # 0, 0.005 and 0.5 nats
    assert found["kl_q0_z1"] == pytest.approx(0.505, rel=1e-5)
