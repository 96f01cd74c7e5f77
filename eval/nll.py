"""Bounds on log p(x) from importance weights: the ELBO and the bound of k samples, streamed in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bitstream.errors import VqcodecError

LogWeights = Callable[[Tensor, int], Tensor]
"""log p(x, z) - log q(z | x), [samples, B], of images [B, ...] and as many samples of z as asked."""

ROWS = 1000  # samples that go through the networks at once
IMAGES = 50
"""At most so many different images among them: few enough for many samples each, so that encoders run seldom."""


class BoundsError(VqcodecError):
    """Bounds that cannot be computed: no such number of samples, or a model without a density of latents."""


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on log p(x) of every image, nats, float64 [N].

    elbo: the mean of all log weights.  importance: the bound of k samples for every k (Burda et al. 2016, eq. 8).
    """

    elbo: Tensor
    importance: dict[int, Tensor]


@torch.inference_mode()
def bounds(
    log_weights: LogWeights, images: Tensor, samples: Sequence[int], rows: int = ROWS, seed: int | None = None
) -> Bounds:
    """Bounds on log p(x) of images [N, ...]; samples: every k, all from the same draw of the largest.

    Memory grows with `rows` (at least one image's sample at a time), not with k: chunks of samples are summed in
    float64 as they come. seed: of PyTorch's random state, which is set anew for every batch of IMAGES images, so that
    the same images give the same bounds whoever computes which; seed + n for batch n. Raises BoundsError for a k below
    1."""
    wanted = sorted(set(samples))
    if not wanted or wanted[0] < 1:
        raise BoundsError(f"the number of samples must be at least 1, found {wanted[0] if wanted else 'none'}")
    parts = []
    for number, batch in enumerate(images.split(min(IMAGES, rows))):
        if seed is not None:
            torch.manual_seed(seed + number)
        parts.append(_bounds(log_weights, batch, wanted, rows))
    return joined(parts)


def joined(parts: Sequence[Bounds]) -> Bounds:
    """Of the images of all parts, in their order."""
    importance = {k: torch.cat([part.importance[k] for part in parts]) for k in parts[0].importance}
    return Bounds(torch.cat([part.elbo for part in parts]), importance)


def _bounds(log_weights: LogWeights, images: Tensor, wanted: Sequence[int], rows: int) -> Bounds:
    """Of one batch; wanted rises."""
    total = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    log_sum = torch.full_like(total, -math.inf)
    found, done, chunk = {}, 0, max(1, rows // len(images))
    for k in wanted:
        while done < k:
            now = min(chunk, k - done)
            weights = log_weights(images, now).double()
            log_sum = torch.logaddexp(log_sum, weights.logsumexp(0))
            total += weights.sum(0)
            done += now
        found[k] = (log_sum - math.log(k)).cpu()
    return Bounds((total / done).cpu(), found)
