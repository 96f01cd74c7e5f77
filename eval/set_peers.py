"""Classical codecs on a whole image set: all of its pixels as one file, as one large image, or an image a file."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .metrics import Images, bits_per_dim
from .peers import Peer, lossless_peers

ALONE = ("PNG", "WebP lossless")
"""Codecs that are also given every image by itself."""
_T = TypeVar("_T")
_XZ = lzma.PRESET_EXTREME | 9
_BROTLI_WINDOW, _ZSTD = 24, 22  # 2^24 bytes; level 22 has windows of 2^27, more than any set here


@dataclass(frozen=True)
class Row:
    """A codec on a whole set. how: the set was given to it; bytes_total: of all its files; exact: whether every pixel
    came back. Seconds are of one run."""

    codec: str
    how: str
    bytes_total: int
    bytes_per_image: float
    bpd: float
    exact: bool
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Packer:
    """A codec of bytes."""

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Layout:
    """Pixels of a set as bytes, and back to the images of a shape."""

    how: str
    to_bytes: Callable[[Images], bytes]
    from_bytes: Callable[[bytes, tuple[int, ...]], Images]


def measure(images: Images, binary: bool) -> tuple[list[Row], str]:
    """What the codecs of this machine make of images uint8 [N, H, W], of 0 and 255 only if `binary`, and which are
    missing, in words."""
    packers, missing = _packers()
    peers = lossless_peers(binary)
    rows = [_raw(packer, images, binary) for packer in packers]
    rows += [_mosaic(peer, images) for peer in peers]
    rows += [_alone(peer, images) for peer in peers if peer.name in ALONE]
    return rows, missing


def mosaic(images: Images) -> Images:
    """Images uint8 [N, H, W] side by side as one, uint8 [rows * H, columns * W]: as square as can be, row by row;
    places that are left are 0."""
    count, height, width = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:count] = images
    return tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def tiles(large: Images, shape: Sequence[int]) -> Images:
    """Inverse of `mosaic`. shape: N, H, W of the images."""
    count, height, width = shape
    grid = large.reshape(large.shape[0] // height, height, large.shape[1] // width, width).swapaxes(1, 2)
    return grid.reshape(-1, height, width)[:count]


def layouts(binary: bool) -> list[Layout]:
    """How the pixels of a set can be given to a codec of bytes."""
    if not binary:
        return [Layout("raw bytes", lambda images: images.tobytes(), _from_bytes)]
    return [
        Layout("raw, 8 pixels a byte", lambda images: np.packbits(images > 0).tobytes(), _from_bits),
        Layout("raw, a byte a pixel", lambda images: (images > 0).tobytes(), lambda *told: _from_bytes(*told) * 255),
    ]


def _from_bytes(data: bytes, shape: tuple[int, ...]) -> Images:
    return np.frombuffer(data, np.uint8).reshape(shape)


def _from_bits(data: bytes, shape: tuple[int, ...]) -> Images:
    pixels: Images = np.unpackbits(np.frombuffer(data, np.uint8), count=int(np.prod(shape))).reshape(shape) * 255
    return pixels


def _raw(packer: Packer, images: Images, binary: bool) -> Row:
    """The smallest of the layouts."""
    return min((_laid_out(packer, layout, images) for layout in layouts(binary)), key=lambda row: row.bytes_total)


def _laid_out(packer: Packer, layout: Layout, images: Images) -> Row:
    return _row(
        packer.name, layout.how, images,
        lambda: [packer.compress(layout.to_bytes(images))],
        lambda blobs: layout.from_bytes(packer.decompress(blobs[0]), images.shape),
    )  # fmt: skip


def _mosaic(peer: Peer, images: Images) -> Row:
    return _row(
        peer.name, "one mosaic image", images,
        lambda: [peer.encode(mosaic(images), None)],
        lambda blobs: tiles(peer.decode(blobs[0]), images.shape),
    )  # fmt: skip


def _alone(peer: Peer, images: Images) -> Row:
    return _row(
        peer.name, "a file an image", images,
        lambda: [peer.encode(image, None) for image in images],
        lambda blobs: np.stack([peer.decode(blob) for blob in blobs]),
    )  # fmt: skip


def _row(
    codec: str,
    how: str,
    images: Images,
    encode: Callable[[], list[bytes]],
    decode: Callable[[list[bytes]], Images],
) -> Row:
    blobs, encode_s = _timed(encode)
    decoded, decode_s = _timed(lambda: decode(blobs))
    total = sum(map(len, blobs))
    each = total / len(images)
    exact = np.array_equal(decoded, images)
    return Row(codec, how, total, each, bits_per_dim(each, images), exact, encode_s, decode_s)


def _timed(action: Callable[[], _T]) -> tuple[_T, float]:
    start = time.perf_counter()
    return action(), time.perf_counter() - start


def _packers() -> tuple[list[Packer], str]:
    """The codecs of bytes that this machine has, at their smallest, and which are missing, in words."""
    found = [
        Packer("xz -9e", lambda data: lzma.compress(data, preset=_XZ), lzma.decompress),
        Packer("bzip2 -9", lambda data: bz2.compress(data, 9), bz2.decompress),
        Packer("gzip -9", lambda data: gzip.compress(data, 9, mtime=0), gzip.decompress),
    ]
    try:
        imagecodecs: Any = importlib.import_module("imagecodecs")
    except ImportError:
        return found, "Left out, as imagecodecs is not installed (extra `bench`): brotli, zstd, JPEG XL."
    lacking = [name for name in ("BROTLI", "ZSTD", "JPEGXL") if not getattr(imagecodecs, name).available]
    if "BROTLI" not in lacking:
        found.append(Packer("brotli 11, window 16 MiB", _brotli(imagecodecs), imagecodecs.brotli_decode))
    if "ZSTD" not in lacking:
        found.append(Packer("zstd 22, long", _zstd(imagecodecs), imagecodecs.zstd_decode))
    return found, f"Left out, as this build of imagecodecs lacks them: {', '.join(lacking)}." if lacking else ""


def _brotli(imagecodecs: Any) -> Callable[[bytes], bytes]:
    return lambda data: bytes(imagecodecs.brotli_encode(data, level=11, lgwin=_BROTLI_WINDOW))


def _zstd(imagecodecs: Any) -> Callable[[bytes], bytes]:
    return lambda data: bytes(imagecodecs.zstd_encode(data, level=_ZSTD))
