"""What any codec makes of a data set: real files through the public functions and the disk, payloads, wrong decodes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bitstream import container
from ..bitstream.container import PlainHeader
from ..codec import api
from ..codec.family import LOSSLESS, Codec, meaning
from ..codec.models import Model
from ..training.data.datasets import Dataset
from .environment import Environment, environment, line
from .metrics import Distortion, Images, bits_per_dim, distortion
from .tables import Cell, Table, aligned, cells, stacked

_WARM_UP = 16  # images that go through the codec before the clock starts


@dataclass(frozen=True)
class Asked:
    """What is asked of the public functions: every pixel, or a quality of 1..100."""

    lossless: bool
    quality: int | None


@dataclass(frozen=True)
class Subject:
    """What was measured: a model on the first `images` images of a split.

    weights, pixels: SHA-256 of the weights file, and of the whole split."""

    model: str
    family: str
    weights: str
    data: str
    split: str
    images: int
    pixels: str
    environment: Environment


@dataclass(frozen=True)
class FileNumbers:
    """Whole files as the public API makes them, images that fell back to plain included. Sizes are means per image.

    overhead_bytes: most bytes that a file of the model has besides its payload; None if there is none.
    plain_share: of the images that are stored without the model, 0..1.  lossless_share: of those that keep every pixel,
    asked for or not.  mismatches: files that do not decode to what the encoder saw.
    """

    bytes_total: float
    bpd: float
    bytes_payload: float
    payload_bpd: float
    overhead_bytes: int | None
    plain_share: float
    lossless_share: float
    mismatches: int
    encode_images_per_s: float
    decode_images_per_s: float
    distortion: Distortion


@dataclass(frozen=True)
class Payloads:
    """The model alone: payloads of all images, what the encoder says they decode to, and how many do not.

    sizes: bytes.  previews: what is rendered of lossless payloads without their pixels; of lossy ones the image itself.
    """

    sizes: list[int]
    x_hat: Images
    previews: Images
    mismatches: int


def settings_of(codec: Codec) -> list[int]:
    """The settings of a codec: lossless first where it has it, then every rate from the smallest."""
    return [*([LOSSLESS] if codec.has_lossless else []), *range(1, codec.lossy_settings + 1)]


def label(setting: int, of: int) -> str:
    """A setting as `info` tells it."""
    return "lossless" if setting == LOSSLESS else f"rate {setting} of {of}"


def ask(setting: int, of: int) -> Asked:
    """What gets a setting of a model that has `of` rates."""
    return Asked(True, None) if setting == LOSSLESS else Asked(False, 100 * setting // of)


def encode(images: Images, name: str, model: Model, asked: Asked, device: str = "cpu") -> list[bytes]:
    """Files of grey images uint8 [N, S, S], which models of black and white are given as such. name: of the model, or
    its file. Raises as `api.encode_batch` does."""
    black_and_white = model.description.config.get("likelihood") == "bernoulli" and is_binary(images)
    given = images > 0 if black_and_white else images
    return api.encode_batch(given, name, asked.lossless, asked.quality, device)


def decode(blobs: Sequence[bytes], name: str, device: str = "cpu") -> Images:
    """Grey images uint8 [N, S, S] of files; black and white become 0 and 255."""
    decoded = np.stack(api.decode_batch(blobs, "numpy", name, device))
    return np.where(decoded, 255, 0).astype(np.uint8) if decoded.dtype == np.bool_ else decoded


def is_binary(images: Images) -> bool:
    """Whether all pixels are 0 or 255."""
    return bool(np.isin(images, (0, 255)).all())


def subject(model: Model, data: Dataset, images: Images, device: str) -> Subject:
    """What is being measured, here and now."""
    return Subject(
        model.name, model.description.family, model.sha256.hex(), data.name, data.split, len(images), data.sha256,
        environment(device),
    )  # fmt: skip


def warm_up(name: str, model: Model, images: Images, device: str) -> None:
    """Send a few images through a codec, so that the clock does not count what happens once."""
    asked = ask(settings_of(model.codec)[0], model.codec.lossy_settings)
    decode(encode(images[:_WARM_UP], name, model, asked, device), name, device)


def upright_dark(images: Images) -> Images:
    """Images as codecs see them: inverted where bright on the whole."""
    bright = images.mean((1, 2)) > 127.5
    return np.where(bright[:, None, None], 255 - images, images)


def batches(images: Images) -> Iterator[Images]:
    """The images in parts that go through a model at once."""
    return (images[start : start + api.BATCH] for start in range(0, len(images), api.BATCH))


def payloads(codec: Codec, images: Images, setting: int) -> Payloads:
    """Code and decode all images with a model alone, without containers or fallback."""
    parts = [_payloads(codec, batch, setting) for batch in batches(images)]
    return Payloads(
        [size for part in parts for size in part.sizes],
        np.concatenate([part.x_hat for part in parts]),
        np.concatenate([part.previews for part in parts]),
        sum(part.mismatches for part in parts),
    )


def _payloads(codec: Codec, images: Images, setting: int) -> Payloads:
    coded = codec.encode_images(images, setting)
    parameters = np.array([one.parameter for one in coded])
    decoded, previews = np.empty_like(images), np.empty_like(images)
    for parameter in set(parameters.tolist()):
        members = np.flatnonzero(parameters == parameter)
        some = [coded[number].payload for number in members]
        decoded[members] = codec.decode_images(some, parameter)
        shown = codec.preview_images(some, parameter) if setting == LOSSLESS else decoded[members]
        previews[members] = shown
    x_hat = np.stack([one.x_hat for one in coded])
    return Payloads([len(one.payload) for one in coded], x_hat, previews, differing(decoded, x_hat))


def measure_files(
    name: str, model: Model, images: Images, x_hat: Images, setting: int, device: str = "cpu"
) -> FileNumbers:
    """Encode to real files and decode them. x_hat: what files of the model at this setting must decode to."""
    asked = ask(setting, model.codec.lossy_settings)
    start = time.perf_counter()
    blobs = encode(images, name, model, asked, device)
    encoded = time.perf_counter() - start
    sizes, blobs = _through_disk(blobs)
    start = time.perf_counter()
    decoded = decode(blobs, name, device)
    took = time.perf_counter() - start
    told = [api.info(blob) for blob in blobs]
    plain = np.array([info.kind == "plain" for info in told])
    kept = np.array([_keeps_pixels(blob, model) for blob in blobs])
    overheads = [info.bytes_total - info.bytes_payload for info in told if info.kind != "plain"]
    total, payload = float(np.mean(sizes)), float(np.mean([info.bytes_payload for info in told]))
    return FileNumbers(
        bytes_total=total,
        bpd=bits_per_dim(total, images),
        bytes_payload=payload,
        payload_bpd=bits_per_dim(payload, images),
        overhead_bytes=max(overheads, default=None),
        plain_share=float(plain.mean()),
        lossless_share=float(kept.mean()),
        mismatches=differing(decoded, np.where(kept[:, None, None], images, x_hat)),
        encode_images_per_s=len(images) / encoded,
        decode_images_per_s=len(images) / took,
        distortion=distortion(images, decoded),
    )


def _keeps_pixels(blob: bytes, model: Model) -> bool:
    """Whether a file says that it is lossless; the model tells what its own parameters mean."""
    header, _ = container.read(blob)
    if isinstance(header, PlainHeader):
        return True
    return meaning(model.description.family, model.description.config, header.parameter).lossless


def _through_disk(blobs: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
    """Write every file, and give back their sizes as the file system tells them and their contents."""
    with tempfile.TemporaryDirectory(prefix="vqcodec-eval-") as folder:
        paths = [Path(folder, f"{number:07}.vqc") for number in range(len(blobs))]
        for path, blob in zip(paths, blobs, strict=True):
            path.write_bytes(blob)
        return [path.stat().st_size for path in paths], [path.read_bytes() for path in paths]


def differing(a: Images, b: Images) -> int:
    """How many images differ."""
    return int((a != b).any((1, 2)).sum())


def percent(part: float, whole: float) -> float:
    """100 * part / whole; 0 of nothing."""
    return 100 * part / whole if whole else 0.0


FILE_ROWS: tuple[Cell, ...] = (
    ("file, bytes/image", "bytes_total", 2), ("file, bits/dim", "bpd", 4), ("payload, bytes/image", "bytes_payload", 2),
    ("payload, bits/dim", "payload_bpd", 4), ("header and checksum, bytes (max)", "overhead_bytes", 0),
    ("stored plain, share", "plain_share", 4), ("stored losslessly, share", "lossless_share", 4),
    ("encode, images/s", "encode_images_per_s", 0), ("decode, images/s", "decode_images_per_s", 0),
    ("wrongly decoded files", "mismatches", 0),
)  # fmt: skip
DISTORTION_ROWS: tuple[Cell, ...] = (
    ("PSNR, dB (mean of images)", "psnr_db", 2), ("PSNR, dB (of the mean MSE)", "psnr_db_of_mse", 2),
    ("MSE", "mse", 2), ("SSIM", "ssim", 4), ("MS-SSIM", "ms_ssim", 4),
)  # fmt: skip


def file_cells(points: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of the files of points and their distortion, a column per point."""
    files = [point["files"] for point in points]
    return cells(FILE_ROWS, files) + cells(DISTORTION_ROWS, [values["distortion"] for values in files])


def page(result: dict[str, Any], tables: Sequence[Table]) -> str:
    """A result as text: its subject, tables of equally many columns, and where it was measured."""
    return _page(result, aligned(stacked(tables)))


def text(result: dict[str, Any], tables: Sequence[Table]) -> str:
    """The same of tables that have columns of their own."""
    parts = [f"-- {table.title}\n{aligned([table.head, *table.rows])}\n{table.note}".rstrip() for table in tables]
    return _page(result, "\n".join(parts))


def _page(result: dict[str, Any], body: str) -> str:
    head = f"{result['model']} on {result['data']} {result['split']}, {result['images']:,} images"
    return f"{head}\n{body}\n{line(result['environment'])}"
