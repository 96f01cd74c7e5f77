"""Image sets by name: MNIST, OMNIGLOT at 28x28 from the official zips, and Burda's OMNIGLOT file.

`load` gives the same bytes on every machine: every set is checked against the SHA-256 of its pixels. Files are looked
for in DATA/mnist/ and DATA/omniglot/, where DATA is the argument, else $VQCODEC_DATA, else ~/.cache/vqcodec/data.

    mnist             official IDX files, plain or .gz. Splits train (60,000) and test (10,000).
    omniglot28        images_background.zip and images_evaluation.zip, resampled here from 105x105 to 28x28.
                      Splits train (24,345), test (8,070) and unused (45); see `omniglot_order`.
    mnist-binary, omniglot28-binary   the same images, every pixel drawn once with the probability of its grey level;
                      see `binarise`. For measuring: training draws anew every time.
    omniglot28-burda  chardata.mat of Burda, Grosse, Salakhutdinov 2016. Splits train (24,345) and test (8,070).

The pixels of omniglot28 and omniglot28-burda differ, and so do their splits: never compare numbers across the two.
"""

import gzip
import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...bitstream.errors import VqcodecError
from ...codec.idx import read_shape
from ...codec.whole import whole_file

Images = NDArray[np.uint8]
T = TypeVar("T")

IDX_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
             "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
OMNIGLOT_ZIPS = ("images_background.zip", "images_evaluation.zip")
OMNIGLOT_SIZE = 105
OMNIGLOT_SPLITS = {"train": slice(0, 24345), "test": slice(24345, 32415), "unused": slice(32415, 32460)}
BURDA_KEYS = {"train": ("data", 24345), "test": ("testdata", 8070)}

PHOTOGRAPHS = ("kodak",)
"""Sets of `photo_sets`, whose images are in colour and of several sizes."""

OMNIGLOT28_SHA256 = "c62f85b58883b3a49debea76d2a62f537b4885e71807b1e95003bf3d0e501241"  # of all 32,460
# SHA-256 of the pixels, row-major, images in the order of the split.
PIXELS = {
    ("mnist", "train"): "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ("mnist", "test"): "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ("omniglot28", "train"): "469a52ada6e5248a064cd13fa582f5df4564d73a345384a9c8a299d0880534d1",
    ("omniglot28", "test"): "8110d6717108b0171fa68cec1d6aaa91ffd1755714ead25f4e2c5acb69a43561",
    ("omniglot28", "unused"): "d29714581fd1949078e8656dc6733b788642e3ed4094e056d2615871aecbeca9",
    ("mnist-binary", "train"): "1d74c08d7733e79614ac8f9c08e737e6a51d334d6f3afb42da27144c8dedcef8",
    ("mnist-binary", "test"): "d02d730246fe654f856bc968d84c8419c3ee6beafbb1d8328b24d009fd3bdacc",
    ("omniglot28-binary", "train"): "f8ce589b020358a9c3169866215afd7b59a2c167e2325e87dd75dfbe64a5b218",
    ("omniglot28-binary", "test"): "d475075da75b3f34b76c2bcd37627fd332be4f0417783eadaa894a81986d60a3",
}


class DataError(VqcodecError):
    """A data set is missing, damaged, or not the one its name promises."""


@dataclass(frozen=True)
class Dataset:
    """One split of one image set, held in memory."""

    name: str
    split: str
    images: Images  # [N, H, W]
    labels: Images | None  # [N]
    ink: str  # which pixel value is ink and which is paper
    description: str
    licence: str
    sha256: str  # of images, row-major


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Folder of all data sets: the argument, else $VQCODEC_DATA, else ~/.cache/vqcodec/data. It need not exist."""
    chosen = data_dir or os.environ.get("VQCODEC_DATA") or Path.home() / ".cache" / "vqcodec" / "data"
    return Path(chosen).expanduser()


def load(name: str, split: str, data_dir: str | Path | None = None) -> Dataset:
    """Read one split of a data set; `NAMES` lists the names, the top of this file their splits.

    Raises DataError when the name or split is unknown, or a file is missing, damaged or not the official one.
    """
    if name in PHOTOGRAPHS:
        raise DataError(f"{name} is a set of photographs, which only `vqcodec bench rd`, `speed` and `crops` take")
    if name not in _LOADERS:
        raise DataError(f"unknown data set {name!r}: this build has {', '.join((*_LOADERS, *PHOTOGRAPHS))}")
    return _LOADERS[name](split, data_folder(data_dir))


def read_idx(path: str | Path) -> Images:
    """Read an IDX file of unsigned bytes, plain or gzip; uint8 with the shape the file states (1 to 4 dimensions).

    Raises DataError when it is no IDX file of bytes, is cut short, has bytes left over, or exceeds 2 GiB.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as stream:
            return _parse_idx(path, stream.read)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an IDX file: {error}") from error


def box_resample(ink: Images) -> Images:
    """Area average of 105x105 pixels of 0 and 1 down to 28x28, exactly.

    An output pixel covers 15/4 x 15/4 input pixels, so the weights are integers of sum 15 * 15 = 225 and the value
    is round(255 * s / 225), halves up. uint8 [N, 105, 105] in {0, 1} -> uint8 [N, 28, 28] in 0..255.
    """
    starts = 15 * np.arange(28)[:, None], 4 * np.arange(OMNIGLOT_SIZE)[None, :]  # in quarters of an input pixel
    overlap = np.minimum(starts[0] + 15, starts[1] + 4) - np.maximum(starts[0], starts[1])
    weights = np.maximum(overlap, 0).astype(np.float32)  # float32: every sum is an integer <= 225, so it is exact
    sums: NDArray[np.int64] = (weights @ ink.astype(np.float32) @ weights.T).astype(np.int64)
    return ((510 * sums + 225) // 450).astype(np.uint8)


def omniglot_order(names: Iterable[str]) -> list[str]:
    """The fixed permutation of the OMNIGLOT images: ascending SHA-256 of the name inside the zip (UTF-8).

    Names look like `images_background/Greek/character01/0394_01.png`. Of the 32,460 images the first 24,345 are train,
    the next 8,070 test (the literature's sizes), and the last 45 are in neither.
    """
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def binarise(images: Images, name: str) -> Images:
    """Sample every pixel once: 255 with probability v / 255 for grey level v, else 0.

    The numbers are those of PCG64 seeded with the first 16 bytes (big-endian) of the SHA-256 of `name`: one raw 64-bit
    output u per pixel, images in order and row-major, and the pixel is white if 255 * (u >> 32) < v * 2**32. NumPy
    keeps the raw stream of a bit generator the same for ever. uint8 [N, H, W] -> uint8 [N, H, W] of 0 and 255."""
    generator = np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big"))
    result = np.empty_like(images)
    for image, target in zip(images, result, strict=True):
        drawn = generator.random_raw(image.size).reshape(image.shape) >> np.uint64(32)
        target[...] = np.where(drawn * np.uint64(255) < image.astype(np.uint64) << np.uint64(32), 255, 0)
    return result


def read_omniglot_zip(path: Path) -> dict[str, bytes]:
    """PNG files of one OMNIGLOT zip by their name inside it. Raises DataError if the zip is missing or damaged."""
    _require(path, "omniglot28")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("images_") and name.endswith(".png")]
            return {name: archive.read(name) for name in names}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as a zip file: {error}") from error


def omniglot28(files: dict[str, bytes]) -> Images:
    """Decode OMNIGLOT PNGs, invert them to ink = 1 and resample; uint8 [N, 28, 28] in `omniglot_order` of the names.

    Raises DataError for a file that is not a readable 105x105 image.
    """
    order = omniglot_order(files)
    parts = [order[start : start + 1024] for start in range(0, len(order), 1024)]
    blocks = [box_resample(np.stack([_ink(name, files[name]) for name in part])) for part in parts]
    return np.concatenate([np.empty((0, 28, 28), np.uint8), *blocks])


def _load_mnist(split: str, folder: Path) -> Dataset:
    names = _pick("mnist", split, IDX_FILES)
    images, labels = (read_idx(_plain_or_gz(folder / "mnist" / name)) for name in names)
    if labels.shape != images.shape[:1]:
        raise DataError(f"mnist {split}: {images.shape[0]} images, but labels of shape {labels.shape}")
    return _checked(Dataset(
        "mnist", split, images, labels, "0 = background, 255 = ink",
        "MNIST handwritten digits, 28x28 (LeCun, Cortes, Burges)", "CC BY-SA 3.0", _sha256(images),
    ))  # fmt: skip


def _load_omniglot28(split: str, folder: Path) -> Dataset:
    part = _pick("omniglot28", split, OMNIGLOT_SPLITS)
    paths = [_require(folder / "omniglot" / name, "omniglot28") for name in OMNIGLOT_ZIPS]
    make = partial(_decode_omniglot, paths)
    images = _cached("omniglot28", OMNIGLOT28_SHA256, make)[part]
    return _checked(Dataset(
        "omniglot28", split, images, None, "0 = background, 255 = ink",
        "OMNIGLOT characters (Lake et al. 2015), box-resampled 105 -> 28, vqcodec's own split", "MIT", _sha256(images),
    ))  # fmt: skip


def _decode_omniglot(paths: list[Path]) -> Images:
    files: dict[str, bytes] = {}
    for path in paths:
        files |= read_omniglot_zip(path)
    return omniglot28(files)


def _load_burda(split: str, folder: Path) -> Dataset:
    key, count = _pick("omniglot28-burda", split, BURDA_KEYS)
    columns = _read_mat(_require(folder / "omniglot" / "chardata.mat", None), key)
    if columns.shape != (784, count) or not (columns >= 0).all() or not (columns <= 1).all():
        raise DataError(f"chardata.mat: {key} must be {(784, count)} within 0..1, found shape {columns.shape}")
    # Each image is stored column by column.
    images = np.rint(columns.T.reshape(-1, 28, 28).transpose(0, 2, 1) * 255).astype(np.uint8)
    return _checked(Dataset(
        "omniglot28-burda", split, images, None, "0 = background, 255 = ink",
        "OMNIGLOT characters at 28x28 as in Burda et al. 2016 (chardata.mat)", "MIT", _sha256(images),
    ))  # fmt: skip


def _load_binary(name: str, split: str, folder: Path) -> Dataset:
    grey = _LOADERS[name](split, folder)
    images = binarise(grey.images, f"{name}-binary {split}")
    return _checked(replace(
        grey, name=f"{name}-binary", images=images, sha256=_sha256(images),
        description=f"{grey.description}, every pixel sampled once (training.datasets.binarise)",
    ))  # fmt: skip


_LOADERS: dict[str, Callable[[str, Path], Dataset]] = {
    "mnist": _load_mnist,
    "omniglot28": _load_omniglot28,
    "omniglot28-burda": _load_burda,
    "mnist-binary": partial(_load_binary, "mnist"),
    "omniglot28-binary": partial(_load_binary, "omniglot28"),
}
NAMES = tuple(_LOADERS)


def _pick(name: str, split: str, splits: dict[str, T]) -> T:
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}: it has {', '.join(splits)}")
    return splits[split]


def _checked(data: Dataset) -> Dataset:
    """The same data, if its pixels have the known hash (chardata.mat has none here)."""
    expected = PIXELS.get((data.name, data.split), data.sha256)
    if data.sha256 != expected:
        raise DataError(
            f"{data.name} {data.split}: {len(data.images)} images of SHA-256 {data.sha256}, expected {expected}: "
            f"not the official files"
        )
    return data


def _sha256(array: Images) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _plain_or_gz(path: Path) -> Path:
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.is_file() else _require(path, "mnist", " (or .gz)")


def _require(path: Path, name: str | None, also: str = "") -> Path:
    """The path if it is a file, else a DataError that says how to get it; `name` is None for what we cannot fetch."""
    if path.is_file():
        return path
    get = f"`vqcodec data get {name}` downloads it; or name" if name else "Name"
    raise DataError(
        f"missing {path}{also}. {get} the folder that holds {path.parent.name}/ by --data-dir or VQCODEC_DATA"
    )


def _parse_idx(path: Path, read: Callable[[int], bytes]) -> Images:
    try:
        shape = read_shape(read)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    body = read(math.prod(shape) + 1)
    if len(body) != math.prod(shape):
        raise DataError(f"{path}: states {shape} bytes, has {'more' if len(body) > math.prod(shape) else len(body)}")
    return np.frombuffer(bytearray(body), np.uint8).reshape(shape)


def _ink(name: str, png: bytes) -> Images:
    """[105, 105] in {0, 1}, 1 where the PNG is black."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            paper = np.asarray(image.convert("1"), np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name}: cannot be read as PNG: {error}") from error
    if paper.shape != (OMNIGLOT_SIZE, OMNIGLOT_SIZE):
        raise DataError(f"{name}: size {paper.shape[::-1]}, expected {(OMNIGLOT_SIZE, OMNIGLOT_SIZE)}")
    return 1 - paper


def _read_mat(path: Path, key: str) -> NDArray[np.float64]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("reading chardata.mat needs scipy: pip install scipy") from error
    try:
        return np.asarray(loadmat(path, variable_names=[key])[key], np.float64)
    except Exception as error:  # loadmat raises many kinds on damaged files
        raise DataError(f"{path}: cannot read {key!r}: {error!r}") from error


def _cached(name: str, sha256: str, make: Callable[[], Images]) -> Images:
    """What `make` gives, kept as NAME.npy in $VQCODEC_CACHE (default ~/.cache/vqcodec) if its hash is `sha256`.

    A cached file with another hash is replaced; one that cannot be read or written is as none.
    """
    folder = Path(os.environ.get("VQCODEC_CACHE") or Path.home() / ".cache" / "vqcodec").expanduser()
    with suppress(OSError, ValueError, EOFError):
        images: Images = np.load(folder / f"{name}.npy", allow_pickle=False)
        if _sha256(images) == sha256:
            return images
    images = make()
    if _sha256(images) == sha256:
        with suppress(OSError):
            _write_npy(folder / f"{name}.npy", images)
    return images


def _write_npy(path: Path, images: Images) -> None:
    """Write a file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.save(file, images)
