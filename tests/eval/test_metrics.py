"""Metrics against scikit-image's numbers and against their definitions, evaluated directly in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.eval import metrics

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"
REPEATED = 1e-9  # scikit-image's values below are printed to 10 digits


def crossed(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The digits with every fifth pixel inverted: far from the originals, the same on every machine."""
    return np.where(np.arange(784).reshape(28, 28) % 5 == 0, 255 - digits, digits).astype(np.uint8)


def test_ssim_of_digits_is_scikit_images(digits: NDArray[np.uint8]) -> None:
    # skimage 0.26 structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    expected = [0.2782571131, 0.3770093268, 0.1705065565, 0.4404497247, 0.3566651964, 0.2104133609, 0.3644740861,
                0.2980246467]  # fmt: skip
    assert metrics.ssim(digits, crossed(digits)) == pytest.approx(expected, abs=REPEATED)


def test_ssim_of_colour_is_scikit_images() -> None:
    photo = np.asarray(Image.open(PHOTO))[None]
    assert metrics.ssim(photo, photo // 16 * 16) == pytest.approx([0.918433528], abs=REPEATED)  # channel_axis=2


def test_equal_images() -> None:
    photo = np.asarray(Image.open(PHOTO).resize((200, 180)))[None]
    assert metrics.distortion(photo, photo) == metrics.Distortion(0.0, 99.0, 99.0, 1.0, 1.0)


def windows_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over all windows of SSIM and of its contrast-structure part, window by window (Wang et al. 2004)."""
    ramp = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(ramp, ramp) / ramp.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    full, structure = [], []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (weight * x).sum(), (weight * y).sum()
            vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
            cov = (weight * (x - mx) * (y - my)).sum()
            structure.append((2 * cov + c2) / (vx + vy + c2))
            full.append((2 * mx * my + c1) / (mx * mx + my * my + c1) * structure[-1])
    return float(np.mean(full)), float(np.mean(structure))


def test_ms_ssim_is_its_definition() -> None:
    photo = np.asarray(Image.open(PHOTO).convert("L").resize((177, 176)))
    coarse = np.asarray(Image.fromarray(photo).resize((44, 44)).resize((177, 176)))
    a, b, expected = photo.astype(np.float64), coarse.astype(np.float64), 1.0
    for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        if scale:
            a, b = (
                v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2].reshape(v.shape[0] // 2, 2, -1, 2).mean((1, 3))
                for v in (a, b)
            )
        full, structure = windows_ssim(a, b)
        expected *= (full if scale == 4 else structure) ** weight
    assert 0.3 < expected < 0.99
    assert metrics.ms_ssim(photo[None], coarse[None]) == pytest.approx([expected], abs=1e-9)  # both are float64


def test_negative_structure_counts_as_zero() -> None:
    photo = np.asarray(Image.open(PHOTO).convert("L").resize((176, 176)))[None]
    assert metrics.ms_ssim(photo, 255 - photo) == pytest.approx([0.0], abs=1e-12)


def test_distortion_and_rate(digits: NDArray[np.uint8]) -> None:
    moved = digits.copy()
    moved[0, 0, 0] += 10  # 0 -> 10
    moved[1, 3, 4] += 20
    found = metrics.distortion(digits, moved)
    psnrs = [10 * math.log10(255**2 * 784 / error) for error in (100, 400)] + [99.0] * 6
    assert found.mse == pytest.approx(500 / (8 * 784))
    assert found.psnr_db == pytest.approx(sum(psnrs) / 8)
    assert found.psnr_db_of_mse == pytest.approx(10 * math.log10(255**2 / found.mse))
    assert found.ms_ssim is None
    assert metrics.squared_errors(digits, moved).tolist() == [100, 400, 0, 0, 0, 0, 0, 0]
    assert metrics.bits_per_dim(49, digits) == metrics.bits_per_pixel(49, digits) == 0.5
    colour = np.zeros((2, 4, 5, 3), np.uint8)
    assert metrics.bits_per_dim(30, colour) == 4.0
    assert metrics.bits_per_pixel(30, colour) == 12.0


def test_extreme_differences_do_not_wrap() -> None:
    black, white = np.zeros((1, 11, 11), np.uint8), np.full((1, 11, 11), 255, np.uint8)
    assert metrics.distortion(black, white).mse == metrics.distortion(white, black).mse == 255**2
    assert metrics.distortion(black[:, :10], white[:, :10]).ssim is None


def test_batches_do_not_matter(digits: NDArray[np.uint8]) -> None:
    many = np.concatenate([digits] * 33)  # 264 images: two batches
    assert metrics.ssim(many, crossed(many)).tolist() == metrics.ssim(digits, crossed(digits)).tolist() * 33


@pytest.mark.parametrize(
    ("x", "x_hat", "message"),
    [
        (np.zeros((2, 20, 20), np.uint8), np.zeros((3, 20, 20), np.uint8), "equal shapes"),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), "equal shapes"),
        (np.zeros((0, 20, 20), np.uint8), np.zeros((0, 20, 20), np.uint8), "equal shapes"),
        (np.zeros((2, 20, 20), np.uint8), np.zeros((2, 20, 20)), "uint8"),
        (np.zeros((2, 20, 10), np.uint8), np.zeros((2, 20, 10), np.uint8), "at least 11"),
    ],
)
def test_bad_input(x: NDArray[np.uint8], x_hat: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.ssim(x, x_hat)


def test_ms_ssim_needs_room() -> None:
    small = np.zeros((1, 175, 300), np.uint8)
    with pytest.raises(ValueError, match="at least 176"):
        metrics.ms_ssim(small, small)
