"""Files of the package's models, byte for byte, and the pixels they decode to. This command writes them anew:

PYTHONPATH=.links python tests/test_golden_models.py
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive import BITS_BACK, Reader, Writer
from vqcodec.codec import models
from vqcodec.codec.archive.blocks import bits_back_block, kind_of
from vqcodec.codec.archive.library import BUILT_IN
from vqcodec.training.data.datasets import binarise

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "codec" / "examples" / "photo.png"
GOLDEN = HERE / "golden"
QUALITIES = {"q1": 1, "q50": 50, "q100": 100}
MODES = {3: "RGB", 4: "L", 5: "L", 6: "1", 9: "1", 10: "L"}
"""Of the images in the archives, by the number of the model: all that pack."""
ARCHIVED = {
    description.name: number
    for number, description in (models.available() | models.for_archives()).items()
    if models.packs(description) or models.packs_too(description)
}


def cases() -> list[tuple[str, str]]:
    """Models whose weights are there, and what is coded with each."""
    kinds = {"vq": ("q1", "q50", "q100"), "ladder": ("lossless", "q1", "q100"), "binary": ("lossless", "lossless-L")}
    return [
        (description.name, case)
        for description in models.available().values()
        for case in kinds["binary" if description.name.endswith("-binary") else description.family]
    ]


def photo_cases() -> list[tuple[str, str]]:
    """Lossy models of photographs whose weights are there, and the qualities coded with each."""
    found = models.for_photographs().values()
    return [(one.name, case) for one in found for case in QUALITIES if not models.keeps_photographs(one)]


def kept_cases() -> list[tuple[str, str]]:
    """Lossless models of photographs whose weights are there, and what is coded with each."""
    found = models.for_photographs().values()
    return [(one.name, case) for one in found for case in ("lossless", "lossless-L") if models.keeps_photographs(one)]


def photograph(case: str) -> Image.Image:
    """Part of a photograph; with transparency, grey, or in colour."""
    with Image.open(EXAMPLE) as whole:
        image = whole.convert("RGB").crop((0, 0, 128, 96))
    if case == "q1":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert("L") if case in ("q50", "lossless-L") else image


def real_images(model: str) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.load(
        HERE / "images" / ("mnist_test_8.npy" if "mnist" in model else "omniglot28_test_8.npy")
    )
    return pixels


def original(model: str, case: str) -> NDArray[np.generic]:
    """A real image per case, the last one of every model on a bright background; bool for mode 1."""
    image = real_images(model)[QUALITIES.get(case, 3) % 7]
    if model.endswith("-binary"):
        image = binarise(image[None], case)[0]
    if case in ("q100", "lossless-L"):
        image = 255 - image
    return image > 0 if model.endswith("-binary") and case == "lossless" else image


def encoded(model: str, case: str) -> bytes:
    return vqcodec.encode(original(model, case), model, lossless=case not in QUALITIES, quality=QUALITIES.get(case))


def stem(model: str, case: str) -> Path:
    return GOLDEN / f"good-{model}-{case}"


def originals(model: str) -> NDArray[np.uint8]:
    """Five real images, the fourth on a bright background."""
    pixels = real_images(model)[:5]
    pixels = binarise(pixels, "archive") if model.endswith("-binary") else pixels.copy()
    pixels[3] = 255 - pixels[3]
    return pixels


def packed(model: str) -> bytes:
    """An archive of one block (`vqcodec.pack` would store so few images as files)."""
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(bits_back_block(range(5), MODES[ARCHIVED[model]], originals(model), BUILT_IN.load(model, "cpu")))
    writer.finish([f"{number}.png" for number in range(5)])
    return stream.getvalue()


def archive_path(model: str) -> Path:
    return GOLDEN / f"good-{model}.vqa"


@pytest.mark.parametrize(("model", "case"), cases())
def test_the_file_decodes_to_the_pixels(model: str, case: str) -> None:
    with Image.open(stem(model, case).with_suffix(".png")) as expected:
        decoded = vqcodec.decode(stem(model, case).with_suffix(".vqc").read_bytes())
        assert (decoded.mode, decoded.tobytes()) == (expected.mode, expected.tobytes())
        if case not in QUALITIES:
            assert np.array_equal(np.asarray(expected), original(model, case))


@pytest.mark.parametrize(("model", "case"), cases())
def test_the_image_encodes_to_the_file(model: str, case: str) -> None:
    blob = encoded(model, case)
    assert blob == stem(model, case).with_suffix(".vqc").read_bytes()
    assert vqcodec.info(blob).kind == "compact model"


@pytest.mark.parametrize(("model", "case"), photo_cases())
def test_the_file_decodes_to_the_photograph(model: str, case: str) -> None:
    """Latents are the same everywhere, pixels within one level. (Files made anew may differ: the encoder is float.)"""
    blob = stem(model, case).with_suffix(".vqc").read_bytes()
    decoded = vqcodec.decode(blob)
    with Image.open(stem(model, case).with_suffix(".png")) as expected:
        assert (decoded.mode, decoded.size) == (expected.mode, expected.size)
        assert np.abs(np.asarray(decoded).astype(int) - np.asarray(expected)).max() <= 1
    again = vqcodec.encode(photograph(case), model, quality=QUALITIES[case])
    assert abs(len(again) - len(blob)) <= 0.01 * len(blob) + 8
    assert vqcodec.info(blob).model == model


@pytest.mark.parametrize(("model", "case"), kept_cases())
def test_the_file_keeps_the_photograph_and_is_the_same_everywhere(model: str, case: str) -> None:
    """Down to the last bit: all of the model is exact."""
    blob = stem(model, case).with_suffix(".vqc").read_bytes()
    decoded, image = vqcodec.decode(blob), photograph(case)
    assert (decoded.mode, decoded.tobytes()) == (image.mode, image.tobytes())
    assert vqcodec.encode(image, model) == blob
    assert (vqcodec.info(blob).model, vqcodec.info(blob).lossless) == (model, True)


def test_every_golden_file_of_a_model_has_its_case() -> None:
    """A model that is missing, whose golden files are there, would go untested."""
    named = {path.stem for path in GOLDEN.glob("good-*.png")}
    assert named == {stem(model, case).name for model, case in (*cases(), *photo_cases(), *kept_cases())}
    names = (models.BUILT_IN | models.ARCHIVE).values()
    assert {name for name in names if archive_path(name).exists()} == set(ARCHIVED)


@pytest.mark.parametrize("model", ARCHIVED)
def test_the_archive_holds_the_images(model: str) -> None:
    with vqcodec.Archive(archive_path(model)) as archive:
        assert list(archive.names) == [f"{number}.png" for number in range(5)]
        for image, expected in zip(archive, originals(model), strict=True):
            assert image.mode == MODES[ARCHIVED[model]]
            assert np.array_equal(image.convert("L"), expected)


@pytest.mark.parametrize("model", ARCHIVED)
def test_the_images_are_packed_to_the_archive(model: str) -> None:
    blob = packed(model)
    assert blob == archive_path(model).read_bytes()
    (block,) = Reader(io.BytesIO(blob)).blocks
    assert kind_of(BITS_BACK, block.extra) == ("bits-back", model, MODES[ARCHIVED[model]])


if __name__ == "__main__":
    for name, kind in cases():
        content = encoded(name, kind)
        stem(name, kind).with_suffix(".vqc").write_bytes(content)
        vqcodec.decode(content).save(stem(name, kind).with_suffix(".png"))
    for name, kind in photo_cases():
        content = vqcodec.encode(photograph(kind), name, quality=QUALITIES[kind])
        stem(name, kind).with_suffix(".vqc").write_bytes(content)
        vqcodec.decode(content).save(stem(name, kind).with_suffix(".png"))
    for name, kind in kept_cases():
        content = vqcodec.encode(photograph(kind), name)
        stem(name, kind).with_suffix(".vqc").write_bytes(content)
        vqcodec.decode(content).save(stem(name, kind).with_suffix(".png"))
    for name in ARCHIVED:
        archive_path(name).write_bytes(packed(name))
