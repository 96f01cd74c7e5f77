"""Packing real files and arrays: whole or not at all, the same with workers, and never much in memory."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream.archive import Writer
from vqcodec.bitstream.errors import ModelMismatch, UnsupportedImage
from vqcodec.codec.archive.blocks import MAX_FILES
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.archive.pack import Share, Summary, pack
from vqcodec.codec.archive.reader import Archive
from vqcodec.codec.files import FileError

Images = NDArray[np.uint8]
IMAGES = Path(__file__).parents[1] / "images"


def tiny(count: int) -> list[Item]:
    """JPEG files of a few pixels, which are kept as they are: quick to pack."""
    rng = np.random.default_rng(0)
    return [Item(f"{n:05}", file=jpeg(rng.integers(0, 256, (8, 8), np.uint8))) for n in range(count)]


def jpeg(pixels: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def real_files() -> list[Item]:
    """Image files of several kinds."""
    files = [Item(path.name, file=path.read_bytes()) for path in sorted(IMAGES.glob("*.png"))]
    return [*files, Item("deep/down/a.jpg", file=jpeg(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)))]


def packed(items: list[Item], **options: object) -> bytes:
    stream = io.BytesIO()
    pack(items, stream, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def test_files_come_back_pixel_for_pixel(tmp_path: Path, digits: Images) -> None:
    items = [*real_files(), *(Item(f"digits/{n}", array=digit) for n, digit in enumerate(digits))]
    target = tmp_path / "a.vqa"
    summary = pack(items, target)
    assert summary.images == len(items)
    assert summary.bytes_total == target.stat().st_size
    assert sum(share.images for share in summary.kinds) == len(items)
    archive = Archive(target)
    assert list(archive.names) == [item.name for item in items]
    for item, image in zip(items, archive, strict=True):
        expected = Image.open(io.BytesIO(item.file)) if item.file else Image.fromarray(item.array)
        assert (image.mode, image.size, image.tobytes()) == (expected.mode, expected.size, expected.tobytes())


def test_summaries_tell_the_blocks() -> None:
    summary = pack(tiny(MAX_FILES + 1), io.BytesIO(), model="plain")
    assert summary == Summary(
        MAX_FILES + 1, summary.bytes_total, 2, (Share("files", None, MAX_FILES + 1, summary.kinds[0].bytes),)
    )


def test_overhead_is_small() -> None:
    stream = io.BytesIO()
    summary = pack(tiny(2 * MAX_FILES), stream, model="plain")
    assert summary.bytes_total - sum(share.bytes for share in summary.kinds) < 100


def test_workers_change_nothing(digits: Images) -> None:
    items = [*tiny(MAX_FILES + 5), *real_files(), *(Item(str(n), array=digit) for n, digit in enumerate(digits))]
    done: list[int] = []
    alone = packed(items)
    assert packed(items, jobs=2, progress=done.append) == alone
    assert sum(done) == len(items)


def test_packing_with_workers_needs_no_torch_in_this_process() -> None:
    script = f"""
import io, sys
import numpy as np
from vqcodec.codec.archive.pack import pack
from vqcodec.codec.archive.io.sources import Item
small = {jpeg(np.zeros((8, 8), np.uint8))!r}
items = [Item(str(n), file=small) for n in range({MAX_FILES})]
items += [Item("digit", array=np.load({str(IMAGES / "mnist_test_8.npy")!r})[0])]
print(pack(items, io.BytesIO(), jobs=2).images, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [str(MAX_FILES + 1), "False"], done.stderr


def test_images_that_cannot_be_read_are_noted() -> None:
    notes: list[tuple[str, str]] = []
    damaged = Item("cut.png", file=real_files()[0].file[:200])  # type: ignore[index]
    blob = packed([damaged, *tiny(1)], note=lambda name, reason: notes.append((name, reason)))
    assert [name for name, _ in notes] == ["cut.png"]
    archive = Archive(io.BytesIO(blob))
    assert next(stored for number, stored in archive.stored() if number == 0).original == damaged.file
    with pytest.raises(UnsupportedImage, match="damaged"):
        archive["cut.png"]
    assert archive["00000"].size == (8, 8)
    assert not archive.verify()


def test_few_images_are_held() -> None:
    taken = written = 0

    class Counting(io.BytesIO):
        def write(self, data: object) -> int:
            nonlocal written
            written = taken
            return super().write(data)  # type: ignore[arg-type]

    def items() -> Iterator[Item]:
        nonlocal taken
        for item in tiny(5 * MAX_FILES):
            assert taken - written <= MAX_FILES
            taken += 1
            yield item

    pack(items(), Counting(), model="plain")
    assert taken == 5 * MAX_FILES


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a//b", "\ud800", "a\0b"])
def test_bad_names_are_an_error(name: str) -> None:
    with pytest.raises(FileError, match="cannot be stored as a name"):
        packed([Item(name, array=np.zeros((2, 2), np.uint8))])


def test_errors_leave_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.vqa"
    twice = [*tiny(2), *tiny(1)]
    with pytest.raises(FileError, match="two images are called '00000'"):
        pack(twice, target)
    with pytest.raises(UnsupportedImage, match="no images to pack"):
        pack([], target)
    with pytest.raises(UnsupportedImage, match="bad: array of type float64"):
        pack([*tiny(3), Item("bad", array=np.zeros((2, 2)))], target)
    with pytest.raises(ModelMismatch, match="no model 'nope'"):
        pack(tiny(1), target, model="nope")
    assert not list(tmp_path.iterdir())


def test_targets_are_overwritten_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "a.vqa"
    target.write_bytes(b"precious")
    with pytest.raises(FileError, match="exists"):
        pack(tiny(1), target)
    assert target.read_bytes() == b"precious"
    pack(tiny(1), target, force=True)
    assert len(Archive(target)) == 1
    with pytest.raises(FileError, match="does not exist"):
        pack(tiny(1), tmp_path / "missing" / "a.vqa")
    assert os.listdir(tmp_path) == ["a.vqa"]


_ENDLESS = """
import sys
import numpy as np
from vqcodec.codec.archive.pack import pack
from vqcodec.codec.archive.io.sources import Item
rng = np.random.default_rng(0)
items = (Item(str(n), array=rng.integers(0, 256, (200, 200), np.uint8)) for n in range(10**9))
pack(items, sys.argv[1], model="plain", jobs=int(sys.argv[2]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_pack_leaves_only_a_temporary_file(jobs: int, tmp_path: Path) -> None:
    target = tmp_path / "a.vqa"
    with subprocess.Popen([sys.executable, "-c", _ENDLESS, str(target), str(jobs)]) as process:
        until = time.monotonic() + 120
        while not list(tmp_path.iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".vqcodec-")
    pack(tiny(1), target)
    assert len(Archive(target)) == 1


def test_a_writer_that_fails_ends_the_workers(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            if len(data) > 100:  # type: ignore[arg-type]
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    with pytest.raises(FileError, match="No space left"):
        pack(tiny(3 * MAX_FILES), Full(), model="plain", jobs=2)
    assert Writer(io.BytesIO())  # and this process goes on
