"""No archive is larger than what `xz -9e` makes of the same pixels by more than 1 % and 100 bytes, whatever the images
are; and a model that does not know them is not used."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.codec.archive.pack import Summary, pack
from vqcodec.codec.png import GREY_ALPHA, RGB, RGBA, PlainImage

Pixels = NDArray[np.generic]


def drawing(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A colour drawing: a disc, a bar and a border on one of a few backgrounds, which many drawings share."""
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 4), (20 * (seed % 3), 200, 90, 255), np.uint8)
    pixels[(y - seed % height) ** 2 + (x - width // 2) ** 2 < 40] = (250, seed % 4 * 60, 10, 255)
    pixels[:, seed % width] = (0, 0, 255, 128)
    pixels[[0, -1]] = 255
    return pixels


def in_mode(mode: str, pixels: NDArray[np.uint8]) -> Pixels | Image.Image:
    """An RGBA drawing in another mode: an array where one holds it, else a Pillow image."""
    picture = Image.fromarray(pixels)
    if mode == "1":
        return np.asarray(picture.convert("L").point(lambda value: 255 * (value > 110)).convert("1"))
    if mode == "I;16":
        return np.asarray(picture.convert("L")).astype(np.uint16) * 250
    if mode == "P":
        return picture.convert("RGB").quantize(16)
    return np.asarray(picture.convert(mode))


def xz_size(images: Sequence[Pixels]) -> int:
    """Bytes of `xz -9e` of the pixels; of bits, whichever of their two forms is smaller."""
    forms = [b"".join(image.tobytes() for image in images)]
    if all(image.dtype == np.bool_ for image in images):
        forms += [b"".join(np.packbits(image, 1).tobytes() for image in images)]
        forms += [b"".join(np.packbits(~image, 1).tobytes() for image in images)]
    return min(len(lzma.compress(form, preset=9 | lzma.PRESET_EXTREME)) for form in forms)


def packed(
    images: Sequence[Pixels | Image.Image], model: str = "auto"
) -> tuple[Summary, vqcodec.Archive, list[Pixels]]:
    """What packing told, the archive, and the arrays that the images are."""
    items, stream = [], io.BytesIO()
    for number, image in enumerate(images):
        name = f"{number:05}.png"
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            items.append(vqcodec.Item(name, buffer.getvalue()))
        else:
            items.append(vqcodec.Item(name, array=image))
    summary = pack(items, stream, model=model)
    return summary, vqcodec.Archive(stream), [np.asarray(image) for image in images]


def check(images: Sequence[Pixels | Image.Image], model: str = "auto") -> Summary:
    """The bound holds, and every image comes back."""
    summary, archive, arrays = packed(images, model)
    assert summary.bytes_total <= 1.01 * xz_size(arrays) + 100
    for found, image, array in zip(archive, images, arrays, strict=True):
        assert np.array_equal(np.asarray(found), array)
        if isinstance(image, Image.Image):
            assert (found.mode, found.convert("RGBA").tobytes()) == (image.mode, image.convert("RGBA").tobytes())
    assert not archive.verify()
    return summary


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_drawings_of_every_mode(mode: str) -> None:
    summary = check([in_mode(mode, drawing(24, 20, seed)) for seed in range(16)])
    assert [share.kind for share in summary.kinds] == ["solid"]


@pytest.mark.parametrize("mode", MODES)
def test_sizes_that_differ(mode: str) -> None:
    check([in_mode(mode, drawing(12 + seed * 5 % 17, 14 + seed * 3 % 11, seed)) for seed in range(16)], "plain")


def test_all_modes_and_sizes_together() -> None:
    check([in_mode(MODES[n % 7], drawing(16 + n % 5, 20 - n % 3, n)) for n in range(42)], "plain")


@pytest.mark.parametrize("shape", [(28, 28), (16, 16, 3), (9, 9, 4)])
def test_noise_that_repeats_far_away(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    check([*noise, *noise[::-1], *noise], "plain")


@pytest.mark.parametrize("shape", [(28, 28), (15, 20, 3)])
def test_flat_images(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 256, (120, *shape[2:]), np.uint8)
    check([np.broadcast_to(value, shape).copy() for value in values], "plain")


def test_few_images_of_one_pixel() -> None:
    check([np.full((1, 1, 3), number, np.uint8) for number in range(5)])


def test_noise_among_digits(digits: NDArray[np.uint8]) -> None:
    """Images of the models' size that no model knows."""
    noise = np.random.default_rng(2).integers(0, 256, (12, 28, 28), np.uint8)
    check([*np.resize(digits, (12, 28, 28)), *noise])


@pytest.mark.parametrize("colour", [RGB, RGBA, GREY_ALPHA])
def test_16_bit_colour(colour: int) -> None:
    channels = {RGB: 3, RGBA: 4, GREY_ALPHA: 2}[colour]
    arrays = [drawing(14, 14, seed)[:, :, :channels].repeat(2, axis=2) for seed in range(12)]
    images = [PlainImage(array, 16, colour) for array in arrays]
    stream = io.BytesIO()
    items = [vqcodec.Item(f"{number:05}.png", image.to_png()) for number, image in enumerate(images)]
    assert pack(items, stream, model="plain").bytes_total <= 1.01 * xz_size(arrays) + 100
    for number, stored in vqcodec.Archive(stream).stored():
        assert PlainImage.from_png(stored.png()).same_image(images[number])


@pytest.mark.parametrize(("likelihood", "count"), [("bernoulli", 12), ("categorical", 12)])
def test_a_model_that_knows_nothing_is_not_used(
    likelihood: str, count: int, untrained: Callable[..., Path], binary_digits: NDArray[np.uint8]
) -> None:
    weights = untrained([[16, 4, 0]], posterior="gaussian", context=1, likelihood=likelihood, qualities=1)
    summary = check(list(np.resize(binary_digits, (count, 28, 28))), str(weights))
    assert "bits-back" not in {share.kind for share in summary.kinds}


def test_a_model_that_knows_nothing_is_not_used_for_many_images(untrained: Callable[..., Path]) -> None:
    weights = untrained([[16, 4, 0]], posterior="gaussian", context=1, likelihood="bernoulli", qualities=1)
    noise = np.random.default_rng(3).integers(0, 2, (260, 28, 28), np.uint8) * np.uint8(255)
    assert [share.kind for share in check(list(noise), str(weights)).kinds] == ["solid"]


def test_jobs_do_not_change_the_archive() -> None:
    items = [vqcodec.Item(f"{n}", array=drawing(16, 16, n)) for n in range(1010)]
    streams = [io.BytesIO(), io.BytesIO()]
    for jobs, stream in enumerate(streams, 1):
        assert pack(items, stream, model="plain", jobs=jobs).kinds[0].kind == "solid"
    assert streams[0].getvalue() == streams[1].getvalue()
