"""Principal components of latents, and the chart of the first two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .axes import Axis
from .charts import Series, scatter_chart
from .page import Figure


@dataclass(frozen=True)
class Projection:
    """Points on the first two principal components, float64 [N, 2], and each one's share of the variance, 0..1."""

    points: NDArray[np.float64]
    explained: tuple[float, float]


def projection(x: NDArray[np.float64]) -> Projection:
    """Of rows x [N, F], by the singular values of x less its mean. The largest weight of a component is positive.

    Components that are not there (F or N below 2, no variance) are 0."""
    centred = x - x.mean(0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    components = components[:2] * np.sign(components[:2, np.abs(components[:2]).argmax(1)].diagonal())[:, None]
    points, share = np.zeros((len(x), 2)), np.zeros(2)
    points[:, : len(components)] = centred @ components.T
    if total := float((singular**2).sum()):
        share[: len(components)] = singular[:2] ** 2 / total
    return Projection(points, (float(share[0]), float(share[1])))


def pca_figure(title: str, what: str, x: NDArray[np.float64], labels: NDArray[np.uint8] | None) -> Figure:
    """Chart of the rows x [N, F], one per image. what: the rows, in words; labels: classes of the images, [N]."""
    found = projection(x)
    shares = [f"{share:.1%}" for share in found.explained]
    x_axis, y_axis = (Axis(f"component {number} ({share} of variance)") for number, share in enumerate(shares, 1))
    alt = f"Scatter plot of the first two principal components of {what}" + ", coloured by label" * (labels is not None)
    caption = (
        f"First two principal components of {what}; {len(x):,} images, {x.shape[1]:,} values each. "
        f"They hold {shares[0]} and {shares[1]} of the variance."
    )
    return Figure(title, caption, [scatter_chart(_series(found.points, labels), x_axis, y_axis, alt)])


def _series(points: NDArray[np.float64], labels: NDArray[np.uint8] | None) -> list[Series]:
    pairs = [(float(x), float(y)) for x, y in points]
    if labels is None:
        return [Series("", pairs)]
    classes = sorted(set(labels.tolist()))
    return [Series(str(label), [p for p, own in zip(pairs, labels, strict=True) if own == label]) for label in classes]
