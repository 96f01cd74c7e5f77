"""Rate and distortion of decoded images: MSE, PSNR, SSIM, MS-SSIM and bits per dimension."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..codec.images import psnr_db

Images = NDArray[np.uint8]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, section III.B
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
MS_SSIM_SIDE = _WINDOW << (len(_SCALE_WEIGHTS) - 1)
"""Smallest side of an image that has an MS-SSIM: 176, so that the coarsest scale still holds one window."""
_BATCH = 256

Scales = list[tuple[Tensor, Tensor]]


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
    one, several = _similarities(x, x_hat)
    return Distortion(
        mse=total / x.size,
        psnr_db=float(np.mean([psnr_db(int(error), samples) for error in errors])),
        psnr_db_of_mse=psnr_db(total, x.size),
        ssim=None if one is None else float(one.mean()),
        ms_ssim=None if several is None else float(several.mean()),
    )


def pooled(parts: Sequence[Distortion], samples: Sequence[int]) -> Distortion:
    """The distortion of images of different sizes, from that of each: means over the images; `mse` over all samples.

    samples: H * W * C of each image. SSIM and MS-SSIM are None where one image has none."""
    total = round(sum(part.mse * count for part, count in zip(parts, samples, strict=True)))
    return Distortion(
        mse=total / sum(samples),
        psnr_db=float(np.mean([part.psnr_db for part in parts])),
        psnr_db_of_mse=psnr_db(total, sum(samples)),
        ssim=_mean([part.ssim for part in parts]),
        ms_ssim=_mean([part.ms_ssim for part in parts]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


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
    return np.concatenate([_ssim(_scales(a, b, 1)) for a, b in _batches(x, x_hat)])


def ms_ssim(x: Images, x_hat: Images) -> NDArray[np.float64]:
    """Multi-scale structural similarity of every image, float64 [N] (Wang et al. 2003, eq. 7; at most 1).

    Five scales, each the 2 x 2 mean of the one before (odd last rows and columns left out); negative contrast terms
    count as 0; mean over channels. Raises as `distortion` does, and ValueError for a side below 176 pixels."""
    _check(x, x_hat, MS_SSIM_SIDE)
    return np.concatenate([_ms_ssim(_scales(a, b, len(_SCALE_WEIGHTS))) for a, b in _batches(x, x_hat)])


def _similarities(x: Images, x_hat: Images) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """SSIM and MS-SSIM of every image, as far as its sides allow; the first scale is computed once for both."""
    side = min(x.shape[1:3])
    if side < MS_SSIM_SIDE:
        return (ssim(x, x_hat) if side >= _WINDOW else None), None
    found = [_scales(a, b, len(_SCALE_WEIGHTS)) for a, b in _batches(x, x_hat)]
    return np.concatenate([_ssim(part) for part in found]), np.concatenate([_ms_ssim(part) for part in found])


def _scales(a: Tensor, b: Tensor, count: int) -> Scales:
    """Means over the positions of SSIM and of its contrast-structure term, [N, C] each, at every scale."""
    found = []
    for scale in range(count):
        if scale:
            a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
        luminance, structure = _terms(a, b)
        found.append(((luminance * structure).mean((2, 3)), structure.mean((2, 3))))
    return found


def _ssim(scales: Scales) -> NDArray[np.float64]:
    whole, _ = scales[0]
    result: NDArray[np.float64] = whole.mean(1).numpy()
    return result


def _ms_ssim(scales: Scales) -> NDArray[np.float64]:
    product = torch.ones_like(scales[0][0])
    for scale, ((whole, structure), weight) in enumerate(zip(scales, _SCALE_WEIGHTS, strict=True)):
        value = whole if scale == len(scales) - 1 else structure
        product = product * value.clamp_min(0) ** weight
    result: NDArray[np.float64] = product.mean(1).numpy()
    return result


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
    weights = (window / window.sum()).tolist()
    return _weighted(_weighted(a, weights, 2), weights, 3)


def _weighted(a: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Weighted sums of neighbours along a dimension. Sums of slices: conv2d in float64 copies every window and
    took ten times as long on a photograph."""
    length = a.shape[dim] - len(weights) + 1
    result = a.narrow(dim, 0, length) * weights[0]
    for start, weight in enumerate(weights[1:], 1):
        result.add_(a.narrow(dim, start, length), alpha=weight)
    return result


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
