"""Archives, read by a second decoder that was written from FORMAT.md."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.ans import Stack, Tables
from vqcodec.bitstream.archive import BITS_BACK, FILES, Block, Writer
from vqcodec.codec import models
from vqcodec.codec.archive.blocks import CODED, ORIGINAL, Form, bits_back_block, files_block
from vqcodec.codec.archive.library import BUILT_IN
from vqcodec.codec.ladder import bitsback
from vqcodec.tests.reference import archive as reference_archive
from vqcodec.training.data.datasets import binarise

HERE = Path(__file__).parent
Images = NDArray[np.uint8]
TINY = {
    "form": "mlp", "latents": (5, 4, 3), "widths": (16, 12, 8), "grids": (1, 1, 1), "posterior": "gaussian",
    "skip": False, "pixel_features": 2,
}  # fmt: skip


def images_of(name: str, count: int) -> Images:
    """Real images of the kind a model was made for, repeated; every third is on a bright background."""
    pixels = np.load(HERE / "images" / ("omniglot28_test_8.npy" if "omniglot28" in name else "mnist_test_8.npy"))
    pixels = np.resize(binarise(pixels, name) if "binary" in name else pixels, (count, 28, 28))
    pixels[::3] = 255 - pixels[::3]
    return pixels


def archive_of(weights: Path, pixels: Images, mode: str = "L") -> bytes:
    """An archive of one BITS_BACK block."""
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(bits_back_block(range(len(pixels)), mode, pixels, BUILT_IN.load(str(weights), "cpu")))
    writer.finish([f"{number}" for number in range(len(pixels))])
    return stream.getvalue()


def read_twice(blob: bytes, weights: Path) -> tuple[Block, Images, Images]:
    """The block, and the images that vqcodec and the second decoder see in it."""
    with vqcodec.Archive(io.BytesIO(blob), str(weights), output="numpy") as archive:
        seen = np.stack(list(archive))
        names = list(archive.names)
    (block,), own_names = reference_archive.read_archive(blob)
    assert own_names == names
    return block, seen, reference_archive.images_of(block, weights)


LADDERS = [found.name for found in models.available().values() if models.packs_too(found)]


@pytest.mark.parametrize("name", [*models.ARCHIVE.values(), *LADDERS])
def test_archives_of_the_models_of_the_package(name: str) -> None:
    weights, pixels = models.find(name), images_of(name, 3 if name in LADDERS else 6)
    block, seen, decoded = read_twice(archive_of(weights, pixels), weights)
    assert block.kind == BITS_BACK
    assert np.array_equal(seen, pixels)
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"likelihood": "bernoulli", "context": 1, "stages": [[784, 6, 0]], "leak": 2, "batch_norm": True}, 40),
        ({"likelihood": "categorical", "context": 2, "stages": [[784, 8, 2]]}, 40),
        ({"likelihood": "bernoulli", "context": 6, "stages": [[784, 6, 1]]}, 1),
    ],
)
def test_archives_of_small_models(values: dict[str, object], count: int, untrained: Callable[..., Path]) -> None:
    weights = untrained(**TINY | values)
    pixels = images_of("binary" if values["likelihood"] == "bernoulli" else "", count)
    block, seen, decoded = read_twice(archive_of(weights, pixels), weights)
    lanes = reference_archive.batches_and_lanes(block.payload[:3], count)[1]
    assert (lanes[0], lanes[-1] > 1) == (1, count > 1)
    assert np.array_equal(seen, pixels)
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"likelihood": "bernoulli", "leak": 2, "batch_norm": True, "blocks": 2, "stages": [[5, 0, 0], [16, 8, 2]]}, 9),
        ({"likelihood": "categorical", "latents": (1, 2, 3), "widths": (8, 4, 6), "grids": (14, 2, 1),
          "stages": [[1, 4, 0], [4, 4, 0]], "qualities": 2}, 4),
        ({"likelihood": "categorical", "latents": (3,), "widths": (8,), "grids": (28,), "stages": [[1, 4, 1]]}, 1),
    ],
)  # fmt: skip
def test_archives_of_small_ladders(values: dict[str, object], count: int, untrained: Callable[..., Path]) -> None:
    weights = untrained(**values)
    pixels = images_of("binary" if values["likelihood"] == "bernoulli" else "", count)
    block, seen, decoded = read_twice(archive_of(weights, pixels), weights)
    assert np.array_equal(seen, pixels)
    assert np.array_equal(decoded, pixels)
    assert len(reference_archive.batches_and_lanes(block.payload[:3], count, 256)[0]) == 1 + (count > 2)


def test_batches_of_ladders_have_at_most_256_images(tiny_binary: Path) -> None:
    pixels = images_of("binary", 530)
    block, seen, _ = read_twice(archive_of(tiny_binary, pixels), tiny_binary)
    sizes, _ = reference_archive.batches_and_lanes(block.payload[:3], 530, 256)
    assert max(sizes) == 256
    assert np.array_equal(seen, pixels)


def test_other_encoders_may_begin_with_more_images(
    untrained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the first batch has several lanes."""
    monkeypatch.setattr(bitsback, "_CLEAN", 8)
    monkeypatch.setattr(bitsback, "_LANE_SHARE", 0.1)
    weights = untrained(**TINY, likelihood="bernoulli", context=1, stages=[[784, 4, 0]])
    pixels = images_of("binary", 20)
    block, seen, decoded = read_twice(archive_of(weights, pixels), weights)
    assert reference_archive.batches_and_lanes(block.payload[:3], 20)[1][0] > 1
    assert np.array_equal(seen, pixels)
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_all_modes_have_one_payload(mode: str, untrained: Callable[..., Path]) -> None:
    weights = untrained(**TINY, likelihood="bernoulli", context=1, stages=[[784, 4, 0]])
    pixels = images_of("binary", 3)
    blob = archive_of(weights, pixels, mode)
    with vqcodec.Archive(io.BytesIO(blob), str(weights)) as archive:
        shown = list(archive)
    assert {image.mode for image in shown} == {mode}
    (block,), _ = reference_archive.read_archive(blob)
    decoded = reference_archive.images_of(block, weights)
    assert all(np.array_equal(image.convert("L"), own) for image, own in zip(shown, decoded, strict=True))


def test_archives_of_files(digits: Images) -> None:
    originals = {}
    for number, digit in enumerate(digits[:3]):
        buffer = io.BytesIO()
        Image.fromarray(digit).save(buffer, "JPEG" if number == 1 else "PNG")
        originals[f"digit{number + 8}"] = buffer.getvalue()
    forms = [
        Form(ORIGINAL, data) if number == 1 else Form(CODED, vqcodec.encode(data, model="plain"))
        for number, data in enumerate(originals.values())
    ]
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(files_block(range(3), forms))
    writer.finish(originals)
    (block,), names = reference_archive.read_archive(stream.getvalue())
    assert (block.kind, names) == (FILES, list(originals))
    stored = reference_archive.files_of(block)
    for number, (tag, data) in enumerate(stored[position] for position in np.argsort(block.numbers)):
        image = np.asarray(vqcodec.decode(data)) if tag == 0 else np.asarray(Image.open(io.BytesIO(data)))
        assert (tag == 1) == (number == 1)
        assert np.array_equal(image, Image.open(io.BytesIO(originals[f"digit{number + 8}"])))


def test_supply_begins_as_the_format_says() -> None:
    assert [f"{reference_archive.supply(number):08X}" for number in range(3)] == ["E220A839", "6E789E6A", "06C45D18"]


def test_the_example_of_a_stack_is_that_of_the_format() -> None:
    text = (files("vqcodec.bitstream") / "FORMAT.md").read_text(encoding="utf-8")
    example = bytes.fromhex(text.split("```hex stack\n")[1].split("```")[0])
    symbols, table = np.array([1, 1, 1]), np.array([0, 5, 6, 1 << 16])
    pushed = Stack()
    pushed.push(symbols, Tables(np.tile(table, (3, 1)), 16))
    assert pushed.to_bytes() == example
    popped = reference_archive.Stack(example, 1)
    distributions = [reference_archive.Distribution(16, 3, table.tolist().__getitem__)] * 3
    assert popped.pop(distributions) == symbols.tolist()
    popped.finish()
