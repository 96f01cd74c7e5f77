"""Photographs by vector quantisation, decoded by a second decoder that was written from FORMAT.md."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream import container
from vqcodec.bitstream.errors import Truncated
from vqcodec.codec import models, weights_file
from vqcodec.codec.photo import tiles
from vqcodec.codec.photo_vq.codec import PhotoVQCodec
from vqcodec.codec.photo_vq.config import Codebook, PhotoVQConfig
from vqcodec.codec.photo_vq.model import PhotoVQModel
from vqcodec.codec.photographs import _read_front
from vqcodec.tests.reference import photo_vq as reference

GOLDEN = sorted((Path(__file__).parent / "golden").glob("good-vq-photo-*.vqc"))
BUILT_IN = models.find("vq-photo")
Pixels = NDArray[np.uint8]


def decoded_indices(blob: bytes, weights: Path) -> list[list[NDArray[np.int64]]]:
    """Indices of every tile and level, as the product reads them; of a whole file or the start of one."""
    header, payload, _ = container.read_start(blob)
    assert isinstance(header, container.ModelHeader)
    codec = models.load(str(weights)).codec
    levels, (height, width) = header.parameter & 127, (header.height, header.width)
    streams, _ = codec._streams(payload[_read_front(header, payload)[2] :], levels, height, width)
    return [
        [index[0].numpy() for index in codec._indices([level[tile] for level in streams], *pixels_of(box))]
        for tile, box in enumerate(tiles.boxes(height, width))
    ]


def pixels_of(box: tiles.Box) -> tuple[int, int]:
    rows, columns = box
    return rows.stop - rows.start, columns.stop - columns.start


def check(blob: bytes, weights: Path = BUILT_IN, cut: bool = False) -> list[list[NDArray[np.int64]]]:
    """The second decoder reads the indices that vqcodec reads, and sees what it sees within one level (floats are added
    up in another order). Returns the indices of every tile and level."""
    given = None if weights == BUILT_IN else str(weights)
    shown = vqcodec.preview(blob, "numpy", given)[0] if cut else vqcodec.decode(blob, "numpy", given)
    indices, pixels, _ = reference.decode(blob, weights, cut)
    assert pixels.shape == shown.shape
    assert np.abs(pixels.astype(int) - shown).max() <= 1
    for own, others in zip(indices, decoded_indices(blob, weights), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(own, others, strict=True))
    return indices


def test_the_golden_files_are_there() -> None:
    assert len(GOLDEN) == 3


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files(path: Path) -> None:
    """RGBA at one level, L at three, RGB at all five."""
    indices = check(path.read_bytes())
    with Image.open(path.with_suffix(".png")) as expected:
        assert np.abs(reference.decode(path.read_bytes(), BUILT_IN)[1].astype(int) - expected).max() <= 1
    assert len(indices) == 1


def test_metadata_and_transparency_in_front(photo: Pixels) -> None:
    image = Image.fromarray(photo[:40, :56]).convert("LA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.info["exif"] = b"EXIF of some length" * 3
    blob = vqcodec.encode(image, "vq-photo", quality=40, metadata=True)
    check(blob)
    _, pixels, front = reference.decode(blob, BUILT_IN)
    assert front.told == (b"", image.info["exif"])
    assert np.array_equal(pixels[..., 1], image.getchannel("A"))


def test_the_start_of_a_file_shows_the_levels_that_are_there(photo: Pixels) -> None:
    image = Image.fromarray(photo[:40, :56])
    blob = vqcodec.encode(image, "vq-photo", quality=100)
    ends = ends_of_levels(blob, 1)
    assert ends[-1] == len(blob) - 4  # the checksum
    for levels, end in enumerate(ends, 1):
        (found,) = check(blob[:end], cut=True)
        assert len(found) == levels
        with_less = blob[: end - 1]
        if levels == 1:
            with pytest.raises(Truncated):
                vqcodec.preview(with_less)
        else:
            (found,) = check(with_less, cut=True)
            assert len(found) == levels - 1
        own = vqcodec.encode(image, "vq-photo", quality=20 * levels)
        assert np.array_equal(vqcodec.preview(blob[:end], "numpy")[0], vqcodec.decode(own, "numpy"))


def ends_of_levels(blob: bytes, count: int) -> list[int]:
    """Where every level of a file of `count` tiles ends, colours without metadata."""
    front = reference.photo.front(blob)
    begin = len(blob) - 4 - len(front.data.data)
    return [begin + front.data.at for _ in reference.levels(front.data, count, front.setting)]


def test_large_images_are_tiles(photo: Pixels) -> None:
    """Side by side, and one above the other; a cut file shows the levels of which it has all tiles."""
    strip = np.concatenate([photo[5 * n : 5 * n + 9] for n in range(17)], 1)[:, :2113]
    blob = vqcodec.encode(Image.fromarray(strip), "vq-photo", quality=20)
    assert len(check(blob)) == 2
    upright = Image.fromarray(np.ascontiguousarray(strip.swapaxes(0, 1)))
    blob = vqcodec.encode(upright, "vq-photo", quality=40)
    assert len(check(blob)) == 2
    first, second = ends_of_levels(blob, 2)
    assert all(len(levels) == 1 for levels in check(blob[: second - 1], cut=True))
    with pytest.raises(Truncated):  # one tile of the first level is there
        vqcodec.preview(blob[: first - 1])


@pytest.fixture(scope="module", params=["halving", "even"])
def random_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of random weights, of another architecture than the package's."""
    books = {
        "halving": (Codebook(16, 16, 6, 3), Codebook(8, 12, 8, 2), Codebook(4, 9, 5, 0)),
        "even": (Codebook(8, 16, 6), Codebook(8, 33, 9, 2)),
    }[request.param]
    fine = {"halving": 6, "even": 128}[request.param]  # where blocks of the ladder have three layers
    config = PhotoVQConfig(
        books, width=10, synthesis_blocks=2, fine_width=fine, fine_blocks=1,
        prior_width=8, prior_embed=4, prior_hidden=6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PhotoVQModel(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    for parameter in model.prior.parameters():
        parameter.data *= 3
    for codebook in model.autoencoder.codebooks:
        codebook.data *= 50
    path = tmp_path_factory.mktemp("random") / "random.safetensors"
    told = dataclasses.replace(weights_file.describe(BUILT_IN), name="random", config=dataclasses.asdict(config))
    weights_file.write(path, told, PhotoVQCodec(copy.deepcopy(model)).stored())
    return path


@pytest.mark.parametrize("size", [(1, 1), (50, 37)])
def test_files_of_other_architectures(random_model: Path, photo: Pixels, size: tuple[int, int]) -> None:
    model = models.load(str(random_model))
    for quality in range(1, model.codec.qualities + 1):
        coded = model.codec.encode_photo(photo[: size[0], : size[1]], quality)
        header = container.ModelHeader(coded.parameter, "RGB", *size[::-1], 0, model.sha256[:8], model.name)
        (indices,) = check(container.write(header, coded.payload), random_model)
        assert len(indices) == quality
        if size != (1, 1):
            assert all(len(np.unique(index)) > 2 for index in indices)
