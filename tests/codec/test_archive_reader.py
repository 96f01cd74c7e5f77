"""Archives as sequences: access, damage, memory, pickling, data loaders."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

import vqcodec
from vqcodec.bitstream.archive import FILES, Block, Writer
from vqcodec.bitstream.errors import BitstreamError, Corrupt, NotAVqcodecFile, Truncated
from vqcodec.codec.archive.blocks import CODED, MAX_FILES, Form, files_block, join_files
from vqcodec.codec.archive.reader import Archive, Damage
from vqcodec.codec.files import FileError

Images = NDArray[np.uint8]
COUNT = 2 * MAX_FILES + 100


@pytest.fixture(scope="module")
def pixels() -> Images:
    """Small images, 21 of them over and over."""
    return np.resize(np.random.default_rng(0).integers(0, 4, (21, 5, 7), np.uint8), (COUNT, 5, 7))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, pixels: Images) -> Path:
    """Their archive of three blocks."""
    forms = [Form(CODED, vqcodec.encode(image, "plain")) for image in pixels[:21]]
    target = tmp_path_factory.mktemp("archive") / "a.vqa"
    with target.open("wb") as stream:
        writer = Writer(stream)
        for start in range(0, COUNT, MAX_FILES):
            numbers = range(start, min(start + MAX_FILES, COUNT))
            writer.add(files_block(numbers, [forms[number % 21] for number in numbers]))
        writer.finish([f"{number:04}" for number in range(COUNT)])
    return target


@pytest.fixture
def archive(path: Path) -> Archive:
    return Archive(path, output="numpy")


def test_images_are_found_by_number_and_name(archive: Archive, pixels: Images) -> None:
    assert len(archive) == COUNT
    for number in (0, 5, MAX_FILES, COUNT - 1, np.int64(7)):
        assert np.array_equal(archive[number], pixels[number])
        assert np.array_equal(archive[f"{number:04}"], pixels[number])
        assert np.array_equal(archive[int(number) - COUNT], pixels[number])
    assert archive.names[3] == "0003"


def test_slices_are_lists(archive: Archive, pixels: Images) -> None:
    for key in (slice(3), slice(-3, None), slice(990, 1010), slice(None, None, -700), slice(5, 2)):
        assert np.array_equal(np.reshape(archive[key], (-1, 5, 7)), pixels[key])


def test_what_is_not_there_is_an_error(archive: Archive) -> None:
    for number in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"expected -{COUNT}..{COUNT - 1}, found {number}"):
            archive[number]
    with pytest.raises(KeyError, match="nope"):
        archive["nope"]
    with pytest.raises(TypeError):
        archive[1.5]  # type: ignore[call-overload]
    assert "0003" in archive
    assert "nope" not in archive
    assert 3 not in archive


def test_all_images_come_in_order(archive: Archive, pixels: Images) -> None:
    assert np.array_equal(list(archive), pixels)


def test_outputs(path: Path, pixels: Images) -> None:
    assert isinstance(Archive(path)[0], Image.Image)
    tensor = Archive(path, output="torch")[1]
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), pixels[1])
    with pytest.raises(ValueError, match="output must be 'pil', 'numpy' or 'torch', found 'jax'"):
        Archive(path, output="jax")  # type: ignore[arg-type]


def test_streams_and_urls_are_sources(path: Path, pixels: Images) -> None:
    stream = io.BytesIO(path.read_bytes())
    with Archive(stream, output="numpy") as archive:
        assert np.array_equal(archive[1], pixels[1])
    assert not stream.closed
    assert np.array_equal(Archive(path.as_uri(), output="numpy")[1], pixels[1])
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/archives/a.vqa", path.read_bytes())
    assert np.array_equal(Archive("memory://archives/a.vqa", output="numpy")[2], pixels[2])


def test_info_tells_the_blocks(archive: Archive, path: Path) -> None:
    told = archive.info()
    assert (told.images, told.bytes_total) == (COUNT, path.stat().st_size)
    assert [(block.number, block.kind, block.images) for block in told.blocks] == [
        (0, "files", MAX_FILES),
        (1, "files", MAX_FILES),
        (2, "files", 100),
    ]
    assert [block.offset + block.bytes for block in told.blocks[:-1]] == [block.offset for block in told.blocks[1:]]


def test_one_image_reads_its_block_only(path: Path) -> None:
    class Watched(io.BytesIO):
        total = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.total += len(data)
            return data

    stream = Watched(path.read_bytes())
    archive = Archive(stream)
    blocks = archive.info().blocks
    before = stream.total
    archive[COUNT - 1]
    assert stream.total - before == blocks[2].bytes
    archive[COUNT - 2]
    assert stream.total - before == blocks[2].bytes


def test_the_cache_is_bounded(path: Path) -> None:
    sizes = [block.bytes for block in Archive(path).info().blocks]
    for limit, kept in ((0, 1), (sizes[0] + sizes[2], 2), (sum(sizes), 3)):
        archive = Archive(path, cache_bytes=limit)
        for number in (0, MAX_FILES, 2 * MAX_FILES, 3):
            archive[number]
        assert len(archive._cache) == kept
        assert sum(opened.nbytes for opened in archive._cache.values()) <= max(limit, sizes[0])


def test_stored_images_come_block_by_block(archive: Archive, pixels: Images) -> None:
    done: list[int] = []
    wanted = [COUNT - 1, 3, MAX_FILES, 4]
    found = dict(archive.stored(wanted, progress=done.append))
    assert list(found) == [3, 4, MAX_FILES, COUNT - 1]
    assert sum(done) == 4
    assert all(np.array_equal(image.pil(), pixels[number]) for number, image in found.items())
    assert [number for number, _ in archive.stored()] == list(range(COUNT))


@pytest.fixture
def damaged(path: Path, tmp_path: Path) -> Path:
    """The archive with a byte of its middle block changed."""
    data = bytearray(path.read_bytes())
    data[Archive(path).info().blocks[1].offset + 5] ^= 1
    (tmp_path / "damaged.vqa").write_bytes(data)
    return tmp_path / "damaged.vqa"


def test_damage_stays_in_its_block(damaged: Path, pixels: Images) -> None:
    archive = Archive(damaged, output="numpy")
    offset = archive.info().blocks[1].offset
    assert np.array_equal(archive[MAX_FILES - 1], pixels[MAX_FILES - 1])
    assert np.array_equal(archive[2 * MAX_FILES], pixels[2 * MAX_FILES])
    message = f"block 1 at offset {offset}: expected checksum"
    with pytest.raises(Corrupt, match=message):
        archive[MAX_FILES]
    with pytest.raises(Corrupt, match=message):
        list(archive.stored())
    found: list[Damage] = []
    numbers = [number for number, _ in archive.stored(damaged=found.append)]
    assert numbers == [*range(MAX_FILES), *range(2 * MAX_FILES, COUNT)]
    (damage,) = found
    assert (damage.block, damage.offset) == (1, offset)
    assert damage.names == tuple(f"{n:04}" for n in range(MAX_FILES, 2 * MAX_FILES))
    assert damage.reason.startswith(message)
    assert archive.verify() == found


def test_only_what_was_wanted_counts_as_lost(damaged: Path) -> None:
    found: list[Damage] = []
    assert [n for n, _ in Archive(damaged).stored([1, MAX_FILES + 1], damaged=found.append)] == [1]
    assert [damage.names for damage in found] == [(f"{MAX_FILES + 1:04}",)]


def test_verify_decodes_every_image(archive: Archive) -> None:
    done: list[int] = []
    assert archive.verify(done.append) == []
    assert done == [MAX_FILES, MAX_FILES, 100]


def test_workers_decode_alike(damaged: Path, pixels: Images) -> None:
    archive = Archive(damaged)
    alone: list[Damage] = []
    shared: list[Damage] = []
    expected = [number for number, _ in archive.stored(damaged=alone.append)]
    found = dict(archive.stored(damaged=shared.append, jobs=2))
    assert list(found) == expected
    assert shared == alone == archive.verify(jobs=2)
    assert all(np.array_equal(found[number].pil(), pixels[number]) for number in expected[::100])


def test_verify_finds_what_has_a_checksum_but_is_no_image() -> None:
    payloads = [join_files([Form(CODED, b"no image")]), b"\x09\x00cut"]
    stream = io.BytesIO()
    writer = Writer(stream)
    for number, payload in enumerate(payloads):
        writer.add(Block(FILES, b"", payload, [number]))
    writer.finish(["a", "b"])
    archive = Archive(stream)
    assert [(damage.block, damage.names) for damage in archive.verify()] == [(0, ("a",)), (1, ("b",))]
    with pytest.raises(NotAVqcodecFile):
        archive["a"]
    with pytest.raises(Truncated, match="block 1 at offset 15: file at offset 1 of the block"):
        archive["b"]


@pytest.mark.parametrize("cut", [0, 3, 100, 5000])
def test_other_files_are_refused(cut: int, path: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.vqa").write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BitstreamError):
        Archive(tmp_path / "cut.vqa")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read .*missing"):
        Archive(tmp_path / "missing.vqa")
    with pytest.raises(FileError, match="is a folder"):
        Archive(tmp_path)

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(FileError, match="cannot read the archive: Input/output error"):
        Archive(Failing(b"x" * 100))


def test_archives_travel_by_path(archive: Archive, pixels: Images) -> None:
    archive[0]
    copy = pickle.loads(pickle.dumps(archive))
    assert np.array_equal(copy[1500], pixels[1500])
    with pytest.raises(TypeError, match="opened from a stream cannot be pickled"):
        pickle.dumps(Archive(io.BytesIO(Path(archive._path or "").read_bytes())))


FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # torch has threads; these processes only read


@FORKS
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_the_same_file(archive: Archive, pixels: Images) -> None:
    archive[0]
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(archive[MAX_FILES], pixels[MAX_FILES]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(archive[2 * MAX_FILES], pixels[2 * MAX_FILES])


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loaders_read_archives(path: Path, pixels: Images, workers: int) -> None:
    loader: Any = DataLoader(
        Archive(path, output="torch"),  # type: ignore[arg-type]
        batch_size=300,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    assert np.array_equal(torch.cat(list(loader)).numpy(), pixels)
