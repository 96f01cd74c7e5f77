"""Encoding and decoding of images in memory: the public functions."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

from ..bitstream import container
from ..bitstream.container import MAX_BYTES, MAX_PIXELS, CompactHeader, Header, ModelHeader, PlainHeader
from ..bitstream.errors import BadArgument, Corrupt, TooLarge, UnsupportedImage
from . import inputs, models, photographs, plain
from .choice import DEFAULT_QUALITY, best_lossless, best_lossy, candidates, plain_is_smaller, planes_of
from .family import Meaning, meaning
from .images import AnyImage, Output, from_grey_plane, from_pil
from .inputs import AnyFile
from .models import Model
from .opening import Source
from .photographs import Wish, is_photograph, may_be_smaller_plain
from .png import PlainImage
from .progress import Report, rising, silent, within

DRAWING_BITS = 1.0
"""An image that takes fewer bits a sample when stored plain is no photograph to `auto`: screens, drawings, text."""
TINY_BYTES = 256
"""A plain file of fewer is not worth loading a model: its own headers take some 60."""
MODEL_SAVES = 2.5
"""How many times smaller than a plain file the lossless model may make an image, where a lossy file is beside them."""
_SMALL_BYTES = 1 << 20  # of memory, that any image may take
_FIRST = 0.8  # share of the work on a photograph that its first coding is taken for; few need another
_MOST_BPP = 1e100  # beyond, whole numbers do not fit into floats
BATCH = 256  # images that go through a model at once; results do not depend on it


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


def encode(
    image: AnyImage,
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    bpp: float | None = None,
    metadata: bool = False,
    *,
    progress: Report = silent,
) -> bytes:
    """One image as the bytes of a vqcodec file; `encode_batch` says the rest.

    progress: called with the share of the work that is done, a float that rises and ends with 1.0."""
    inputs.check_callable("progress", progress)
    with rising(progress) as share:
        return _encoded([image], model, lossless, quality, device, bpp=bpp, metadata=metadata, share=share)[0]


def encode_batch(
    images: Iterable[AnyImage],
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
    bpp: float | None = None,
    metadata: bool = False,
) -> list[bytes]:
    """Images as the bytes of vqcodec files, one each, the same bytes as one by one.

    images: Pillow images, arrays or tensors (`images.to_pil` says which), image files (paths, their bytes, binary file
    objects), or one array [N, H, W], [N, H, W, C] or [N, 1, H, W]. EXIF orientation is applied.
    model: "auto" (the built-in models that fit the image), "plain" (no model), a name or a weights file's path.
    lossless: keep every pixel; the smallest of what the models that fit and the plain methods make of it ("auto" asks
    the one of photographs for none that are plainly drawings, DRAWING_BITS, or tiny, TINY_BYTES).
    quality: 1..100. With "auto" it asks for a PSNR (`choice.target_psnr_db`; None: that of DEFAULT_QUALITY), and the
    smallest file that reaches it is kept; with a named model it asks for one of the model's few rates, rounded up
    (None: the best), unless the image then falls below the model's PSNR floor, the worst it was made for. Where nothing
    is good enough the image is stored losslessly, and also where that is smaller; `info` tells.
    Photographs (8 bits of grey or colour, of any size, that no model of small images takes) go through a photograph
    model at quality Q (None: DEFAULT_QUALITY), or at the best one whose file takes at most `bpp` bits per pixel (the
    least, if none does; for images that are no photographs bpp is refused).
    metadata: keep a photograph's colour profile and EXIF (not where it is stored plain).
    progress: called with the number of images done. Raises UnsupportedImage for an image of the wrong kind for a named
    model or one that cannot be read, FileError for a file that cannot be read, ModelMismatch for an unknown model,
    BadArgument for a quality outside 1..100 and other arguments that are not what is taken.
    """
    return _encoded(images, model, lossless, quality, device, progress, bpp, metadata)


def _encoded(
    images: Iterable[AnyImage],
    model: str,
    lossless: bool,
    quality: int | None,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
    bpp: float | None = None,
    metadata: bool = False,
    share: Report = silent,
) -> list[bytes]:
    """`encode_batch`; share: told of the share of the work on all images that is done."""
    model, device, quality = inputs.checked_model(model), inputs.checked_device(device), inputs.checked_quality(quality)
    lossless, metadata = inputs.checked_flag("lossless", lossless), inputs.checked_flag("metadata", metadata)
    inputs.check_callable("progress", progress)
    _check_wishes(quality, bpp, lossless)
    return encode_sources(inputs.sources_of(images), model, lossless, quality, device, progress, bpp, metadata, share)


def encode_sources(
    sources: Sequence[Source],
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
    bpp: float | None = None,
    metadata: bool = False,
    share: Report = silent,
) -> list[bytes]:
    """The same of images that were read: those that came as PNG files keep everything that PNG can hold.

    share: told of the share of the work on all images that is done."""
    for source in sources if lossless or model == "plain" else ():
        source.check_whole()
    told = [number for number, source in enumerate(sources) if source.told_by_picture(lossless)]
    if model not in ("auto", "plain") and len(told) < len(sources):
        raise UnsupportedImage(f"{model} takes 8-bit images without transparency")

    @cache
    def stored(number: int) -> bytes:
        return encode_plain(sources[number].exact or plain.from_pil(sources[number].picture))

    pictures = [sources[number].picture for number in told]
    coded = encode_with_models(
        pictures, model, lossless, quality, device, progress, lambda n: len(stored(told[n])), bpp, metadata, share
    )
    by_model = dict(zip(told, coded, strict=True))
    return [by_model.get(number) or _report(stored(number), progress) for number in range(len(sources))]


def encode_with_models(
    images: Sequence[Image.Image],
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
    plain_size: Callable[[int], int] | None = None,
    bpp: float | None = None,
    metadata: bool = False,
    share: Report = silent,
) -> list[bytes | None]:
    """Files of the images that a model fits and codes well enough, None for those that are better stored plain.

    plain_size: size of the plain file of an image, by its number; by default such a file is made where it is needed.
    share: told of the share of the work on photographs that is done. Other arguments and errors as for
    `encode_batch`."""
    _check_wishes(quality, bpp, lossless)
    if model == "plain":
        return [None] * len(images)
    blobs: list[bytes | None] = [None] * len(images)

    def size_if_plain(number: int) -> int:
        return len(encode_plain(plain.from_pil(images[number])))

    of_photographs = model != "auto" and models.named_takes_photographs(model)
    keeps = of_photographs and models.named_keeps_photographs(model)
    if keeps and (quality is not None or bpp is not None):
        raise UnsupportedImage(f"{model} keeps every pixel: there is no quality and no size to choose")
    if bpp is not None and not (of_photographs or model == "auto"):
        raise UnsupportedImage(f"{model} has few rates of its own; sizes can be asked of models for photographs")
    small = not of_photographs and bpp is None  # whether models of small images are asked
    chosen = candidates(model, lossless, device, images) if small else []
    planes = planes_of(images, chosen, model) if small else {}
    large = _photographs(images, planes, model, not small, lossless and not keeps)
    wish = Wish(DEFAULT_QUALITY if quality is None else quality, bpp, metadata)
    for done, number in enumerate(large):
        size = partial(plain_size or size_if_plain, number)
        own = within(share, done / len(large), (done + 1) / len(large))
        if lossless or keeps:
            with suppress(photographs.TooFlat):
                blobs[number] = _lossless_photograph(
                    images[number], model if keeps else None, metadata, size(), device, own
                )
        else:
            tried = [model] if of_photographs else [models.PHOTOGRAPHS_FIRST, models.PHOTOGRAPHS_SMALLEST]
            with suppress(photographs.TooFlat):  # it is stored plain, in fewer bytes still
                blobs[number] = _photograph(images[number], tried, wish, size, device, own)
        progress(1 if blobs[number] else 0)

    numbers = list(planes)
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        stack, modes = np.stack([planes[number] for number in part]), [images[number].mode for number in part]
        best = (
            best_lossless(chosen, stack, modes)
            if lossless
            else best_lossy(chosen, stack, modes, quality, model == "auto")
        )
        for number, attempt in zip(part, best, strict=True):
            size = partial(plain_size or size_if_plain, number)
            if attempt is not None and not plain_is_smaller(planes[number], attempt, size):
                blobs[number] = attempt.blob
                progress(1)
    return blobs


def _photographs(
    images: Sequence[Image.Image], planes: Container[int], model: str, named: bool, lossless: bool
) -> list[int]:
    """Numbers of the images that a photograph model is to code. Raises UnsupportedImage if a named one cannot."""
    if named and lossless:  # bpp excludes it
        raise UnsupportedImage(f"{model} has no lossless coding; use --model auto, or leave --lossless out")
    first = models.PHOTOGRAPHS_LOSSLESS if lossless else models.PHOTOGRAPHS_FIRST
    if not (named or (model == "auto" and models.there(first))):
        return []
    fit = [number for number, image in enumerate(images) if number not in planes and is_photograph(image)]
    if named and len(fit) < len(images):
        other = next(image for number, image in enumerate(images) if number not in fit)
        raise UnsupportedImage(f"photographs are colour and grey images of 8 bits, found mode {other.mode}")
    return fit


def _check_wishes(quality: int | None, bpp: object, lossless: bool) -> None:
    """Raises BadArgument for what cannot be asked for."""
    inputs.checked_quality(quality)
    if bpp is not None and (isinstance(bpp, bool) or not (isinstance(bpp, Real) and not bpp <= 0 and bpp < _MOST_BPP)):
        raise BadArgument(f"bpp must be a number above 0, found {bpp!r}")
    if bpp is not None and (quality is not None or lossless):
        raise BadArgument("bpp stands in place of quality and lossless")


def _photograph(
    image: Image.Image, tried: Sequence[str], wish: Wish, size_if_plain: Callable[[], int], device: str, share: Report
) -> bytes | None:
    """File of a photograph by the first model, or by the next where a size is asked for that the first cannot reach.

    A lossless file where it is rendered badly or that is no larger; None if the image is better stored plain."""
    blob, known = photographs.encode(image, models.load(tried[0], device), wish, within(share, 0, _FIRST))
    most = math.inf if wish.bpp is None else wish.bpp * image.width * image.height / 8
    if len(blob) > most and tried[1:] and models.there(tried[1]):
        smallest = models.load(tried[1], device)
        blob = min(blob, photographs.encode(image, smallest, wish, within(share, _FIRST, 1))[0], key=len)
    if known and not (may_be_smaller_plain(image, len(blob)) and size_if_plain() <= MODEL_SAVES * len(blob)):
        return blob
    kept = None
    if models.there(models.PHOTOGRAPHS_LOSSLESS):
        kept = _lossless_photograph(image, None, wish.metadata, size_if_plain(), device, within(share, _FIRST, 1))
    size = len(kept) if kept is not None else size_if_plain()
    return blob if known and len(blob) < size else kept


def _lossless_photograph(
    image: Image.Image, name: str | None, metadata: bool, size_if_plain: int, device: str, share: Report
) -> bytes | None:
    """File of a photograph with every pixel by a model; None if the image is no larger plain.

    name: of the model; None for the built-in one, which is not asked about drawings and tiny images."""
    samples = image.width * image.height * len(image.getbands())
    if name is None and (8 * size_if_plain < DRAWING_BITS * samples or size_if_plain < TINY_BYTES):
        return None
    model = models.load(name or models.PHOTOGRAPHS_LOSSLESS, device)
    blob, _ = photographs.encode(image, model, Wish(100, metadata=metadata), share)
    return blob if len(blob) < size_if_plain else None


def _report(blob: bytes, progress: Callable[[int], None]) -> bytes:
    progress(1)
    return blob


def encode_plain(image: PlainImage) -> bytes:
    """A file that stores an image (as PNG knows it) losslessly without a model."""
    method, extra, payload = plain.encode(image)
    header = PlainHeader(method, plain.mode_of(image), image.width, image.height, extra)
    return container.write(header, payload)


def decode(
    blob: AnyFile,
    output: Output = "pil",
    model: str | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    *,
    max_bytes: int = MAX_BYTES,
    progress: Report = silent,
) -> Any:
    """The image of a vqcodec file; `decode_batch` says the rest.

    progress: called with the share of the work that is done, a float that rises and ends with 1.0."""
    inputs.check_callable("progress", progress)
    with rising(progress) as share:
        return _decoded([blob], output, model, device, max_pixels, max_bytes, share=share)[0]


def decode_batch(
    blobs: Iterable[AnyFile],
    output: Output = "pil",
    model: str | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], None] = lambda done: None,
    *,
    max_bytes: int = MAX_BYTES,
) -> list[Any]:
    """The images of vqcodec files, in order.

    blobs: vqcodec files: bytes-like objects, paths, or binary file objects. output: "pil" (Pillow images), "numpy"
    (uint8 [H, W], [H, W, 3], ...) or "torch". model: weights file to use for files of a model that is not built in.
    max_pixels, max_bytes: pixels of an image, and bytes of its samples once decoded (one for each of up to 8 bits, two
    above), beyond which TooLarge is raised before anything is decoded. Raises BadArgument and FileError before any
    work, a BitstreamError for a damaged or foreign file, ModelMismatch for a model this build does not have,
    UnsupportedImage for 16-bit colour (Pillow cannot hold it; `decode_to_png` can).
    """
    return _decoded(blobs, output, model, device, max_pixels, max_bytes, progress)


def _decoded(
    blobs: Iterable[AnyFile],
    output: Output,
    model: str | None,
    device: str,
    max_pixels: int,
    max_bytes: int,
    progress: Callable[[int], None] = lambda done: None,
    share: Report = silent,
) -> list[Any]:
    """`decode_batch`; share: told of the share of a photograph that is done."""
    output, model, device = inputs.checked_output(output), inputs.checked_weights(model), inputs.checked_device(device)
    max_pixels = inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    inputs.check_callable("progress", progress)
    blobs = inputs.blobs_of(blobs)
    images: list[Any] = [None] * len(blobs)
    groups: dict[tuple[str, int], list[tuple[int, Header, bytes]]] = defaultdict(list)
    loaded: dict[str, Model] = {}
    for number, blob in enumerate(blobs):
        header, payload = container.read(blob, max_pixels, max_bytes)
        if isinstance(header, PlainHeader):
            images[number] = from_pil(_plain_pil(header, payload, max_pixels, max_bytes), output)
            progress(1)
        elif (chosen := _model_of(header, model, device, max_pixels, max_bytes)).photographs:
            assert isinstance(header, ModelHeader)
            images[number] = from_pil(photographs.decode(header, payload, chosen, progress=share), output)
            progress(1)
        else:
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
    blob: AnyFile,
    output: Output = "pil",
    model: str | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    *,
    max_bytes: int = MAX_BYTES,
) -> tuple[Any, bool]:
    """A lossy preview from the start of a file, which may have been cut, and whether the whole file was there.

    Of a Ladder VAE the latents alone are rendered, of a VQ-VAE the first level. A file that is cut has no checksum any
    more: the preview is then what the bytes say, and Truncated is raised if they do not say enough. Raises what
    `decode` raises, and UnsupportedImage for plain files, which have no preview."""
    output, model, device = inputs.checked_output(output), inputs.checked_weights(model), inputs.checked_device(device)
    max_pixels = inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    header, payload, whole = container.read_start(inputs.blob_of(blob), max_pixels, max_bytes)
    if isinstance(header, PlainHeader):
        raise UnsupportedImage("no preview: the image was stored plain, without a model; it can only be decoded whole")
    chosen = _model_of(header, model, device, max_pixels, max_bytes)
    if chosen.photographs:
        assert isinstance(header, ModelHeader)
        return from_pil(photographs.decode(header, payload, chosen, preview=True), output), whole
    plane = chosen.codec.preview_images([payload], header.parameter, whole)[0]
    return from_pil(from_grey_plane(plane, _mode(header, chosen)), output), whole


def decode_to_png(
    blob: AnyFile,
    model: str | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    *,
    max_bytes: int = MAX_BYTES,
    progress: Report = silent,
) -> bytes:
    """The image of a vqcodec file as a PNG file, for every mode that PNG has. Raises what `decode` raises."""
    model, device = inputs.checked_weights(model), inputs.checked_device(device)
    max_pixels = inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    inputs.check_callable("progress", progress)
    with rising(progress) as share:
        return _png(inputs.blob_of(blob), model, device, max_pixels, max_bytes, share)


def _png(blob: bytes, model: str | None, device: str, max_pixels: int, max_bytes: int, share: Report) -> bytes:
    header, payload = container.read(blob, max_pixels, max_bytes)
    if isinstance(header, PlainHeader):
        return _plain_png(header, payload, max_pixels, max_bytes)
    image = _decoded([blob], "pil", model, device, max_pixels, max_bytes, share=share)[0]
    if any(image.info.get(key) for key in ("icc_profile", "exif")):  # of photographs, on request
        return saved_png(image)
    return plain.from_pil(image).to_png()


def saved_png(image: Image.Image) -> bytes:
    """A PNG file with the colour profile and EXIF of an image."""
    buffer = io.BytesIO()
    told = {key: value for key in ("icc_profile", "exif") if (value := image.info.get(key))}
    image.save(buffer, "PNG", **told)
    return buffer.getvalue()


def info(
    blob: AnyFile,
    max_pixels: int = MAX_PIXELS,
    whole: bool = True,
    model: str | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Info:
    """What a file says of itself, without decoding it; needs no model. Raises a BitstreamError.

    whole: False for a file that may have been cut: its header is believed without a checksum. model: weights file of a
    model that is not built in."""
    model, max_pixels = inputs.checked_weights(model), inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    whole, blob = inputs.checked_flag("whole", whole), inputs.blob_of(blob)
    read = container.read if whole else container.read_start
    header, payload = read(blob, max_pixels, max_bytes)[:2]
    sizes = len(blob), len(payload)
    if isinstance(header, PlainHeader):
        method = plain.METHODS.get(header.method, f"unknown ({header.method})")
        return Info("plain", method, True, header.mode, header.width, header.height, *sizes)
    name = models.BUILT_IN.get(header.model_id, "unknown") if isinstance(header, CompactHeader) else header.name
    if isinstance(header, ModelHeader) and not header.model_id:
        description = models.described(header.name, header.weights_prefix, model)
    else:
        description = (models.available() | models.for_photographs()).get(header.model_id)
    side = description.config.get("image_size", 28) if description else 28
    told = meaning(description.family, description.config, header.parameter) if description else None
    general = isinstance(header, ModelHeader)
    if not general:
        container.check_size(told.mode if told else "L", side, side, max_pixels, max_bytes, "image size")
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
    return "lossless" if told.lossless else f"{'rate' if told.of < 100 else 'quality'} {told.setting} of {told.of}"


def _model_of(
    header: CompactHeader | ModelHeader, model: str | None, device: str, max_pixels: int, max_bytes: int
) -> Model:
    """The model of a file. Raises ModelMismatch, Corrupt if the header asks for what the model does not have, and
    TooLarge for a compact file whose model's size is beyond the limits."""
    if isinstance(header, ModelHeader) and not header.model_id:
        found = models.load_named(header.name, header.weights_prefix, model, device)
    else:
        found = models.load_number(header.model_id, header.weights_prefix, device)
    meaning(found.description.family, found.description.config, header.parameter)
    mode = _mode(header, found)
    if isinstance(header, CompactHeader):
        container.check_size(mode, *found.size, max_pixels, max_bytes, f"images of {found.name}")
    return found


def _mode(header: Header, model: Model) -> str:
    """Image mode of a file of a model. Raises Corrupt if the header asks for what the model does not have."""
    assert not isinstance(header, PlainHeader)
    if model.photographs:
        if isinstance(header, CompactHeader) or header.mode not in photographs.MODES:
            raise Corrupt(f"header: {model.name} takes {model.codec.takes}")
        return header.mode
    if isinstance(header, CompactHeader):
        return meaning(model.description.family, model.description.config, header.parameter).mode
    if (header.width, header.height) != model.size or header.mode not in ("L", "1", "RGB"):
        raise Corrupt(
            f"mode {header.mode}, {header.width} x {header.height} pixels: {model.name} takes {model.codec.takes}"
        )
    return header.mode


def _plain_png(header: PlainHeader, payload: bytes, max_pixels: int, max_bytes: int) -> bytes:
    size = header.width, header.height
    return plain.to_png(header.method, header.extra, payload, *size, header.mode, max_pixels, max_bytes)


def _plain_pil(header: PlainHeader, payload: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    """Raises UnsupportedImage for 16-bit colour, and what `plain.to_png` raises."""
    if header.mode.endswith(";16") and header.mode != "I;16":
        raise UnsupportedImage(f"mode {header.mode}: Pillow cannot hold 16-bit colour; decode_to_png keeps every bit")
    # Pillow has 8 bytes for every row besides its pixels, of 1, 2 or 4 bytes, in whole words.
    rows = header.height * (8 + header.width * min(4, 2 * container.SAMPLE_BYTES[header.mode]))
    if rows > 4 * max_bytes + _SMALL_BYTES:
        raise TooLarge(f"image of {header.width} x {header.height} pixels: too many rows for Pillow, limit {max_bytes}")
    size = header.width, header.height
    return plain.to_pil(plain.decode(header.method, header.extra, payload, *size, header.mode, max_pixels, max_bytes))
