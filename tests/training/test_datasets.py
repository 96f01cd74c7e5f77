"""Data sets: resampling is exact, orders are fixed, and damaged or missing files are named."""

import gzip
import hashlib
import os
import struct
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import DataError, load

IMAGES = Path(__file__).parent.parent / "images"
DIGITS = np.load(IMAGES / "mnist_test_8.npy")
CHARACTERS = {path.name.replace("__", "/"): path.read_bytes() for path in sorted(IMAGES.glob("images_background__*"))}
REAL_DATA = os.environ.get("VQCODEC_DATA")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return path


# IDX


@pytest.mark.parametrize("array", [DIGITS, np.arange(8, dtype=np.uint8), np.zeros((0, 28, 28), np.uint8)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(tmp_path: Path, array: np.ndarray, pack: type[bytes]) -> None:
    (tmp_path / "x").write_bytes(pack(idx(array)))
    read = datasets.read_idx(tmp_path / "x")
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)
    assert read.flags.writeable


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not an IDX file"),
    (b"\0\0\x0d\3" + idx(DIGITS)[4:], "magic 00000d03"),  # floats
    (b"\0\0\x08\0", "not an IDX file"),
    (b"\0\0\x08\3\0\0", "inside the header"),
    (idx(DIGITS)[:-1], "has 6271"),
    (idx(DIGITS) + b"\0", "has more"),
    (b"\0\0\x08\2" + b"\xff" * 8, "more than"),
    (gzip.compress(idx(DIGITS), mtime=0)[:-20], "cannot be read"),
    (gzip.compress(b"", mtime=0)[:10] + b"\xff" * 50, "cannot be read"),
    (gzip.compress(idx(DIGITS), mtime=0)[:-8] + bytes(8), "cannot be read"),
])  # fmt: skip
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        datasets.read_idx(tmp_path / "x")


def test_a_folder_is_no_idx_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        datasets.read_idx(tmp_path)


# MNIST


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    (folder / "mnist").mkdir(exist_ok=True)
    (folder / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def test_mnist_with_other_pixels_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, DIGITS, np.arange(8, dtype=np.uint8))
    with pytest.raises(DataError, match="mnist test: 8 images of SHA-256 .* expected 6d87418d"):
        load("mnist", "test", tmp_path)


def test_labels_must_match_images(tmp_path: Path) -> None:
    write_mnist(tmp_path, DIGITS, np.arange(7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"8 images, but labels of shape \(7,\)"):
        load("mnist", "test", tmp_path)


def test_missing_files_are_named_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match="mnist/train-images-idx3-ubyte .*vqcodec data get mnist.*--data-dir or VQCODEC"
    ):
        load("mnist", "train", tmp_path)
    with pytest.raises(DataError, match=r"images_background.zip. `vqcodec data get omniglot28`"):
        load("omniglot28", "train", tmp_path)
    monkeypatch.setenv("VQCODEC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"missing {tmp_path}/omniglot/chardata.mat. Name"):
        load("omniglot28-burda", "test")


def test_unknown_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data set 'cifar'.*mnist, omniglot28, omniglot28-burda"):
        load("cifar", "train", tmp_path)
    for name in datasets.NAMES:
        with pytest.raises(DataError, match=f"{name.removesuffix('-binary')} has no split 'valid': it has train, test"):
            load(name, "valid", tmp_path)


def test_data_folder_is_argument_then_environment_then_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_DATA", str(tmp_path))
    assert datasets.data_folder("/elsewhere") == Path("/elsewhere")
    assert datasets.data_folder() == tmp_path
    monkeypatch.delenv("VQCODEC_DATA")
    assert datasets.data_folder() == Path.home() / ".cache" / "vqcodec" / "data"


# OMNIGLOT at 28x28


def area_average(ink: np.ndarray) -> np.ndarray:
    """28x28 by the definition, in exact fractions."""
    step, out = Fraction(105, 28), np.zeros((28, 28), np.uint8)

    def cover(i: int, j: int) -> Fraction:
        return max(Fraction(0), min((i + 1) * step, Fraction(j + 1)) - max(i * step, Fraction(j)))

    covers = [[(j, cover(i, j)) for j in range(105) if cover(i, j)] for i in range(28)]
    for y, x in np.ndindex(28, 28):
        total = sum((a * b for j, a in covers[y] for k, b in covers[x] if ink[j, k]), Fraction(0))
        out[y, x] = int(255 * total / step**2 + Fraction(1, 2))
    return out


def test_resampling_is_the_exact_area_average() -> None:
    ink = np.random.default_rng(5).integers(0, 2, (2, 105, 105)).astype(np.uint8)
    ink[1] &= np.random.default_rng(6).integers(0, 2, (105, 105)).astype(np.uint8)
    assert np.array_equal(datasets.box_resample(ink), np.stack([area_average(image) for image in ink]))


def test_resampling_covers_the_full_range() -> None:
    assert (datasets.box_resample(np.ones((1, 105, 105), np.uint8)) == 255).all()
    assert (datasets.box_resample(np.zeros((1, 105, 105), np.uint8)) == 0).all()


def test_the_order_is_that_of_the_hashed_names() -> None:
    order = datasets.omniglot_order(reversed(CHARACTERS))
    assert [name.rsplit("/", 1)[1] for name in order] == ["0709_01.png", "0202_01.png", "0610_01.png"]


def test_characters_are_inverted_and_ordered() -> None:
    images = datasets.omniglot28(CHARACTERS)
    assert images.shape == (3, 28, 28)
    assert images.dtype == np.uint8
    for image, name in zip(images, datasets.omniglot_order(CHARACTERS), strict=True):
        assert np.array_equal(image, datasets.omniglot28({name: CHARACTERS[name]})[0])
        assert 0 < image.mean() < 64  # little ink on much paper
    assert datasets.omniglot28({}).shape == (0, 28, 28)


def test_only_the_images_of_a_zip_are_read(tmp_path: Path) -> None:
    more = {"images_background/": b"", "__MACOSX/images_background/x.png": b"?", "images_background/notes.txt": b"?"}
    assert datasets.read_omniglot_zip(write_zip(tmp_path / "x.zip", CHARACTERS | more)) == CHARACTERS


def test_damaged_zips_are_refused(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "x.zip", CHARACTERS).read_bytes()
    for damaged in (whole[:-30], b"PK", whole.replace(b"IDAT", b"IDOT")):
        (tmp_path / "x.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a zip"):
            datasets.read_omniglot_zip(tmp_path / "x.zip")


def test_damaged_characters_are_refused() -> None:
    with pytest.raises(DataError, match="a.png: cannot be read as PNG"):
        datasets.omniglot28({"a.png": b"\x89PNG"})
    digit = (Path(datasets.__file__).parents[2] / "codec" / "examples" / "digit.png").read_bytes()
    with pytest.raises(DataError, match=r"a.png: size \(28, 28\), expected \(105, 105\)"):
        datasets.omniglot28({"a.png": digit})


def test_omniglot_of_other_images_is_refused_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "cache"))
    for name in datasets.OMNIGLOT_ZIPS:
        write_zip(tmp_path / "omniglot" / name, CHARACTERS)
    with pytest.raises(DataError, match="omniglot28 train: 3 images .* not the official files"):
        load("omniglot28", "train", tmp_path)
    assert not (tmp_path / "cache").exists()


# The cache


def test_what_is_cached_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "cache"))
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return DIGITS

    sha256 = datasets._sha256(DIGITS)
    for damage in (None, None, b"", b"\x93NUMPY", np.lib.format.magic(1, 0)):
        if damage is not None:
            (tmp_path / "cache" / "x.npy").write_bytes(damage)
        assert np.array_equal(datasets._cached("x", sha256, make), DIGITS)
    assert len(made) == 1 + 3  # at first, and after each damage
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["x.npy"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VQCODEC_CACHE", str(tmp_path / "file"))
    assert datasets._cached("x", datasets._sha256(DIGITS), lambda: DIGITS) is DIGITS


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="x.npy"):
        datasets._write_npy(tmp_path / "x.npy", DIGITS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


# Sampled binary pixels


def test_every_pixel_is_one_draw_of_a_fixed_generator() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 5), np.uint8)
    seed = int.from_bytes(hashlib.sha256(b"a name").digest()[:16], "big")
    draws = iter(np.random.PCG64(seed).random_raw(60).tolist())
    expected = [255 if 255 * (next(draws) >> 32) < value << 32 else 0 for value in images.flatten().tolist()]
    assert datasets.binarise(images, "a name").flatten().tolist() == expected
    assert np.array_equal(datasets.binarise(images[:2], "a name"), datasets.binarise(images, "a name")[:2])
    assert not np.array_equal(datasets.binarise(images, "another"), datasets.binarise(images, "a name"))


def test_the_share_of_white_is_the_grey_level() -> None:
    levels = np.array([0, 1, 50, 128, 254, 255], np.uint8)
    white = datasets.binarise(np.broadcast_to(levels, (10_000, 1, 6)), "levels")[:, 0] / 255
    p = levels / 255
    assert (
        np.abs(white.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / 10_000)
    ).all()  # 5 standard deviations; 0 and 1 exact


def test_digits_stay_digits() -> None:
    once, again = (datasets.binarise(DIGITS, name) for name in ("mnist-binary test", "other"))
    assert set(np.unique(once).tolist()) == {0, 255}
    assert once.shape == DIGITS.shape
    assert (once[DIGITS == 0] == 0).all()
    assert (once[DIGITS == 255] == 255).all()
    assert 0.5 < (once == again).mean() < 1


@pytest.mark.skipif(not REAL_DATA, reason="needs VQCODEC_DATA")
@pytest.mark.parametrize("name", ["mnist", "omniglot28"])
def test_the_real_binary_test_sets(name: str) -> None:
    """`load` compares them with their SHA-256 in PIXELS."""
    grey, binary = load(name, "test"), load(f"{name}-binary", "test")
    assert (binary.name, binary.split) == (f"{name}-binary", "test")
    assert datasets.PIXELS[binary.name, "test"] == binary.sha256 == datasets._sha256(binary.images)
    assert "sampled once" in binary.description
    assert binary.images.shape == grey.images.shape
    p = grey.images / 255
    deviation = np.sqrt((p * (1 - p)).sum())
    assert abs(binary.images.sum() / 255 - p.sum()) < 5 * deviation


def test_binary_images_of_other_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = datasets.Dataset("mnist", "test", DIGITS, None, "", "", "", "")
    monkeypatch.setitem(datasets._LOADERS, "mnist", lambda split, folder: grey)
    with pytest.raises(DataError, match="mnist-binary test: 8 images of SHA-256 .* not the official files"):
        load("mnist-binary", "test")


# Burda's file


def write_chardata(folder: Path, columns: np.ndarray) -> Path:
    (folder / "omniglot").mkdir()
    savemat(folder / "omniglot" / "chardata.mat", {"testdata": columns})
    return folder


def test_chardata_is_stored_by_columns(tmp_path: Path) -> None:
    columns = np.zeros((784, 8070))
    columns[1, 0] = 1.0  # second row, first column
    columns[28, 1] = 0.5
    data = load("omniglot28-burda", "test", write_chardata(tmp_path, columns))
    assert data.images.shape == (8070, 28, 28)
    assert [tuple(map(int, place)) for place in np.argwhere(data.images)] == [(0, 1, 0), (1, 0, 1)]
    assert data.images[0, 1, 0] == 255
    assert data.images[1, 0, 1] == 128


@pytest.mark.parametrize("columns", [np.zeros((784, 3)), np.full((784, 8070), 1.5), np.full((784, 8070), np.nan)])
def test_chardata_of_another_shape_or_range_is_refused(tmp_path: Path, columns: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"testdata must be \(784, 8070\)"):
        load("omniglot28-burda", "test", write_chardata(tmp_path, columns))


def test_damaged_chardata_is_refused(tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "chardata.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(DataError, match="cannot read 'testdata'"):
        load("omniglot28-burda", "test", tmp_path)


def test_without_scipy_chardata_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "chardata.mat").write_bytes(b"")
    with pytest.raises(DataError, match="needs scipy: pip install scipy"):
        load("omniglot28-burda", "test", tmp_path)


# The real thing, where it is at hand


@pytest.mark.skipif(not REAL_DATA, reason="needs VQCODEC_DATA")
def test_the_real_data_hold_the_excerpts() -> None:
    mnist, characters = load("mnist", "test"), load("omniglot28", "test")
    assert np.array_equal(mnist.images[:8], DIGITS)
    assert mnist.labels is not None
    assert mnist.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.array_equal(characters.images[:8], np.load(IMAGES / "omniglot28_test_8.npy"))
