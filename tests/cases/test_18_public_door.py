"""The public functions take images and files in every form; whatever else they are given is a VqcodecError."""

from __future__ import annotations

import array
import errno
import io
import mmap
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.errors import BadArgument, FileError, ModelMismatch, UnsupportedImage, VqcodecError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(18)
COLOUR = RNG.integers(0, 256, (7, 9, 3), np.uint8)
GREY16 = RNG.integers(0, 65536, (7, 9)).astype(np.uint16)
BLOB = vqcodec.encode(COLOUR, "plain")
PNG = vqcodec.decode_to_png(BLOB)


def plain(image: Any) -> bytes:
    return vqcodec.encode(image, "plain")


# Forms


class PathLike:
    def __init__(self, path: Path, form: Callable[[Path], Any]) -> None:
        self._path, self._form = path, form

    def __fspath__(self) -> Any:
        return self._form(self._path)


def mapped(data: bytes) -> mmap.mmap:
    found = mmap.mmap(-1, len(data))
    found[:] = data
    return found


def spaced(data: bytes) -> memoryview:
    """Every second byte."""
    return memoryview(bytes(byte for pair in zip(data, data, strict=True) for byte in pair))[::2]


def at_three(data: bytes) -> io.BytesIO:
    stream = io.BytesIO(b"xyz" + data)
    stream.seek(3)
    return stream


class Dribble(io.RawIOBase):
    """A stream that gives few bytes at a time, as pipes do."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 5) if size >= 0 else 5)


IN_MEMORY: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "non-contiguous memoryview": spaced,
    "memoryview of signed bytes": lambda data: memoryview(data).cast("b"),
    "array": lambda data: array.array("B", data),
    "mmap": mapped,
    "BytesIO": io.BytesIO,
    "BytesIO further on": at_three,
    "stream of few bytes": Dribble,
}
ON_DISK: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": Path,
    "PathLike": lambda path: PathLike(path, str),
    "PathLike of bytes": lambda path: PathLike(path, os.fsencode),
    "file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
}
FORMS = [*IN_MEMORY, *ON_DISK]


def in_form(name: str, data: bytes, folder: Path) -> Any:
    if name in IN_MEMORY:
        return IN_MEMORY[name](data)
    (folder / "file").write_bytes(data)
    return ON_DISK[name](folder / "file")


READERS: dict[str, Callable[[Any], Any]] = {
    "decode": lambda blob: vqcodec.decode(blob).tobytes(),
    "decode_batch": lambda blob: vqcodec.decode_batch([blob], "numpy")[0].tobytes(),
    "decode_to_png": vqcodec.decode_to_png,
    "info": vqcodec.info,
    "Archive": lambda archive: [image.tobytes() for image in vqcodec.Archive(archive)],
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("archive") / "x.vqa"
    vqcodec.pack([vqcodec.Item("x", file=PNG)], target, model="plain")
    return target.read_bytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_files_are_read_in_every_form(form: str, reader: str, archive: bytes, tmp_path: Path) -> None:
    data = archive if reader == "Archive" else BLOB
    if reader == "Archive" and "further" in form:
        pytest.skip("an archive's stream seeks")
    given = in_form(form, data, tmp_path)
    if reader == "Archive" and form == "stream of few bytes":
        given = io.BytesIO(data)
    assert READERS[reader](given) == READERS[reader](data)
    if hasattr(given, "read") and not isinstance(given, mmap.mmap):
        assert not given.closed
        given.close()


@pytest.mark.parametrize("form", FORMS)
def test_previews_are_made_in_every_form(form: str, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    blob = vqcodec.encode(digits[0], "vq-mnist")
    given = in_form(form, blob, tmp_path)
    found, right = vqcodec.preview(given, "numpy"), vqcodec.preview(blob, "numpy")
    assert np.array_equal(found[0], right[0])
    if hasattr(given, "close"):
        given.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
def test_image_files_are_encoded_in_every_form(form: str, kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR[..., 0]).save(buffer, kind)
    given = in_form(form, buffer.getvalue(), tmp_path)
    blobs = plain(given), plain(buffer.getvalue())
    assert blobs[0] == blobs[1]
    assert np.array_equal(np.asarray(vqcodec.decode(blobs[0]).convert("L")), COLOUR[..., 0])
    if hasattr(given, "close"):
        given.close()


def test_files_of_16_bit_colour_keep_every_bit(tmp_path: Path) -> None:
    from vqcodec.codec.png import PlainImage

    image = PlainImage(RNG.integers(0, 256, (4, 5, 6), np.uint8), 16, 2)
    (tmp_path / "x.png").write_bytes(image.to_png())
    for given in (image.to_png(), tmp_path / "x.png"):
        for lossless in (False, True):
            blob = vqcodec.encode(given, lossless=lossless)
            assert PlainImage.from_png(vqcodec.decode_to_png(blob)).same_image(image)


# Sixteen bits


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a.astype(">u2"),
        lambda a: a.astype("<u2"),
        lambda a: np.asfortranarray(a),
        lambda a: a[..., None],
        lambda a: torch.from_numpy(a),
        lambda a: Image.fromarray(a),
        lambda a: Image.fromarray(a.astype(np.int32)),
        lambda a: Image.frombytes("I;16B", a.shape[::-1], a.astype(">u2").tobytes()),
        lambda a: Image.frombytes("I;16L", a.shape[::-1], a.astype("<u2").tobytes()),
        lambda a: Image.frombytes("I;16N", a.shape[::-1], a.astype("=u2").tobytes()),
        lambda a: b"P5 9 7 65535\n" + a.astype(">u2").tobytes(),
    ],
    ids=["big-endian", "little-endian", "Fortran", "channel", "tensor", "I;16", "I", "I;16B", "I;16L", "I;16N", "PGM"],
)
def test_sixteen_bits_of_grey_are_kept(form: Callable[[Any], Any]) -> None:
    back = vqcodec.decode(plain(form(GREY16)))
    assert back.mode == "I;16"
    assert np.array_equal(np.asarray(back), GREY16)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_tiff_and_pgm_files_are_kept(order: str, tmp_path: Path) -> None:
    mode = {"<": "I;16", ">": "I;16B"}[order]
    Image.frombytes(mode, (9, 7), GREY16.astype(f"{order}u2").tobytes()).save(tmp_path / "x.tif")
    (tmp_path / "x.pgm").write_bytes(b"P5 9 7 65535\n" + GREY16.astype(">u2").tobytes())
    vqcodec.pack(tmp_path, tmp_path / "x.vqa", model="plain")
    with vqcodec.Archive(tmp_path / "x.vqa", output="numpy") as images:
        assert len(images) == 2
        for name in images.names:
            assert np.array_equal(images[name], GREY16)
            assert np.array_equal(vqcodec.decode(plain(tmp_path / name), "numpy"), GREY16)


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (0, 65536), (-(2**31), 2**31 - 1)])
def test_more_than_sixteen_bits_are_refused_with_their_range(low: int, high: int) -> None:
    with pytest.raises(UnsupportedImage, match=f"values {low} to {high}: expected 16 bits, 0 to 65535"):
        plain(Image.fromarray(np.array([[low, high]], np.int32)))


# Things that are no images


class Interface:
    """What other libraries give in place of arrays."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self.__array_interface__ = pixels.__array_interface__
        self._pixels = pixels


class Lazy:
    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self._pixels, Exception):
            raise self._pixels
        return self._pixels


@pytest.mark.parametrize("form", [Interface, Lazy, np.ndarray.copy, np.asfortranarray])
def test_what_gives_an_array_is_an_image(form: Callable[[Any], Any]) -> None:
    assert np.array_equal(vqcodec.decode(plain(form(COLOUR)), "numpy"), COLOUR)


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(4, 4), 1.0, 0, torch.quint8)


def cut() -> Image.Image:
    return Image.open(io.BytesIO(PNG[:60]))


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(PNG))
    image.close()
    return image


def closed_file() -> io.BytesIO:
    stream = io.BytesIO(PNG)
    stream.close()
    return stream


def released() -> memoryview:
    view = memoryview(PNG)
    view.release()
    return view


NO_IMAGES: dict[str, Callable[[], Any]] = {
    "bfloat16": lambda: torch.zeros(4, 4, dtype=torch.bfloat16),
    "sparse": lambda: torch.zeros(4, 4, dtype=torch.uint8).to_sparse(),
    "meta": lambda: torch.zeros(4, 4, dtype=torch.uint8, device="meta"),
    "complex tensor": lambda: torch.zeros(4, 4, dtype=torch.complex64),
    "float tensor": lambda: torch.zeros(4, 4),
    "gradient": lambda: torch.zeros(4, 4, requires_grad=True),
    "quantised": quantised,
    "tensor of one axis": lambda: torch.zeros(784, dtype=torch.uint8),
    "float": lambda: np.zeros((4, 4)),
    "half": lambda: np.zeros((4, 4), np.float16),
    "int64": lambda: np.zeros((4, 4), np.int64),
    "complex": lambda: np.zeros((4, 4), complex),
    "objects": lambda: np.array([[None]]),
    "text array": lambda: np.array([["a"]]),
    "structure": lambda: np.zeros((2, 2), [("r", "u1")]),
    "times": lambda: np.zeros((2, 2), "datetime64[s]"),
    "scalar": lambda: np.uint8(3),
    "no axes": lambda: np.array(3, np.uint8),
    "no pixels": lambda: np.zeros((0, 5), np.uint8),
    "five channels": lambda: np.zeros((4, 4, 5), np.uint8),
    "16-bit colour": lambda: np.zeros((4, 4, 3), np.uint16),
    "array that fails": lambda: Lazy(RuntimeError("no")),
    "array of text": lambda: Lazy(np.array("x")),
    "None": lambda: None,
    "number": lambda: 3,
    "object": object,
    "list": lambda: [[1, 2], [3, 4]],
    "dict": dict,
    "function": lambda: print,
    "missing file": lambda: "nowhere/x.png",
    "empty name": lambda: "",
    "null in a name": lambda: "a\0b",
    "long name": lambda: "x" * 5000,
    "folder": lambda: Path(__file__).parent,
    "no image file": lambda: Path(__file__),
    "text": lambda: b"this is no image",
    "empty": lambda: b"",
    "empty file": io.BytesIO,
    "vqcodec file": lambda: BLOB,
    "text stream": lambda: io.StringIO("x"),
    "empty text stream": io.StringIO,
    "closed file": closed_file,
    "released": released,
    "cut": cut,
    "closed": closed,
    "cut bytes": lambda: PNG[:60],
    "CMYK": lambda: Image.new("CMYK", (3, 3)),
    "float image": lambda: Image.new("F", (3, 3)),
    "no size": lambda: Image.new("L", (0, 3)),
    "no size I": lambda: Image.new("I", (0, 3)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", NO_IMAGES)
@pytest.mark.parametrize("model", ["auto", "plain"])
def test_what_is_no_image_is_refused(kind: str, model: str) -> None:
    for call in (vqcodec.encode, lambda image, model: vqcodec.encode_batch([COLOUR, image], model)):
        with pytest.raises(VqcodecError) as caught:
            call(NO_IMAGES[kind](), model)
        assert len(str(caught.value)) > 10


# Things that are no files


NO_FILES: dict[str, Any] = {
    "None": None,
    "number": 3,
    "list": [1, 2],
    "object": object(),
    "array": {},
    "missing": "nowhere/x.vqc",
    "folder": Path(__file__).parent,
    "other file": Path(__file__),
    "null": "a\0b",
    "long": "x" * 5000,
    "empty": b"",
    "text stream": io.StringIO("x"),
    "image": Image.new("L", (3, 3)),
    "PNG": PNG,
    "cut": BLOB[:-1],
}
TAKERS: dict[str, Callable[[Any], Any]] = {
    "decode": vqcodec.decode,
    "decode_batch": lambda file: vqcodec.decode_batch([file]),
    "decode_to_png": vqcodec.decode_to_png,
    "info": vqcodec.info,
    "preview": vqcodec.preview,
    "Archive": vqcodec.Archive,
    "unpack": lambda file: vqcodec.unpack(file, "/tmp/nowhere/out"),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_file_is_refused(kind: str, taker: str) -> None:
    with pytest.raises(VqcodecError):
        TAKERS[taker](NO_FILES[kind])


@pytest.mark.parametrize(
    "several", ["x.png", PNG, bytearray(PNG), io.BytesIO(PNG), Path("x"), Image.new("L", (2, 2)), 3, None]
)
def test_one_in_place_of_several_is_refused(several: Any) -> None:
    with pytest.raises(BadArgument, match="expected a list"):
        vqcodec.encode_batch(several)
    with (
        pytest.raises(BadArgument, match="expected a list")
        if not isinstance(several, Image.Image)
        else pytest.raises(VqcodecError)
    ):
        vqcodec.decode_batch(several)


@pytest.mark.parametrize("shape", [(), (3,), (3, 784)])
@pytest.mark.parametrize("form", [np.zeros, torch.zeros])
def test_arrays_of_several_images_have_three_axes(shape: tuple[int, ...], form: Any) -> None:
    with pytest.raises(BadArgument, match=r"expected an array \[N, H, W\]"):
        vqcodec.encode_batch(form(shape, dtype=np.uint8 if form is np.zeros else torch.uint8))


def test_few_grey_images_in_a_tensor_are_no_channels() -> None:
    stack = RNG.integers(0, 256, (3, 6, 8), np.uint8)
    blobs = vqcodec.encode_batch(torch.from_numpy(stack), "plain")
    assert np.array_equal(np.stack(vqcodec.decode_batch(blobs, "numpy")), stack)


@pytest.mark.parametrize(
    "stack",
    [torch.zeros(2, 4, 4, dtype=torch.uint8).to_sparse(), torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, device="meta")],
)
def test_tensors_of_several_images_that_cannot_be_read(stack: torch.Tensor) -> None:
    with pytest.raises(UnsupportedImage, match="tensor"):
        vqcodec.encode_batch(stack)


@pytest.mark.parametrize(
    "sources",
    [3, None, b"x", [3], [None], ["x", 3], [vqcodec.Item("x")], [vqcodec.Item("x", file=PNG, array=COLOUR)], [],
     [vqcodec.Item(3, file=PNG)], [vqcodec.Item("x", file="y")], [vqcodec.Item("x", array=[[1]])], "nowhere", "a\0b"],
)  # fmt: skip
def test_sources_that_are_none(sources: Any, tmp_path: Path) -> None:
    with pytest.raises(VqcodecError):
        vqcodec.pack(sources, tmp_path / "x.vqa", model="plain")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", [3, None, b"x", "a\0b", ["x"]])
def test_targets_that_are_none(target: Any, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.vqa").write_bytes(archive)
    for call in (
        lambda: vqcodec.pack([vqcodec.Item("x", file=PNG)], target),
        lambda: vqcodec.unpack(tmp_path / "x.vqa", target),
    ):
        with pytest.raises(BadArgument, match="target: expected a path"):
            call()


# Other arguments


def packed(**options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return vqcodec.pack([vqcodec.Item("x", array=COLOUR)], f"{folder}/x.vqa", **options)


def unpacked(archive: bytes, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        Path(f"{folder}/x.vqa").write_bytes(archive)
        return vqcodec.unpack(f"{folder}/x.vqa", f"{folder}/out", **options)


CALLS: dict[str, Callable[..., Any]] = {
    "encode": lambda archive, **options: vqcodec.encode(COLOUR, **options),
    "encode_batch": lambda archive, **options: vqcodec.encode_batch([COLOUR], **options),
    "decode": lambda archive, **options: vqcodec.decode(BLOB, **options),
    "decode_batch": lambda archive, **options: vqcodec.decode_batch([BLOB], **options),
    "decode_to_png": lambda archive, **options: vqcodec.decode_to_png(BLOB, **options),
    "info": lambda archive, **options: vqcodec.info(BLOB, **options),
    "preview": lambda archive, **options: vqcodec.preview(BLOB, **options),
    "Archive": lambda archive, **options: vqcodec.Archive(archive, **options),
    "pack": lambda archive, **options: packed(**options),
    "unpack": unpacked,
}
DEVICES = ("tpu9", "", "cuda:", "cuda:x", "CPU", "meta", "cpu:0:1", "xpu", "mps", "cuda:99", 3, None, b"cpu", ["cpu"])
OUTPUTS = ("np", "", "PIL", None, 3, ["pil"], b"pil")
COUNTS = (0, -1, 1.5, "many", None, True, float("inf"))
BAD: dict[str, tuple[Any, ...]] = {
    "device": (*DEVICES, *(() if torch.cuda.is_available() else ("cuda", torch.device("cuda")))),
    "output": OUTPUTS,
    "quality": ("high", 50.5, 50.0, 0, 101, -1, True, [50], np.float64(50), np.array([50]), b"50"),
    "lossless": ("no", None, 1, 0.5),
    "metadata": ("no", None, 1),
    "bpp": (0, -1, float("nan"), float("inf"), "1", True, [1]),
    "max_pixels": COUNTS,
    "cache_bytes": (-1, 1.5, "many", None),
    "progress": (3, None, "bar"),
    "skip": (3, None),
    "note": (3, None),
    "jobs": (-1, 1.5, "many", None, True),
    "force": ("yes", None, 1),
    "keep_going": ("yes", None, 1),
    "whole": ("yes", None, 1),
    "only": (3, "x", [3], b"x"),
    "model": (3, 1.5, b"plain", ["plain"], object),
}
TAKES = {
    "encode": ("model", "lossless", "quality", "device", "bpp", "metadata"),
    "encode_batch": ("model", "lossless", "quality", "device", "bpp", "metadata", "progress"),
    "decode": ("output", "model", "device", "max_pixels"),
    "decode_batch": ("output", "model", "device", "max_pixels", "progress"),
    "decode_to_png": ("model", "device", "max_pixels"),
    "info": ("max_pixels", "whole", "model"),
    "preview": ("output", "model", "device", "max_pixels"),
    "Archive": ("output", "model", "device", "max_pixels", "cache_bytes"),
    "pack": ("model", "device", "max_pixels", "jobs", "force", "progress", "skip", "note"),
    "unpack": ("model", "device", "max_pixels", "jobs", "force", "keep_going", "progress", "only"),
}
MISUSES = [(call, name, value) for call, names in TAKES.items() for name in names for value in BAD[name]]


@pytest.mark.parametrize(("call", "name", "value"), MISUSES, ids=lambda value: repr(value)[:30])
def test_other_arguments_are_refused_with_what_is_taken(call: str, name: str, value: Any, archive: bytes) -> None:
    with pytest.raises(BadArgument, match=f"{name}|images|expected"):
        CALLS[call](archive, **{name: value})


@pytest.mark.parametrize("call", ["encode", "encode_batch", "pack"])
@pytest.mark.parametrize("model", [None, "nix", "nix.safetensors", "x" * 5000, "a\0b", Path("nix"), ""])
def test_models_that_are_not_there(call: str, model: Any, archive: bytes) -> None:
    with pytest.raises((ModelMismatch, BadArgument)):
        CALLS[call](archive, model=model)


def test_every_public_function_is_tried() -> None:
    public = {name for name in vqcodec.__all__ if callable(getattr(vqcodec, name))}
    errors = {name for name in public if isinstance(getattr(vqcodec, name), type)}
    assert public - errors | {"Archive"} == CALLS.keys()


def test_arguments_that_are_as_good_are_taken(digits: NDArray[np.uint8], tmp_path: Path) -> None:
    right = vqcodec.encode(digits[0], "vq-mnist", quality=40)
    for quality in (np.int64(40), np.uint8(40), np.array(40)):
        assert vqcodec.encode(digits[0], "vq-mnist", quality=quality) == right  # type: ignore[arg-type]
    assert vqcodec.encode(digits[0], "vq-mnist", quality=40, device=torch.device("cpu")) == right  # type: ignore[arg-type]
    weights = ROOT / "codec" / "weights" / "vq-mnist.safetensors"
    assert vqcodec.encode(digits[0], weights, quality=40) == right  # type: ignore[arg-type]
    assert vqcodec.encode(COLOUR, "plain", lossless=np.bool_(True)) == BLOB  # type: ignore[arg-type]
    assert vqcodec.decode(BLOB, max_pixels=np.int64(63), output="numpy").shape == COLOUR.shape


def test_refusals_load_no_torch() -> None:
    code = """
import sys, vqcodec
image = b"nothing"
for call, options in [
    (vqcodec.encode, {"device": "tpu9"}), (vqcodec.encode, {"quality": "high"}), (vqcodec.encode, {"model": 3}),
    (vqcodec.decode, {"device": "tpu9"}), (vqcodec.decode, {"output": "np"}), (vqcodec.preview, {"output": "np"}),
    (vqcodec.encode, {}), (vqcodec.decode, {}), (vqcodec.Archive, {"device": "tpu9"}), (vqcodec.Archive, {}),
]:
    try:
        call(image, **options)
    except vqcodec.VqcodecError:
        continue
    raise SystemExit(f"{call} {options}")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / ".links")}, timeout=100)


# Full disks


def many(folder: Path) -> Path:
    """An archive of images that take 240 kB as arrays."""
    items = [vqcodec.Item(f"train/{number}", array=np.full((200, 200), number, np.uint8)) for number in range(6)]
    vqcodec.pack(items, folder / "x.vqa", model="plain")
    return folder / "x.vqa"


FULL = """
import resource, shutil, signal, sys, pathlib, vqcodec
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    for size in (0, 3000, 1000000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            if name.endswith(".vqa"):
                vqcodec.pack(folder / "in.npy", folder / name, model="plain")
            else:
                vqcodec.unpack(folder / "x.vqa", folder / name)
        except vqcodec.FileError as error:
            assert "cannot write" in str(error), error
        else:
            assert size, name
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        assert sorted(path.name for path in folder.iterdir()) == ["in.npy", "x.vqa"], list(folder.iterdir())
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits of files here")
def test_files_that_cannot_be_written_are_a_clear_error_and_leave_nothing(tmp_path: Path) -> None:
    many(tmp_path)
    np.save(tmp_path / "in.npy", RNG.integers(0, 256, (5, 90, 90), np.uint8))
    names = ["out.npy", "out.npz", "out.idx", "out", "out.vqa"]
    environment = {"PYTHONPATH": str(ROOT / ".links"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path), *names], check=True, env=environment, timeout=200)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stream_that_is_full_is_a_clear_error() -> None:
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(FileError, match=os.strerror(errno.ENOSPC)):
        vqcodec.pack([vqcodec.Item("x", array=COLOUR)], stream, model="plain")


@pytest.mark.parametrize(
    "call",
    [
        vqcodec.decode, vqcodec.info, vqcodec.preview, vqcodec.decode_to_png, vqcodec.encode, vqcodec.Archive,
        lambda path: vqcodec.pack(path, "never.vqa"), lambda path: vqcodec.unpack(path, "never"),
    ],
)  # fmt: skip
def test_paths_that_no_file_can_have(call: Callable[[str], object]) -> None:
    for path in ("\ud800", "a\0b"):
        with pytest.raises(VqcodecError):
            call(path)


def test_streams_that_take_no_bytes(tmp_path: Path) -> None:
    item = vqcodec.Item("a", array=COLOUR)
    closed = io.BytesIO()
    closed.close()
    targets: list[Any] = [io.StringIO(), closed, "\ud800.vqa"]
    for target in targets:
        with pytest.raises(VqcodecError):
            vqcodec.pack([item], target, model="plain")


def test_numbers_and_arrays_beyond_all_measure() -> None:
    with pytest.raises(BadArgument, match="bpp"):
        vqcodec.encode(COLOUR, bpp=10**400)
    view = np.broadcast_to(np.uint8(3), (1 << 20, 1 << 20))
    with pytest.raises(vqcodec.TooLarge):
        vqcodec.encode(view)
    with pytest.raises(vqcodec.TooLarge):
        vqcodec.encode_batch([view])
