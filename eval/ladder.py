"""What a ladder codec does on a data set: real file sizes, code length beside -ELBO, KL and active units, speed.

Code lengths and -ELBO are those of the codec's deterministic posterior, the rounded latents (`elbo` says why)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..codec import models
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.exact import REACHES
from ..training.data.datasets import Dataset
from . import files
from .dequantised import dequantised
from .elbo import Lengths, bits, code_lengths, joined
from .files import FileNumbers, Subject, percent
from .metrics import Distortion, Images, bits_per_dim, distortion
from .tables import Cell, Table, cells

ACTIVE_NATS = 0.01
"""Mean KL of a latent from which it counts as used."""


@dataclass(frozen=True)
class ModelNumbers:
    """The model alone on every image, payloads without containers. Bits and bytes are means per image.

    exact_bits: code length under the exact tables, of latents and pixels.  excess: of the payload over it.
    kl_bits, nll_bits: KL term of the latents and -log2 p(x | z) of the same network in float64; elbo_bits: their sum.
    fixed_point_percent: exact_bits over elbo_bits.  latents_percent: latent_bits over kl_bits.
    gap_bytes, gap_percent: payload over elbo_bits.  beyond_bytes: payload over 1.01 x elbo_bits.
    rendered: from the latents alone, the image of a lossy setting and the preview of the lossless one.
    """

    bytes_payload: float
    payload_bpd: float
    exact_bits: float
    latent_bits: float
    pixel_bits: float
    excess_bytes: float
    excess_percent: float
    elbo_bits: float
    elbo_nats: float
    elbo_bpd: float
    kl_bits: float
    nll_bits: float
    fixed_point_percent: float
    latents_percent: float
    gap_bytes: float
    gap_percent: float
    beyond_bytes: float
    mismatches: int
    rendered: Distortion


@dataclass(frozen=True)
class LevelNumbers:
    """The latents z_level, counted from the image up, at one setting.

    kl_nats: mean per image, float64.  active: latents (channel x position) whose mean KL is above 0.01 nats.
    bits: mean code length under the exact tables.  excess_percent: of bits over the KL.
    reach, farthest: largest distance from the prior's mean that is coded, and that was met.  clipped: latents of all
    images together that lay beyond the reach.
    """

    level: int
    latents: int
    active: int
    kl_nats: float
    bits: float
    excess_percent: float
    reach: int
    farthest: int
    clipped: int


@dataclass(frozen=True)
class Point:
    """Everything at one setting (0: lossless), which `quality` asks for. coding_gap_percent: file over -ELBO."""

    setting: int
    label: str
    quality: int | None
    files: FileNumbers
    coding_gap_percent: float
    model: ModelNumbers
    levels: list[LevelNumbers]


@dataclass(frozen=True)
class Evaluation(Subject):
    """All settings of a model, lossless first."""

    points: list[Point]


def measure(model: str, data: Dataset, limit: int | None = None, device: str = "cpu") -> Evaluation:
    """Measure a ladder model (name or weights file) on the first `limit` images of a data set, at every setting.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images that it does not take."""
    loaded, images = models.load(model, device), data.images[:limit]
    codec = loaded.codec
    assert isinstance(codec, LadderCodec)
    files.warm_up(model, loaded, images, device)
    net, points = dequantised(codec.generative), []
    for setting in files.settings_of(codec):
        lengths = joined([code_lengths(codec, net, batch, setting) for batch in _batches(images)])
        alone = files.payloads(codec, images, setting)
        whole = files.measure_files(model, loaded, images, alone.x_hat, setting, device)
        points.append(_point(codec, setting, images, lengths, alone, whole))
    return Evaluation(**vars(files.subject(loaded, data, images, device)), points=points)


def _batches(images: Images) -> Iterator[Images]:
    return files.batches(files.upright_dark(images))


def _point(
    codec: LadderCodec, setting: int, images: Images, lengths: Lengths, alone: files.Payloads, whole: FileNumbers
) -> Point:
    numbers, of = _numbers(lengths, alone, images), codec.lossy_settings
    gap = percent(8 * whole.bytes_total - numbers.elbo_bits, numbers.elbo_bits)
    levels = _levels(codec, lengths, setting, len(images))
    return Point(setting, files.label(setting, of), files.ask(setting, of).quality, whole, gap, numbers, levels)


def _numbers(lengths: Lengths, alone: files.Payloads, images: Images) -> ModelNumbers:
    count, payload = len(images), sum(alone.sizes) / len(images)
    latent, pixel = float(lengths.latent_bits.sum()) / count, lengths.pixel_bits / count
    kl_nats = float(torch.cat(lengths.nats).sum()) / count
    kl, nll, exact = bits(kl_nats), lengths.nll_bits / count, latent + pixel
    elbo = kl + nll
    return ModelNumbers(
        bytes_payload=payload,
        payload_bpd=bits_per_dim(payload, images),
        exact_bits=exact,
        latent_bits=latent,
        pixel_bits=pixel,
        excess_bytes=payload - exact / 8,
        excess_percent=percent(8 * payload - exact, exact),
        elbo_bits=elbo,
        elbo_nats=elbo / bits(1),
        elbo_bpd=bits_per_dim(elbo / 8, images),
        kl_bits=kl,
        nll_bits=nll,
        fixed_point_percent=percent(exact - elbo, elbo),
        latents_percent=percent(latent - kl, kl),
        gap_bytes=payload - elbo / 8,
        gap_percent=percent(8 * payload - elbo, elbo),
        beyond_bytes=payload - 1.01 * elbo / 8,
        mismatches=alone.mismatches,
        rendered=distortion(images, alone.previews),
    )


def _levels(codec: LadderCodec, lengths: Lengths, setting: int, images: int) -> list[LevelNumbers]:
    rows = []
    for level, nats in enumerate(lengths.nats):
        mean = nats / images
        kl, exact = float(mean.sum()), float(lengths.latent_bits[level]) / images
        rows.append(LevelNumbers(
            level + 1, len(mean), int((mean > ACTIVE_NATS).sum()), kl, exact, percent(exact - bits(kl), bits(kl)),
            REACHES[int(codec.reach[setting, level])], lengths.farthest[level], lengths.clipped[level],
        ))  # fmt: skip
    return rows


_MODEL_ROWS: tuple[Cell, ...] = (
    ("payload, bytes/image", "bytes_payload", 2), ("exact code length, bits/image", "exact_bits", 2),
    ("  of it latents", "latent_bits", 2), ("  of it pixels", "pixel_bits", 2),
    ("payload's excess over it, bytes", "excess_bytes", 3), ("payload's excess over it, %", "excess_percent", 3),
    ("-ELBO in float64, bits/image", "elbo_bits", 2), ("  of it KL term of the latents", "kl_bits", 2),
    ("  of it -log2 p(x | z)", "nll_bits", 2), ("-ELBO, nats/image", "elbo_nats", 2),
    ("-ELBO, bits/dim", "elbo_bpd", 4), ("cost of fixed point, %", "fixed_point_percent", 4),
    ("latents' bits over the KL term, %", "latents_percent", 4), ("payload over -ELBO, bytes", "gap_bytes", 3),
    ("payload over -ELBO, %", "gap_percent", 3), ("payload over 1.01 x -ELBO, bytes", "beyond_bytes", 3),
    ("wrongly decoded payloads", "mismatches", 0),
)  # fmt: skip
_LEVEL_ROWS: tuple[Cell, ...] = (
    ("latents", "latents", 0), ("active units (KL > 0.01 nats)", "active", 0), ("KL, nats/image", "kl_nats", 3),
    ("exact code length, bits/image", "bits", 2), ("  over the KL, %", "excess_percent", 3),
    ("largest |k|", "farthest", 0), ("  that can be coded", "reach", 0), ("clipped, all images", "clipped", 0),
)  # fmt: skip


def tables(result: dict[str, Any]) -> list[Table]:
    """The result of `measure`, as it stands in JSON: files, the model alone, what it renders, and one per level.

    A column per setting."""
    points: Sequence[dict[str, Any]] = result["points"]
    alone, head = [point["model"] for point in points], ["", *(point["label"] for point in points)]
    quality = ["quality", *(str(point["quality"] or "-") for point in points)]
    gap = cells([("file over -ELBO, %", "coding_gap_percent", 2)], points)
    rendered = cells(files.DISTORTION_ROWS[:3], [values["rendered"] for values in alone])
    return [
        Table("whole files, fallback included", head, [quality, *files.file_cells(points), *gap]),
        Table("model alone, no fallback; posterior: rounded latents", head, cells(_MODEL_ROWS, alone)),
        Table("rendered from the latents alone (preview, where lossless)", head, rendered),
        *(
            Table(f"z{level['level']}", head, cells(_LEVEL_ROWS, [point["levels"][number] for point in points]))
            for number, level in enumerate(points[0]["levels"])
        ),
    ]


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text; a column per setting."""
    return files.page(result, tables(result))
