"""Sums of products of integers, exactly: in float64 anywhere, in 8-bit limbs on processors that are fast at those.

float64 is the portable reference: every partial sum stays below 2**53 (checked at export), so any order is exact.

int8 cuts both factors into signed digits of base 256, v = sum_i digit_i * 256**i with digits in [-128, 127], multiplies
all digits of x by all of the weight in one int8 matrix product with int32 sums, and joins the products (`requantise`).
A sum of K <= 2**14 products of digits is at most 2**28 and up to three share an order, so int32 holds them. Processors
without VNNI instructions may saturate pairs of products (oneDNN, "Nuances of int8 computations") and gain nothing, so
int8 is used only where PyTorch reports VNNI and a self-test with extreme digits passes.

The environment variable VQCODEC_EXACT selects: auto (default), float64, or int8 (an error where it cannot be used).
Results never depend on the choice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from .requantise import Requantiser

_MIN_FAN_IN, _MAX_FAN_IN = 32, 2**14  # below, cutting and joining costs more than it saves; above, int32 may wrap
_MIN_ROW_FAN_IN = 384  # of 1x1 kernels and matrices; BLAS has fewer done in float64 by then
_MIN_ROWS = 256  # vectors of input channels; with fewer, cutting the weights costs more than it saves
_CHUNK_BYTES = 2**21  # of intermediates at one time: they stay in the caches, and threads meet seldom


class Weight:
    """Integer weights int16 [out, in] or [out, in, kh, kw] in the forms that the back ends need, made on first use."""

    def __init__(self, stored: Tensor) -> None:
        """stored: |w| < 2**15; it must not change afterwards."""
        self.stored = stored

    @cached_property
    def double(self) -> Tensor:
        """As float64, of the same shape."""
        return self.stored.to(torch.float64)

    @cached_property
    def digits(self) -> Digits | None:
        """In digits; None if int8 is not for them."""
        taps = self.stored if self.stored.ndim == 2 else self.stored.permute(0, 2, 3, 1)
        rows = taps.flatten(1).T.to(torch.int32)
        if not _MIN_FAN_IN <= len(rows) <= _MAX_FAN_IN:
            return None
        digits = torch.empty(_count(rows), *rows.shape, dtype=torch.int8)
        _cut(rows.clone(), digits)
        return Digits(digits.transpose(0, 1).flatten(1), len(digits))


@dataclass(frozen=True)
class Digits:
    """Digits of a weight: int8 [kh * kw * in, count * out], highest first, inputs in channels-last order."""

    matrix: Tensor
    count: int


def takes_rows(x: Tensor, weight: Weight) -> bool:
    """Whether `rows` is the quicker way for x; never where it cannot be used. Raises ValueError, RuntimeError as
    `selected`."""
    wide = x.shape[-1] >= _MIN_ROW_FAN_IN or os.environ.get("VQCODEC_EXACT") == "int8"
    return wide and _digits_for(x, weight) is not None


def rows(x: Tensor, weight: Weight, requantiser: Requantiser) -> Tensor:
    """Products with a matrix in int8, requantised: float64 integers [..., in], |x| <= 2**18 -> float64 [..., out]."""
    assert weight.digits is not None
    y = _convolve(x.flatten(0, -2)[:, None, None], weight.digits, 1, 1, 0, requantiser)
    return y.view(*x.shape[:-1], -1)


def conv2d(x: Tensor, weight: Weight, stride: int, padding: int, requantiser: Requantiser) -> Tensor:
    """Convolution with zero padding, requantised: float64 integers [B, in, H, W], |x| <= 2**18 -> [B, out, H', W']."""
    digits = _digits_for(x, weight)
    height, width = weight.stored.shape[2:]
    if digits is None or height != width:
        sums = nn.functional.conv2d(x, weight.double, stride=stride, padding=padding)
        return requantiser.sums(sums.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return _convolve(x.permute(0, 2, 3, 1), digits, height, stride, padding, requantiser).permute(0, 3, 1, 2)


def _digits_for(x: Tensor, weight: Weight) -> Digits | None:
    """Digits of the weight if int8 is to be used for x, else None. Raises ValueError, RuntimeError as `selected`."""
    if x.device.type != "cpu" or not x.numel() or selected() != "int8":
        return None
    enough = x.numel() >= _MIN_ROWS * weight.stored.shape[1] or os.environ.get("VQCODEC_EXACT") == "int8"
    return weight.digits if enough else None


def selected() -> str:
    """The back end in use on the CPU, float64 or int8.

    Raises ValueError if VQCODEC_EXACT is none of the three, RuntimeError if it is int8, which cannot be used here."""
    wanted = os.environ.get("VQCODEC_EXACT", "auto")
    if wanted not in ("auto", "float64", "int8"):
        raise ValueError(f"VQCODEC_EXACT: expected auto, float64 or int8, found {wanted!r}")
    usable = wanted != "float64" and torch.backends.mkldnn.enabled and int8_usable()
    if wanted == "int8" and not usable:
        raise RuntimeError("VQCODEC_EXACT=int8: this processor or PyTorch has no exact int8 products")
    return "int8" if usable else "float64"


@cache
def int8_usable() -> bool:
    """Whether PyTorch has an int8 matrix product on the CPU, the CPU has VNNI, and extreme digits come out right."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    if not hasattr(torch, "_int_mm") or not torch.backends.mkldnn.is_available() or vnni is None or not vnni():
        return False
    return all(_product_is_exact(rows, fan_in) for rows, fan_in in ((1, 64), (130, 1027), (64, 4096)))


def _product_is_exact(rows: int, fan_in: int) -> bool:
    """Whether extreme digits of all sign patterns give the int64 product."""
    extremes = torch.tensor([[-128], [127], [-127], [0]], dtype=torch.int8).expand(4, fan_in)
    mixed = torch.where(torch.arange(fan_in) % 2 == 0, extremes, extremes.flip(0))
    patterns = torch.cat([extremes, mixed])
    a, b = patterns.repeat(-(-rows // 8), 1)[:rows], patterns.repeat(5, 1).T.contiguous()
    return torch.equal(torch._int_mm(a, b).long(), (a[:8].long() @ b.long()).repeat(-(-rows // 8), 1)[:rows])


def _count(x: Tensor) -> int:
    """How many signed digits of base 256 the integers in x need."""
    low, high = (int(v) for v in x.aminmax())
    count = 1
    while (low := (low + 128) >> 8) | (high := (high + 128) >> 8):
        count += 1
    return count


def _cut(x: Tensor, digits: Tensor) -> None:
    """Writes the digits of x, int32 [...], into int8 [n, ...], highest first; x is used up.

    What is left above a signed digit, (x - digit) / 256, is floor((x + 128) / 256)."""
    for number in range(len(digits) - 1, 0, -1):
        digits[number].copy_(x)  # keeps the low 8 bits
        x.add_(128).bitwise_right_shift_(8)
    digits[0].copy_(x)


def _convolve(x: Tensor, weight: Digits, side: int, stride: int, padding: int, requantiser: Requantiser) -> Tensor:
    """Float64 integers [B, H, W, in] with digits of weights [out, side, side, in] -> float64 [B, H', W', out]."""
    batch, height, width, channels = x.shape
    rows, columns = ((size + 2 * padding - side) // stride + 1 for size in (height, width))
    fan_in, products_each = weight.matrix.shape
    y = torch.empty(batch, rows, columns, products_each // weight.count, dtype=torch.float64)
    bytes_each = 2 * rows * columns * (fan_in + 4 * products_each) + 12 * height * width * channels
    images = max(1, _CHUNK_BYTES // bytes_each)
    for part, target in zip(x.split(images), y.split(images), strict=True):
        patches = _patches(_padded_digits(part, padding), side, stride)
        products = torch._int_mm(patches.reshape(-1, fan_in), weight.matrix)
        requantiser.products(products.view(len(patches), -1, weight.count, y.shape[3]), target.flatten(0, 2))
    return y


def _padded_digits(x: Tensor, padding: int) -> Tensor:
    """[B, H, W, C] -> digits int8 [n, B, H + 2 p, W + 2 p, C], highest first."""
    batch, height, width, channels = x.shape
    make = torch.zeros if padding else torch.empty
    integers = x.to(torch.int32)
    digits = make(_count(integers), batch, height + 2 * padding, width + 2 * padding, channels, dtype=torch.int8)
    _cut(integers, digits[:, :, padding : padding + height, padding : padding + width])
    return digits


def _patches(x: Tensor, side: int, stride: int) -> Tensor:
    """View [n, B, H', W', side, side * C] of [n, B, H, W, C]: rows of a patch are contiguous in channels-last order."""
    n, batch, height, width, channels = x.shape
    by_digit, by_image, by_row, by_column, _ = x.stride()
    sizes = ((size - side) // stride + 1 for size in (height, width))
    strides = (by_digit, by_image, by_row * stride, by_column * stride, by_row, 1)
    return x.as_strided((n, batch, *sizes, side, side * channels), strides)
