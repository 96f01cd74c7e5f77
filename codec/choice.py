"""Which model codes an image, and how: each model that fits is tried, and the smallest file good enough is kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bitstream import container
from ..bitstream.container import CompactHeader, Header, ModelHeader
from ..bitstream.errors import UnsupportedImage
from . import models
from .family import BINARY, LOSSLESS, Coded, compact_parameter
from .images import grey_plane, is_binary, psnr_db
from .models import Model

_ZLIB_FRAME = 6  # bytes of zlib's header and checksum, which plain files do without
_CLEARLY = 1.4  # other plain methods are not that much smaller than the best of three deflated forms
DEFAULT_QUALITY = 60
"""What `model="auto"` takes for quality None."""
_TYPICAL_ABOVE_FLOOR_DB = 6.5  # how far the mean PSNR of known images lies above a model's floor
_LUCKY_DB = 4.0  # how far above the mean an image may come out


@dataclass(frozen=True)
class Attempt:
    """A coded image and its PSNR in dB (infinite if lossless)."""

    blob: bytes
    psnr_db: float
    lossless: bool


def candidates(model: str, lossless: bool, device: str, images: Sequence[Image.Image]) -> list[Model]:
    """The models to try; of the built-in ones only those that may fit an image are loaded, which takes a while.

    Raises ModelMismatch, and UnsupportedImage for a named model without lossless coding."""
    names = _that_may_fit(images) if model == "auto" else [model]
    chosen = [models.load(name, device) for name in names]
    fit = [candidate for candidate in chosen if candidate.codec.has_lossless or not lossless]
    if not fit and model != "auto":
        raise UnsupportedImage(f"{model} is lossy; use model auto for a lossless file")
    return fit


def _that_may_fit(images: Sequence[Image.Image]) -> list[str]:
    """Names of the built-in models whose size, and set of pixel values, at least one image has."""
    names = []
    for description in models.available().values():
        side = description.config.get("image_size", 28)
        planes = (grey_plane(image) for image in images if image.size == (side, side))
        binary = description.config.get("likelihood") == BINARY
        if any(plane is not None and (not binary or is_binary(plane)) for plane in planes):
            names.append(description.name)
    return names


def planes_of(images: Sequence[Image.Image], chosen: Sequence[Model], model: str) -> dict[int, NDArray[np.uint8]]:
    """Grey planes of the images that any of the models takes. Raises UnsupportedImage if a named model does not."""
    sizes = {candidate.size for candidate in chosen}
    planes = {}
    for number, image in enumerate(images):
        plane = grey_plane(image) if image.size in sizes else None
        if plane is not None and any(candidate.codec.fits(plane) for candidate in chosen):
            planes[number] = plane
        elif model != "auto":
            kind = f"{image.width} x {image.height} pixels, mode {image.mode}"
            grey = "" if plane is None else " with shades of grey"
            raise UnsupportedImage(f"{model} takes {chosen[0].codec.takes}, found {kind}{grey}")
    return planes


def best_lossy(
    chosen: Sequence[Model], pixels: NDArray[np.uint8], modes: Sequence[str], quality: int | None, auto: bool
) -> list[Attempt | None]:
    """The smallest lossy attempt of every image that is good enough; else the smallest lossless one.

    Good enough: as asked, if the model is chosen here; else above the floor of the model that was named. pixels uint8
    [B, S, S]. None where no model fits."""
    lossy = [candidate for candidate in chosen if candidate.codec.lossy_settings]
    if auto:
        target = target_psnr_db(DEFAULT_QUALITY if quality is None else quality)
        tried = [_reaching(candidate, pixels, modes, target) for candidate in lossy]
        only = [candidate for candidate in chosen if not candidate.codec.lossy_settings]  # cheap, and better than asked
        tried += [_attempts(candidate, pixels, modes, LOSSLESS) for candidate in only]
    else:
        tried = [_above_floor(candidate, pixels, modes, quality) for candidate in lossy]
    best = _cheapest(tried, len(pixels))
    left = [n for n, attempt in enumerate(best) if attempt is None or (auto and _may_be_lossless(pixels[n], attempt))]
    if left:
        fit = [candidate for candidate in chosen if candidate.codec.has_lossless]
        again = best_lossless(fit, pixels[left], [modes[number] for number in left])
        for number, attempt in zip(left, again, strict=True):
            best[number] = _cheapest([[best[number]], [attempt]], 1)[0]
    return best


def _may_be_lossless(pixels: NDArray[np.uint8], attempt: Attempt) -> bool:
    """Whether a lossless file may be smaller than a lossy attempt: it takes at least a third of what deflate does."""
    return 3 * len(attempt.blob) > _deflated(pixels) + container.GENERAL_OVERHEAD


def target_psnr_db(quality: int) -> float:
    """The PSNR in dB that a quality of 1..100 asks for: 22.16 to 38."""
    return 22 + 0.16 * quality


def _reaching(model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], target_db: float) -> list[Attempt | None]:
    """Every image at the lowest setting of a model that renders it with at least target_db, None where none does.

    Settings that are all but sure to miss are not tried."""
    best: list[Attempt | None] = [None] * len(pixels)
    left = list(range(len(pixels)))
    for setting in range(1, model.codec.lossy_settings + 1):
        typical = model.codec.floor(setting) + _TYPICAL_ABOVE_FLOOR_DB
        if not left or typical + _LUCKY_DB < target_db:
            continue
        tried = _attempts(model, pixels[left], [modes[number] for number in left], setting)
        for number, attempt in zip(left, tried, strict=True):
            best[number] = attempt if attempt is not None and attempt.psnr_db >= target_db else None
        left = [number for number in left if best[number] is None]
    return best


def _above_floor(
    model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], quality: int | None
) -> list[Attempt | None]:
    """Every image at the setting that a quality asks a model for, None where it falls below the model's floor."""
    setting = -(-(100 if quality is None else quality) * model.codec.lossy_settings // 100)
    floor = model.codec.floor(setting)
    tried = _attempts(model, pixels, modes, setting)
    return [attempt if attempt is not None and attempt.psnr_db >= floor else None for attempt in tried]


def best_lossless(chosen: Sequence[Model], pixels: NDArray[np.uint8], modes: Sequence[str]) -> list[Attempt | None]:
    """The smallest lossless attempt of every image, None where no model fits."""
    return _cheapest([_attempts(candidate, pixels, modes, LOSSLESS) for candidate in chosen], len(pixels))


def _cheapest(tried: Sequence[Sequence[Attempt | None]], images: int) -> list[Attempt | None]:
    found: list[Attempt | None] = []
    for number in range(images):
        there = [attempts[number] for attempts in tried]
        # Of files of one size the one that keeps every pixel.
        found.append(
            min((a for a in there if a is not None), key=lambda a: (len(a.blob), not a.lossless), default=None)
        )
    return found


def _attempts(model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], setting: int) -> list[Attempt | None]:
    """Every image coded with one model; None where it has values that the model does not know.

    pixels uint8 [B, S, S]."""
    attempts: list[Attempt | None] = [None] * len(pixels)
    fit = [number for number, image in enumerate(pixels) if model.codec.fits(image)]
    if not fit:
        return attempts
    for number, coded in zip(fit, model.codec.encode_images(pixels[fit], setting), strict=True):
        error = coded.x_hat.astype(np.int32) - pixels[number]
        blob = container.write(_header(model, modes[number], coded), coded.payload)
        attempts[number] = Attempt(blob, psnr_db(int((error**2).sum()), error.size), setting == LOSSLESS)
    return attempts


def plain_is_smaller(pixels: NDArray[np.uint8], attempt: Attempt, size_if_plain: Callable[[], int]) -> bool:
    """Whether a plain file is smaller: of flat images, on which even a few latent bits are wasted, and of others that
    are far from what a model knows.

    A quick deflate tells where it is clear; a plain file is made only where a lossless attempt is near or above it."""
    rough = _deflated(pixels) + container.GENERAL_OVERHEAD
    if rough < len(attempt.blob) or not attempt.lossless:
        return rough < len(attempt.blob)
    return rough < _CLEARLY * len(attempt.blob) and size_if_plain() < len(attempt.blob)


def _deflated(pixels: NDArray[np.uint8]) -> int:
    """Least size of the pixels as they are, as differences to the left and as differences upwards, after deflate."""
    forms = (pixels, np.diff(pixels, axis=1, prepend=np.uint8(0)), np.diff(pixels, axis=0, prepend=np.uint8(0)))
    return min(len(zlib.compress(form.tobytes(), 9)) for form in forms) - _ZLIB_FRAME


def _header(model: Model, mode: str, coded: Coded) -> Header:
    found = model.description
    compact = compact_parameter(found.family, found.config, mode, coded.parameter)
    if model.number and compact is not None:
        return CompactHeader(compact, model.number, model.sha256[:1])
    width, height = model.size
    return ModelHeader(coded.parameter, mode, width, height, model.number, model.sha256[:8], model.name)
