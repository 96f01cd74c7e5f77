"""Archives are read by forked processes and threads at the same time, each getting what is there."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec import VqcodecError
from vqcodec.bitstream.archive import Writer
from vqcodec.codec.archive.blocks import CODED, Form, files_block
from vqcodec.codec.archive.io.workers import in_order
from vqcodec.codec.files import FileError

Images = NDArray[np.uint8]
BLOCKS = 300
FORKS = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
pytestmark = FORKS


@pytest.fixture(scope="module")
def pixels() -> Images:
    """Small images, 7 of them over and over."""
    return np.resize(np.random.default_rng(0).integers(0, 255, (7, 6, 9), np.uint8), (BLOCKS, 6, 9))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, pixels: Images) -> Path:
    """An archive of 300 blocks of an image each."""
    target = tmp_path_factory.mktemp("archive") / "a.vqa"
    forms = [Form(CODED, vqcodec.encode(image, "plain")) for image in pixels[:7]]
    with target.open("wb") as stream:
        writer = Writer(stream)
        for number in range(BLOCKS):
            writer.add(files_block([number], [forms[number % 7]]))
        writer.finish([f"{number:04}" for number in range(BLOCKS)])
    return target


def right(archive: vqcodec.Archive, pixels: Images) -> bool:
    """Whether everything that reads tells the truth."""
    order = np.random.default_rng(os.getpid()).permutation(BLOCKS)
    return (
        archive.verify() == []
        and all(np.array_equal(archive[int(number)], pixels[number]) for number in order[:40])
        and all(np.array_equal(image.pil(), pixels[number]) for number, image in archive.stored(range(0, BLOCKS, 9)))
        and np.array_equal(archive[::9], pixels[::9])
        and np.array_equal(archive["0123"], pixels[123])
        and archive.names[7] == "0007"
        and archive.info().images == BLOCKS
    )


def forked(work: Callable[[], bool]) -> int:
    child = os.fork()
    if not child:
        threading.Timer(300, os._exit, (9,)).start()
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return child


def code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def by_path(path: Path) -> str:
    return str(path)


def by_file(path: Path) -> BinaryIO:
    return path.open("rb")


def by_bare_file(path: Path) -> BinaryIO:
    return cast(BinaryIO, path.open("rb", buffering=0))


def by_bytes(path: Path) -> BinaryIO:
    return io.BytesIO(path.read_bytes())


def by_url(path: Path) -> str:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/forks/a.vqa", path.read_bytes())
    return "memory://forks/a.vqa"


def by_shared_url(path: Path) -> str:
    pytest.importorskip("fsspec")
    return f"simplecache::file://{path}"


SOURCES = (by_path, by_file, by_bare_file, by_bytes, by_url, by_shared_url)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("source", SOURCES)
def test_children_read_beside_their_parent(
    source: Callable[[Path], str | BinaryIO], path: Path, pixels: Images
) -> None:
    archive = vqcodec.Archive(source(path), output="numpy", cache_bytes=0)
    assert np.array_equal(archive[5], pixels[5])
    children = [forked(lambda: right(archive, pixels)) for _ in range(4)]
    assert right(archive, pixels)
    assert [code(child) for child in children] == [0] * 4


def test_a_stream_with_a_position_is_refused_in_a_child(path: Path, tmp_path: Path, pixels: Images) -> None:
    with gzip.open(tmp_path / "a.gz", "wb", 1) as packed:
        packed.write(path.read_bytes())
    with gzip.open(tmp_path / "a.gz") as stream:
        archive = vqcodec.Archive(cast(BinaryIO, stream), output="numpy")
        assert np.array_equal(archive[299], pixels[299])

        def refused() -> bool:
            with pytest.raises(FileError, match="open it by path or URL"):
                archive[0]
            return True

        assert code(forked(refused)) == 0
        assert np.array_equal(archive[0], pixels[0])


def test_the_position_of_a_file_stays(path: Path) -> None:
    with path.open("rb") as stream:
        stream.seek(3)
        archive = vqcodec.Archive(stream)
        archive[7]
        assert stream.tell() == 3
    assert archive[8].size == (9, 6)  # it has a descriptor of its own


def test_a_lock_that_is_held_at_the_fork_is_free_in_the_child(path: Path, pixels: Images) -> None:
    archive = vqcodec.Archive(path, output="numpy", cache_bytes=0)
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with archive._lock.held():
            taken.set()
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    child = forked(lambda: right(archive, pixels))
    free.set()
    holder.join()
    assert code(child) == 0


def test_iterations_go_on_in_a_child(path: Path, pixels: Images) -> None:
    archive = vqcodec.Archive(path, output="numpy", cache_bytes=0)
    images, stored = iter(archive), archive.stored()
    next(images), next(stored)
    child = forked(
        lambda: (
            np.array_equal(list(images), pixels[1:])
            and all(np.array_equal(image.pil(), pixels[number]) for number, image in stored)
        )
    )
    assert np.array_equal(list(images), pixels[1:])
    assert [number for number, _ in stored] == list(range(1, BLOCKS))
    assert code(child) == 0


def test_what_a_child_closes_stays_open_in_its_parent(path: Path, pixels: Images) -> None:
    archive = vqcodec.Archive(path, output="numpy", cache_bytes=0)

    def closed() -> bool:
        archive.close()
        with pytest.raises(FileError, match="closed"):
            archive[0]
        return True

    assert code(forked(closed)) == 0
    assert right(archive, pixels)
    assert closed()


@pytest.mark.parametrize("source", [by_path, by_bytes, by_shared_url])
def test_threads_read_at_the_same_time(source: Callable[[Path], str | BinaryIO], path: Path, pixels: Images) -> None:
    archive = vqcodec.Archive(source(path), output="numpy", cache_bytes=0)
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(right(archive, pixels))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_a_child_cannot_go_on_with_its_parents_workers() -> None:
    results = in_order(abs, iter(range(20)), jobs=2)
    assert next(results) == 0

    def refused() -> bool:
        with pytest.raises(VqcodecError, match="begin anew"):
            list(results)
        return True

    child = forked(refused)
    assert list(results) == list(range(1, 20))
    assert code(child) == 0
