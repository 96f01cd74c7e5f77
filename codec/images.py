"""Images as users hold them - Pillow, NumPy, torch - and the grey squares that digit models take."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..bitstream.container import MAX_PIXELS
from ..bitstream.errors import BadArgument, UnsupportedImage, VqcodecError
from .strict_pillow import strict_pillow

if TYPE_CHECKING:
    from torch import Tensor

AnyImage = Union[Image.Image, NDArray[Any], "Tensor", bytes, bytearray, memoryview, str, "os.PathLike[str]", BinaryIO]
"""An image: held by Pillow, NumPy or torch, or the bytes, path or file object of an image file."""
Output = Literal["pil", "numpy", "torch"]
OUTPUTS: tuple[Output, ...] = ("pil", "numpy", "torch")
CHANNELS = 4
"""The most channels of an image."""

_ORIENTATION = 0x0112
_OTHER_EXIF = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where else Pillow finds the orientation
_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by EXIF orientation."""
_REVERSED = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
"""Whether rows and columns are in reverse, after rows and columns were swapped from 5 on."""


def to_pil(image: AnyImage) -> Image.Image:
    """Any image as a Pillow image, upright and loaded.

    Arrays and tensors: uint8 [H, W] (grey), [H, W, 1], [1, H, W], [H, W, 2] (with alpha), [H, W, 3], [H, W, 4]; bool
    [H, W]; uint16 [H, W] in any byte order; tensors also channels first, [C, H, W]. Raises UnsupportedImage for
    anything else."""
    if isinstance(image, Image.Image):
        with reading("cannot read the image"):
            return loaded(image)
    array = _to_numpy(image)
    if array.ndim == 3 and 1 in (array.shape[2], array.shape[0] if array.shape[2] > CHANNELS else 0):
        array = array[:, :, 0] if array.shape[2] == 1 else array[0]
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    plane = array.ndim == 2
    if array.dtype not in (np.uint8, np.bool_, np.uint16):
        raise UnsupportedImage(f"array of type {array.dtype}: expected uint8 (0..255), bool or uint16{advice(array)}")
    if not array.size or not (plane or (array.ndim == 3 and array.shape[2] in (2, 3, 4) and array.dtype == np.uint8)):
        raise UnsupportedImage(
            f"array of shape {list(array.shape)} and type {array.dtype}: expected uint8 [H, W] or [H, W, 2 to 4], "
            "bool [H, W] or uint16 [H, W]"
        )
    return Image.fromarray(array)


def advice(array: NDArray[Any] | np.dtype[Any]) -> str:
    """What to do about an array of another type than those that can be stored; begins with "; "."""
    kind = array.dtype.kind if isinstance(array, np.ndarray) else array.kind
    if kind == "f":
        return "; multiply values of 0..1 by 255, then use .round().astype(np.uint8)"
    return "; use .astype(np.uint8) if all values are in 0..255" if kind in "iu" else ""


@contextmanager
def reading(failed: str, unknown: str = "", max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Inside, Pillow is strict (`strict_pillow`), and whatever its plug-ins raise for bad bytes is UnsupportedImage.

    failed, unknown: what the message says of damaged files, and of those that no plug-in knows."""
    try:
        with strict_pillow(max_pixels):
            yield
    except (VqcodecError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedImage(unknown or failed) from error
    except Exception as error:  # plug-ins raise anything: struct.error, KeyError, NotImplementedError, zlib.error, ...
        raise UnsupportedImage(f"{failed}: {error or type(error).__name__}") from error


def loaded(image: Image.Image) -> Image.Image:
    """A still Pillow image with its pixels decoded, upright, and in mode I;16 if it is one of 16 bits.

    Raises UnsupportedImage for several frames, and what Pillow's plug-ins raise."""
    _check_still(image)
    image.load()
    return upright(_sixteen_bits(image))


def _check_still(image: Image.Image) -> None:
    """Raises UnsupportedImage for several frames, of which one would be lost. A further picture of a phone's MPO file
    is no frame, nor is the default image of a PNG file beside its only frame."""
    at = image.tell()
    if image.format != "MPO":
        try:
            frames = int(getattr(image, "n_frames", 1)) - bool(getattr(image, "default_image", False))
        except ValueError:  # its file was closed, so that frames cannot be counted any more; animations have these
            frames = 2 if image.info.keys() & {"loop", "duration"} else 1
        if frames > 1:
            raise UnsupportedImage(f"several frames ({frames}); vqcodec stores still images")
    elif at:
        raise UnsupportedImage(f"picture {at + 1} of an MPO file; vqcodec stores the first: give it a copy() of this")


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """In mode I;16 where the image has another of Pillow's modes of 16-bit grey.

    Raises UnsupportedImage for mode I with values beyond 16 bits."""
    if image.mode not in ("I", "I;16B", "I;16L", "I;16N") or not min(image.size):
        return image
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise UnsupportedImage(
            f"image mode I with values {values.min()} to {values.max()}: expected 16 bits, 0 to 65535"
        )
    result = Image.fromarray(values.astype(np.uint16))
    result.info = dict(image.info)
    return result


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 (upright) to 8; 1 where EXIF says nothing that makes sense."""
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of damaged EXIF Pillow raises anything; the pixels are sound
        return 1
    return value if value in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, which then says no more of it."""
    method = _TURNS[orientation(image)]
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = {name: value for name, value in image.info.items() if name not in _OTHER_EXIF}
    if "exif" in turned.info:
        turned.info["exif"] = upright_exif(turned.info["exif"])
    return turned


def upright_samples(samples: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Samples [H, W, B] turned as an EXIF orientation says."""
    if turn >= 5:
        samples = samples.swapaxes(0, 1)
    rows, columns = _REVERSED[turn]
    return np.ascontiguousarray(samples[:: -1 if rows else 1, :: -1 if columns else 1])


def upright_exif(exif: bytes) -> bytes:
    """EXIF with orientation 1; nothing else of it changes. EXIF that cannot be parsed comes back as it is."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[start : start + 4])
    if order is None or len(exif) < start + 8:
        return exif
    place = start + int(struct.unpack_from(f"{order}I", exif, start + 4)[0])
    count = int(struct.unpack_from(f"{order}H", exif, place)[0]) if place + 2 <= len(exif) else 0
    for entry in range(place + 2, min(place + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
        if tag == _ORIENTATION and kind == 3:  # a short
            return exif[: entry + 8] + struct.pack(f"{order}HH", 1, 0) + exif[entry + 12 :]
    return exif


def _to_numpy(image: Any) -> NDArray[Any]:
    array = array_of(image)
    return channels_last(array) if array.ndim == 3 and hasattr(image, "detach") else array


def array_of(image: Any) -> NDArray[Any]:
    """An array, or what a tensor or another library's array holds, as it lies. Raises UnsupportedImage."""
    if isinstance(image, np.ndarray):
        return np.asarray(image)
    if not (hasattr(image, "detach") and hasattr(image, "cpu")):
        return _as_array(image)
    if str(image.dtype).removeprefix("torch.") not in ("uint8", "bool", "uint16"):
        raise UnsupportedImage(
            f"tensor of type {image.dtype}: expected torch.uint8 (0..255), torch.bool or torch.uint16; values of 0..1: "
            "(255 * x).round().to(torch.uint8)"
        )
    try:
        array: NDArray[Any] = image.detach().cpu().numpy()
    except (RuntimeError, TypeError, ValueError) as error:  # sparse, on the meta device, quantised
        raise UnsupportedImage(f"tensor without pixels that can be read: {str(error).splitlines()[0]}") from error
    return array


def _as_array(image: Any) -> NDArray[Any]:
    if not any(hasattr(image, name) for name in ("__array__", "__array_interface__")):
        raise UnsupportedImage(f"{type(image).__name__}: expected a Pillow image, a NumPy array or a torch tensor")
    try:
        return np.asarray(image)
    except Exception as error:  # code of another library
        raise UnsupportedImage(f"{type(image).__name__}: cannot be read as an array: {error}") from error


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Array [..., C, H, W] as [..., H, W, C] if its shape can mean nothing else: C in 1..4, W above that."""
    first = array.shape[-3] <= CHANNELS < array.shape[-1]
    return np.moveaxis(array, -3, -1) if first else array


def from_pil(image: Image.Image, output: Output) -> Any:
    """The image as asked for: "pil", "numpy" (as np.asarray gives it; palettes as colours) or "torch" (the same)."""
    if output == "pil":
        return image
    colours = image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image
    array = np.array(colours)
    if output == "numpy":
        return array
    if output == "torch":
        import torch

        return torch.from_numpy(array)
    raise BadArgument(f"output must be 'pil', 'numpy' or 'torch', found {output!r}")


def grey_plane(image: Image.Image) -> NDArray[np.uint8] | None:
    """Pixels uint8 [H, W] of an image that is nothing but grey: modes L, 1, and RGB with equal channels; else None."""
    if image.info.get("transparency") is not None:
        return None
    if image.mode in ("L", "1"):
        return np.array(image.convert("L"))
    if image.mode == "RGB":
        pixels = np.asarray(image)
        if (pixels == pixels[:, :, :1]).all():
            return np.ascontiguousarray(pixels[:, :, 0])
    return None


def is_binary(pixels: NDArray[np.uint8]) -> bool:
    """Whether pixels are all 0 or 255."""
    return bool(((pixels == 0) | (pixels == 255)).all())


def from_grey_plane(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Inverse of `grey_plane` for modes L, 1 (thresholded at 128) and RGB."""
    image = Image.fromarray(pixels)
    if mode == "1":
        return image.point(lambda value: 255 if value >= 128 else 0).convert("1", dither=Image.Dither.NONE)
    return image.convert(mode)


def bytes_of(image: Image.Image) -> int:
    """Bytes of an image's samples once decoded: one for each of up to 8 bits, two of 16, four of 32."""
    each = 2 if ";16" in image.mode else 4 if image.mode in ("I", "F") else 1
    return image.width * image.height * len(image.getbands()) * each


def psnr_db(squared_error: int, samples: int) -> float:
    """10 log10(255^2 / mean squared error) of 8-bit samples; 99 for no error at all."""
    return float(10 * np.log10(255**2 * samples / squared_error)) if squared_error else 99.0
