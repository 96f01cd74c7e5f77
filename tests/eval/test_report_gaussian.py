"""Sections of a page about a Ladder VAE with a Gaussian posterior: their figures and what the pictures are of."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.eval import gaussian
from vqcodec.eval.report import Figure, Html, Section, Table
from vqcodec.eval.report import gaussian as page
from vqcodec.training.data.datasets import Dataset


@pytest.fixture(scope="module")
def data(digit_set: Dataset, binary_digits: NDArray[np.uint8]) -> Dataset:
    return dataclasses.replace(digit_set, images=binary_digits, labels=np.arange(8, dtype=np.uint8) % 3)


@pytest.fixture(scope="module")
def result(tiny_gaussian: Path, data: Dataset) -> dict[str, Any]:
    return dataclasses.asdict(gaussian.measure(str(tiny_gaussian), data, samples=(1, 20)))


@pytest.fixture(scope="module")
def sections(result: dict[str, Any], tiny_gaussian: Path, data: Dataset) -> dict[str, Section]:
    return {section.title: section for section in page.sections(result, str(tiny_gaussian), data, "cpu")}


def titles(section: Section) -> list[str]:
    return [block.title for block in section.blocks if isinstance(block, Figure | Table)]


def figure(section: Section, title: str) -> Figure:
    (found,) = (block for block in section.blocks if isinstance(block, Figure) and block.title == title)
    return found


def picture(part: Html, rows: int = 1) -> NDArray[np.uint8]:
    """The images of a strip that fills its rows, uint8 [N, 28, 28]."""
    data = re.search(r"base64,([^\"]+)", part)
    assert data
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as opened:
        pixels = np.asarray(opened)[::4, ::4, 0]
    pixels = np.pad(pixels, ((0, 2), (0, 2)))
    return pixels.reshape(rows, 30, -1, 30).swapaxes(1, 2).reshape(-1, 30, 30)[:, :28, :28]


def test_sections(sections: dict[str, Section]) -> None:
    assert {title: titles(section) for title, section in sections.items()} == {
        "Bounds on the likelihood": [
            "Importance-weighted bounds", "one sample per image, and the mean of all log weights",
            "importance-weighted bounds",
        ],
        "KL and active units": ["KL by level", "Active units by level", "KL of every unit", "levels"],
        "Latents": ["PCA of z3", "PCA of z2", "PCA of z1"],
        "Reconstructions": ["Originals, and what the levels hold of them"],
        "Samples": ["Samples from the prior", "One sample, its lower levels redrawn"],
    }  # fmt: skip


def test_bounds_stand_beside_the_elbo(result: dict[str, Any], sections: dict[str, Section]) -> None:
    (chart,) = figure(sections["Bounds on the likelihood"], "Importance-weighted bounds").parts
    for bound in result["bounds"]:
        assert f">{bound['nats']:,.2f}</text>" in chart
    assert f"-ELBO, {result['elbo_nats']:,.3f} nats" in chart
    assert 'class="rule"' in chart


def test_one_bound_has_no_curve(result: dict[str, Any], tiny_gaussian: Path, data: Dataset) -> None:
    single = result | {"bounds": result["bounds"][:1]}
    first, *_ = page.sections(single, str(tiny_gaussian), data, "cpu")
    assert all(isinstance(block, Table) for block in first.blocks)


def test_latents_are_coloured_by_label(
    result: dict[str, Any], sections: dict[str, Section], tiny_gaussian: Path, data: Dataset
) -> None:
    for block in sections["Latents"].blocks:
        assert isinstance(block, Figure)
        assert block.parts[0].count("<li ") == 3
        assert "8 images" in block.caption
    plain = page.sections(result, str(tiny_gaussian), dataclasses.replace(data, labels=None), "cpu")[2]
    assert all(isinstance(block, Figure) and "<li " not in block.parts[0] for block in plain.blocks)


def test_fewer_levels_know_less(sections: dict[str, Section], data: Dataset) -> None:
    found = figure(sections["Reconstructions"], "Originals, and what the levels hold of them")
    original, *rendered = (picture(part)[:8] for part in found.parts)
    assert np.array_equal(original, data.images)
    # Mean squared errors, grey levels as 0..1: an image from all levels is nearer than one from the top alone.
    errors = [float(((original / 255.0 - one / 255.0) ** 2).mean()) for one in rendered]
    assert len(errors) == 3
    assert errors[0] < min(errors[1:])
    assert ["KL" in part for part in found.parts] == [False, True, True, True]


def test_samples(sections: dict[str, Section]) -> None:
    mean, drawn = (picture(part, 3) for part in figure(sections["Samples"], "Samples from the prior").parts)
    assert mean.shape == drawn.shape == (36, 28, 28)
    assert len(np.unique(mean)) > 50
    assert set(np.unique(drawn)) == {0, 255}
    ink = mean / 255.0
    assert np.abs(drawn / 255.0 - ink).mean() < 2 * (ink * (1 - ink)).mean() + 0.01  # E |x - p| = 2 p (1 - p)


def test_what_stays_is_alike(sections: dict[str, Section]) -> None:
    found = figure(sections["Samples"], "One sample, its lower levels redrawn").parts
    spread = [picture(part, 2).std(0).mean() for part in found]
    assert len(spread) == 2
    assert spread[0] > spread[1] > 0


def test_one_level(tiny_gaussian: Path, untrained: Callable[..., Path], data: Dataset) -> None:
    weights = untrained(
        [[784, 0, 1]], form="mlp", latents=(3,), widths=(8,), grids=(1,), posterior="gaussian", skip=False,
        pixel_features=1,
    )  # fmt: skip
    result = dataclasses.asdict(gaussian.measure(str(weights), data, samples=(2,)))
    found = {section.title: section for section in page.sections(result, str(weights), data, "cpu")}
    assert titles(found["Samples"]) == ["Samples from the prior"]
    assert len(figure(found["Reconstructions"], "Originals, and what the levels hold of them").parts) == 2


def test_pixels_in_stages_are_drawn(untrained: Callable[..., Path], data: Dataset) -> None:
    weights = untrained([[4, 8, 1], [16, 8, 1]], posterior="gaussian")
    result = dataclasses.asdict(gaussian.measure(str(weights), data, samples=(2,)))
    samples = page.sections(result, str(weights), data, "cpu")[-1]
    (drawn,) = figure(samples, "Samples from the prior").parts
    assert set(np.unique(picture(drawn, 3))) == {0, 255}
