"""Tasks of files: every image in its smallest form, or as it came. Groups: see test_archive_models.py."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive import FILES
from vqcodec.bitstream.errors import UnsupportedImage
from vqcodec.codec.archive.blocks import CODED, ORIGINAL, Form, split_files
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.archive.library import PLAIN
from vqcodec.codec.archive.tasks import Files, Settings, run
from vqcodec.codec.files import compress
from vqcodec.codec.png import RGB, PlainImage

Images = NDArray[np.uint8]


def forms_of(*items: Item, model: str = "auto", max_pixels: int = 1 << 28) -> tuple[list[Form], list[tuple[str, str]]]:
    """Forms and notes of the images of one task."""
    numbers = tuple(range(5, 5 + len(items)))
    done = run(Settings(model, max_pixels=max_pixels), Files(numbers, items))
    (block,) = done.blocks
    assert (block.kind, block.extra, tuple(block.numbers), done.images) == (FILES, b"", numbers, len(items))
    return split_files(block.payload, len(items)), list(done.notes)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_are_coded_as_compress_codes_them(digits: Images, photo: Image.Image) -> None:
    colour_16 = PlainImage(np.random.default_rng(0).integers(0, 256, (60, 50, 6), np.uint8), 16, RGB).to_png()
    pictures = [
        saved(Image.fromarray(digits[0])),
        saved(Image.fromarray(digits[1]), "BMP"),
        saved(Image.fromarray(digits[2]).convert("1")),
        saved(Image.fromarray(digits[3]).convert("P")),
        saved(photo.resize((150, 130)), "TIFF"),
        colour_16,
    ]
    forms, notes = forms_of(*(Item(f"{n}", file=data) for n, data in enumerate(pictures)))
    assert not notes
    for data, form in zip(pictures, forms, strict=True):
        blob, _ = compress("image", data, lossless=True)
        expected = Form(ORIGINAL, data) if len(data) <= len(blob) else Form(CODED, blob)
        assert form == expected
    assert {form.tag for form in forms[:5]} == {CODED}


@pytest.fixture
def photo() -> Image.Image:
    """A smooth picture with colours."""
    y, x = np.mgrid[:400, :300]
    channels = [128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 50), (x + y) / 3]
    return Image.fromarray(np.stack(channels, axis=2).clip(0, 255).astype(np.uint8))


def test_arrays_are_coded(digits: Images) -> None:
    arrays = [digits[0], digits[1] > 127, digits[2].astype(np.uint16) * 257, np.stack([digits[3]] * 4, axis=2)]
    forms, notes = forms_of(*(Item(str(n), array=array) for n, array in enumerate(arrays)))
    assert [form.tag for form in forms] == [CODED] * 4
    assert not notes
    for array, form in zip(arrays, forms, strict=True):
        assert np.array_equal(vqcodec.decode(form.data, "numpy"), array)


def test_plain_uses_no_model(digits: Images) -> None:
    (form,), _ = forms_of(Item("a", array=digits[0]), model=PLAIN)
    assert vqcodec.info(form.data).kind == "plain"


def test_originals_that_are_not_larger_are_kept() -> None:
    webp = saved(Image.new("RGB", (40, 40), (9, 200, 30)), "WEBP", lossless=True)
    (form,), notes = forms_of(Item("flat.webp", file=webp))
    assert form.tag == (ORIGINAL if len(webp) <= len(form.data) else CODED)
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    lossy = saved(Image.fromarray(noise), "WEBP", quality=10)
    (form,), notes = forms_of(Item("lossy.webp", file=lossy))
    assert form == Form(ORIGINAL, lossy)
    assert not notes


def test_jpeg_files_are_kept(photo: Image.Image) -> None:
    jpeg = saved(photo, "JPEG")
    assert forms_of(Item("a.jpg", file=jpeg)) == ([Form(ORIGINAL, jpeg)], [])


def test_images_that_cannot_be_coded_are_kept_and_noted(digits: Images, photo: Image.Image) -> None:
    image = Image.fromarray(digits[0])
    kept = {
        "cmyk.tif": (saved(photo.convert("CMYK"), "TIFF"), "image mode CMYK"),
        "float.tif": (saved(Image.fromarray(digits[0].astype(np.float32)), "TIFF"), "image mode F"),
        "cut.png": (saved(photo)[:5000], "damaged"),
        "cut.jpg": (saved(photo, "JPEG")[:3000], "damaged"),
        "two.gif": (saved(image, "GIF", save_all=True, append_images=[Image.fromarray(digits[1])]), "several frames"),
        "large.png": (saved(photo), "limit 10000"),
    }
    items = [Item(name, file=data) for name, (data, _) in kept.items()]
    forms, notes = forms_of(*items, Item("fine.png", file=saved(image)), max_pixels=10000)
    assert forms[:-1] == [Form(ORIGINAL, data) for data, _ in kept.values()]
    assert forms[-1].tag == CODED
    assert [name for name, _ in notes] == list(kept)
    for (_, reason), (_, words) in zip(notes, kept.values(), strict=True):
        assert words in reason or "limit 10000" in reason


def test_pixels_that_cannot_be_stored_are_an_error() -> None:
    item = Item("a/b", array=np.zeros((2, 2), np.float32))
    with pytest.raises(UnsupportedImage, match="a/b: array of "):
        forms_of(item)
