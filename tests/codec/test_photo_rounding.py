"""Rounding by rate and distortion: the better of two integers, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from vqcodec.codec.photo.config import PhotoConfig
from vqcodec.codec.photo.rounding import price, rounded


def bits(k: int, scale: float) -> float:
    edges = [0.5 * math.erfc(-(k + half) / scale / math.sqrt(2)) for half in (-0.5, 0.5)]
    return -math.log2(edges[1] - edges[0])


@pytest.mark.parametrize("worth", [0.01, 0.1, 1.0])
def test_the_better_of_the_two_integers(worth: float) -> None:
    offset = torch.linspace(-4.4, 4.4, 200, dtype=torch.float32).view(2, 1, 10, 10)
    scale, gain = torch.full_like(offset, 0.9), torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)
    found = rounded(offset, scale, gain, worth)
    for image in range(2):
        for o, k in zip(offset[image].flatten().tolist(), found[image].flatten().tolist(), strict=True):
            near = round(o)
            choices = (near, near - (near > 0) + (near < 0))
            error = worth / float(gain[image]) ** 2
            assert k == min(choices, key=lambda each, o=o, error=error: bits(each, 0.9) + error * (o - each) ** 2)
    assert (found.abs() <= offset.round().abs()).all()
    assert (found != offset.round()).any()


def test_the_nearest_where_errors_are_dear_or_nothing_is_asked() -> None:
    torch.manual_seed(0)
    offset = 40 * torch.randn(1, 3, 8, 8)
    for worth in (0.0, 1e9):
        assert torch.equal(rounded(offset, torch.full_like(offset, 5.0), torch.ones(1, 3, 1, 1), worth), offset.round())
    far = torch.full((1, 1, 1, 2), 1e6)
    assert rounded(far, torch.ones_like(far), torch.ones(1, 1, 1, 1), 0.0).max() < 2**15


def test_errors_are_dearer_at_higher_quality() -> None:
    prices = [price(PhotoConfig(), quality) for quality in (1, 50, 100)]
    assert prices == sorted(prices)
