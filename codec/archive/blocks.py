"""Payloads of an archive's blocks (FORMAT.md, "Archives"): files, images of one size in one bits-back stream, or the
pixels of many images in one LZMA stream.

FILES      per image: length (varint), tag (0 a .vqc file, 1 an image file as it came), that many bytes
BITS_BACK  what the model's `pack_images` makes; the block's extra bytes tell mode and model
SOLID      see `solid`"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...bitstream.archive import BITS_BACK, FILES, Block
from ...bitstream.archive_index import KINDS, MOST_IMAGES
from ...bitstream.container import KIND_PLAIN, MAGIC, MAX_BYTES, MAX_PIXELS, MODES, VERSION, check_size
from ...bitstream.errors import (
    BitstreamError,
    Corrupt,
    ModelMismatch,
    TooLarge,
    Truncated,
    UnsupportedImage,
    VqcodecError,
)
from ...bitstream.numbers import leb128, read_leb128
from .. import api, plain
from ..files import image_of
from ..images import from_grey_plane
from ..png import GREY, PlainImage
from .library import BUILT_IN, Library, Packer
from .solid import MAX_BODY, SolidImages, picture_of

MAX_BITS_BACK = MOST_IMAGES[BITS_BACK]
"""Images of a BITS_BACK block."""
MAX_FILES, MAX_FILES_BYTES = MOST_IMAGES[FILES], 1 << 24
"""Images of a FILES block, and bytes from which on no further image is added."""
MAX_BLOCK_BYTES = 1 << 28
"""Bytes of the pixels of a BITS_BACK block once decoded."""
_SMALL_BLOCK = 1 << 24  # bytes that a block may take whatever the limit of an image is
TOGETHER = 256
"""Images that are decoded together where models decode them."""
CODED, ORIGINAL = 0, 1
GREY_MODES = ("1", "L", "RGB")
"""Modes of images in BITS_BACK blocks."""

_CODES = {mode: code for code, mode in MODES.items()}
_PLAIN_START = MAGIC + bytes([VERSION, KIND_PLAIN])
_LABEL_BYTES = 11  # of a label besides the name
_VARINT_BYTES = 6


class Form(NamedTuple):
    """An image in a FILES block: tag CODED or ORIGINAL, and the file."""

    tag: int
    data: bytes


def is_by_model(form: Form) -> bool:
    """Whether a model coded the image."""
    return form.tag == CODED and not form.data.startswith(_PLAIN_START)


def join_files(forms: Iterable[Form]) -> bytes:
    """Payload of a FILES block."""
    return b"".join(leb128(len(form.data)) + bytes([form.tag]) + form.data for form in forms)


def split_files(payload: bytes, count: int) -> list[Form]:
    """Inverse of `join_files`. Raises Corrupt or Truncated."""
    if count > MAX_FILES:
        raise Corrupt(f"block of files: expected at most {MAX_FILES} images, found {count}")
    forms, at = [], 0
    for _ in range(count):
        length, at = read_leb128(payload, at, "block", _VARINT_BYTES)
        end = at + 1 + length
        if end > len(payload):
            raise Truncated(f"file at offset {at} of the block: expected {length + 1} bytes, found {len(payload) - at}")
        if payload[at] not in (CODED, ORIGINAL):
            raise Corrupt(f"tag at offset {at} of the block: expected 0 or 1, found {payload[at]}")
        forms.append(Form(payload[at], payload[at + 1 : end]))
        at = end
    if at != len(payload):
        raise Corrupt(f"block of files: expected {at} bytes, found {len(payload)}")
    return forms


@dataclass(frozen=True)
class Label:
    """Extra bytes of a BITS_BACK block: mode of its images, and the model. number: 0 if it is not built in."""

    mode: str
    number: int
    prefix: bytes
    name: str

    @classmethod
    def of(cls, mode: str, packer: Packer) -> Label:
        """The label of what a model packs."""
        return cls(mode, packer.number, packer.prefix, packer.name)

    def to_bytes(self) -> bytes:
        """u8 mode code, u8 model number, 8 bytes of the weights' SHA-256, u8 length of the name, name."""
        name = self.name.encode("ascii")
        return bytes([_CODES[self.mode], self.number]) + self.prefix + bytes([len(name)]) + name

    @classmethod
    def from_bytes(cls, extra: bytes) -> Label:
        """Inverse of `to_bytes`. Raises Corrupt."""
        name = extra[_LABEL_BYTES:]
        if len(extra) < _LABEL_BYTES or extra[_LABEL_BYTES - 1] != len(name) or not name or not name.isascii():
            raise Corrupt(f"extra: expected 11 bytes and a name of the declared length, found {len(extra)} bytes")
        mode = MODES.get(extra[0])
        if mode not in GREY_MODES:
            raise Corrupt(f"extra: expected the code of mode {', '.join(GREY_MODES)}, found {extra[0]}")
        return cls(mode, extra[1], extra[2:10], name.decode("ascii"))


def kind_of(kind: int, extra: bytes) -> tuple[str, str | None, str | None]:
    """Kind of a block in words, its model and its images' mode. Raises Corrupt."""
    if kind != BITS_BACK:
        return KINDS[kind], None, None
    label = Label.from_bytes(extra)
    return KINDS[kind], label.name, label.mode


def files_block(numbers: Sequence[int], forms: Sequence[Form]) -> Block:
    """A FILES block of images with these numbers."""
    return Block(FILES, b"", join_files(forms), numbers)


def bits_back_block(numbers: Sequence[int], mode: str, pixels: NDArray[np.uint8], packer: Packer) -> Block:
    """A BITS_BACK block of images uint8 [N, S, S] with these numbers."""
    return Block(BITS_BACK, Label.of(mode, packer).to_bytes(), packer.codec.pack_images(pixels), numbers)


@dataclass(frozen=True)
class Options:
    """How to decode. model: weights file of a model that is not built in."""

    model: str | None = None
    device: str = "cpu"
    max_pixels: int = MAX_PIXELS
    library: Library = BUILT_IN
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Stored:
    """An image as a block holds it, exactly one of:

    original: an image file as it came.  coded: a .vqc file.  picture, exact: decoded already."""

    original: bytes | None = None
    coded: bytes | None = None
    picture: Image.Image | None = None
    exact: PlainImage | None = None
    options: Options = Options()

    def pil(self) -> Image.Image:
        """The image. Raises UnsupportedImage for 16-bit colour and for an original that cannot be read, else what
        `decode` raises."""
        if self.picture is not None:
            return self.picture
        if self.exact is not None:
            return picture_of(self.exact)
        if self.original is not None:
            source = image_of("image", self.original, self.options.max_pixels, self.options.max_bytes)
            if source.exact is not None and source.exact.depth == 16 and source.exact.colour != GREY:
                raise UnsupportedImage("Pillow cannot hold 16-bit colour; unpacking keeps every bit")
            return source.picture
        options = self.options
        return api.decode(  # type: ignore[no-any-return]
            self._coded, "pil", options.model, options.device, options.max_pixels, max_bytes=options.max_bytes
        )

    def png(self) -> bytes:
        """The image as a PNG file, 16-bit colour too. Raises what `pil` raises."""
        if self.picture is not None:
            return plain.from_pil(self.picture).to_png()
        if self.exact is not None:
            return self.exact.to_png()
        if self.original is not None:
            source = image_of("image", self.original, self.options.max_pixels, self.options.max_bytes)
            return (source.exact or plain.from_pil(source.picture)).to_png()
        options = self.options
        return api.decode_to_png(
            self._coded, options.model, options.device, options.max_pixels, max_bytes=options.max_bytes
        )

    @property
    def by_model(self) -> bool:
        """Whether a model has yet to decode it, which is quicker for many images together."""
        return self.coded is not None and is_by_model(Form(CODED, self.coded))

    @property
    def _coded(self) -> bytes:
        assert self.coded is not None
        return self.coded


def decode_together(stored: Sequence[Stored]) -> list[Stored]:
    """The same images; those coded by models are decoded, together."""
    found = list(stored)
    chosen = [number for number, one in enumerate(found) if one.by_model]
    if chosen:
        options = found[chosen[0]].options
        blobs = [found[number]._coded for number in chosen]
        pictures = api.decode_batch(
            blobs, "pil", options.model, options.device, options.max_pixels, max_bytes=options.max_bytes
        )
        for number, picture in zip(chosen, pictures, strict=True):
            found[number] = replace(found[number], coded=None, picture=picture)
    return found


def decode_block(
    options: Options, check: bool, task: tuple[Block | BitstreamError, Sequence[int]]
) -> list[Stored] | VqcodecError:
    """The images at these positions of a block, for worker processes: BitstreamError and ModelMismatch are returned.

    check: decode every image, and return none. An error in place of the block is handed on."""
    block, positions = task
    if isinstance(block, BitstreamError):
        return block
    try:
        opened = open_block(block, options)
        parts = [positions[start : start + TOGETHER] for start in range(0, len(positions), TOGETHER)]
        images = [image for part in parts for image in decode_together([opened[position] for position in part])]
        if not check:
            return images
        for image in images:
            if image.coded is not None:
                image.png()
        return []
    except (BitstreamError, ModelMismatch) as error:
        return error


class OpenFiles:
    """A FILES block that was read. nbytes: memory it takes."""

    def __init__(self, block: Block, options: Options) -> None:
        """Raises Corrupt or Truncated."""
        self.forms = split_files(block.payload, len(block.numbers))
        self.options = options
        self.nbytes = len(block.payload)

    def __getitem__(self, position: int) -> Stored:
        tag, data = self.forms[position]
        return Stored(data if tag == ORIGINAL else None, data if tag == CODED else None, options=self.options)


class OpenPixels:
    """A BITS_BACK block that was decoded. nbytes: memory it takes."""

    def __init__(self, block: Block, options: Options) -> None:
        """Raises Corrupt, Truncated or ModelMismatch."""
        label, count = Label.from_bytes(block.extra), len(block.numbers)
        if not 1 <= count <= MAX_BITS_BACK:
            raise Corrupt(f"bits-back block: expected 1 to {MAX_BITS_BACK} images, found {count}")
        packer = options.library.find(label.number, label.name, label.prefix, options.model, options.device)
        self.mode = label.mode
        _check_block(label.mode, packer.codec.image_size, count, options)
        self.pixels = packer.codec.unpack_images(block.payload, count)
        self.nbytes = self.pixels.nbytes

    def __getitem__(self, position: int) -> Stored:
        return Stored(picture=from_grey_plane(self.pixels[position], self.mode))


def _check_block(mode: str, side: int, count: int, options: Options) -> None:
    """Raises TooLarge for images beyond the limits, and for a block whose pixels take too much memory."""
    check_size(mode, side, side, options.max_pixels, options.max_bytes, "bits-back block")
    most = min(MAX_BLOCK_BYTES, max(options.max_bytes, _SMALL_BLOCK))
    if count * side * side > most:
        raise TooLarge(f"bits-back block: expected at most {most} bytes once decoded, found {count} x {side} x {side}")


class OpenSolid:
    """A SOLID block that was expanded. nbytes: memory it takes."""

    def __init__(self, block: Block, options: Options) -> None:
        """Raises Corrupt, Truncated or TooLarge."""
        most = min(MAX_BODY, max(options.max_bytes, _SMALL_BLOCK))
        self.images = SolidImages(block.payload, len(block.numbers), most)
        self.options = options
        self.nbytes = self.images.nbytes

    def __getitem__(self, position: int) -> Stored:
        """Raises Corrupt or TooLarge."""
        width, height = self.images.size(position)
        if width * height > self.options.max_pixels:
            raise TooLarge(f"image of {width} x {height} pixels, limit {self.options.max_pixels}")
        size = self.images.sample_bytes(position)
        if size > self.options.max_bytes:
            raise TooLarge(f"image of {size} bytes once decoded, limit {self.options.max_bytes}")
        return Stored(exact=self.images[position])


OpenBlock = OpenFiles | OpenPixels | OpenSolid


def open_block(block: Block, options: Options) -> OpenBlock:
    """The images of a block, by position. Raises Corrupt, Truncated, TooLarge, or ModelMismatch."""
    if block.kind == FILES:
        return OpenFiles(block, options)
    return OpenPixels(block, options) if block.kind == BITS_BACK else OpenSolid(block, options)
