"""What a Ladder VAE with a Gaussian posterior makes of a data set: ELBO, importance-weighted NLL, KL, active units.

These are the paper's models (Sonderby et al. 2016). They are measured in float, from the weights in their file."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codec import models, weights_file
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.exact import FRAC_BITS
from ..codec.ladder.model import LadderModel
from ..codec.ladder.posterior import Latents
from ..codec.weights_file import Description
from ..training.data.datasets import Dataset
from ..training.ladder import ACTIVE_NATS, terms
from . import files
from .dequantised import natural
from .environment import environment
from .files import Subject
from .metrics import Images
from .nll import IMAGES, Bounds, BoundsError, bounds, joined
from .tables import Cell, Table, cells

SAMPLES = (1, 50, 500)
"""Numbers of samples that `vqcodec eval` takes unless asked for others."""
PRECISIONS = ("bf16", "float32")
"""Of matrix products; the first is the default: quicker on CPUs that have it. L_5000 of lvae-mnist on 100 images was
80.143 nats in bf16 and 80.140 in float32."""
_ACTIVE_VARIANCE = 0.01
_BATCH = 500
_SEED = 0
_WORTH_PROCESSES = 500_000  # samples in all from which starting processes pays


@dataclass(frozen=True)
class Loaded:
    """A Gaussian ladder model in float32, from its weights file. sha256: of the file."""

    description: Description
    sha256: bytes
    model: LadderModel


@dataclass(frozen=True)
class Bound:
    """The importance-weighted bound of k samples. nats: mean of -bound per image; error_nats: its standard error over
    the images; bpd: bits per dimension."""

    samples: int
    nats: float
    error_nats: float
    bpd: float


@dataclass(frozen=True)
class LevelNumbers:
    """The latents z_level, counted from the image up.

    kl_nats: mean per image, its Gaussian part in closed form.  active: units of more than 0.01 nats on average.
    varying: units whose posterior mean varies by more than 0.01 over the images (Burda et al. 2016, section 2.4).
    unit_kl_nats: of every unit, falling.
    """

    level: int
    latents: int
    active: int
    varying: int
    kl_nats: float
    unit_kl_nats: list[float]


@dataclass(frozen=True)
class Numbers:
    """Everything of a model. elbo_nats: -ELBO per image; log_likelihood_nats: mean log p(x | z), one sample; bounds: as
    many as were asked for, all of one draw of samples.  precision: of matrix products in the bounds ("bf16" or
    "float32").  seconds: that the bounds took."""

    elbo_nats: float
    elbo_bpd: float
    log_likelihood_nats: float
    kl_nats: float
    bounds: list[Bound]
    levels: list[LevelNumbers]
    precision: str
    seconds: float


@dataclass(frozen=True)
class Evaluation(Numbers, Subject):
    """The same, and what was measured."""


def load(name: str, device: str = "cpu") -> Loaded:
    """Model by name or path of its weights file. Raises ModelMismatch, and BoundsError for one without a Gaussian
    posterior."""
    path = models.find(name)
    description = weights_file.describe(path)
    if description.family != "ladder" or description.config.get("posterior") != "gaussian":
        raise BoundsError(
            f"{description.name} has no Gaussian posterior: its bound is the code length, without importance weights"
        )
    codec = models.read(path, description)
    assert isinstance(codec, LadderCodec)
    return Loaded(description, weights_file.sha256(path), floating(codec).to(device))


def floating(codec: LadderCodec) -> LadderModel:
    """The float32 model of a codec's integers."""
    model = LadderModel.__new__(LadderModel)
    torch.nn.Module.__init__(model)
    model.config = codec.config
    model.inference = natural(codec.inference, FRAC_BITS).float()
    model.generative = natural(codec.generative, FRAC_BITS).float()
    return model.eval()


def measure(
    name: str,
    data: Dataset,
    limit: int | None = None,
    device: str = "cpu",
    samples: Sequence[int] = SAMPLES,
    precision: str = PRECISIONS[0],
) -> Evaluation:
    """Measure a Gaussian ladder (name or weights file) on the first `limit` images of a data set.

    samples: every k for which the bound is computed; precision: of PRECISIONS. Raises ModelMismatch, BoundsError."""
    loaded, images = load(name, device), data.images[:limit]
    subject = Subject(
        loaded.description.name, "ladder", loaded.sha256.hex(), data.name, data.split, len(images), data.sha256,
        environment(device),
    )  # fmt: skip
    found = numbers(loaded.model, values_of(loaded.model, data, limit), samples, precision)
    return Evaluation(**vars(subject), **vars(found))


def values_of(model: LadderModel, data: Dataset, limit: int | None = None) -> Tensor:
    """Pixels as a model takes them, int64 [N, S, S]. Raises BoundsError for images that it has no likelihood of."""
    images: Images = data.images[:limit]
    if images.shape[1:] != (model.config.image_size,) * 2:
        raise BoundsError(f"the model takes images of {model.config.image_size} pixels a side, found {images.shape}")
    if model.config.values == 256:
        return torch.from_numpy(images).long()
    if not np.isin(images, (0, 255)).all():
        raise BoundsError(
            f"the model's pixels are black or white, those of {data.name} are grey: use {data.name}-binary"
        )
    return (torch.from_numpy(images) > 0).long()


@torch.inference_mode()
def numbers(model: LadderModel, values: Tensor, samples: Sequence[int], precision: str = PRECISIONS[0]) -> Numbers:
    """All numbers of a float model for values int64 [N, S, S]; the random state is set, and restored.

    On a CPU the bounds of many samples are computed by as many processes as PyTorch has threads: products this small
    gain little from threads."""
    device, dims, start = model.generative.device, values[0].numel(), time.perf_counter()
    work = len(values) * max(samples, default=0)
    workers = torch.get_num_threads() if device.type == "cpu" and work >= _WORTH_PROCESSES else 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        found = (
            _spread(model, values, samples, precision, workers)
            if workers > 1
            else _found(model, values, samples, precision, 0)
        )
        seconds = time.perf_counter() - start
        torch.manual_seed(_SEED)
        levels, log_likelihood = _levels(model, values)
    elbo, kl = -float(found.elbo.mean()), sum(level.kl_nats for level in levels)
    rows = [_bound(k, -bound, dims) for k, bound in found.importance.items()]
    return Numbers(elbo, _bpd(elbo, dims), log_likelihood, kl, rows, levels, precision, seconds)


def _spread(model: LadderModel, values: Tensor, samples: Sequence[int], precision: str, workers: int) -> Bounds:
    """Bounds by processes, each of which takes a run of whole batches of images."""
    share = -(-len(values) // (workers * IMAGES)) * IMAGES
    parts = values.split(share)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(parts), mp_context=context) as pool:
        jobs = [
            pool.submit(_alone, model, part.numpy(), tuple(samples), precision, number * share // IMAGES)
            for number, part in enumerate(parts)
        ]
        found = [job.result() for job in jobs]
    return joined(
        [Bounds(torch.from_numpy(elbo), {k: torch.from_numpy(b) for k, b in by_k.items()}) for elbo, by_k in found]
    )


def _alone(
    model: LadderModel, values: NDArray[np.int64], samples: Sequence[int], precision: str, first: int
) -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """What a process does; arrays, which need no shared memory on their way back."""
    torch.set_num_threads(1)
    found = _found(model, torch.from_numpy(values), samples, precision, first)
    return found.elbo.numpy(), {k: bound.numpy() for k, bound in found.importance.items()}


def _found(model: LadderModel, values: Tensor, samples: Sequence[int], precision: str, first: int) -> Bounds:
    """Bounds here; first: number of the first batch of images."""
    images = values.to(model.generative.device)
    return bounds(lambda x, k: log_weights(model, x, k, precision), images, samples, seed=_SEED + first)


def log_weights(model: LadderModel, values: Tensor, samples: int, precision: str = "float32") -> Tensor:
    """`nll.LogWeights` of a ladder: values int64 [B, S, S] -> [samples, B]. precision: of matrix products."""
    with torch.autocast(values.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return terms(model, values, samples=samples).log_weights().view(samples, len(values))


def _bound(samples: int, nats: Tensor, dims: int) -> Bound:
    mean, error = float(nats.mean()), float(nats.std()) / len(nats) ** 0.5 if len(nats) > 1 else 0.0
    return Bound(samples, mean, error, _bpd(mean, dims))


def _bpd(nats: float, dims: int) -> float:
    return nats / math.log(2) / dims


def _levels(model: LadderModel, values: Tensor) -> tuple[list[LevelNumbers], float]:
    """KL and active units of every level from the image up, and the mean of log p(x | z)."""
    kl: list[list[Tensor]] = [[] for _ in range(model.config.levels)]
    means: list[list[Tensor]] = [[] for _ in range(model.config.levels)]
    log_likelihood = 0.0
    for latents, likelihood in drawn(model, values):
        log_likelihood += float(likelihood.double().sum())
        for level, own in enumerate(latents):
            kl[level].append(own.kl().flatten(1).double().cpu())
            means[level].append(own.mean.flatten(1).double().cpu())
    rows = []
    for level, (of_level, mean) in enumerate(zip(kl, means, strict=True)):
        units = torch.cat(of_level).mean(0)
        varying = int((torch.cat(mean).var(0, correction=0) > _ACTIVE_VARIANCE).sum())
        active, falling = int((units > ACTIVE_NATS).sum()), units.sort(descending=True).values
        rows.append(LevelNumbers(level + 1, len(units), active, varying, float(units.sum()), falling.tolist()))
    return rows, log_likelihood / len(values)


def drawn(model: LadderModel, values: Tensor) -> Iterator[tuple[list[Latents], Tensor]]:
    """One sample of the latents of every image, batch by batch: per level from the image up, and log p(x | z) [B]."""
    for batch in values.split(_BATCH):
        found = terms(model, batch.to(model.generative.device))
        assert found.log_likelihood is not None
        yield found.latents[::-1], found.log_likelihood


_ROWS: tuple[Cell, ...] = (
    ("-ELBO, nats/image", "elbo_nats", 3), ("-ELBO, bits/dim", "elbo_bpd", 4), ("KL, nats/image", "kl_nats", 3),
    ("log p(x | z), nats/image", "log_likelihood_nats", 3), ("time of the bounds, s", "seconds", 1),
)  # fmt: skip
_BOUND_ROWS: tuple[Cell, ...] = (
    ("-L_k, nats/image", "nats", 3), ("  standard error over images", "error_nats", 3),
    ("-L_k, bits/dim", "bpd", 4),
)  # fmt: skip
_LEVEL_ROWS: tuple[Cell, ...] = (
    ("latents", "latents", 0), ("active units (KL > 0.01 nats)", "active", 0),
    ("units of varying mean (variance > 0.01)", "varying", 0), ("KL, nats/image", "kl_nats", 3),
)  # fmt: skip


def tables(result: dict[str, Any]) -> list[Table]:
    """The result of `measure`, as it stands in JSON: the ELBO, the bounds, and the levels."""
    bounds, levels = result["bounds"], result["levels"]
    return [
        Table("one sample per image, and the mean of all log weights", ["", "value"], cells(_ROWS, [result])),
        Table("importance-weighted bounds", ["", *(f"k = {bound['samples']:,}" for bound in bounds)],
              cells(_BOUND_ROWS, bounds)),
        Table("levels", ["", *(f"z{level['level']}" for level in levels)], cells(_LEVEL_ROWS, levels)),
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text."""
    return files.text(result, tables(result))
