"""vqcodec: images compressed with learned latent-variable models, decoded bit for bit the same everywhere.

    import vqcodec
    blob = vqcodec.encode(image)          # Pillow image, uint8 array or tensor -> bytes
    image = vqcodec.decode(blob)          # -> Pillow image (output="numpy" or "torch" for arrays)

Names are looked up when first used, so that importing the package loads neither torch nor any model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bitstream.errors import (
        BitstreamError,
        Corrupt,
        ModelMismatch,
        NotAVqcodecFile,
        TooLarge,
        Truncated,
        UnsupportedImage,
        UnsupportedVersion,
        VqcodecError,
    )
    from .codec.api import Info, decode, decode_batch, decode_to_png, encode, encode_batch, info, preview

__version__ = "0.1.0"

_ERRORS = (
    "BitstreamError",
    "Corrupt",
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

__all__ = [
    "BitstreamError",
    "Corrupt",
    "Info",
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
    "preview",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
