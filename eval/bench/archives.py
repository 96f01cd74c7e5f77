"""`vqcodec bench archive --data mnist`: a whole set as one archive, beside -ELBO and classical codecs of whole sets.

The archive is a real file, which real processes of the command line pack and unpack. -ELBO is that of the same exact
model, one sample of the posterior per image."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...bitstream.errors import UnsupportedImage
from ...codec import models
from ...codec.archive.io.workers import cores
from ...codec.archive.library import AUTO, BlockCodec
from ...codec.archive.pack import Share
from ...training.data.datasets import Dataset
from .. import files, set_peers
from ..environment import Environment, environment
from ..metrics import Images, bits_per_dim
from ..processes import SAMPLED_EVERY_S, Ran, run_vqcodec
from ..set_peers import Row
from ..tables import Cell, Table, cells, number

_TWICE = 1000  # images that are sampled twice, to tell how far samples of -ELBO scatter


@dataclass(frozen=True)
class Process:
    """A process of the command line, see `Ran`; everything is in its times.

    coders: processes that had blocks to code, on one thread each."""

    wall_s: float
    images_per_s: float
    cpu_s: float
    peak_mib: float | None
    coders: int


@dataclass(frozen=True)
class Packed:
    """The archive. bytes_total: of the file on disk; exact: whether every pixel came back."""

    bytes_total: int
    bytes_per_image: float
    bpd: float
    blocks: int
    shares: tuple[Share, ...]
    exact: bool
    pack: Process
    unpack: Process


@dataclass(frozen=True)
class Elbo:
    """-ELBO of all images under a model, from one sample of the posterior each. weights: SHA-256 of its file.

    scatter_bits: standard deviation of the samples of one image.  gap_percent: the archive's bits over -ELBO;
    gap_error_percent: standard error of the gap, as the archive, too, is one sample of the posterior."""

    model: str
    weights: str
    bits_per_image: float
    nats_per_image: float
    bpd: float
    scatter_bits: float
    gap_percent: float
    gap_error_percent: float
    seconds: float


@dataclass(frozen=True)
class Start:
    """The first `images` images as the payload of one block, coded in this process by one thread.

    excess_bits: payload over -ELBO, most of it the initial bits; error_bits: its standard error, see `Elbo`."""

    images: int
    payload_bits: int
    elbo_bits: float
    excess_bits: float
    error_bits: float
    pack_s: float
    unpack_s: float
    exact: bool


@dataclass(frozen=True)
class Archives:
    """An archive of a set. binary: whether its images hold 0 and 255 only.  model: as asked for.

    cores: that the processes could use.  starts: initial bits of more and more images.  missing: peers, in words."""

    model: str
    data: str
    split: str
    images: int
    pixels: str
    binary: bool
    cores: int
    environment: Environment
    archive: Packed
    elbo: Elbo
    starts: list[Start]
    peers: list[Row]
    missing: str


def measure(
    model: str, data: Dataset, limit: int | None = None, device: str = "cpu", jobs: int = 0, peers: bool = True
) -> Archives:
    """Pack and unpack the first `limit` images of a data set, and measure what is beside.

    model: "auto", a model for archives, or its weights file.  jobs: of both commands, 0 for one per core.  peers: also
    the classical codecs. Raises ModelMismatch for an unknown model, UnsupportedImage if none packs these images,
    VqcodecError if a process fails."""
    images = data.images[:limit]
    binary = files.is_binary(images)
    packed = _packed(images, binary, model, device, jobs)
    chosen = _model(model, packed.shares, device)
    with _one_thread():
        elbo, each = _elbo(chosen, images, packed.bytes_total)
        starts = [_start(_codec(chosen), images, each, elbo.scatter_bits, count) for count in _counts(len(images))]
        where = environment(device)
    rows, missing = set_peers.measure(images, binary) if peers else ([], "")
    return Archives(
        model, data.name, data.split, len(images), data.sha256, binary, cores(), where, packed, elbo, starts, rows,
        missing,
    )  # fmt: skip


def _packed(images: Images, binary: bool, model: str, device: str, jobs: int) -> Packed:
    """Through real files and processes. Black and white images are given as such."""
    given = images > 0 if binary else images
    with tempfile.TemporaryDirectory(prefix="vqcodec-bench-") as folder:
        source, archive, back = (str(Path(folder, name)) for name in ("set.npy", "set.vqa", "back.npy"))
        np.save(source, given)
        how = ["--jobs", str(jobs), "--device", device, "--json"]
        packing = run_vqcodec(["pack", source, archive, "--model", model, *how])
        unpacking = run_vqcodec(["unpack", archive, back, *([] if model == AUTO else ["--model", model]), *how])
        size, found = Path(archive).stat().st_size, np.load(back)
    told = json.loads(packing.stdout)
    coders = min(jobs or cores(), told["blocks"])
    return Packed(
        bytes_total=size,
        bytes_per_image=size / len(images),
        bpd=bits_per_dim(size / len(images), images),
        blocks=told["blocks"],
        shares=tuple(Share(**share) for share in told["kinds"]),
        exact=found.dtype == given.dtype and np.array_equal(found, given),
        pack=_process(packing, len(images), coders),
        unpack=_process(unpacking, len(images), coders),
    )


def _process(ran: Ran, images: int, coders: int) -> Process:
    return Process(ran.wall_s, images / ran.wall_s, ran.cpu_s, ran.peak_mib, coders)


def _model(asked: str, shares: Sequence[Share], device: str) -> models.Model:
    """The model asked for, or that which `auto` chose for the most images."""
    if asked != AUTO:
        return models.load(asked, device, archive=True)
    packed = [share for share in shares if share.model]
    if not packed:
        raise UnsupportedImage("no model for archives that is built in takes these images; name one with --model")
    return models.load(max(packed, key=lambda share: share.images).model or "", device, archive=True)


def _codec(model: models.Model) -> BlockCodec:
    codec: Any = model.codec
    assert isinstance(codec, BlockCodec), "models.load sees to it"
    return codec


def _elbo(model: models.Model, images: Images, archive_bytes: int) -> tuple[Elbo, NDArray[np.float64]]:
    """-ELBO, and its sample of every image in bits, float64 [N]."""
    codec = _codec(model)
    start = time.perf_counter()
    each = codec.cost_bits(images)
    seconds = time.perf_counter() - start
    scatter = _scatter(codec, images[:_TWICE])
    total = float(each.sum())
    mean = total / len(images)
    return Elbo(
        model.name, model.sha256.hex(), mean, mean * math.log(2), mean / images[0].size, scatter,
        100 * (8 * archive_bytes / total - 1), 100 * _error(scatter, len(images)) / total, seconds,
    ), each  # fmt: skip


def _scatter(codec: BlockCodec, images: Images) -> float:
    """Standard deviation, in bits, of samples of one image's -ELBO: in reversed order the images get other ones."""
    differences = codec.cost_bits(images) - codec.cost_bits(images[::-1])[::-1]
    return float(np.sqrt(np.mean(differences**2) / 2))


def _error(scatter: float, count: int) -> float:
    """Standard error of the difference of two independent samples of the sum over `count` images."""
    return scatter * math.sqrt(2 * count)


def _counts(images: int) -> Iterator[int]:
    """1, 10, 100, ... and all images."""
    count = 1
    while count < images:
        yield count
        count *= 10
    yield images


def _start(codec: BlockCodec, images: Images, each: NDArray[np.float64], scatter: float, count: int) -> Start:
    begin = time.perf_counter()
    payload = codec.pack_images(images[:count])
    packed = time.perf_counter()
    back = codec.unpack_images(payload, count)
    end = time.perf_counter()
    bits, elbo = 8 * len(payload), float(each[:count].sum())
    return Start(
        count, bits, elbo, bits - elbo, _error(scatter, count), packed - begin, end - packed,
        np.array_equal(back, images[:count]),
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in the workers of `vqcodec pack`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text."""
    return files.text(result, tables(result))


def tables(result: dict[str, Any]) -> list[Table]:
    """The archive, its processes, the initial bits, and the peers."""
    parts = [_archive_table(result), _process_table(result), _start_table(result)]
    return parts + ([_peer_table(result)] if result["peers"] else [])


_SIZES: tuple[Cell, ...] = (
    ("file on disk, bytes", "bytes_total", 0), ("bytes/image", "bytes_per_image", 2), ("bits/dim", "bpd", 4),
)  # fmt: skip
_ELBO: tuple[Cell, ...] = (
    ("-ELBO, bits/image", "bits_per_image", 2), ("-ELBO, nats/image", "nats_per_image", 2),
    ("-ELBO, bits/dim", "bpd", 4),
    ("gap: bits of the file / -ELBO - 1, %", "gap_percent", 3),
    ("standard error of the gap (samples of the posterior), %", "gap_error_percent", 3),
)  # fmt: skip


def _archive_table(result: dict[str, Any]) -> Table:
    packed, elbo = result["archive"], result["elbo"]
    rows = cells(_SIZES, [packed]) + cells(_ELBO, [elbo])
    shares = [
        [f"{share['kind']} {share['model'] or ''}".strip() + ", images / bytes",
         f"{share['images']:,} / {share['bytes']:,}"]
        for share in packed["shares"]
    ]  # fmt: skip
    back = [["every pixel comes back", "yes" if packed["exact"] else "NO"]]
    kind = "black and white" if result["binary"] else "8-bit grey"
    title = f"all {result['images']:,} {kind} images in one archive"
    return Table(title, ["", elbo["model"]], rows + shares + back)


_PROCESS: tuple[Cell, ...] = (
    ("wall time, everything included, s", "wall_s", 1), ("images/s", "images_per_s", 0),
    ("CPU time of all cores, s", "cpu_s", 1), ("peak memory of it and its workers, MiB", "peak_mib", 0),
    ("processes that code, of one thread each", "coders", 0),
)  # fmt: skip


def _process_table(result: dict[str, Any]) -> Table:
    packed, last = result["archive"], result["starts"][-1]
    seconds = [last["pack_s"], last["unpack_s"]]
    alone = [
        ["the coding alone, as one block on one thread, s", *(number(one, 1) for one in seconds)],
        ["images/s", *(number(last["images"] / one) for one in seconds)],
    ]
    rows = cells(_PROCESS, [packed["pack"], packed["unpack"]]) + alone
    blocks = f"{packed['blocks']} block{'s' * (packed['blocks'] != 1)}"
    memory = f"Memory: sum of proportional set sizes, sampled every {SAMPLED_EVERY_S:g} s."
    note = f"{blocks}, {result['cores']} cores. {memory}"
    return Table("processes of the command line", ["", "vqcodec pack", "vqcodec unpack"], rows, note)


def _start_table(result: dict[str, Any]) -> Table:
    head = ["images", "payload, bits", "-ELBO, bits", "difference, bits", "standard error", "pack, s", "unpack, s"]
    rows = [
        [number(start["images"]), number(start["payload_bits"]), number(start["elbo_bits"]),
         number(start["excess_bits"]), number(start["error_bits"]), number(start["pack_s"], 2),
         number(start["unpack_s"], 2)]
        for start in result["starts"]
    ]  # fmt: skip
    wrong = sum(not start["exact"] for start in result["starts"])
    note = f"{wrong} of these blocks do not decode to their images." if wrong else ""
    return Table("initial bits: the first images as one block each", head, rows, note)


def _peer_table(result: dict[str, Any]) -> Table:
    head = [
        "codec",
        "given as",
        "bytes",
        "bytes/image",
        "bits/dim",
        "× the archive",
        "encode, s",
        "decode, s",
        "all exact",
    ]
    ours, pack, unpack = result["archive"], result["archive"]["pack"], result["archive"]["unpack"]
    first = {**ours, "codec": "vqcodec", "how": "archive", "encode_s": pack["wall_s"], "decode_s": unpack["wall_s"]}
    rows = [
        [row["codec"], row["how"], number(row["bytes_total"]), number(row["bytes_per_image"], 2),
         number(row["bpd"], 4), number(row["bytes_total"] / ours["bytes_total"], 3), number(row["encode_s"], 1),
         number(row["decode_s"], 1), "yes" if row["exact"] else "NO"]
        for row in [first, *sorted(result["peers"], key=lambda row: row["bytes_total"])]
    ]  # fmt: skip
    told = (
        "Times: of vqcodec its processes from start to end, of the others the coding alone, one run.",
        "Smallest settings: PNG optimised, WebP method 6 at 100, JPEG XL effort 10.",
        result["missing"],
    )
    note = " ".join(filter(None, told))
    return Table("the whole set by other codecs", head, rows, note)


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "archive", *sys.argv[1:]])
