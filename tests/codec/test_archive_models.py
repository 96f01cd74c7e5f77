"""Groups of images that a model packs together, with models that count bright or dark pixels."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream.archive import BITS_BACK, FILES, Block, Writer
from vqcodec.bitstream.errors import Corrupt, ModelMismatch
from vqcodec.codec.archive.blocks import Label
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.archive.io.workers import in_order
from vqcodec.codec.archive.library import AUTO, BUILT_IN, PLAIN, Candidate, Packer
from vqcodec.codec.archive.pack import Share, pack
from vqcodec.codec.archive.plan import plan
from vqcodec.codec.archive.reader import Archive
from vqcodec.codec.archive.tasks import _SWITCH_BITS, Group, Settings, _cheapest_path, run

Images = NDArray[np.uint8]


@dataclass
class Deflated:
    """Packs pixels with deflate; an image costs as many bits as it has pixels on one side of 128."""

    bright: bool
    seen: list[int] = field(default_factory=list)
    image_size: int = 28

    def pack_images(self, pixels: Images) -> bytes:
        return zlib.compress((255 - pixels if self.bright else pixels).tobytes(), 9)

    def unpack_images(self, payload: bytes, count: int) -> Images:
        try:
            pixels = np.frombuffer(zlib.decompress(payload), np.uint8).reshape(count, 28, 28)
        except (zlib.error, ValueError) as error:
            raise Corrupt(f"pixels: {error}") from error
        return 255 - pixels if self.bright else pixels

    def cost_bits(self, pixels: Images) -> NDArray[np.float64]:
        self.seen.append(len(pixels))
        return ((pixels >= 128) != self.bright).sum((1, 2)).astype(np.float64)


@dataclass
class Knowing(Deflated):
    """Knows every image, so that its payloads are as small as if no other coding existed."""

    known: list[Images] = field(default_factory=list)

    def pack_images(self, pixels: Images) -> bytes:
        self.known.append(pixels)
        return bytes([len(self.known)])

    def unpack_images(self, payload: bytes, count: int) -> Images:
        return self.known[payload[0] - 1]


class TwoModels:
    """A library of a model for dark images and one for bright ones."""

    def __init__(self, kind: type[Deflated] = Deflated) -> None:
        names = {"dark": 1, "bright": 2}
        self.packers = {name: Packer(name, n, bytes(8), kind(name == "bright")) for name, n in names.items()}

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        return tuple(Candidate(name, 28, False) for name in self.packers if model in (AUTO, name))

    def load(self, source: str, device: str) -> Packer:
        return self.packers[source]

    def find(self, number: int, name: str, prefix: bytes, model: str | None, device: str) -> Packer:
        if name not in self.packers:
            raise ModelMismatch(f"no model {name!r}")
        return self.packers[name]


@pytest.fixture
def library() -> TwoModels:
    return TwoModels()


@pytest.fixture
def knowing() -> TwoModels:
    return TwoModels(Knowing)


def group(pixels: Images, mode: str = "L", models: tuple[str, ...] = ("dark", "bright")) -> Group:
    return Group(tuple(range(10, 10 + len(pixels))), mode, pixels, models)


def many(digits: Images, count: int) -> Images:
    return np.resize(digits, (count, 28, 28))


def test_one_model_takes_all_if_a_sample_says_so(digits: Images, library: TwoModels) -> None:
    done = run(Settings(library=library), group(many(digits, 300)))
    (block,) = done.blocks
    assert (block.kind, list(block.numbers), done.images) == (BITS_BACK, list(range(10, 310)), 300)
    assert Label.from_bytes(block.extra) == Label("L", 1, bytes(8), "dark")
    assert library.packers["dark"].codec.seen == [64]  # type: ignore[attr-defined]


def test_a_lone_candidate_is_not_asked(digits: Images, library: TwoModels) -> None:
    (block,) = run(Settings(library=library), group(many(digits, 300), "RGB", ("bright",))).blocks
    assert Label.from_bytes(block.extra) == Label("RGB", 2, bytes(8), "bright")
    assert not library.packers["bright"].codec.seen  # type: ignore[attr-defined]


def test_every_image_goes_to_the_model_that_is_best_for_it(digits: Images, library: TwoModels) -> None:
    pixels = many(digits, 900)
    pixels[300:600] = 255 - pixels[300:600]
    blocks = run(Settings(library=library), group(pixels)).blocks
    assert {Label.from_bytes(block.extra).name: list(block.numbers) for block in blocks} == {
        "dark": [*range(10, 310), *range(610, 910)],
        "bright": list(range(310, 610)),
    }


@pytest.mark.parametrize(("others", "worth"), [(2, False), (3, True)])
def test_choosing_image_by_image_must_save_enough(others: int, worth: bool, library: TwoModels) -> None:
    """Of 64 images, all of 280 bits with the model that suits and 504 with the other, 2.4 or 3.6 % of the bits."""
    pixels = np.zeros((64, 28, 28), np.uint8)
    pixels[:, :10] = 255
    pixels[:others, 10:18] = 255
    blocks = run(Settings(library=library), group(pixels)).blocks
    assert library.packers["dark"].codec.seen == ([64, 64] if worth else [64])  # type: ignore[attr-defined]
    first, last = list(range(10, 10 + others)), list(range(10 + others, 74))
    assert [list(block.numbers) for block in blocks] == ([last, first] if worth else [first + last])


def test_few_images_are_files_if_that_is_smaller(digits: Images, library: TwoModels) -> None:
    (one,) = run(Settings(library=library), group(digits[:1])).blocks
    assert (one.kind, list(one.numbers)) == (FILES, [10])
    (same,) = run(Settings(library=library), group(np.repeat(digits[:1], 40, axis=0))).blocks
    assert same.kind == BITS_BACK


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_the_cheapest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 40, (rng.integers(1, 4), rng.integers(1, 7))).astype(np.float64)

    def total(path: tuple[int, ...]) -> float:
        switches = sum(a != b for a, b in pairwise(path))
        return float(sum(costs[row, n] for n, row in enumerate(path)) + _SWITCH_BITS * switches)

    best = min(total(path) for path in product(range(len(costs)), repeat=costs.shape[1]))
    assert total(tuple(_cheapest_path(costs))) == best


def items_of(digits: Images) -> list[Item]:
    """900 images: dark, bright, and every tenth of another size."""
    pixels = many(digits, 900).copy()
    pixels[300:600] = 255 - pixels[300:600]
    return [Item(f"{n:03}", array=image[: 28 if n % 10 else 20]) for n, image in enumerate(pixels)]


def test_archives_of_several_models_come_back(digits: Images, knowing: TwoModels) -> None:
    items, stream = items_of(digits), io.BytesIO()
    summary = pack(items, stream, library=knowing)
    assert [(share.kind, share.model, share.images) for share in summary.kinds] == [
        ("bits-back", "dark", 540), ("bits-back", "bright", 270), ("solid", None, 90),
    ]  # fmt: skip
    assert summary.bytes_total == len(stream.getvalue()) > sum(share.bytes for share in summary.kinds)
    archive = Archive(stream, output="numpy", library=knowing)
    for image, item in zip(archive, items, strict=True):
        assert np.array_equal(image, item.array)
    told = archive.info()
    assert [(block.kind, block.model, block.mode, block.images) for block in told.blocks] == [
        ("bits-back", "dark", "L", 540), ("bits-back", "bright", "L", 270), ("solid", None, None, 90),
    ]  # fmt: skip
    assert told.bytes_total == summary.bytes_total
    assert not archive.verify()


@pytest.mark.parametrize("mode", ["1", "RGB"])
def test_modes_come_back(mode: str, digits: Images, knowing: TwoModels) -> None:
    images = [Image.fromarray(image).convert(mode) for image in many(digits, 300)]
    items = [Item(f"{n}.bmp", array=np.array(image)) for n, image in enumerate(images)]
    stream = io.BytesIO()
    assert pack(items, stream, library=knowing).kinds[0].kind == "bits-back"
    for image, expected in zip(Archive(stream, library=knowing), images, strict=True):
        assert (image.mode, image.tobytes()) == (mode, expected.tobytes())


def test_plain_and_a_named_model_are_obeyed(digits: Images, knowing: TwoModels) -> None:
    items = items_of(digits)[:310]
    assert {share.kind for share in pack(items[:50], io.BytesIO(), model=PLAIN, library=knowing).kinds} == {"solid"}
    (bright, _) = pack(items, io.BytesIO(), model="bright", library=knowing).kinds
    assert bright == Share("bits-back", "bright", 279, bright.bytes)


def test_errors_of_a_block_name_it(digits: Images, knowing: TwoModels) -> None:
    stream = io.BytesIO()
    pack(items_of(digits), stream, library=knowing)
    with pytest.raises(ModelMismatch, match="block 0 at offset 5: vq-mnist codes single images"):
        Archive(io.BytesIO(stream.getvalue()))[1]
    knowing.packers["dark"] = knowing.packers["bright"] = Packer("x", 1, bytes(8), Wrong(True))
    with pytest.raises(Corrupt, match="block 0 at offset 5: no pixels"):
        Archive(io.BytesIO(stream.getvalue()), library=knowing)[1]


def test_a_block_of_an_unknown_model_names_it() -> None:
    label = Label("L", 0, bytes(8), "of-somebody")
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(Block(BITS_BACK, label.to_bytes(), b"payload", [0]))
    writer.finish(["a"])
    archive = Archive(stream)
    assert archive.info().blocks[0].model == "of-somebody"
    with pytest.raises(ModelMismatch, match="block 0 at offset 5: no model 'of-somebody'"):
        archive[0]


class Wrong(Deflated):
    """Finds no pixels in any payload."""

    def unpack_images(self, payload: bytes, count: int) -> Images:
        raise Corrupt("no pixels")


def packed_as_planned(items: list[Item], model: str, jobs: int) -> io.BytesIO:
    """An archive in the blocks that the tasks give, however large they are."""
    stream = io.BytesIO()
    writer = Writer(stream)
    tasks = plan(items, BUILT_IN.candidates(model))
    for done in in_order(partial(run, Settings()), tasks, jobs):
        for block in done.blocks:
            writer.add(block)
    writer.finish([item.name for item in items])
    return stream


def test_a_real_model_packs_the_same_with_workers(tiny_archive_binary: Path, binary_digits: Images) -> None:
    real_model, pixels = tiny_archive_binary, many(binary_digits, 300)
    items = [*(Item(f"{n}", array=image) for n, image in enumerate(pixels)), Item("other", array=pixels[0][:9])]
    streams = [packed_as_planned(items, str(real_model), jobs) for jobs in (1, 2)]
    assert streams[0].getvalue() == streams[1].getvalue()
    archive = Archive(streams[0], model=str(real_model), output="numpy")
    assert [(block.kind, block.model, block.images) for block in archive.info().blocks] == [
        ("bits-back", "tiny-archive-binary", 300), ("files", None, 1),
    ]  # fmt: skip
    for image, item in zip(archive, items, strict=True):
        assert np.array_equal(image, item.array)
    images = dict(archive.stored(jobs=2))
    assert all(np.array_equal(images[number].pil(), item.array) for number, item in enumerate(items))
    for look in (lambda: Archive(streams[0])[0], lambda: Archive(streams[0]).verify(jobs=2)):
        with pytest.raises(ModelMismatch, match="block 0 at offset 5: no model 'tiny-archive-binary'"):
            look()


def test_models_of_the_package_are_found_without_loading_them() -> None:
    assert BUILT_IN.candidates(PLAIN) == ()
    for candidate in BUILT_IN.candidates(AUTO):
        assert candidate.side == 28
    with pytest.raises(ModelMismatch, match="no model 'nope'"):
        BUILT_IN.candidates("nope")
    with pytest.raises(ModelMismatch, match="vq-mnist cannot pack archives; use auto, plain, or a"):
        BUILT_IN.candidates("vq-mnist")
    with pytest.raises(ModelMismatch, match="vq-mnist codes single images; name a model that packs"):
        BUILT_IN.load("vq-mnist", "cpu")
