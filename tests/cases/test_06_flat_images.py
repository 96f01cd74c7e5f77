"""A lossy file that is no smaller than the lossless one has no purpose: `auto` keeps every pixel then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import vqcodec

WIDTH, HEIGHT = 200, 150
Plane = NDArray[np.intp]


def _text(x: Plane, y: Plane) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for line in range(10):
        ImageDraw.Draw(image).text((4, 4 + 14 * line), "the quick brown fox", fill="black")
    return image


def _tiles(x: Plane, y: Plane) -> Image.Image:
    tile = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    return Image.fromarray(tile[y % 32, x % 32])


def _rows(x: Plane, y: Plane) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, WIDTH, np.uint8)[x])


def _grey(values: NDArray[np.intp] | NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8) * np.uint8(255 if values.dtype == np.bool_ else 1))


PICTURES: dict[str, Callable[[Plane, Plane], Image.Image]] = {
    "white": lambda x, y: Image.new("RGB", (WIDTH, HEIGHT), "white"),
    "grey": lambda x, y: Image.new("L", (WIDTH, HEIGHT), 128),
    "transparent red": lambda x, y: Image.new("RGBA", (WIDTH, HEIGHT), (200, 10, 10, 128)),
    "grey with alpha": lambda x, y: Image.new("LA", (WIDTH, HEIGHT), (90, 7)),
    "gradient to the right": lambda x, y: _grey(x * 255 // (WIDTH - 1)),
    "gradient downwards": lambda x, y: _grey(y * 255 // (HEIGHT - 1)),
    "diagonal gradient": lambda x, y: _grey((x + y) * 255 // (WIDTH + HEIGHT)),
    "colour gradient": lambda x, y: Image.merge("RGB", [_grey(x), _grey(y), _grey((x + y) // 2)]),
    "chequers": lambda x, y: _grey((x // 8 + y // 8) % 2 == 0),
    "stripes": lambda x, y: _grey(x % 2 == 0),
    "dither": lambda x, y: _grey((x * 7 + y * 13) % 16 * 16),
    "equal rows": _rows,
    "tiles": _tiles,
    "text": _text,
    "dots": lambda x, y: _grey(np.random.default_rng(0).random(x.shape) < 0.001),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_lossy_file_is_smaller_than_the_lossless_one(name: str) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = PICTURES[name](x, y)
    lossless = vqcodec.encode(image, lossless=True)
    for quality in (1, 100):
        blob = vqcodec.encode(image, quality=quality)
        if vqcodec.info(blob).lossless:
            assert len(blob) == len(lossless)
            assert vqcodec.decode(blob).tobytes() == image.tobytes()
        else:
            assert len(blob) < len(lossless)


def test_of_two_files_of_one_size_the_lossless_one_is_kept() -> None:
    dot = np.zeros((28, 28), np.uint8)
    dot[14, 14] = 255
    assert len(vqcodec.encode(dot, lossless=True)) == 10
    assert vqcodec.info(vqcodec.encode(dot)).lossless
