"""Encoding and decoding of images in memory: the public functions."""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bitstream import container
from ..bitstream.container import MAX_PIXELS, CompactHeader, Header, ModelHeader, PlainHeader
from ..bitstream.errors import Corrupt, UnsupportedImage
from . import models, plain
from .images import AnyImage, Output, from_grey_plane, from_pil, grey_plane, to_pil
from .models import Model
from .png import PlainImage

BATCH = 256  # images that go through a model at once; results do not depend on it
_ZLIB_FRAME = 6  # bytes of zlib's header and checksum, which plain files do without
_INVERT = 4  # parameter bit of digit models: the image was coded with 255 - pixel
_BITS_PER_DB = 40.0  # what a dB of PSNR is worth where two models fit: the slope of the models' rate-distortion curves


@dataclass(frozen=True)
class Info:
    """What a file says of itself. bytes_total and bytes_payload: sizes; method: model or plain method, in words."""

    kind: str
    method: str
    lossless: bool
    mode: str
    width: int
    height: int
    bytes_total: int
    bytes_payload: int
    model: str | None = None
    levels: int | None = None
    max_levels: int | None = None
    weights: str | None = None


@dataclass(frozen=True)
class _Attempt:
    """A coded image and its PSNR in dB (infinite if lossless)."""

    blob: bytes
    psnr_db: float

    @property
    def cost(self) -> float:
        return 8 * len(self.blob) - _BITS_PER_DB * self.psnr_db


def encode(
    image: AnyImage,
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
) -> bytes:
    """One image as the bytes of a vqcodec file; `encode_batch` says the rest."""
    return encode_batch([image], model, lossless, quality, device)[0]


def encode_batch(
    images: Iterable[AnyImage],
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> list[bytes]:
    """Images as the bytes of vqcodec files, one each, the same bytes as one by one.

    images: Pillow images, arrays or tensors (`images.to_pil` says which), or one array [N, H, W].
    model: "auto" (the built-in models that fit the image), "plain" (no model), a name or a weights file's path.
    lossless: keep every pixel. quality: 1..100, None for the best of the model; digit models have a few levels, and the
    asked quality is rounded up to one. An image that a model renders worse than anything it was made for (the model's
    PSNR floor for that level) is stored losslessly instead, and so is one that is smaller that way; `info` tells.
    progress: called with the number of images done. Raises UnsupportedImage for an image of the wrong kind for a named
    model, ModelMismatch for an unknown model, ValueError for a quality outside 1..100.
    """
    pil = [to_pil(image) for image in images]
    blobs: list[bytes | None] = [None] * len(pil)
    if not lossless and model != "plain":
        blobs = encode_with_models(pil, model, quality, device, progress)
    return [
        blob or _report(encode_plain(plain.from_pil(image)), progress) for blob, image in zip(blobs, pil, strict=True)
    ]


def encode_with_models(
    images: Sequence[Image.Image],
    model: str = "auto",
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> list[bytes | None]:
    """Lossy files of the images that a model fits and renders well enough, None for the others.

    Arguments and errors as for `encode_batch`."""
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1..100, found {quality}")
    blobs: list[bytes | None] = [None] * len(images)
    for number, attempt in _encode_with_models(images, model, quality, device, progress):
        blobs[number] = attempt.blob
    return blobs


def _report(blob: bytes, progress: Callable[[int], None]) -> bytes:
    progress(1)
    return blob


def encode_plain(image: PlainImage) -> bytes:
    """A file that stores an image (as PNG knows it) losslessly without a model."""
    method, extra, payload = plain.encode(image)
    header = PlainHeader(method, plain.mode_of(image), image.width, image.height, extra)
    return container.write(header, payload)


def decode(
    blob: bytes, output: Output = "pil", model: str | None = None, device: str = "cpu", max_pixels: int = MAX_PIXELS
) -> Any:
    """The image of a vqcodec file; `decode_batch` says the rest."""
    return decode_batch([blob], output, model, device, max_pixels)[0]


def decode_batch(
    blobs: Sequence[bytes],
    output: Output = "pil",
    model: str | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Any]:
    """The images of vqcodec files, in order.

    output: "pil" (Pillow images), "numpy" (uint8 [H, W], [H, W, 3], ...) or "torch". model: weights file to use for
    files of a model that is not built in. Raises a BitstreamError for a damaged or foreign file, ModelMismatch for a
    model this build does not have, UnsupportedImage for 16-bit colour (Pillow cannot hold it; `decode_to_png` can).
    """
    images: list[Any] = [None] * len(blobs)
    groups: dict[tuple[str, int], list[tuple[int, Header, bytes]]] = defaultdict(list)
    loaded: dict[str, Model] = {}
    for number, blob in enumerate(blobs):
        header, payload = container.read(blob, max_pixels)
        if isinstance(header, PlainHeader):
            images[number] = from_pil(_plain_pil(header, payload, max_pixels), output)
            progress(1)
        else:
            chosen = _model_of(header, model, device)
            loaded[chosen.name] = chosen
            groups[chosen.name, _levels(header, chosen)].append((number, header, payload))
    for (name, levels), members in groups.items():
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            pixels = loaded[name].codec.decode([payload for _, _, payload in part], levels)
            for (number, header, _), plane in zip(part, pixels, strict=True):
                images[number] = from_pil(_from_model(header, plane), output)
            progress(len(part))
    return images


def decode_to_png(blob: bytes, model: str | None = None, device: str = "cpu", max_pixels: int = MAX_PIXELS) -> bytes:
    """The image of a vqcodec file as a PNG file, for every mode that PNG has. Raises what `decode` raises."""
    header, payload = container.read(blob, max_pixels)
    if isinstance(header, PlainHeader):
        return _plain_image(header, payload, max_pixels).to_png()
    return plain.from_pil(decode(blob, "pil", model, device, max_pixels)).to_png()


def info(blob: bytes, max_pixels: int = MAX_PIXELS) -> Info:
    """What a file says of itself, without decoding it; needs no model. Raises a BitstreamError."""
    header, payload = container.read(blob, max_pixels)
    sizes = len(blob), len(payload)
    if isinstance(header, PlainHeader):
        method = plain.METHODS.get(header.method, f"unknown ({header.method})")
        return Info("plain", method, True, header.mode, header.width, header.height, *sizes)
    name = models.BUILT_IN.get(header.model_id, "unknown") if isinstance(header, CompactHeader) else header.name
    description = models.available().get(header.model_id)
    side = description.config.get("image_size", 28) if description else 28
    general = isinstance(header, ModelHeader)
    return Info(
        "model" if general else "compact model",
        f"{name}, {(header.parameter & 3) + 1} level(s)",
        False,
        header.mode if isinstance(header, ModelHeader) else "L",
        header.width if isinstance(header, ModelHeader) else side,
        header.height if isinstance(header, ModelHeader) else side,
        *sizes,
        model=name,
        levels=(header.parameter & 3) + 1,
        max_levels=len(description.config["levels"]) if description else None,
        weights=header.weights_prefix.hex(),
    )


def _encode_with_models(
    images: Sequence[Image.Image], model: str, quality: int | None, device: str, progress: Callable[[int], None]
) -> Iterable[tuple[int, _Attempt]]:
    """The best acceptable attempt of every image that a model fits."""
    names = [models.BUILT_IN[number] for number in models.available()] if model == "auto" else [model]
    chosen = [models.load(name, device) for name in names]
    sizes = {candidate.size for candidate in chosen}
    planes = {}
    for number, image in enumerate(images):
        plane = grey_plane(image) if image.size in sizes else None
        if plane is not None:
            planes[number] = plane
        elif model != "auto":
            width, height = chosen[0].size
            raise UnsupportedImage(
                f"{model} takes grey images of {width} x {height} pixels, found mode {image.mode}, "
                f"{image.width} x {image.height} pixels"
            )
    numbers = list(planes)
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        stack = np.stack([planes[number] for number in part])
        modes = [images[number].mode for number in part]
        tried = [_attempts(candidate, stack, modes, _levels_for(candidate, quality)) for candidate in chosen]
        for number, *attempts in zip(part, *tried, strict=True):
            accepted = [attempt for attempt in attempts if attempt is not None]
            best = min(accepted, key=lambda attempt: attempt.cost, default=None)
            if best is not None and not _plain_is_smaller(planes[number], len(best.blob)):
                yield number, best
                progress(1)


def _levels_for(model: Model, quality: int | None) -> int:
    return -(-(100 if quality is None else quality) * model.levels // 100)


def _attempts(model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], levels: int) -> list[_Attempt | None]:
    """Every image coded with one model; None where it falls below the model's floor or a plain file is smaller.

    pixels uint8 [B, S, S]. Images that are bright on the whole are coded inverted: models know bright ink on black."""
    invert = pixels.mean((1, 2)) > 127.5
    coded = np.where(invert[:, None, None], 255 - pixels, pixels)
    payloads, indices = model.codec.encode(coded, levels)
    error = model.codec.reconstruct(indices, levels).astype(np.int32) - coded
    squares = (error**2).sum((1, 2))
    floor = float(model.codec.psnr_floor[levels - 1])
    attempts: list[_Attempt | None] = []
    for payload, mode, inverted, square in zip(payloads, modes, invert, squares, strict=True):
        psnr = psnr_db(int(square), pixels[0].size)
        parameter = (levels - 1) | (_INVERT if inverted else 0)
        blob = container.write(_header(model, mode, parameter), payload)
        attempts.append(_Attempt(blob, psnr) if psnr >= floor else None)
    return attempts


def _plain_is_smaller(pixels: NDArray[np.uint8], than: int) -> bool:
    """Whether a plain file is sure to be smaller: flat images, on which even a few latent bits are wasted."""
    return len(zlib.compress(pixels.tobytes(), 9)) - _ZLIB_FRAME + container.GENERAL_OVERHEAD < than


def psnr_db(squared_error: int, samples: int) -> float:
    """10 log10(255^2 / mean squared error) of 8-bit samples; 99 for no error at all."""
    return float(10 * np.log10(255**2 * samples / squared_error)) if squared_error else 99.0


def _header(model: Model, mode: str, parameter: int) -> Header:
    if model.number and mode == "L":
        return CompactHeader(parameter, model.number, model.sha256[:1])
    width, height = model.size
    return ModelHeader(parameter, mode, width, height, model.number, model.sha256[:8], model.name)


def _model_of(header: CompactHeader | ModelHeader, model: str | None, device: str) -> Model:
    if header.model_id:
        return models.load_number(header.model_id, header.weights_prefix, device)
    assert isinstance(header, ModelHeader)
    chosen = models.load_named(header.name, header.weights_prefix, model, device)
    return chosen


def _levels(header: CompactHeader | ModelHeader, model: Model) -> int:
    levels = (header.parameter & 3) + 1
    size = (header.width, header.height) if isinstance(header, ModelHeader) else model.size
    mode = header.mode if isinstance(header, ModelHeader) else "L"
    if levels > model.levels or size != model.size or header.parameter > 7 or mode not in ("L", "1", "RGB"):
        raise Corrupt(
            f"parameter {header.parameter}, mode {mode}, {size[0]} x {size[1]} pixels: {model.name} has "
            f"{model.levels} levels and takes grey images of {model.size[0]} x {model.size[1]} pixels"
        )
    return levels


def _from_model(header: Header, pixels: NDArray[np.uint8]) -> Image.Image:
    assert not isinstance(header, PlainHeader)
    upright = 255 - pixels if header.parameter & _INVERT else pixels
    return from_grey_plane(upright, header.mode if isinstance(header, ModelHeader) else "L")


def _plain_image(header: PlainHeader, payload: bytes, max_pixels: int) -> PlainImage:
    return plain.decode(header.method, header.extra, payload, header.width, header.height, header.mode, max_pixels)


def _plain_pil(header: PlainHeader, payload: bytes, max_pixels: int) -> Image.Image:
    if header.mode.endswith(";16") and header.mode != "I;16":
        raise UnsupportedImage(f"mode {header.mode}: Pillow cannot hold 16-bit colour; decode_to_png keeps every bit")
    image = Image.open(io.BytesIO(_plain_image(header, payload, max_pixels).to_png()))
    image.load()
    return image
