"""Images as users hold them - Pillow, NumPy, torch - and the grey squares that digit models take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bitstream.errors import UnsupportedImage

if TYPE_CHECKING:
    from torch import Tensor

AnyImage = Union[Image.Image, NDArray[Any], "Tensor"]
Output = Literal["pil", "numpy", "torch"]


def to_pil(image: AnyImage) -> Image.Image:
    """Any image as a Pillow image.

    Arrays and tensors: uint8 [H, W] (grey), [H, W, 1], [H, W, 2] (with alpha), [H, W, 3], [H, W, 4]; bool [H, W];
    uint16 [H, W]; tensors also channels first, [C, H, W]. Raises UnsupportedImage for anything else."""
    if isinstance(image, Image.Image):
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise UnsupportedImage(f"cannot read the image: {error}") from error
        return image
    array = _to_numpy(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    plane = array.ndim == 2
    if not array.size or not (plane or (array.ndim == 3 and array.shape[2] in (2, 3, 4) and array.dtype == np.uint8)):
        raise UnsupportedImage(
            f"array of shape {list(array.shape)} and type {array.dtype}: expected uint8 [H, W] or [H, W, 2 to 4], "
            "bool [H, W] or uint16 [H, W]"
        )
    if array.dtype not in (np.uint8, np.bool_, np.uint16):
        raise UnsupportedImage(f"array of type {array.dtype}: expected uint8 (0..255), bool or uint16")
    return Image.fromarray(np.ascontiguousarray(array))


def _to_numpy(image: Any) -> NDArray[Any]:
    if isinstance(image, np.ndarray):
        return image
    if not (hasattr(image, "detach") and hasattr(image, "cpu")):
        raise UnsupportedImage(f"{type(image).__name__}: expected a Pillow image, a NumPy array or a torch tensor")
    array: NDArray[Any] = image.detach().cpu().numpy()
    channels_first = array.ndim == 3 and array.shape[0] in (1, 2, 3, 4) and array.shape[2] not in (1, 2, 3, 4)
    return np.moveaxis(array, 0, 2) if channels_first else array


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
    raise ValueError(f"output must be 'pil', 'numpy' or 'torch', found {output!r}")


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
