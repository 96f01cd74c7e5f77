"""From sums of products to activations: bias added, divided by a power of two, rounded down, clamped."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATION_LIMIT = 2**15 - 1
_INT32_BIAS = 2**29  # biases below this may be added to products that share the lowest order: those are at most 2**28
_DIGIT_BITS = 8
_LAST_BITS = 6  # the least left to shift at the highest order but one: 2**28 * 2**(8 - 6) is still an int32


class Requantiser:
    """y = clamp(floor((sum + bias) / 2**shift), -ACTIVATION_LIMIT, ACTIVATION_LIMIT), for every output of a layer."""

    def __init__(self, bias: Tensor, shift: int) -> None:
        """bias: int64 [out]."""
        self._bias, self._shift, self._scale = bias.double(), shift, 2.0**-shift
        small = int(bias.abs().max()) < _INT32_BIAS
        self._int32_bias = bias.to(torch.int32) if small else None

    def sums(self, sums: Tensor) -> Tensor:
        """Float64 sums [..., out] -> float64 [..., out], in place."""
        sums.add_(self._bias).mul_(self._scale)
        return sums.floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)

    def products(self, products: Tensor, out: Tensor) -> None:
        """The same of products int32 [n, M, m, out] of signed digits of base 256, highest first, up to 2**28 each:
        their sum, sum_ij product_ij 256**(n - 1 - i + m - 1 - j), requantised into float64 [M, out]."""
        orders = _by_order(products)
        # In int32 it takes half the memory, wherever that cannot overflow.
        if self._int32_bias is not None and self._shift >= _DIGIT_BITS * (len(orders) - 2) + _LAST_BITS:
            out.copy_(self._in_int32(orders, self._int32_bias))
        else:
            self.sums(_joined(orders, out))

    def _in_int32(self, orders: list[list[Tensor]], bias: Tensor) -> Tensor:
        """From the lowest order up, what lies below an order rounded down: floor(floor(a / b) / c) = floor(a / (b c)).

        Up to three products of 2**28 share an order, and what comes from below it is no more than 2**22."""
        total, left = torch.add(orders.pop()[0], bias), self._shift
        while orders and left >= _DIGIT_BITS:
            total.bitwise_right_shift_(_DIGIT_BITS)
            left -= _DIGIT_BITS
            for product in orders.pop():
                total.add_(product)
        total.bitwise_right_shift_(min(left, 31))
        for product in orders.pop() if orders else ():
            total.add_(product, alpha=1 << (_DIGIT_BITS - left))
        return total.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def _by_order(products: Tensor) -> list[list[Tensor]]:
    """Products int32 [n, M, m, out] that share a power of 256, highest first."""
    n, m = products.shape[0], products.shape[2]
    return [
        [products[i, :, order - i] for i in range(max(0, order - m + 1), min(n, order + 1))]
        for order in range(n + m - 1)
    ]


def _joined(orders: list[list[Tensor]], out: Tensor) -> Tensor:
    """The sum as float64 [M, out]; up to three products share an order, so int32 holds their sum."""
    out.copy_(orders[0][0])
    for same in orders[1:]:
        torch.add(sum(same[1:], same[0]), out, alpha=256, out=out)
    return out
