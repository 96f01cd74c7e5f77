"""What every model family offers to the public functions, and what its parameter byte means. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bitstream.errors import Corrupt, Truncated
from .progress import Report, silent

LOSSLESS = 0
"""The setting that keeps every pixel; lossy settings are 1 (smallest) to `lossy_settings` (best)."""
BINARY, BINARY_MODES = "bernoulli", ("1", "L")  # likelihood of binary models; modes of compact files by parameter
LOSSLESS_PHOTOGRAPHS = "photo-lossless"
PHOTOGRAPHS = ("photo", "photo-vq", LOSSLESS_PHOTOGRAPHS)
"""Families that code photographs."""
COLOUR, GREY = 1, 2
"""Settings of lossless photographs: all samples are coded, or one of each pixel, whose samples are all alike."""
METADATA = 128
"""Parameter bit of photographs: colour profile and EXIF are kept."""
QUALITIES = 100
"""Settings of the ladder of photographs."""
INVERTED = 4  # parameter bit of VQ models: the image was coded with 255 - pixel


@dataclass(frozen=True)
class Coded:
    """A coded image: payload, setting, and what it decodes to, uint8 [S, S]. parameter: of the file's header."""

    payload: bytes
    parameter: int
    x_hat: NDArray[np.uint8]


@dataclass(frozen=True)
class CodedPhoto:
    """A coded photograph: payload, parameter of the header, and (if asked) what it decodes to, uint8 [H, W, 3]."""

    payload: bytes
    parameter: int
    x_hat: NDArray[np.uint8] | None


class PhotoCodec(Protocol):
    """Photographs of any size to payloads and back."""

    photographs: bool
    lossless: bool

    @property
    def qualities(self) -> int:
        """How many settings there are, 1 (smallest) to this."""

    @property
    def takes(self) -> str:
        """The images it takes, in words."""

    def floor(self, setting: int) -> float:
        """PSNR in dB below which an image is unlike anything the model was made for."""

    def encode_photo(
        self, pixels: NDArray[np.uint8], quality: int, render: bool = True, progress: Report = silent
    ) -> CodedPhoto:
        """An image uint8 [H, W, 3] coded at a setting. progress: told of the share of it that is done."""

    def decode_photo(
        self, payload: bytes, parameter: int, height: int, width: int, progress: Report = silent
    ) -> NDArray[np.uint8]:
        """The image uint8 [H, W, 3] of a payload. Raises Corrupt, Truncated."""

    def preview_photo(self, payload: bytes, parameter: int, height: int, width: int) -> NDArray[np.uint8]:
        """An image uint8 [H, W, 3] from the start of a payload. Raises Truncated, UnsupportedImage."""


class Codec(Protocol):
    """Square images of one size to payloads and back, the same everywhere."""

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""

    @property
    def lossy_settings(self) -> int:
        """How many rates there are."""

    @property
    def has_lossless(self) -> bool:
        """Whether setting 0 is there."""

    @property
    def takes(self) -> str:
        """The images it takes, in words."""

    def fits(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether pixels uint8 [S, S] have only values that the model knows."""

    def floor(self, setting: int) -> float:
        """PSNR in dB below which an image is unlike anything the model was made for."""

    def encode_images(self, pixels: NDArray[np.uint8], setting: int) -> list[Coded]:
        """Images uint8 [B, S, S] coded at a setting."""

    def decode_images(self, payloads: Sequence[bytes], parameter: int) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] of payloads of one parameter. Raises Corrupt."""

    def preview_images(self, payloads: Sequence[bytes], parameter: int, whole: bool = True) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] from the start of payloads; whole: False if they may be cut. Raises Truncated."""


@dataclass(frozen=True)
class Meaning:
    """What a parameter byte says.

    setting: 0 lossless, else a rate; of: how many rates the model has.  mode: image mode of a compact file."""

    setting: int
    of: int
    mode: str = "L"

    @property
    def lossless(self) -> bool:
        """Whether every pixel is kept."""
        return self.setting == LOSSLESS


def meaning(family: str, config: dict[str, Any], parameter: int) -> Meaning:
    """What a parameter means to a model of this family and configuration. Raises Corrupt for one it does not have."""
    if family == LOSSLESS_PHOTOGRAPHS:
        found, rest = Meaning(LOSSLESS, 0, "RGB"), 0
        if parameter & ~METADATA not in (COLOUR, GREY):
            raise Corrupt(f"parameter {parameter}: the model has settings {COLOUR} and {GREY}")
    elif family in PHOTOGRAPHS:
        settings = len(config["codebooks"]) if family == "photo-vq" else QUALITIES
        found, rest = Meaning(parameter & ~METADATA, settings, "RGB"), 0
        if not found.setting:
            raise Corrupt(f"parameter {parameter}: the model has settings 1 to {settings}")
    elif family == "vq":
        found, rest = Meaning((parameter & 3) + 1, len(config["levels"])), parameter & ~(3 | INVERTED)
    elif family == "ladder" and config.get("likelihood", BINARY) == BINARY:
        found, rest = Meaning(LOSSLESS, 0, BINARY_MODES[parameter & 1]), parameter & ~1
    elif family == "ladder":
        found, rest = Meaning(parameter, config.get("qualities", 1) - 1), 0
    else:
        raise Corrupt(f"model family {family!r}: this build has vq, ladder, {', '.join(PHOTOGRAPHS)}")
    if rest or not 0 <= found.setting <= found.of:
        raise Corrupt(f"parameter {parameter}: the model has settings up to {found.of}")
    return found


def compact_parameter(family: str, config: dict[str, Any], mode: str, parameter: int) -> int | None:
    """Parameter of a compact file of an image of this mode, None if only a general file can tell the mode."""
    if family == "ladder" and config.get("likelihood", BINARY) == BINARY:
        return BINARY_MODES.index(mode) if mode in BINARY_MODES else None
    return parameter if mode == "L" else None


_ONES = b"\xff" * (1 << 14)  # stands for ones without end: a symbol takes at most 16 bits, and previews have fewer
Decoded = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Symbols [B, n], and the images uint8 [B, S, S] they stand for."""


def still_there(
    payloads: Sequence[bytes], whole: bool, decode: Callable[[Sequence[bytes]], Decoded]
) -> NDArray[np.uint8]:
    """Images of decode(payloads); unless they are whole, raises Truncated where symbols hang on what was cut off.

    An arithmetic decoder reads the payload as a binary fraction. What was cut is some number between nothing and all
    ones; the symbols of a fraction own an interval without holes, so if both ends decode alike, so does all between.
    Either end may lie where no encoder goes (Corrupt)."""
    if whole:
        return decode(payloads)[1]
    with suppress(Corrupt):
        symbols, shown = decode(payloads)
        if np.array_equal(symbols, decode([payload + _ONES for payload in payloads])[0]):
            return shown
    raise Truncated("payload: it ends before the preview does")


def upright(pixels: NDArray[np.uint8], inverted: NDArray[np.bool_] | bool) -> NDArray[np.uint8]:
    """255 - pixels of the images uint8 [B, S, S] that are inverted (bool [B], or one for all)."""
    chosen: NDArray[np.uint8] = np.where(np.reshape(inverted, (-1, 1, 1)), 255 - pixels, pixels)
    return chosen
