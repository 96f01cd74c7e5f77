"""Rate and distortion of decoded images: MSE, PSNR, SSIM, MS-SSIM and bits per dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from ..codec.images import psnr_db

Images = NDArray[np.uint8]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, section III.B
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
MS_SSIM_SIDE = _WINDOW << (len(_SCALE_WEIGHTS) - 1)
"""Smallest side of an image that has an MS-SSIM: 176, so that the coarsest scale still holds one window."""
_BATCH = 256


@dataclass(frozen=True)
class Distortion:
    """How decoded images differ from the originals, levels 0..255.

    mse: mean squared error of all samples.  psnr_db: mean over the images of each one's PSNR (99 where lossless).
    psnr_db_of_mse: PSNR of the mean squared error.  ssim: mean over the images; None below 11 pixels a side.
    ms_ssim: the same; None below 176 pixels a side.
    """

    mse: float
    psnr_db: float
    psnr_db_of_mse: float
    ssim: float | None
    ms_ssim: float | None


def distortion(x: Images, x_hat: Images) -> Distortion:
    """Distortion of x_hat against x, both uint8 [N, H, W] or [N, H, W, C], N > 0.

    Raises ValueError for shapes that differ or are none of these, or another dtype."""
    errors = squared_errors(x, x_hat)
    total, samples = int(errors.sum()), x[0].size
    sides = min(x.shape[1:3])
    return Distortion(
        mse=total / x.size,
        psnr_db=float(np.mean([psnr_db(int(error), samples) for error in errors])),
        psnr_db_of_mse=psnr_db(total, x.size),
        ssim=float(ssim(x, x_hat).mean()) if sides >= _WINDOW else None,
        ms_ssim=float(ms_ssim(x, x_hat).mean()) if sides >= MS_SSIM_SIDE else None,
    )


def bits_per_dim(size_bytes: float, images: Images) -> float:
    """8 * bytes per image / (C * H * W) of images [N, H, W] or [N, H, W, C]."""
    return float(8 * size_bytes / images[0].size)


def bits_per_pixel(size_bytes: float, images: Images) -> float:
    """8 * bytes per image / (H * W) of images [N, H, W] or [N, H, W, C]."""
    return float(8 * size_bytes / (images.shape[1] * images.shape[2]))


def squared_errors(x: Images, x_hat: Images) -> NDArray[np.int64]:
    """Sum of squared differences of every image, int64 [N]. Raises as `distortion` does."""
    _check(x, x_hat)
    sums: NDArray[np.int64] = ((x.astype(np.int32) - x_hat) ** 2).reshape(len(x), -1).sum(1, dtype=np.int64)
    return sums


def ssim(x: Images, x_hat: Images) -> NDArray[np.float64]:
    """Structural similarity of every image, float64 [N] (Wang et al. 2004, eq. 13; at most 1).

    11 x 11 Gaussian window of sigma 1.5, positions where it fits inside the image, range 255, mean over channels.
    Raises as `distortion` does, and ValueError for a side below 11 pixels."""
    _check(x, x_hat, _WINDOW)
    terms = (_terms(a, b) for a, b in _batches(x, x_hat))
    return np.concatenate([(luminance * structure).mean((1, 2, 3)).numpy() for luminance, structure in terms])


def ms_ssim(x: Images, x_hat: Images) -> NDArray[np.float64]:
    """Multi-scale structural similarity of every image, float64 [N] (Wang et al. 2003, eq. 7; at most 1).

    Five scales, each the 2 x 2 mean of the one before (odd last rows and columns left out); negative contrast terms
    count as 0; mean over channels. Raises as `distortion` does, and ValueError for a side below 176 pixels."""
    _check(x, x_hat, MS_SSIM_SIDE)
    return np.concatenate([_ms_ssim(a, b).numpy() for a, b in _batches(x, x_hat)])


def _ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    product = torch.ones(a.shape[:2], dtype=torch.float64)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
        luminance, structure = _terms(a, b)
        last = scale == len(_SCALE_WEIGHTS) - 1
        value = (luminance * structure if last else structure).mean((2, 3))
        product = product * value.clamp_min(0) ** weight
    return product.mean(1)


def _terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure terms (Wang et al. 2004, eq. 6 and the rest of eq. 13), [N, C, H', W']."""
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return luminance, (2 * covariance + _C2) / (var_a + var_b + _C2)


def _blur(a: Tensor) -> Tensor:
    """Gaussian-weighted means over all windows inside the image: [N, C, H, W] -> [N, C, H - 10, W - 10]."""
    window = torch.exp(-((torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    window = window / window.sum()
    planes = a.flatten(0, 1)[:, None]
    means = conv2d(conv2d(planes, window[None, None, :, None]), window[None, None, None, :])
    return means.view(*a.shape[:2], *means.shape[2:])


def _batches(x: Images, x_hat: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as float64 [B, C, H, W]."""
    for start in range(0, len(x), _BATCH):
        part = slice(start, start + _BATCH)
        yield _planes(x[part]), _planes(x_hat[part])


def _planes(images: Images) -> Tensor:
    tensor = torch.from_numpy(images.astype(np.float64))
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def _check(x: Images, x_hat: Images, side: int = 1) -> None:
    if x.shape != x_hat.shape or x.ndim not in (3, 4) or not len(x):
        raise ValueError(f"expected two equal shapes [N, H, W] or [N, H, W, C], found {x.shape} and {x_hat.shape}")
    if x.dtype != np.uint8 or x_hat.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, found {x.dtype} and {x_hat.dtype}")
    if min(x.shape[1:3]) < side:
        raise ValueError(f"expected sides of at least {side} pixels, found {x.shape[1]} x {x.shape[2]}")
