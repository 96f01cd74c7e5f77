"""The VQ family: schedule, quantiser, the walk, and the codec's law."""

import numpy as np
import pytest
import torch

from vqcodec.codec.vq.config import Level, VQConfig
from vqcodec.codec.vq.model import VQModel
from vqcodec.codec.vq.prior import walk
from vqcodec.codec.vq.quantiser import ResidualQuantiser, choose, pool, unpool, usage
from vqcodec.codec.vq.schedule import interleaving_rank, schedule

CPU = torch.device("cpu")
SMALL = VQConfig(
    width=8, latent_dim=4, prior_width=16, prior_embed=4, prior_head=8,
    levels=(Level(16, 2, (16, 64)), Level(8, 1, (4, 16, 64))),
)  # fmt: skip


def test_rank_is_a_permutation_of_the_tile() -> None:
    assert sorted(interleaving_rank(8, 8).flatten().tolist()) == list(range(64))
    assert interleaving_rank(3, 20).shape == (3, 20)
    assert torch.equal(interleaving_rank(16, 16)[8:, 8:], interleaving_rank(8, 8))


def test_schedule_visits_every_position_once_and_knows_only_the_past() -> None:
    seen: list[set[int]] = [set(), set()]
    for number, step in enumerate(schedule(SMALL)):
        assert step.number == number
        for level, known in enumerate(step.known):
            assert set(known.tolist()) == seen[level]
        assert not seen[step.level] & set(step.positions.tolist())
        seen[step.level] |= set(step.positions.tolist())
    assert seen == [set(range(16)), set(range(49))]


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 27}, {"image_size": 0}, {"codebook": "other"}, {"levels": ()},
        {"levels": tuple(Level() for _ in range(5))},
    ],
)  # fmt: skip
def test_impossible_configurations_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="found"):
        VQConfig(**values)


@pytest.mark.parametrize(
    "values", [{"codes": 1}, {"codes": 40000}, {"stride": 0}, {"stages": (4, 2, 64)}, {"stages": (4,)}, {"stages": ()}]
)
def test_impossible_levels_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="found"):
        Level(**values)


def test_pool_and_unpool_of_a_grid_that_the_stride_does_not_divide() -> None:
    z = torch.arange(9.0).view(1, 1, 3, 3)
    assert pool(z, 2).tolist() == [[[[2.0, 3.5], [6.5, 8.0]]]]
    assert unpool(pool(z, 2), 2, 3).tolist() == [[[[2.0, 2.0, 3.5], [2.0, 2.0, 3.5], [6.5, 6.5, 8.0]]]]
    assert pool(z, 1) is z
    assert unpool(z, 1, 3) is z


def test_usage_of_known_indices() -> None:
    even = usage(torch.tensor([0, 1, 2, 3] * 5), 8)
    assert even.used == 0.5
    assert even.perplexity == pytest.approx(4.0, rel=1e-12)
    assert usage(torch.zeros(3, dtype=torch.int64), 8).perplexity == pytest.approx(1.0, rel=1e-12)


def test_without_rate_weight_the_nearest_code_is_chosen_level_by_level() -> None:
    torch.manual_seed(0)
    model = VQModel(SMALL).eval().requires_grad_(False)
    z = torch.randn(5, 4, 7, 7)
    indices = choose(walk(model.prior, 5, 2, CPU), model.quantiser, z, [0.0, 0.0], lambda *_: None)
    residual = z
    for level, index in enumerate(indices):
        vectors = model.quantiser.vectors(level, residual)
        assert torch.equal(torch.cdist(vectors, model.quantiser.codebooks[level].expand(5, -1, -1)).argmin(-1), index)
        residual = residual - model.quantiser.embed(level, index)


def test_a_rate_weight_buys_shorter_codes_for_distance() -> None:
    torch.manual_seed(0)
    model = VQModel(SMALL).eval().requires_grad_(False)
    torch.nn.init.normal_(model.prior.offsets[0].table, std=3.0)
    z = torch.randn(64, 4, 7, 7)
    rates, distances = [], []
    for weight in (0.0, 0.3, 3.0):
        bits = []
        indices = choose(
            walk(model.prior, 64, 1, CPU), model.quantiser, z, [weight, weight],
            lambda _, lengths, symbols, bits=bits: bits.append(lengths.gather(-1, symbols[..., None]).sum().item()),
        )  # fmt: skip
        rates.append(sum(bits))
        residual = model.quantiser.vectors(0, z) - model.quantiser.codebooks[0][indices[0]]
        distances.append(float(residual.square().sum()))
    assert rates[0] > rates[1] > rates[2]
    assert distances[0] < distances[1] < distances[2]


def test_ema_codebook_moves_to_the_mean_of_its_vectors() -> None:
    quantiser = ResidualQuantiser(VQConfig(latent_dim=2, levels=(Level(4),)))
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    index = torch.tensor([[1, 1, 2]])
    for _ in range(3000):
        quantiser.update(0, vectors, index)
    # count and total both tend to the batch's; epsilon 1e-5 in the denominator moves the quotient by 1e-5 relative
    assert torch.allclose(quantiser.codebooks[0][1], torch.tensor([2.0, 3.0]), rtol=1e-4)
    assert torch.allclose(quantiser.codebooks[0][2], torch.tensor([9.0, 9.0]), rtol=1e-4)


def test_dead_codes_restart_on_vectors_of_the_batch() -> None:
    quantiser = ResidualQuantiser(VQConfig(latent_dim=2, levels=(Level(4),)))
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    for _ in range(1000):
        quantiser.update(0, vectors, torch.tensor([[0, 0]]))
    assert quantiser.restart(0, vectors, threshold=0.1) == 3
    for row in quantiser.codebooks[0][1:]:
        assert row.tolist() in vectors[0].tolist()
    assert quantiser.restart(0, vectors, threshold=0.1) == 0


def test_gradient_codebooks_are_left_to_the_optimiser() -> None:
    quantiser = ResidualQuantiser(VQConfig(latent_dim=2, codebook="gradient", levels=(Level(4),)))
    before = quantiser.codebooks[0].detach().clone()
    quantiser.update(0, torch.ones(1, 1, 2), torch.tensor([[1]]))
    assert quantiser.codebooks[0].requires_grad
    assert torch.equal(before, quantiser.codebooks[0])


def test_batches_are_coded_as_their_images_are() -> None:
    from vqcodec.codec.vq.codec import VQCodec

    torch.manual_seed(1)
    codec = VQCodec(VQModel(SMALL).eval(), [0.05, 0.05])
    pixels = np.random.default_rng(0).integers(0, 256, (9, 28, 28), np.uint8)
    for levels in (1, 2):
        payloads, indices = codec.encode(pixels, levels)
        singly = [codec.encode(pixels[n : n + 1], levels)[0][0] for n in range(9)]
        assert payloads == singly
        x_hat = codec.reconstruct(indices, levels)
        assert np.array_equal(codec.decode(payloads, levels), x_hat)
        assert np.array_equal(np.concatenate([codec.decode([p], levels) for p in payloads]), x_hat)
        assert all(torch.equal(a, b) for a, b in zip(codec.decode_indices(payloads, levels), indices, strict=True))
