"""Conversions between the forms in which users hold images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vqcodec import UnsupportedImage
from vqcodec.codec.images import from_grey_plane, from_pil, grey_plane, to_pil

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (GREY, "L"),
        (GREY[:, :, None], "L"),
        (COLOUR, "RGB"),
        (np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "RGBA"),
        (np.arange(12, dtype=np.uint8).reshape(2, 3, 2), "LA"),
        (GREY > 2, "1"),
        (GREY.astype(np.uint16) * 300, "I;16"),
    ],
)
def test_arrays_and_tensors_keep_their_values(array: np.ndarray, mode: str) -> None:
    image = to_pil(array)
    assert image.mode == mode
    assert image.size == (3, 2)
    assert np.array_equal(np.asarray(image), array.squeeze(-1) if array.shape[2:] == (1,) else array)
    if array.dtype != np.uint16:
        assert to_pil(torch.from_numpy(array)).tobytes() == image.tobytes()


def test_tensors_may_have_channels_first() -> None:
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    assert tensor.shape == (3, 2, 3)  # ambiguous: the last dimension wins
    big = np.zeros((5, 6, 3), np.uint8)
    big[1, 2] = 7, 8, 9
    assert to_pil(torch.from_numpy(big).permute(2, 0, 1)).getpixel((2, 1)) == (7, 8, 9)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2), np.int64),
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 3), np.uint16),
        "a string",
    ],
)
def test_other_things_are_refused(bad: object) -> None:
    with pytest.raises(UnsupportedImage):
        to_pil(bad)  # type: ignore[arg-type]


def test_a_damaged_image_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(buffer, "PNG")
    with Image.open(io.BytesIO(buffer.getvalue()[:600])) as cut, pytest.raises(UnsupportedImage, match="cannot read"):
        to_pil(cut)


def test_output_forms() -> None:
    image = Image.fromarray(COLOUR)
    assert from_pil(image, "pil") is image
    assert np.array_equal(from_pil(image, "numpy"), COLOUR)
    assert torch.equal(from_pil(image, "torch"), torch.from_numpy(COLOUR))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert from_pil(palette, "numpy").shape == (2, 3, 3)
    with pytest.raises(ValueError, match="output must be"):
        from_pil(image, "jpeg")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_grey_planes_go_and_come_back(mode: str) -> None:
    levels = np.where(GREY > 2, 255, 0).astype(np.uint8) if mode == "1" else GREY
    image = Image.fromarray(levels).convert(mode)
    plane = grey_plane(image)
    assert plane is not None
    assert np.array_equal(plane, levels)
    back = from_grey_plane(plane, mode)
    assert (back.mode, back.tobytes()) == (image.mode, image.tobytes())


def test_colour_and_transparency_are_not_grey() -> None:
    assert grey_plane(Image.fromarray(COLOUR)) is None
    assert grey_plane(Image.fromarray(GREY).convert("LA")) is None
    see_through = Image.fromarray(GREY)
    see_through.info["transparency"] = 0
    assert grey_plane(see_through) is None
