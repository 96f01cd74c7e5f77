"""`vqcodec eval` of ladders with a Gaussian posterior, on a tiny trained model and eight real digits."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vqcodec.bitstream.errors import ModelMismatch
from vqcodec.cli import main
from vqcodec.codec import weights_file
from vqcodec.codec.exact.export import to_exact
from vqcodec.codec.exact.layers import ExactLeaky, Leaky, Offset
from vqcodec.codec.ladder.model import LadderModel
from vqcodec.codec.ladder.network import Dense
from vqcodec.eval import gaussian, model
from vqcodec.eval.dequantised import natural
from vqcodec.eval.gaussian import Evaluation
from vqcodec.eval.nll import BoundsError, bounds
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset, binarise

KS = (1, 10, 500)


@pytest.fixture(scope="module")
def result(tiny_gaussian: Path, binary_set: Dataset) -> Evaluation:
    return gaussian.measure(str(tiny_gaussian), binary_set, samples=KS)


@pytest.fixture
def loaded(tiny_gaussian: Path) -> LadderModel:
    return gaussian.load(str(tiny_gaussian)).model


@pytest.fixture
def values(binary_digits: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(binary_digits > 0).long()


# Numbers


def test_subject(result: Evaluation, tiny_gaussian: Path, binary_set: Dataset) -> None:
    assert (result.model, result.family, result.data, result.split) == ("tiny-gaussian", "ladder", "mnist", "test")
    assert result.weights == weights_file.sha256(tiny_gaussian).hex()
    assert (result.images, result.pixels, result.precision) == (8, binary_set.sha256, "bf16")
    assert result.seconds > 0


def test_bounds_fall_as_samples_grow(result: Evaluation) -> None:
    nats = [bound.nats for bound in result.bounds]
    assert [bound.samples for bound in result.bounds] == list(KS)
    assert nats[0] > nats[1] + 5 > nats[2] + 6
    assert result.elbo_nats > nats[1]  # all 500 samples are in the ELBO, so it is no noisier than the bounds
    assert 0 < nats[2] < 784 * math.log(2)  # what even chances need


def test_bounds_are_those_of_the_log_weights(
    loaded: LadderModel, values: Tensor, tiny_gaussian: Path, binary_set: Dataset
) -> None:
    found = gaussian.measure(str(tiny_gaussian), binary_set, samples=(7, 3), precision="float32")
    torch.manual_seed(0)
    expected = bounds(lambda x, k: gaussian.log_weights(loaded, x, k), values, [3, 7])
    assert found.elbo_nats == pytest.approx(-float(expected.elbo.mean()))
    assert found.elbo_bpd == pytest.approx(found.elbo_nats / math.log(2) / 784)
    assert [bound.samples for bound in found.bounds] == [3, 7]
    for bound in found.bounds:
        nats = -expected.importance[bound.samples].numpy()
        assert bound.nats == pytest.approx(nats.mean())
        assert bound.bpd == pytest.approx(nats.mean() / math.log(2) / 784)
        assert bound.error_nats == pytest.approx(nats.std(ddof=1) / math.sqrt(8))


def test_elbo_is_likelihood_less_kl(result: Evaluation) -> None:
    """One sample of each of eight images, whose log p(x | z) varies by some 20 nats, beside 500."""
    assert -result.log_likelihood_nats + result.kl_nats == pytest.approx(result.elbo_nats, abs=4 * 20 / math.sqrt(8))


def test_levels(result: Evaluation) -> None:
    assert [(level.level, level.latents) for level in result.levels] == [(1, 6), (2, 4), (3, 2)]
    assert result.kl_nats == pytest.approx(sum(level.kl_nats for level in result.levels))
    assert result.kl_nats > math.log(2)  # the latents tell the digits apart
    for level in result.levels:
        assert len(level.unit_kl_nats) == level.latents
        assert level.unit_kl_nats == sorted(level.unit_kl_nats, reverse=True)
        assert sum(level.unit_kl_nats) == pytest.approx(level.kl_nats)
        assert level.active == sum(nats > 0.01 for nats in level.unit_kl_nats)
        assert 0 <= level.varying <= level.latents


def test_kl_and_means_are_those_of_the_posterior(loaded: LadderModel, values: Tensor) -> None:
    levels = gaussian.numbers(loaded, values, [1]).levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ((drawn, likelihood),) = gaussian.drawn(loaded, values)
    assert likelihood.shape == (8,)
    for level, own in zip(levels, drawn, strict=True):
        q, p = (
            Normal(mean.double(), log_scale.double().exp())
            for mean, log_scale in ((own.mean, own.log_scale), (own.prior_mean, own.prior_log_scale))
        )
        kl = kl_divergence(q, p).flatten(1).mean(0)
        # Sums of six float32 terms near 1, each right to some 1e-7.
        assert level.unit_kl_nats == pytest.approx(sorted(kl.tolist(), reverse=True), abs=1e-5)
        assert level.varying == int((own.mean.flatten(1).var(0, correction=0) > 0.01).sum())


def test_idle_units_are_not_counted(loaded: LadderModel, values: Tensor) -> None:
    """Of the two units at the top, one is made the prior whatever the image, the other nearly the same for all."""
    before = gaussian.numbers(loaded, values, [1]).levels[2]
    assert (before.active, before.varying) == (2, 2)
    head = loaded.inference.heads[2][0]
    slightly = loaded.inference.heads[2][0].weight[1] / 20
    head.weight.zero_()
    head.weight[1] = slightly
    head.bias.copy_(torch.tensor([0.0, 2.0, 9.0, 0.0]))  # means, log scales: limited to 4, so hardly any precision
    level = gaussian.numbers(loaded, values, [1]).levels[2]
    assert (level.active, level.varying) == (1, 0)
    ((drawn, _),) = gaussian.drawn(loaded, values)
    assert 1e-6 < float(drawn[2].mean[:, 1].var(correction=0)) < 0.01
    # N(2, 1) merged with N(0, 1) is N(1, 1/2), and the other unit is the prior but for e^-8 of its variance.
    kl = 0.5 * (0.5 + 1 - 1 + math.log(2))
    assert level.unit_kl_nats == pytest.approx([kl, 0.0], rel=0.05, abs=1e-3)


def test_numbers_are_the_same_every_time(result: Evaluation, tiny_gaussian: Path, binary_set: Dataset) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = gaussian.measure(str(tiny_gaussian), binary_set, samples=KS[::-1])
    assert torch.equal(torch.get_rng_state(), state)
    same = {"seconds": result.seconds, "environment": result.environment}
    assert dataclasses.replace(again, **same) == result


@pytest.mark.slow
def test_processes_give_the_bounds_of_one(
    loaded: LadderModel, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever computes a batch of 50 images draws the same samples for it; 100 of 128 images are one process's."""
    values = torch.from_numpy(binarise(np.tile(digits, (16, 1, 1)), "tests") > 0).long()
    alone = gaussian.numbers(loaded, values, [1, 20], "float32")
    monkeypatch.setattr(gaussian, "_WORTH_PROCESSES", 128 * 20)
    started: list[int] = []
    pool = gaussian.ProcessPoolExecutor

    def counted(workers: int, **options: Any) -> ProcessPoolExecutor:
        started.append(workers)
        return pool(workers, **options)

    monkeypatch.setattr(gaussian, "ProcessPoolExecutor", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = gaussian.numbers(loaded, values, [20, 1], "float32")
    finally:
        torch.set_num_threads(threads)
    assert started == [2]
    assert found.elbo_nats == pytest.approx(alone.elbo_nats, rel=1e-6)
    assert [bound.samples for bound in found.bounds] == [1, 20]
    for one, other in zip(found.bounds, alone.bounds, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-6)
    gaussian.numbers(loaded, values, [19], "float32")
    assert started == [2]  # fewer samples are not worth it


def test_a_single_image_has_no_standard_error(tiny_gaussian: Path, binary_set: Dataset) -> None:
    found = gaussian.measure(str(tiny_gaussian), binary_set, limit=1, samples=(2,))
    assert (found.images, found.bounds[0].error_nats) == (1, 0.0)
    assert all(level.varying == 0 for level in found.levels)


@pytest.mark.parametrize("values", [
    {"inference": "bottom-up"}, {"top_down": "separate"}, {"batch_norm": True, "skip": True},
    {"likelihood": "categorical", "form": "conv", "grids": (7, 7), "stages": ((4, 6, 1), (16, 0, 0))},
], ids=["bottom-up", "separate", "skip", "categorical"])  # fmt: skip
def test_other_gaussian_models_are_measured(
    values: dict[str, Any], untrained: Callable[..., Path], digit_set: Dataset, binary_set: Dataset
) -> None:
    own = {"form": "mlp", "latents": (3, 2), "widths": (8, 4), "grids": (1, 1), "skip": False} | values
    stages = own.pop("stages", ((784, 0, 0),))
    weights = untrained(stages, posterior="gaussian", pixel_features=1, **own)
    data = digit_set if own.get("likelihood") == "categorical" else binary_set
    found = gaussian.measure(str(weights), data, samples=(1, 20))
    side = own["grids"][0]
    assert [level.latents for level in found.levels] == [3 * side**2, 2 * side**2]
    assert found.kl_nats == pytest.approx(sum(level.kl_nats for level in found.levels))
    assert found.bounds[1].nats < found.elbo_nats
    assert min(nats for level in found.levels for nats in level.unit_kl_nats) > -1e-6  # float32


# Models


def test_weights_are_float32_and_fixed(loaded: LadderModel) -> None:
    tensors = list(loaded.state_dict().values())
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in loaded.modules())


def test_loading_leaves_the_random_state_alone(tiny_gaussian: Path) -> None:
    state = torch.get_rng_state()
    gaussian.load(str(tiny_gaussian))
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_natural_layers_are_the_float_ones() -> None:
    torch.manual_seed(0)
    offset = Offset(3, 5)
    nn.init.normal_(offset.table)
    for bits, layer, x in (
        (4, nn.Linear(6, 4), torch.randn(5, 6)),
        (4, nn.Conv2d(2, 3, 3, 2, 1), torch.randn(2, 2, 6, 6)),
        (4, Dense(3, 2, 1), torch.randn(2, 3, 1, 1)),
        (12, nn.Embedding(7, 3), torch.arange(7)),
        (12, offset, torch.randn(2, 3, 5)),
        (12, Leaky(3), torch.randn(9)),
        (4, nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()).eval(), torch.randn(2, 1, 1, 1)),
    ):
        back = natural(to_exact(layer, bits), bits)
        # Tables err by 2**-13, weights below 1 by 2**-15, in at most 18 products. The rounding half would be 2**-5.
        found = back(x if x.dtype == torch.int64 else x.double()).float()
        torch.testing.assert_close(found, layer(x), rtol=0, atol=2e-3)
    assert isinstance(natural(to_exact(Dense(3, 2, 1), 9), 9), Dense)
    assert not isinstance(natural(to_exact(nn.Conv2d(3, 2, 1, 2), 9), 9), Dense)
    assert isinstance(natural(ExactLeaky(2), 9), Leaky)


def test_other_models_have_no_gaussian_posterior(tiny_model: Path, tiny_ladder: Path, tiny_binary: Path) -> None:
    for weights, name in ((tiny_model, "tiny"), (tiny_ladder, "tiny-ladder"), (tiny_binary, "tiny-binary")):
        with pytest.raises(BoundsError, match=f"^{name} has no Gaussian posterior: its bound is the code length"):
            gaussian.load(str(weights))


def test_weights_that_do_not_fit_are_refused(
    tiny_gaussian: Path, tiny_binary: Path, edited: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelMismatch, match="the weights do not match their configuration"):
        gaussian.load(str(edited(tiny_gaussian, tmp_path / "a.safetensors", widths=[8, 8, 8])))
    with pytest.raises(ModelMismatch, match="the weights do not match their configuration"):
        gaussian.load(str(edited(tiny_binary, tmp_path / "b.safetensors", posterior="gaussian")))
    with pytest.raises(ModelMismatch, match="unknown key 'colour'"):
        gaussian.load(str(edited(tiny_gaussian, tmp_path / "c.safetensors", colour=1)))


def test_values(loaded: LadderModel, binary_set: Dataset, digit_set: Dataset) -> None:
    values = gaussian.values_of(loaded, binary_set, 3)
    assert values.dtype == torch.int64
    assert np.array_equal(values.numpy() * 255, binary_set.images[:3])
    loaded.config = dataclasses.replace(loaded.config, likelihood="categorical")
    assert np.array_equal(gaussian.values_of(loaded, digit_set).numpy(), digit_set.images)


# The command line


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def test_command_line(tiny_gaussian: Path, binary8: str, result: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    samples = [word for k in KS for word in ("--samples", k)]
    text = run(tiny_gaussian, "--data", binary8, *samples, "--out", out)
    assert text.exit_code == 0, text.output
    written = json.loads(out.read_text())
    assert written.keys() == {field.name for field in dataclasses.fields(Evaluation)}
    assert model.kind(written) == "gaussian"
    assert model.table(written) == gaussian.table(written) == text.stdout.rstrip("\n")
    assert written["environment"]["threads"] == torch.get_num_threads()
    same = {name: written[name] for name in ("seconds", "environment")}
    assert written == dataclasses.asdict(result) | same


def test_table(result: Evaluation) -> None:
    rows = [re.split("  +", line) for line in gaussian.table(dataclasses.asdict(result)).splitlines()]
    assert rows[0] == ["tiny-gaussian on mnist test, 8 images"]
    for row in (
        ["-ELBO, nats/image", f"{result.elbo_nats:.3f}"],
        ["-ELBO, bits/dim", f"{result.elbo_bpd:.4f}"],
        ["KL, nats/image", f"{result.kl_nats:.3f}"],
        ["log p(x | z), nats/image", f"{result.log_likelihood_nats:.3f}"],
        ["", "k = 1", "k = 10", "k = 500"],
        ["-L_k, nats/image", *(f"{bound.nats:.3f}" for bound in result.bounds)],
        ["", "standard error over images", *(f"{bound.error_nats:.3f}" for bound in result.bounds)],
        ["-L_k, bits/dim", *(f"{bound.bpd:.4f}" for bound in result.bounds)],
        ["", "z1", "z2", "z3"],
        ["latents", "6", "4", "2"],
        ["active units (KL > 0.01 nats)", *(str(level.active) for level in result.levels)],
        ["units of varying mean (variance > 0.01)", *(str(level.varying) for level in result.levels)],
        ["KL, nats/image", *(f"{level.kl_nats:.3f}" for level in result.levels)],
    ):
        assert row in rows


def test_defaults_and_options(tiny_gaussian: Path, binary8: str) -> None:
    plain = json.loads(run(tiny_gaussian, "--data", binary8, "--json").stdout)
    assert [bound["samples"] for bound in plain["bounds"]] == [1, 50, 500]
    assert (plain["precision"], plain["images"]) == ("bf16", 8)
    asked = run(tiny_gaussian, "--data", binary8, "--json", "--limit", 3, "--samples", 2, "--precision", "float32")
    found = json.loads(asked.stdout)
    assert ([bound["samples"] for bound in found["bounds"]], found["precision"], found["images"]) == ([2], "float32", 3)


def refused(*arguments: object, code: int = 1) -> str:
    """What a command says that fails: one line, unless it was typed wrongly."""
    failed = run(*arguments)
    assert failed.exit_code == code, failed.output
    assert failed.stdout == ""
    if code == 1:
        assert len(failed.stderr.splitlines()) == 1
        assert failed.stderr.startswith("Error: ")
    return failed.stderr


def test_images_that_it_does_not_take(
    tiny_gaussian: Path, digits8: str, digit_set: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "those of mnist are grey: use mnist-binary" in refused(tiny_gaussian, "--data", digits8)
    small = dataclasses.replace(digit_set, images=np.zeros((2, 14, 14), np.uint8))
    monkeypatch.setitem(datasets._LOADERS, "small", lambda split, folder: small)
    error = refused(tiny_gaussian, "--data", "small")
    assert "takes images of 28 pixels a side, found (2, 14, 14)" in error


def test_models_without_importance_weights(
    tiny_model: Path, tiny_ladder: Path, tiny_binary: Path, binary8: str
) -> None:
    for weights, name in ((tiny_model, "tiny"), (tiny_ladder, "tiny-ladder"), (tiny_binary, "tiny-binary")):
        for option in (["--samples", 5], ["--precision", "float32"]):
            error = refused(weights, "--data", binary8, *option)
            assert error == (
                f"Error: {name} has no Gaussian posterior: its bound is the code length, without importance weights\n"
            )


def test_options_typed_wrongly(tiny_gaussian: Path, binary8: str) -> None:
    assert "0 is not in the range x>=1" in refused(tiny_gaussian, "--data", binary8, "--samples", 0, code=2)
    assert "'fp8' is not one of" in refused(tiny_gaussian, "--data", binary8, "--precision", "fp8", code=2)


def test_unknown_models(binary8: str, tmp_path: Path) -> None:
    assert "no model 'no-such'; this build has " in refused("no-such", "--data", binary8, "--samples", 5)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"")
    assert "cannot be read as vqcodec weights" in refused(foreign, "--data", binary8)
