"""The comparison of likelihoods: the mixture is a distribution, and both heads learn."""

import numpy as np
import torch

from vqcodec.eval.likelihood import HEADS, compare, mixture_nats


def test_mixture_is_a_distribution() -> None:
    parameters = torch.randn(3, 5, 30, generator=torch.Generator().manual_seed(1))
    mass = sum(torch.exp(-mixture_nats(parameters, torch.full((3, 5), value))) for value in range(256))
    torch.testing.assert_close(mass, torch.ones(3, 5), atol=2e-4, rtol=0)  # float32 sums of 256 terms


def test_both_heads_learn(digits: np.ndarray) -> None:
    images = torch.from_numpy(digits)
    short, longer = (compare(images, images, steps, batch_size=8) for steps in (1, 25))
    assert [row.head for row in longer] == list(HEADS)
    assert all(after.bits_per_pixel < 0.7 * before.bits_per_pixel for before, after in zip(short, longer, strict=True))
