"""Files of arrays: images are taken, labels are noted, and arrays that may mean several things are refused."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec.bitstream.errors import UnsupportedImage
from vqcodec.codec import idx
from vqcodec.codec.archive.io.sources import Item, open_sources

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (6, 28, 28), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 28, 28, 3), np.uint8)
LABELS = np.arange(6, dtype=np.uint8)


def taken(path: Path) -> tuple[list[Item], dict[str, str]]:
    """The images of a source, and the reasons for what was left out by the end of its name."""
    told: dict[str, str] = {}
    items = list(open_sources([path], lambda name, reason: told.update({name.rpartition("/")[2]: reason})))
    return items, told


KERAS = {"x_train": GREY, "y_train": LABELS, "x_test": GREY[:2], "y_test": LABELS[:2]}
MEDMNIST = {
    "train_images": COLOUR,
    "train_labels": LABELS[:, None],
    "val_images": GREY[:3],
    "val_labels": LABELS[:3, None],
}
ONE_HOT = {"images": GREY, "labels": np.eye(6, 10, dtype=np.uint8), "names": np.array(["a", "b"])}
FLOATS = {"images": GREY, "floats": GREY / 255, "objects": np.array([None]), "count": np.array(6)}
ROWS = {"images": GREY, "rows": RNG.integers(0, 256, (9, 784), np.uint8)}
MASK = {"images": GREY, "mean": GREY[0], "mask": GREY[0][:20] > 99}
AS_MANY_AS_ROWS = {"images": RNG.integers(0, 256, (28, 28, 28), np.uint8), "mean": GREY[0]}
FIRST = {"images": COLOUR.transpose(0, 3, 1, 2), "grey": GREY[:, None], "t": LABELS.astype(np.int64)}


@pytest.mark.parametrize(
    ("arrays", "images", "noted"),
    [
        (KERAS, {"x_train": 6, "x_test": 2}, {"y_train", "y_test"}),
        (MEDMNIST, {"train_images": 6, "val_images": 3}, {"train_labels", "val_labels"}),
        (ONE_HOT, {"images": 6}, {"labels", "names"}),
        (FLOATS, {"images": 6}, {"floats", "objects", "count"}),
        (ROWS, {"images": 6}, {"rows"}),
        (MASK, {"images": 6, "mean": 1, "mask": 1}, set()),
        (AS_MANY_AS_ROWS, {"images": 28, "mean": 1}, set()),
        (FIRST, {"images": 6, "grey": 6}, {"t"}),
    ],
    ids=["Keras", "MedMNIST", "one-hot", "floats", "rows", "single", "as many", "channels first"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_give_their_images_and_note_the_rest(
    arrays: dict[str, NDArray[Any]], images: dict[str, int], noted: set[str], save: Any, tmp_path: Path
) -> None:
    save(tmp_path / "x.npz", **arrays)
    items, told = taken(tmp_path / "x.npz")
    expected = [(name, number) for name, count in images.items() for number in range(count)]
    assert [item.name.partition("/")[0] for item in items] == [name for name, _ in expected]
    assert told.keys() == noted
    for item, (name, number) in zip(items, expected, strict=True):
        array = arrays[name]
        right = array if images[name] == 1 else array[number]
        if array.ndim == 4 and array.shape[1] <= 4:
            right = right.transpose(1, 2, 0).squeeze()
        assert item.array is not None
        assert np.array_equal(item.array, right)
        assert item.array.flags.c_contiguous


def test_the_command_line_packs_images_beside_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", **KERAS)
    told: list[tuple[str, str]] = []
    vqcodec.pack(tmp_path / "mnist.npz", tmp_path / "x.vqa", model="plain", skip=lambda *note: told.append(note))
    with vqcodec.Archive(tmp_path / "x.vqa", output="numpy") as archive:
        assert list(archive.names)[:2] == ["x_train/0", "x_train/1"]
        assert np.array_equal(np.stack(archive[:6]), GREY)
    assert ["expected" in reason for _, reason in told] == [True, True]


def test_a_npz_file_without_images_tells_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=LABELS, b=GREY / 255)
    with pytest.raises(UnsupportedImage, match=r"shape \[6\].*multiply values of 0..1 by 255"):
        open_sources([tmp_path / "x.npz"])


def write(array: NDArray[Any], form: str, folder: Path) -> Path:
    path = folder / f"x.{form}"
    if form == "npy":
        np.save(path, array)
    elif form == "npz":
        np.savez(path, images=array)
    else:
        path.write_bytes(idx.header(array.shape) + array.tobytes())
    return path


@pytest.mark.parametrize("form", ["npy", "npz", "idx"])
@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((4, 784), r"\[4, 28, 28\].*\[1, 4, 784, 1\]"),
        ((1000, 784), r"\[1000, 28, 28\]"),
        ((1, 784), r"\[1, 28, 28\]"),
        ((783, 784), r"\[783, 28, 28\]"),
        ((6, 1024), r"\[6, 32, 32\]"),
        ((10000, 3072), r"\[10000, 32, 32, 3\]"),
        ((7, 2352), r"\[7, 28, 28, 3\]"),
        ((1797, 64), r"\[1797, 8, 8\]"),
        ((2007, 256), r"\[2007, 16, 16\]"),
    ],
)
def test_images_as_rows_of_numbers_are_refused_with_advice(
    form: str, shape: tuple[int, ...], advice: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedImage, match=advice):
        open_sources([write(np.zeros(shape, np.uint8), form, tmp_path)])


@pytest.mark.parametrize("form", ["npy", "npz", "idx"])
@pytest.mark.parametrize(
    "shape", [(28, 28), (28, 20), (480, 640), (784, 784), (768, 1024), (1, 1), (3, 5), (5, 1), (256, 256), (600, 900)]
)
def test_an_array_of_one_image_is_one_image(form: str, shape: tuple[int, int], tmp_path: Path) -> None:
    (item,), told = taken(write(np.full(shape, 7, np.uint8), form, tmp_path))
    assert item.array is not None
    assert item.array.shape == shape
    assert not told


@pytest.mark.parametrize("form", ["npy", "npz", "idx"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_channels_may_come_first(form: str, channels: int, turned: bool, tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (5, channels, 9, 7), np.uint8)
    items, _ = taken(write(np.asfortranarray(array) if turned and form != "idx" else array, form, tmp_path))
    right = array.transpose(0, 2, 3, 1)
    assert [item.array.shape for item in items if item.array is not None] == [right[0].squeeze().shape] * 5
    assert all(np.array_equal(item.array, one.squeeze()) for item, one in zip(items, right, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint16, ">u2"])
def test_a_channel_of_other_types_may_come_first(dtype: Any, tmp_path: Path) -> None:
    array = (RNG.integers(0, 2, (3, 1, 8, 6)) * 300).astype(dtype)
    items, _ = taken(write(array, "npy", tmp_path))
    assert all(np.array_equal(item.array, one[0]) for item, one in zip(items, array, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (GREY.astype(np.int64), "astype"),
        (GREY.astype(np.float32) / 255, "multiply values of 0..1 by 255"),
        (GREY.astype(np.float16), "multiply"),
        (GREY.astype(complex), "expected uint8"),
        (np.array([{}, {}]), "expected uint8"),
        (GREY[:, None, None], r"expected \[N, H, W\]"),
        (COLOUR.transpose(0, 3, 1, 2).astype(np.uint16), r"expected \[N, H, W\]"),
    ],
    ids=["int64", "float", "half", "complex", "objects", "five axes", "colours of 16 bits"],
)
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_other_arrays_are_refused_with_advice(form: str, array: NDArray[Any], advice: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedImage, match=advice):
        open_sources([write(array, form, tmp_path)])


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_in_memory_may_have_channels_first(library: str, channels: int) -> None:
    import torch

    array = RNG.integers(0, 256, (2, channels, 7, 9), np.uint8)
    blobs = vqcodec.encode_batch(array if library == "numpy" else torch.from_numpy(array), "plain")
    for blob, image in zip(blobs, array.transpose(0, 2, 3, 1), strict=True):
        assert np.array_equal(vqcodec.decode(blob, "numpy"), image.squeeze())
    assert np.array_equal(vqcodec.decode(vqcodec.encode(array[0][:1], "plain"), "numpy"), array[0, 0])


HEADERS = {
    "open brackets": b"[" * 5000,
    "many signs": b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"-" * 9000 + b"1,)}",
    "indented": b"  {\n 'descr'\n:}",
    "no text": bytes(range(256)),
    "empty": b"",
}


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_numpy_cannot_parse_are_refused(header: bytes, suffix: str, tmp_path: Path) -> None:
    member = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(99)
    path = tmp_path / f"hostile{suffix}"
    path.write_bytes(member)
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", member)
    with pytest.raises(UnsupportedImage):
        open_sources([path])


def test_a_header_that_states_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(b"\x93NUMPY\2\0" + (1 << 31).to_bytes(4, "little"))
        for _ in range(64):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UnsupportedImage, match="header of 2147483648 bytes"):
        open_sources([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24
