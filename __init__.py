"""vqcodec: images compressed with learned latent-variable models, decoded bit for bit the same everywhere.

    import vqcodec
    blob = vqcodec.encode(image)          # Pillow image, uint8 array or tensor -> bytes
    image = vqcodec.decode(blob)          # -> Pillow image (output="numpy" or "torch" for arrays)
    vqcodec.pack("folder", "images.vqa")  # many images in one file, losslessly
    images = vqcodec.Archive("images.vqa")  # a sequence of them, also by name

Names are looked up when first used, so that importing the package loads neither torch nor any model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bitstream.errors import (
        BadArgument,
        BitstreamError,
        Corrupt,
        FileError,
        ModelMismatch,
        NotAVqcodecFile,
        TooLarge,
        Truncated,
        UnsupportedImage,
        UnsupportedVersion,
        VqcodecError,
    )
    from .codec.api import Info, decode, decode_batch, decode_to_png, encode, encode_batch, info, preview
    from .codec.archive.api import pack, unpack
    from .codec.archive.io.sources import Item
    from .codec.archive.reader import Archive

__version__ = "0.1.0"

_ERRORS = (
    "BadArgument",
    "BitstreamError",
    "Corrupt",
    "FileError",
    "ModelMismatch",
    "NotAVqcodecFile",
    "TooLarge",
    "Truncated",
    "UnsupportedImage",
    "UnsupportedVersion",
    "VqcodecError",
)
_FUNCTIONS = ("Info", "decode", "decode_batch", "decode_to_png", "encode", "encode_batch", "info", "preview")
_HOME = dict.fromkeys(_ERRORS, ".bitstream.errors") | dict.fromkeys(_FUNCTIONS, ".codec.api")
_HOME |= {
    "Archive": ".codec.archive.reader",
    "Item": ".codec.archive.io.sources",
    "pack": ".codec.archive.api",
    "unpack": ".codec.archive.api",
}

__all__ = [
    "Archive",
    "BadArgument",
    "BitstreamError",
    "Corrupt",
    "FileError",
    "Info",
    "Item",
    "ModelMismatch",
    "NotAVqcodecFile",
    "TooLarge",
    "Truncated",
    "UnsupportedImage",
    "UnsupportedVersion",
    "VqcodecError",
    "__version__",
    "decode",
    "decode_batch",
    "decode_to_png",
    "encode",
    "encode_batch",
    "info",
    "pack",
    "preview",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
