"""`python -m vqcodec.eval.exactness_photo MODEL --data kodak`: proves that photographs decode alike on every machine.

The encoder is float, so files may differ a little between machines; what a file decodes to may not, but for roundings
of the float synthesis: by one level of 255. Every setting of the machine (threads, oneDNN, back end of exact sums,
device) decodes the files of the first one, and the first one decodes those of every other. A wrong table would garble
all pixels after it. `--write FILE` keeps the files in one .npz, `--check FILE` decodes another machine's."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from ..bitstream.errors import VqcodecError
from ..codec import api, models
from ..training.data.photo_sets import load
from .environment import environment, line
from .exactness import ArchiveError, Setting, settings, under
from .tables import aligned

TOLERANCE = 1
"""Levels of 255 that decoded pixels may differ by."""

Photo = NDArray[np.uint8]


@dataclass(frozen=True)
class PhotoFiles:
    """Coded photographs, and the pixels uint8 [H, W, 3] that each decodes to where it was made."""

    blobs: list[bytes]
    shown: list[Photo]

    @classmethod
    def read(cls, path: Path) -> PhotoFiles:
        """Files that `write` wrote. Raises ArchiveError."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                count = int(stored["count"])
                blobs = [stored[f"file{number}"].tobytes() for number in range(count)]
                return cls(blobs, [stored[f"pixels{number}"] for number in range(count)])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"cannot read {path}: {error}") from error

    def write(self, path: Path) -> None:
        """One .npz: count, and for each number fileN uint8 and pixelsN uint8 [H, W, 3]."""
        files = {f"file{number}": np.frombuffer(blob, np.uint8) for number, blob in enumerate(self.blobs)}
        pixels = {f"pixels{number}": shown for number, shown in enumerate(self.shown)}
        with path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, count=np.array(len(self.blobs)), **files, **pixels)


@dataclass(frozen=True)
class PhotoOutcome:
    """What came of a setting. same_files: as many files as the first setting made; theirs, ours: the largest difference
    of pixels between the two settings, for the first one's files and for this one's."""

    setting: Setting
    same_files: int
    theirs: int
    ours: int

    @property
    def good(self) -> bool:
        """Whether all pixels agree."""
        return max(self.theirs, self.ours) <= TOLERANCE


def made(images: Sequence[Photo], model: str, quality: int | None, setting: Setting) -> PhotoFiles:
    """Files of images uint8 [H, W, 3] at a quality 1..100 (None: lossless), made and decoded under a setting."""
    with under(setting):
        blobs = [api.encode(image, model, quality=quality, device=setting.device) for image in images]
    return PhotoFiles(blobs, shown(blobs, model, setting))


def shown(blobs: Sequence[bytes], model: str, setting: Setting) -> list[Photo]:
    """Pixels of files, decoded under a setting."""
    with under(setting):
        return [np.asarray(api.decode(blob, "numpy", model, setting.device)) for blob in blobs]


def farthest(some: Sequence[Photo], others: Sequence[Photo]) -> int:
    """Largest difference of two lists of images, 0..255."""
    pairs = zip(some, others, strict=True)
    return max(int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max()) for a, b in pairs)


def matrix(
    images: Sequence[Photo], model: str, quality: int | None, devices: Sequence[str] = ("cpu",)
) -> tuple[PhotoFiles, list[PhotoOutcome]]:
    """Files made under the first setting, and what came of all the others."""
    first, *others = settings(devices, (1,))
    reference, outcomes = made(images, model, quality, first), []
    for setting in others:
        own = made(images, model, quality, setting)
        same = sum(a == b for a, b in zip(own.blobs, reference.blobs, strict=True))
        theirs = farthest(shown(reference.blobs, model, setting), reference.shown)
        outcomes.append(PhotoOutcome(setting, same, theirs, farthest(shown(own.blobs, model, first), own.shown)))
    return reference, outcomes


def table(outcomes: Sequence[PhotoOutcome], images: int) -> str:
    """A row per setting."""
    head = ["device", "threads", "oneDNN", "sums", "same files", "its pixels of theirs", "their pixels of its", "good"]
    rows = [
        [found.setting.device, str(found.setting.threads), "on" if found.setting.onednn else "off",
         found.setting.exact, f"{found.same_files}/{images}", f"within {found.theirs}", f"within {found.ours}",
         "yes" if found.good else "NO"]
        for found in outcomes
    ]  # fmt: skip
    return aligned([head, *rows])


@click.command()
@click.argument("model")
@click.option("--data", default="kodak", show_default=True, help="Set of photographs.")
@click.option("--split", default="test", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option("--quality", type=click.IntRange(1, 100), default=60, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Also run the matrix on this device.")
@click.option("--write", type=click.Path(path_type=Path), help="Keep the files made on --device in this .npz.")
@click.option("--check", type=click.Path(path_type=Path), help="Decode the files in the .npz of another machine.")
def main(
    model: str,
    data: str,
    split: str,
    data_dir: Path | None,
    limit: int | None,
    quality: int,
    device: str,
    write: Path | None,
    check: Path | None,
) -> None:
    """Prove that photographs decode alike under all settings of the machine; exit code 1 if they do not."""
    try:
        images = load(data, split, data_dir).images[:limit]
        last = settings([device], (1,))[-1]
        there = PhotoFiles.read(check) if check else None
        if not models.named_takes_photographs(model):
            raise click.UsageError(f"{model} takes no photographs; see python -m vqcodec.eval.exactness")
        asked = None if models.named_keeps_photographs(model) else quality
        _, outcomes = matrix(images, model, asked, [device])
        between = farthest(shown(there.blobs, model, last), there.shown) if there else 0
        if write:
            made(images, model, asked, last).write(write)
    except VqcodecError as error:
        raise click.ClickException(str(error)) from error
    how = "lossless" if asked is None else f"quality {quality}"
    click.echo(f"{model} on {data} {split}, {how}, {len(images):,} images\n{table(outcomes, len(images))}")
    if there:
        click.echo(f"files of {check}: {len(there.blobs):,} decoded on {last.device}, pixels within {between}")
    click.echo(line(asdict(environment(device))))
    sys.exit(0 if between <= TOLERANCE and all(found.good for found in outcomes) else 1)


if __name__ == "__main__":
    main()
