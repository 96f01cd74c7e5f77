"""The one place that opens image files: of formats that Pillow decodes by itself, still, upright, within limits."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ..bitstream.container import MAX_BYTES, MAX_PIXELS
from ..bitstream.errors import TooLarge, UnsupportedImage
from . import plain
from .images import bytes_of, loaded, orientation, reading, upright_exif, upright_samples
from .png import SIGNATURE, PlainImage, descriptions
from .png import size_of as png_size

FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "QOI", "ICO", "CUR", "ICNS", "DDS",
    "BLP", "FTEX", "PCX", "DCX", "SGI", "SUN", "PSD", "FITS", "MSP", "PIXAR", "MCIDAS", "XBM", "XPM", "XVTHUMB",
    "HEIF", "JXL",  # where the host has added a plug-in for them
    "PCD", "IM", "IMT", "TGA",  # last, as they have no signature, or a loose one
)  # fmt: skip
"""Formats that are opened. Not those that run another program (EPS) or the system's (WMF, EMF), that are containers of
files of any format (IPTC, FPX, MIC), films (FLI, MPEG), or only names of formats (BUFR, GRIB, HDF5)."""

JPEG = b"\xff\xd8\xff"
_PNG_HEADER = 33  # bytes
_UNKNOWN = "not a readable image"
_EXIF_AND_PROFILE = ("icc_profile", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


@dataclass(frozen=True)
class Source:
    """An image that was read. picture: upright, as Pillow holds it; exact: as PNG does, if it came as PNG; size: bytes
    of its file, 0 if there was none; reduced: whether the file has more bits a sample than Pillow holds of them."""

    picture: Image.Image
    exact: PlainImage | None
    size: int
    reduced: bool = False

    def check_whole(self) -> None:
        """Raises UnsupportedImage if the pixels are not all that the file has, so that nothing of it is lossless."""
        if self.reduced:
            raise UnsupportedImage(
                "more than 8 bits a sample of colour, of which only 8 can be read from this format; to keep every bit, "
                "convert the image to a 16-bit PNG"
            )

    def told_by_picture(self, lossless: bool) -> bool:
        """Whether a model may have the picture: it has all that the PNG has, or what is lossy anyway."""
        if self.exact is None:
            return True
        same_depth = self.exact.depth == 8 or self.picture.mode == "1"
        return not self.exact.transparency and (same_depth if lossless else self.exact.depth <= 8)


def image_of(name: str, data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Source:
    """The image in a file of one of FORMATS; of a phone's MPO file the first. name: for messages.

    Raises UnsupportedImage for a file that is damaged or has several frames, TooLarge before pixels are decoded."""
    if data.startswith(SIGNATURE):
        return _png(data, max_pixels, max_bytes)
    unknown = f"{name} is {_UNKNOWN} ({len(data)} bytes)"
    with reading(f"{name}: damaged image", unknown, max_pixels):
        image = _opened(io.BytesIO(data), data)
        check_size(image, max_pixels, max_bytes, f"{name}: ")
        try:
            reduced = _is_reduced(image, data)
            return Source(loaded(image), None, len(data), reduced)
        except UnsupportedImage as error:
            raise UnsupportedImage(f"{name}: {error}") from error


def _is_reduced(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow will read 8 bits of samples that have more. image: opened, not loaded; data: its file."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "JPEG2000":
        size = data.find(b"\xff\x51")  # marker SIZ; 40 bytes on, depths less 1 of the components, three bytes apart
        return any((depth & 0x7F) >= 8 for depth in data[size + 40 : size + 40 + 3 * len(image.getbands()) : 3])
    if image.format == "AVIF":
        configuration = data.find(b"av1C")
        return configuration >= 0 and bool(data[configuration + 6 : configuration + 7][0] & 0x40)  # high_bitdepth
    tiles = getattr(image, "tile", ())  # (decoder, box, offset, its arguments) of Pillow's plug-ins
    arguments = [part for tile in tiles for part in _flat(tile[3])]
    if image.format == "PPM":
        return any(isinstance(part, int) and part > 255 for part in arguments)
    return any(tile[0] == "SGI16" for tile in tiles) or any(
        ";16" in part for part in arguments if isinstance(part, str)
    )


def _flat(arguments: object) -> tuple[object, ...]:
    return tuple(arguments) if isinstance(arguments, tuple | list) else (arguments,)


def check_size(image: Image.Image, max_pixels: int, max_bytes: int, name: str = "") -> None:
    """Raises TooLarge beyond the limits of pixels, and of bytes once decoded."""
    if image.width * image.height > max_pixels:
        raise TooLarge(f"{name}{image.width} x {image.height} pixels, limit {max_pixels}")
    if bytes_of(image) > max_bytes:
        raise TooLarge(f"{name}{bytes_of(image)} bytes once decoded, limit {max_bytes}")


def size_of(stream: BinaryIO, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Width and height of an image file by its header, as it lies in the file. The stream stays open.

    Raises UnsupportedImage for what cannot be read, TooLarge."""
    with reading("damaged image", _UNKNOWN, max_pixels):
        stream.seek(0)
        start = stream.read(_PNG_HEADER)
        stream.seek(0)
        if start.startswith(SIGNATURE):
            return png_size(start, max_pixels, max_bytes)
        image = _opened(cast(BinaryIO, _KeptOpen(stream)), start)
        check_size(image, max_pixels, max_bytes)
        return image.size


def _opened(stream: BinaryIO, start: bytes) -> Image.Image:
    """The file as Pillow opens it. start: its first bytes."""
    if start.startswith(JPEG):
        return JpegImageFile(stream)  # Image.open would look for further pictures of MPO files
    return Image.open(stream, formats=formats())


def formats() -> list[str]:
    """Those of FORMATS that this Pillow has, for Image.open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _png(data: bytes, max_pixels: int, max_bytes: int) -> Source:
    exact = PlainImage.from_png(data, max_pixels, max_bytes)
    described = _described(data)
    pixel = Image.new("1", (1, 1))
    pixel.info.update(described)
    turn = orientation(pixel)
    if turn != 1:
        exact = replace(exact, pixels=upright_samples(exact.pixels, turn), stream=b"")
        described = {key: value for key, value in described.items() if key in ("icc_profile", "exif")}
        if "exif" in described:
            described["exif"] = upright_exif(described["exif"])
    picture = plain.to_pil(exact)
    picture.info.update(described)
    return Source(picture, exact, len(data))


def _described(data: bytes) -> dict[str, Any]:
    """Colour profile and EXIF of a PNG file, where Pillow puts them; none where their chunk is damaged."""
    found: dict[str, Any] = {}
    for png in descriptions(data):
        try:
            with reading("damaged chunk"), PngImageFile(io.BytesIO(png)) as image:
                found |= {key: image.info[key] for key in _EXIF_AND_PROFILE if key in image.info}
        except UnsupportedImage:
            continue
    return found


class _KeptOpen:
    """A stream that plug-ins cannot close."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Nothing: it is for its owner to close."""
