"""`python -m vqcodec.eval.exactness MODEL --data mnist`: proves that files do not depend on how they were computed.

Every image is encoded with every batch size, thread count, oneDNN setting and back end of exact sums (and device). All
files must be the same bytes, and decode to the same pixels under every setting. The tables that symbols are coded with
are compared with the int64 oracle's. A model of archives makes one archive of all images, in batches that its format
fixes; the oracle does not know it. `--write FILE` keeps the files in one .npz, `--check FILE` compares with and
decodes those made on another machine."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from ..bitstream.archive import Writer
from ..bitstream.errors import UnsupportedImage, VqcodecError
from ..codec import api, models
from ..codec.archive.blocks import MAX_BITS_BACK, bits_back_block
from ..codec.archive.library import BUILT_IN
from ..codec.archive.reader import Archive
from ..codec.exact.oracle import prior_frequencies, stored
from ..codec.family import LOSSLESS
from ..codec.ladder import oracle as ladder_oracle
from ..codec.ladder.bitsback import MAX_BATCH
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.model import Step
from ..codec.models import Model
from ..codec.vq.codec import VQCodec
from ..codec.weights_file import describe
from ..training.data.datasets import load
from . import files
from .environment import environment, line
from .metrics import Images
from .tables import aligned

BATCHES, THREADS = (1, 7, 256), (1, 2)
CPU_MODES = ((True, "auto"), (True, "float64"), (False, "auto"))  # oneDNN on?, VQCODEC_EXACT


class ArchiveError(VqcodecError):
    """A file for --check that is damaged, or holds other images or another model's files."""


@dataclass(frozen=True)
class Setting:
    """How networks are run. exact: VQCODEC_EXACT, the back end of exact sums on the CPU (`codec.exact.backend`)."""

    device: str
    batch: int
    threads: int
    onednn: bool
    exact: str


@dataclass(frozen=True)
class Outcome:
    """SHA-256 over all files made under a setting, and over all pixels decoded under it from the reference files."""

    setting: Setting
    files: str
    pixels: str


@dataclass(frozen=True)
class Files:
    """Coded images.

    source: SHA-256 of the weights file, then of the pixels of the images, in hexadecimal, then the setting."""

    source: str
    blobs: list[bytes]
    pixels: Images

    @classmethod
    def read(cls, path: Path) -> Files:
        """Files that `write` wrote. Raises ArchiveError."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                ends = np.cumsum(stored["lengths"])[:-1]
                blobs = [part.tobytes() for part in np.split(stored["data"], ends)]
                return cls(str(stored["source"]), blobs, stored["pixels"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"cannot read {path}: {error}") from error

    def write(self, path: Path) -> None:
        """One .npz: source, lengths int64 [N], data uint8 (all files in turn), pixels uint8 [N, H, W] as decoded."""
        data = np.frombuffer(b"".join(self.blobs), np.uint8)
        lengths = np.array([len(blob) for blob in self.blobs])
        with path.open("wb") as stream:
            np.savez_compressed(stream, source=self.source, lengths=lengths, data=data, pixels=self.pixels)


def packs(model: str) -> bool:
    """Whether a model, by its name or weights file, is one of archives. Raises ModelMismatch."""
    return models.packs(describe(models.find(model)))


def settings(devices: Sequence[str], batches: Sequence[int] = BATCHES) -> list[Setting]:
    """The matrix. Threads, oneDNN and back ends concern the CPU alone."""
    cpu = [Setting("cpu", batch, threads, *mode) for batch, threads, mode in product(batches, THREADS, CPU_MODES)]
    other = [Setting(device, batch, 1, *CPU_MODES[0]) for device in devices if device != "cpu" for batch in batches]
    return cpu + other


def setting_for(model: Model, quality: int | None, lossless: bool) -> int:
    """The setting of a model that is asked for; by default lossless if it has that, else its best rate.

    Raises UnsupportedImage for one that it does not have."""
    codec = model.codec
    if quality is None and codec.has_lossless:
        return LOSSLESS
    if lossless or not codec.lossy_settings:
        raise UnsupportedImage(f"{model.name} has no {'lossless' if lossless else 'lossy'} coding")
    return -(-(quality or 100) * codec.lossy_settings // 100)


def encode(images: Images, model: str, number: int, setting: Setting) -> list[bytes]:
    """Files of images uint8 [N, S, S] at setting `number` of the model, made under a setting of the machine."""
    with under(setting):
        if packs(model):
            return [_archive(images, model, setting.device)]
        loaded = models.load(model, setting.device)
        asked = files.ask(number, loaded.codec.lossy_settings)
        parts = [
            files.encode(images[start : start + setting.batch], model, loaded, asked, setting.device)
            for start in range(0, len(images), setting.batch)
        ]
    return [blob for part in parts for blob in part]


def decode(blobs: Sequence[bytes], model: str, setting: Setting) -> Images:
    """Pixels uint8 [N, S, S] of files, decoded under a setting."""
    with under(setting):
        if packs(model):
            return np.concatenate([_images(blob, model, setting.device) for blob in blobs])
        parts = [
            files.decode(blobs[start : start + setting.batch], model, setting.device)
            for start in range(0, len(blobs), setting.batch)
        ]
    return np.concatenate(parts)


def _archive(images: Images, model: str, device: str) -> bytes:
    """An archive of images uint8 [N, S, S] that are all packed by the model."""
    packer, stream = BUILT_IN.load(model, device), io.BytesIO()
    writer = Writer(stream)
    for first in range(0, len(images), MAX_BITS_BACK):
        part = images[first : first + MAX_BITS_BACK]
        writer.add(bits_back_block(range(first, first + len(part)), "L", part, packer))
    writer.finish([f"{number:08}" for number in range(len(images))])
    return stream.getvalue()


def _images(archive: bytes, model: str, device: str) -> Images:
    return np.stack(list(Archive(io.BytesIO(archive), model, device, "numpy")))


def matrix(images: Images, model: str, number: int, devices: Sequence[str] = ("cpu",)) -> tuple[Files, list[Outcome]]:
    """Files of setting `number` of the model, made under the first setting, and what every setting makes of the images
    and of these files."""
    archive = packs(model)
    first, *others = settings(devices, (MAX_BATCH,) if archive else BATCHES)
    blobs = encode(images, model, number, first)
    source = models.load(model, archive=archive).sha256.hex() + _sha256([images.tobytes()]) + f"/{number}"
    reference = Files(source, blobs, decode(blobs, model, first))
    outcomes = [Outcome(first, _sha256(blobs), _sha256([reference.pixels.tobytes()]))]
    for setting in others:
        made, pixels = encode(images, model, number, setting), decode(blobs, model, setting)
        outcomes.append(Outcome(setting, _sha256(made), _sha256([pixels.tobytes()])))
    return reference, outcomes


@dataclass(frozen=True)
class Agreement:
    """How many things were compared, and how many differ."""

    compared: int
    different: int


def against_oracle(model: Model, images: Images, number: int) -> Agreement:
    """Tables (of a ladder also symbols) of images uint8 [N, S, S] at a setting against those of the int64 oracle."""
    if isinstance(model.codec, VQCodec):
        return _vq_against_oracle(model.codec, images, number)
    return _ladder_against_oracle(model.codec, images, number)


@torch.inference_mode()
def _vq_against_oracle(codec: VQCodec, images: Images, levels: int) -> Agreement:
    prior = codec.prior
    _, indices = codec.encode(images, levels)
    compared = different = 0
    for step in (step for step in prior.steps if step.level < levels):
        ours = stored(prior(step, indices))
        oracle = prior_frequencies(prior, step, indices)
        compared += ours.shape[0] * ours.shape[1]
        different += int((ours != oracle).any(-1).sum())
    return Agreement(compared, different)


@torch.inference_mode()
def _ladder_against_oracle(codec: LadderCodec, images: Images, setting: int) -> Agreement:
    values = codec.values(files.upright_dark(images))
    theirs = ladder_oracle.walk(codec, stored(values), setting)
    compared = different = 0

    def emit(_: Step, symbols: Tensor, freq: Tensor) -> None:
        nonlocal compared, different
        compared += symbols.numel()
        different += ladder_oracle.differing(stored(symbols), stored(freq), next(theirs))

    codec.drive(values, setting, emit)
    assert next(theirs, None) is None  # as many steps as the oracle has
    return Agreement(compared, different)


def against_files(here: Files, there: Files, model: str, device: str) -> tuple[Agreement, Agreement]:
    """Files made here against those made elsewhere, and pixels that theirs decode to here against those they had there.

    Raises ArchiveError if they are not of the same images and weights."""
    if here.source != there.source or len(here.blobs) != len(there.blobs):
        raise ArchiveError("the files to check were made of other images or with other weights")
    files = sum(ours != theirs for ours, theirs in zip(here.blobs, there.blobs, strict=True))
    pixels = decode(there.blobs, model, Setting(device, api.BATCH, torch.get_num_threads(), *CPU_MODES[0]))
    wrong = int((pixels != there.pixels).any((1, 2)).sum())
    return Agreement(len(here.blobs), files), Agreement(len(here.pixels), wrong)


def table(outcomes: Sequence[Outcome]) -> str:
    """A row per setting, with the start of the hashes."""
    head = ["device", "batch", "threads", "oneDNN", "sums", "files, SHA-256", "pixels, SHA-256", "same"]
    reference = outcomes[0]
    rows = [
        [outcome.setting.device, str(outcome.setting.batch), str(outcome.setting.threads),
         "on" if outcome.setting.onednn else "off", outcome.setting.exact, outcome.files[:16], outcome.pixels[:16],
         "yes" if _same(outcome, reference) else "NO"]
        for outcome in outcomes
    ]  # fmt: skip
    return aligned([head, *rows])


def _same(outcome: Outcome, reference: Outcome) -> bool:
    return (outcome.files, outcome.pixels) == (reference.files, reference.pixels)


@contextmanager
def under(setting: Setting) -> Iterator[None]:
    """Context in which the machine is set so."""
    exact, threads = os.environ.get("VQCODEC_EXACT", "auto"), os.environ.get("VQCODEC_THREADS", "auto")
    before = Setting(setting.device, setting.batch, torch.get_num_threads(), bool(torch.backends.mkldnn.enabled), exact)
    _apply(setting)
    os.environ["VQCODEC_THREADS"] = "host"  # also where the work is little
    try:
        yield
    finally:
        os.environ["VQCODEC_THREADS"] = threads
        _apply(before)


def _apply(setting: Setting) -> None:
    torch.set_num_threads(setting.threads)
    torch.backends.mkldnn.enabled = setting.onednn  # type: ignore[assignment]  # its `flags` would also touch TF32, with a warning
    os.environ["VQCODEC_EXACT"] = setting.exact


def _sha256(parts: Sequence[bytes]) -> str:
    """Over the parts, each after its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@click.command()
@click.argument("model")
@click.option("--data", required=True, help="Data set: mnist, omniglot28, ...")
@click.option("--split", default="test", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option("--quality", type=click.IntRange(1, 100), help="Lossy files of this quality.")
@click.option("--lossless", is_flag=True, help="Lossless files (the default of models that have them).")
@click.option("--device", default="cpu", show_default=True, help="Also run the matrix on this device.")
@click.option("--oracle", default=64, show_default=True, help="Images whose tables the int64 oracle checks.")
@click.option("--write", type=click.Path(path_type=Path), help="Keep the files in this .npz.")
@click.option("--check", type=click.Path(path_type=Path), help="Compare with the .npz of another machine.")
def main(
    model: str,
    data: str,
    split: str,
    data_dir: Path | None,
    limit: int | None,
    quality: int | None,
    lossless: bool,
    device: str,
    oracle: int,
    write: Path | None,
    check: Path | None,
) -> None:
    """Prove that files do not depend on batch size, threads, oneDNN or device; exit code 1 if they do."""
    if lossless and quality is not None:
        raise click.UsageError("--lossless keeps every pixel, so it takes no --quality")
    try:
        if models.named_takes_photographs(model):
            raise click.UsageError(f"{model} takes photographs; see python -m vqcodec.eval.exactness_photo")
        images = load(data, split, data_dir).images[:limit]
        there = Files.read(check) if check else None
        archive = packs(model)
        loaded = models.load(model, device, archive)
        number = setting_for(loaded, quality, lossless)
        here, outcomes = matrix(images, model, number, [device])
        told = {} if archive else {"oracle's tables": against_oracle(loaded, images[:oracle], number)}
        if there:
            names = (f"files of {check}", f"pixels of {check}")
            told |= dict(zip(names, against_files(here, there, model, device), strict=True))
        if write:
            here.write(write)
    except VqcodecError as error:
        raise click.ClickException(str(error)) from error
    how = files.label(number, loaded.codec.lossy_settings)
    click.echo(f"{model} on {data} {split}, {how}, {len(images):,} images\n{table(outcomes)}")
    for name, agreement in told.items():
        click.echo(f"{name}: {agreement.compared:,} compared, {agreement.different:,} different")
    click.echo(line(asdict(environment(device))))
    good = all(_same(outcome, outcomes[0]) for outcome in outcomes)
    sys.exit(0 if good and not any(agreement.different for agreement in told.values()) else 1)


if __name__ == "__main__":
    main()
