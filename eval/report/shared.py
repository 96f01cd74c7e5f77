"""Sections of several kinds: what was measured, and of codecs rate and distortion, reconstructions, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...codec.family import LOSSLESS, Codec
from ...codec.images import psnr_db
from ...codec.ladder.codec import LadderCodec
from ...codec.vq.codec import VQCodec
from ...training.data.datasets import Dataset
from .. import files
from ..metrics import Images
from ..samples import samples
from .axes import Axis
from .charts import Bars, Rule, Series, bar_chart, line_chart
from .page import Facts, Figure, Section, code
from .pictures import COLUMNS, Strip, image_grid

LATENT_IMAGES = 2000
"""How many images, at most, the pictures of latents are made from: the first of the data set."""
_SAMPLES = 3 * COLUMNS  # of the setting that keeps most of an image; of others a row
_SAMPLE_SEED = 0
_PREVIEW = " A preview is what the latents of a lossless file give without its pixels."
_PERFECT_DB = psnr_db(0, 1)  # stands for no error at all


def measured(result: dict[str, Any], data: Dataset, command: str) -> Section:
    """Model, data, environment and command of a result that has the fields of `files.Subject`."""
    taken = f"split {result['split']}, the first {result['images']:,} of {len(data.images):,} images"
    pairs = [
        ("Model", f"{result['model']} (family {result['family']})"),
        ("Data", f"{result['data']}, {taken}"),
        ("Data set", f"{data.description}; {data.ink}; licence {data.licence}"),
        *where_measured(result["environment"], result.get("precision")),
        ("Weights", code(f"SHA-256 {result['weights']}")),
        ("Pixels", code(f"SHA-256 {result['pixels']} (whole split)")),
        ("Command", code(command)),
    ]
    return Section("What was measured", [Facts(pairs)])


def where_measured(where: dict[str, Any], precision: str | None = None) -> list[tuple[str, str]]:
    """When, on which machine and with what. precision: of a measurement in float, which has no use for a coder."""
    networks = f"networks on {where['device']}, {where['threads']} thread(s)"
    software = f"torch {where['torch']}"
    if precision:
        software += f", in float; matrix products of the bounds in {precision}"
    else:
        networks += f", batches of {where['batch']}"
        software += f", entropy coder {where['coder']}, exact sums by {where['arithmetic']}"
    return [
        ("Measured", f"{where['date']}, vqcodec {where['version']}, commit {where['commit'] or 'unknown'}"),
        ("Machine", f"{where['cpu']}; {networks}"),
        ("Software", software),
    ]


def rate_distortion(points: Sequence[dict[str, Any]], rendered: str) -> list[Figure]:
    """PSNR over bytes of the lossy points; nothing if there are none.

    rendered: key of the distortion of the model alone, among its numbers."""
    lossy = [point for point in points if point["quality"] and _psnr(point["files"]["distortion"]) < _PERFECT_DB]
    if not lossy:
        return []
    alone = [(point["model"]["bytes_payload"], _psnr(point["model"][rendered])) for point in lossy]
    whole = [(point["files"]["bytes_total"], _psnr(point["files"]["distortion"])) for point in lossy]
    series = [
        Series("whole files, fallback included", whole, [str(point["quality"]) for point in lossy]),
        Series("payload of the model alone", alone),
    ]
    sizes = [point["files"]["bytes_total"] for point in points if not point["quality"]]
    rules = [Rule("x", size, f"lossless files, {size:,.1f} bytes") for size in sizes]
    x, y = Axis("bytes per image", zero=True), Axis("PSNR, dB (of the mean squared error)")
    chart = line_chart(series, x, y, "Line chart of PSNR over bytes per image, a point per quality", rules)
    caption = (
        "Numbers beside points are qualities; sizes are means over all images. Whole files have a header and a "
        "checksum, and images that the model renders badly are stored in another way."
    )
    return [Figure("Rate and distortion", caption, [chart])]


def where_bits_go(points: Sequence[dict[str, Any]], parts: Sequence[Bars]) -> Figure:
    """Code length of each part of an image at every point, on top of each other; points have a `label`."""
    names = [point["label"].partition(" of ")[0] for point in points]
    chart = bar_chart(names, parts, "setting", "bits per image", "Bar chart of bits per image by setting", stacked=True)
    caption = "Code length under the coder's tables, mean over all images; the number above is the sum."
    return Figure("Where the bits go", caption, [chart])


def _psnr(distortion: dict[str, Any]) -> float:
    return float(distortion["psnr_db_of_mse"])


def reconstructions(codec: Codec, images: Images, points: Sequence[dict[str, Any]]) -> Section:
    """The first images and what each setting makes of them, by the model alone; of lossless settings the preview."""
    shown, of = images[:COLUMNS], codec.lossy_settings
    strips = [Strip("original", shown, f"The first {len(shown)} images of the data set")]
    for setting, point in zip(files.settings_of(codec), points, strict=True):
        label = "preview of lossless" if setting == LOSSLESS else files.label(setting, of)
        note = f"{point['model']['bytes_payload']:,.1f} bytes, {_rendered(point):.1f} dB"
        previews = files.payloads(codec, shown, setting).previews
        strips.append(
            Strip(label, previews, f"The same images at {files.label(setting, of)}, rendered from latents", note)
        )
    caption = (
        f"The first {len(shown)} images of the data set, not chosen, through the model alone. At the side: mean "
        "payload and PSNR of the mean squared error, of all images measured." + _PREVIEW * codec.has_lossless
    )
    return Section(
        "Reconstructions", [Figure("Originals and what is rendered", caption, image_grid(strips), wide=True)]
    )


def _rendered(point: dict[str, Any]) -> float:
    return _psnr(point["model"].get("rendered") or point["model"]["distortion"])


def drawn(codec: VQCodec | LadderCodec) -> Section:
    """Samples from the prior of every setting."""
    settings, of = files.settings_of(codec), codec.lossy_settings
    finest = LOSSLESS if codec.has_lossless else of
    counts = {setting: _SAMPLES if setting == finest else COLUMNS for setting in settings}
    strips = [
        Strip(files.label(setting, of), samples(codec, count, setting, _SAMPLE_SEED), f"{count} samples")
        for setting, count in counts.items()
    ]
    caption = (
        f"Drawn from the coder's own tables (seed {_SAMPLE_SEED}), not chosen. Where the setting is lossless, pixels "
        "are drawn too; else images are rendered from the latents."
    )
    return Section("Samples", [Figure("Samples from the prior", caption, image_grid(strips), wide=True)])
