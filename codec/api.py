"""Encoding and decoding of images in memory: the public functions."""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bitstream import container
from ..bitstream.container import MAX_PIXELS, CompactHeader, Header, ModelHeader, PlainHeader
from ..bitstream.errors import Corrupt, UnsupportedImage
from . import models, plain
from .family import LOSSLESS, Coded, Meaning, compact_parameter, meaning
from .images import AnyImage, Output, from_grey_plane, from_pil, grey_plane, to_pil
from .models import Model
from .png import PlainImage

BATCH = 256  # images that go through a model at once; results do not depend on it
_ZLIB_FRAME = 6  # bytes of zlib's header and checksum, which plain files do without
_CLEARLY = 3  # a plain file is never that much smaller than bare deflate of the pixels
DEFAULT_QUALITY = 60
"""What `model="auto"` takes for quality None."""
_TYPICAL_ABOVE_FLOOR_DB = 6.5  # how far the mean PSNR of known images lies above a model's floor
_LUCKY_DB = 4.0  # how far above the mean an image may come out


@dataclass(frozen=True)
class Info:
    """What a file says of itself. bytes_total and bytes_payload: sizes; method: model or plain method, in words.

    setting: which of the model's `settings` rates was used; 0 for lossless. lossless, setting and settings are None
    where the weights are not at hand, which tell."""

    kind: str
    method: str
    lossless: bool | None
    mode: str
    width: int
    height: int
    bytes_total: int
    bytes_payload: int
    model: str | None = None
    setting: int | None = None
    settings: int | None = None
    weights: str | None = None


@dataclass(frozen=True)
class _Attempt:
    """A coded image and its PSNR in dB (infinite if lossless)."""

    blob: bytes
    psnr_db: float
    lossless: bool


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
    lossless: keep every pixel; the smallest of what the models that fit and the plain methods make of it.
    quality: 1..100. With "auto" it asks for a PSNR (`target_psnr_db`; None: for that of DEFAULT_QUALITY), and the
    smallest file that reaches it is kept; with a named model it asks for one of the model's few rates, rounded up
    (None: the best), unless the image then falls below the model's PSNR floor, the worst it was made for. Where nothing
    is good enough the image is stored losslessly, and also where that is smaller; `info` tells.
    progress: called with the number of images done. Raises UnsupportedImage for an image of the wrong kind for a named
    model, ModelMismatch for an unknown model, ValueError for a quality outside 1..100.
    """
    pil = [to_pil(image) for image in images]
    blobs = encode_with_models(pil, model, lossless, quality, device, progress)
    return [
        blob or _report(encode_plain(plain.from_pil(image)), progress) for blob, image in zip(blobs, pil, strict=True)
    ]


def encode_with_models(
    images: Sequence[Image.Image],
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
    plain_size: Callable[[int], int] | None = None,
) -> list[bytes | None]:
    """Files of the images that a model fits and codes well enough, None for those that are better stored plain.

    plain_size: size of the plain file of an image, by its number; by default such a file is made where it is needed.
    Other arguments and errors as for `encode_batch`."""
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1..100, found {quality}")
    if model == "plain":
        return [None] * len(images)
    chosen = _candidates(model, lossless, device)
    planes = _planes(images, chosen, model)
    blobs: list[bytes | None] = [None] * len(images)

    def size_if_plain(number: int) -> int:
        return len(encode_plain(plain.from_pil(images[number])))

    numbers = list(planes)
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        stack, modes = np.stack([planes[number] for number in part]), [images[number].mode for number in part]
        best = (
            _best_lossless(chosen, stack, modes)
            if lossless
            else _best_lossy(chosen, stack, modes, quality, model == "auto")
        )
        for number, attempt in zip(part, best, strict=True):
            size = partial(plain_size or size_if_plain, number)
            if attempt is not None and not _plain_is_smaller(planes[number], attempt, size):
                blobs[number] = attempt.blob
                progress(1)
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
            groups[chosen.name, header.parameter].append((number, header, payload))
    for (name, parameter), members in groups.items():
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            pixels = loaded[name].codec.decode_images([payload for _, _, payload in part], parameter)
            for (number, header, _), plane in zip(part, pixels, strict=True):
                images[number] = from_pil(from_grey_plane(plane, _mode(header, loaded[name])), output)
            progress(len(part))
    return images


def preview(
    blob: bytes, output: Output = "pil", model: str | None = None, device: str = "cpu", max_pixels: int = MAX_PIXELS
) -> tuple[Any, bool]:
    """A lossy preview from the start of a file, which may have been cut, and whether the whole file was there.

    Of a Ladder VAE the latents alone are rendered, of a VQ-VAE the first level. A file that is cut has no checksum any
    more: the preview is then what the bytes say, and Truncated is raised if they do not say enough. Raises what
    `decode` raises, and UnsupportedImage for plain files, which have no preview."""
    header, payload, whole = container.read_start(blob, max_pixels)
    if isinstance(header, PlainHeader):
        raise UnsupportedImage("no preview: the image was stored plain, without a model; it can only be decoded whole")
    chosen = _model_of(header, model, device)
    plane = chosen.codec.preview_images([payload], header.parameter, whole)[0]
    return from_pil(from_grey_plane(plane, _mode(header, chosen)), output), whole


def decode_to_png(blob: bytes, model: str | None = None, device: str = "cpu", max_pixels: int = MAX_PIXELS) -> bytes:
    """The image of a vqcodec file as a PNG file, for every mode that PNG has. Raises what `decode` raises."""
    header, payload = container.read(blob, max_pixels)
    if isinstance(header, PlainHeader):
        return _plain_image(header, payload, max_pixels).to_png()
    return plain.from_pil(decode(blob, "pil", model, device, max_pixels)).to_png()


def info(blob: bytes, max_pixels: int = MAX_PIXELS, whole: bool = True, model: str | None = None) -> Info:
    """What a file says of itself, without decoding it; needs no model. Raises a BitstreamError.

    whole: False for a file that may have been cut: its header is believed without a checksum. model: weights file of a
    model that is not built in."""
    header, payload = container.read(blob, max_pixels) if whole else container.read_start(blob, max_pixels)[:2]
    sizes = len(blob), len(payload)
    if isinstance(header, PlainHeader):
        method = plain.METHODS.get(header.method, f"unknown ({header.method})")
        return Info("plain", method, True, header.mode, header.width, header.height, *sizes)
    name = models.BUILT_IN.get(header.model_id, "unknown") if isinstance(header, CompactHeader) else header.name
    if isinstance(header, ModelHeader) and not header.model_id:
        description = models.described(header.name, header.weights_prefix, model)
    else:
        description = models.available().get(header.model_id)
    side = description.config.get("image_size", 28) if description else 28
    told = meaning(description.family, description.config, header.parameter) if description else None
    general = isinstance(header, ModelHeader)
    return Info(
        "model" if general else "compact model",
        f"{name}, {_in_words(told)}",
        told.lossless if told else None,
        header.mode if isinstance(header, ModelHeader) else (told.mode if told else "L"),
        header.width if isinstance(header, ModelHeader) else side,
        header.height if isinstance(header, ModelHeader) else side,
        *sizes,
        model=name,
        setting=told.setting if told else None,
        settings=told.of if told else None,
        weights=header.weights_prefix.hex(),
    )


def _in_words(told: Meaning | None) -> str:
    if told is None:
        return "setting unknown without its weights"
    return "lossless" if told.lossless else f"rate {told.setting} of {told.of}"


def _candidates(model: str, lossless: bool, device: str) -> list[Model]:
    """The models to try. Raises ModelMismatch, and UnsupportedImage for a named model without lossless coding."""
    names = [models.BUILT_IN[number] for number in models.available()] if model == "auto" else [model]
    chosen = [models.load(name, device) for name in names]
    fit = [candidate for candidate in chosen if candidate.codec.has_lossless or not lossless]
    if not fit and model != "auto":
        raise UnsupportedImage(f"{model} has no lossless coding; use --model auto, or leave --lossless out")
    return fit


def _planes(images: Sequence[Image.Image], chosen: Sequence[Model], model: str) -> dict[int, NDArray[np.uint8]]:
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


def _best_lossy(
    chosen: Sequence[Model], pixels: NDArray[np.uint8], modes: Sequence[str], quality: int | None, auto: bool
) -> list[_Attempt | None]:
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
    left = [number for number, attempt in enumerate(best) if attempt is None]
    if left:
        fit = [candidate for candidate in chosen if candidate.codec.has_lossless]
        again = _best_lossless(fit, pixels[left], [modes[number] for number in left])
        for number, attempt in zip(left, again, strict=True):
            best[number] = attempt
    return best


def target_psnr_db(quality: int) -> float:
    """The PSNR in dB that a quality of 1..100 asks for: 22.16 to 38."""
    return 22 + 0.16 * quality


def _reaching(model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], target_db: float) -> list[_Attempt | None]:
    """Every image at the lowest setting of a model that renders it with at least target_db, None where none does.

    Settings that are all but sure to miss are not tried."""
    best: list[_Attempt | None] = [None] * len(pixels)
    left = list(range(len(pixels)))
    for setting in range(1, model.codec.lossy_settings + 1):
        typical = model.codec.floor(setting) + _TYPICAL_ABOVE_FLOOR_DB
        last = setting == model.codec.lossy_settings
        if not left or typical + (_LUCKY_DB if last else 0) < target_db:
            continue
        tried = _attempts(model, pixels[left], [modes[number] for number in left], setting)
        for number, attempt in zip(left, tried, strict=True):
            best[number] = attempt if attempt is not None and attempt.psnr_db >= target_db else None
        left = [number for number in left if best[number] is None]
    return best


def _above_floor(
    model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], quality: int | None
) -> list[_Attempt | None]:
    """Every image at the setting that a quality asks a model for, None where it falls below the model's floor."""
    setting = -(-(100 if quality is None else quality) * model.codec.lossy_settings // 100)
    floor = model.codec.floor(setting)
    tried = _attempts(model, pixels, modes, setting)
    return [attempt if attempt is not None and attempt.psnr_db >= floor else None for attempt in tried]


def _best_lossless(chosen: Sequence[Model], pixels: NDArray[np.uint8], modes: Sequence[str]) -> list[_Attempt | None]:
    """The smallest lossless attempt of every image, None where no model fits."""
    return _cheapest([_attempts(candidate, pixels, modes, LOSSLESS) for candidate in chosen], len(pixels))


def _cheapest(tried: Sequence[Sequence[_Attempt | None]], images: int) -> list[_Attempt | None]:
    found: list[_Attempt | None] = []
    for number in range(images):
        there = [attempts[number] for attempts in tried]
        found.append(min((a for a in there if a is not None), key=lambda attempt: len(attempt.blob), default=None))
    return found


def _attempts(model: Model, pixels: NDArray[np.uint8], modes: Sequence[str], setting: int) -> list[_Attempt | None]:
    """Every image coded with one model; None where it has values that the model does not know.

    pixels uint8 [B, S, S]."""
    attempts: list[_Attempt | None] = [None] * len(pixels)
    fit = [number for number, image in enumerate(pixels) if model.codec.fits(image)]
    if not fit:
        return attempts
    for number, coded in zip(fit, model.codec.encode_images(pixels[fit], setting), strict=True):
        error = coded.x_hat.astype(np.int32) - pixels[number]
        blob = container.write(_header(model, modes[number], coded), coded.payload)
        attempts[number] = _Attempt(blob, psnr_db(int((error**2).sum()), error.size), setting == LOSSLESS)
    return attempts


def _plain_is_smaller(pixels: NDArray[np.uint8], attempt: _Attempt, size_if_plain: Callable[[], int]) -> bool:
    """Whether a plain file is smaller: of flat images, on which even a few latent bits are wasted, and of others that
    are far from what a model knows.

    deflate's size tells where it is clear; a plain file is made only where a lossless attempt is near or above it."""
    rough = len(zlib.compress(pixels.tobytes(), 9)) - _ZLIB_FRAME + container.GENERAL_OVERHEAD
    if rough < len(attempt.blob) or not attempt.lossless:
        return rough < len(attempt.blob)
    return rough < _CLEARLY * len(attempt.blob) and size_if_plain() < len(attempt.blob)


def psnr_db(squared_error: int, samples: int) -> float:
    """10 log10(255^2 / mean squared error) of 8-bit samples; 99 for no error at all."""
    return float(10 * np.log10(255**2 * samples / squared_error)) if squared_error else 99.0


def _header(model: Model, mode: str, coded: Coded) -> Header:
    found = model.description
    compact = compact_parameter(found.family, found.config, mode, coded.parameter)
    if model.number and compact is not None:
        return CompactHeader(compact, model.number, model.sha256[:1])
    width, height = model.size
    return ModelHeader(coded.parameter, mode, width, height, model.number, model.sha256[:8], model.name)


def _model_of(header: CompactHeader | ModelHeader, model: str | None, device: str) -> Model:
    """The model of a file. Raises ModelMismatch, and Corrupt if the header asks for what the model does not have."""
    if isinstance(header, ModelHeader) and not header.model_id:
        found = models.load_named(header.name, header.weights_prefix, model, device)
    else:
        found = models.load_number(header.model_id, header.weights_prefix, device)
    meaning(found.description.family, found.description.config, header.parameter)
    _mode(header, found)
    return found


def _mode(header: Header, model: Model) -> str:
    """Image mode of a file of a model. Raises Corrupt if the header asks for what the model does not have."""
    assert not isinstance(header, PlainHeader)
    if isinstance(header, CompactHeader):
        return meaning(model.description.family, model.description.config, header.parameter).mode
    if (header.width, header.height) != model.size or header.mode not in ("L", "1", "RGB"):
        raise Corrupt(
            f"mode {header.mode}, {header.width} x {header.height} pixels: {model.name} takes {model.codec.takes}"
        )
    return header.mode


def _plain_image(header: PlainHeader, payload: bytes, max_pixels: int) -> PlainImage:
    return plain.decode(header.method, header.extra, payload, header.width, header.height, header.mode, max_pixels)


def _plain_pil(header: PlainHeader, payload: bytes, max_pixels: int) -> Image.Image:
    if header.mode.endswith(";16") and header.mode != "I;16":
        raise UnsupportedImage(f"mode {header.mode}: Pillow cannot hold 16-bit colour; decode_to_png keeps every bit")
    image = Image.open(io.BytesIO(_plain_image(header, payload, max_pixels).to_png()))
    image.load()
    return image
