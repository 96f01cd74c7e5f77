"""From a trained task to a weights file and its card."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..codec import weights_file
from ..codec.family import QUALITIES, Codec
from ..codec.images import psnr_db
from ..codec.ladder.bitsback import ArchiveCodec
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.config import LadderConfig
from ..codec.ladder.exact import FRAC_BITS, REACHES
from ..codec.ladder.gaussian import MAX_STEP_LOG2
from ..codec.photo.codec import PhotoCodec
from ..codec.photo.config import PhotoConfig
from ..codec.photo_vq.codec import PhotoVQCodec
from ..codec.photo_vq.config import PhotoVQConfig
from ..codec.pixels.codec import PhotoLosslessCodec
from ..codec.pixels.config import PhotoLosslessConfig
from ..codec.vq.codec import VQCodec
from ..codec.vq.config import VQConfig
from ..codec.weights_file import Description
from .batchnorm import reestimate
from .config import Recipe
from .data.datasets import Dataset, Images, binarise
from .data.photos import Photos
from .ladder import LadderTask
from .loop import Task
from .photo import PhotoTask
from .photo_lossless import PhotoLosslessTask
from .photo_vq import PhotoVQTask
from .vq import VQTask

_FLOOR_QUANTILE = 0.001  # of the training images' PSNR ...
_FLOOR_MARGIN_DB = 1.0  # ... minus this: below, an image is unlike anything the model was trained for
_KNOWN_IMAGES = 4096
_KNOWN_PHOTOS, _FLOOR_KNOTS, _PHOTO_MARGIN_DB = 200, 6, 3.0
PHOTOS_LICENCE = (
    "per source and image: CC0 to CC BY-NC-SA, two sources for research only (`MANIFEST.csv` of the set); see NOTICE."
)
_GRID_IMAGES = 1024


@dataclass(frozen=True)
class Known:
    """What a card says of the training set."""

    description: str
    split: str
    images: int
    licence: str


AnyPhotoCodec = PhotoCodec | PhotoVQCodec | PhotoLosslessCodec
AnyCodec = VQCodec | LadderCodec | AnyPhotoCodec


def export(task: Task, recipe: Recipe, data: Dataset | Photos, folder: Path, steps: int) -> Path:
    """Write folder/NAME.safetensors (exact integers) and folder/NAME.md; returns the weights' path.

    data: the training set, on which the PSNR floors (and the reach of latents) are measured."""
    task.eval().to("cpu")
    if isinstance(task, PhotoTask | PhotoVQTask | PhotoLosslessTask) or isinstance(data, Photos):
        assert isinstance(task, PhotoTask | PhotoVQTask | PhotoLosslessTask)
        assert isinstance(data, Photos)
        photo = _of_photographs(task, data)
        of = Known("Photographs", "train", data.originals, PHOTOS_LICENCE)
        return _write(recipe, photo, photo.stored(), of, folder, steps)
    if isinstance(task, LadderTask):
        reestimate(task, torch.from_numpy(data.images))
    known = data.images[:_KNOWN_IMAGES]
    codec = _vq_codec(task, known) if isinstance(task, VQTask) else _ladder_codec(task, known)
    told = Known(data.description, data.split, len(data.images), data.licence)
    return _write(recipe, codec, codec.state_dict(), told, folder, steps)


def _write(recipe: Recipe, codec: AnyCodec, state: dict[str, Tensor], data: Known, folder: Path, steps: int) -> Path:
    results = {"steps": steps, "device": platform.processor() or platform.machine()}
    described = dataclasses.asdict(recipe)
    model = described.pop("model")
    floors = {"psnr_floor_db": codec.psnr_floor.tolist()}
    description = Description(recipe.name, recipe.family, model, described, results | floors)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recipe.name}.safetensors"
    weights_file.write(path, description, state)
    path.with_suffix(".md").write_text(_card(recipe, data, path, steps, codec))
    return path


def _of_photographs(task: PhotoTask | PhotoVQTask | PhotoLosslessTask, data: Photos) -> AnyPhotoCodec:
    if isinstance(task, PhotoLosslessTask):
        return PhotoLosslessCodec(task.model)
    return _photo_vq_codec(task, data) if isinstance(task, PhotoVQTask) else _photo_codec(task, data)


def _photo_codec(task: PhotoTask, data: Photos) -> PhotoCodec:
    """With PSNR floors for every quality, linear between those of a few."""
    codec, floors = PhotoCodec(task.model), []
    crops = data.centres(_KNOWN_PHOTOS).permute(0, 2, 3, 1).contiguous().numpy()
    at = np.linspace(1, QUALITIES, _FLOOR_KNOTS).round().astype(int)
    for quality in at:
        values = []
        for crop in crops:
            shown = codec.encode_photo(crop, int(quality)).x_hat
            assert shown is not None
            values.append(psnr_db(int(((shown.astype(np.int64) - crop) ** 2).sum()), crop.size))
        floors.append(min(values) - _PHOTO_MARGIN_DB)
    known = np.interp(np.arange(1, QUALITIES + 1), at, floors).round(2)
    return PhotoCodec(task.model, known.tolist())


def _photo_vq_codec(task: PhotoVQTask, data: Photos) -> PhotoVQCodec:
    """With PSNR floors for every number of levels."""
    floors = task.psnr_db(data.centres(_KNOWN_PHOTOS)).amin(1) - _PHOTO_MARGIN_DB
    return PhotoVQCodec(task.model, [round(floor, 2) for floor in floors.tolist()])


def _vq_codec(task: VQTask, images: Images) -> VQCodec:
    weights = task.rd_weights.tolist()
    return VQCodec(task.model, weights, _psnr_floors(VQCodec(task.model, weights), images))


def _ladder_codec(task: LadderTask, images: Images) -> LadderCodec:
    config = task.model.config
    if config.values == 2:
        images = binarise(images, "known images of " + config.likelihood)
    if config.context:
        return _archive_codec(task, images)
    codec = LadderCodec(task.model)
    if config.posterior != "uniform":
        return codec  # for measuring: it cannot code single images
    reach = _reach(codec, images)
    floors = [0.0, *_psnr_floors(LadderCodec(task.model, reach), images)]
    return LadderCodec(task.model, reach, floors)


def _archive_codec(task: LadderTask, images: Images) -> ArchiveCodec:
    """With grids whose steps are about the standard deviation of the posterior: the mean of q is hardly moved, and the
    bits to begin with are few."""
    codec = ArchiveCodec(task.model)
    for level, log_scale in enumerate(codec.posterior_log_scales(images[:_GRID_IMAGES])):
        steps = (log_scale / math.log(2) + FRAC_BITS).round().clamp(0, MAX_STEP_LOG2)
        codec.archive.steps(level).copy_(steps.long())
    return codec


def _reach(codec: LadderCodec, images: Images) -> Tensor:
    """Index into REACHES for every quality and level: the least that holds the latents of all these images."""
    farthest = torch.zeros(codec.config.qualities, codec.config.levels)
    for quality in range(codec.config.qualities):
        for start in range(0, len(images), 256):
            for level, k in enumerate(codec.latents(images[start : start + 256], quality)):
                farthest[quality, level] = max(float(farthest[quality, level]), float(k.abs().max()))
    return (farthest[..., None] > torch.tensor(REACHES[:-1])).sum(-1)


def _psnr_floors(codec: Codec, images: Images) -> list[float]:
    floors = []
    for setting in range(1, codec.lossy_settings + 1):
        values = []
        for start in range(0, len(images), 256):
            batch = images[start : start + 256]
            x_hat = np.stack([coded.x_hat for coded in codec.encode_images(batch, setting)])
            error = x_hat.astype(np.int64) - batch
            values += [psnr_db(int(square), batch[0].size) for square in (error**2).sum((1, 2))]
        floors.append(round(float(np.quantile(values, _FLOOR_QUANTILE)) - _FLOOR_MARGIN_DB, 2))
    return floors


def _architecture(codec: AnyCodec) -> str:
    config = codec.config
    if isinstance(config, PhotoConfig):
        grids = ", ".join(f"{level.latents} at 1/{level.stride}" for level in config.levels)
        return f"Ladder VAE, {len(config.levels)} levels of rounded latents ({grids}); prior in fixed point, rest float"
    if isinstance(config, PhotoVQConfig):
        books = ", ".join(f"{book.size} at 1/{book.stride}" for book in config.codebooks)
        return f"VQ-VAE, {len(config.codebooks)} levels of code vectors ({books}); prior in fixed point, rest float"
    if isinstance(config, PhotoLosslessConfig):
        return f"Likelihood of pixels in raster order, a perceptron of {config.width} channels (all in fixed point)"
    if isinstance(config, VQConfig):
        return f"VQ-VAE, {len(config.levels)} residual levels, exact staged context prior (all parts in fixed point)"
    latents = ", ".join(f"{c} x {s} x {s}" for c, s in zip(config.latents, config.grids, strict=True))
    levels = f"{config.levels} levels of latents (from the image up: {latents})"
    if config.posterior == "gaussian":
        inference = "Ladder VAE" if config.inference == "ladder" else "Plain hierarchical VAE"
        use = "for archives" if config.context else "for measuring"
        return f"{inference}, {levels}, Gaussian; {config.likelihood} pixels ({use}; cannot code single images)"
    return (
        f"Ladder VAE, {levels}, rounded; {config.likelihood} pixels in {len(config.stages)} stages (all parts in fixed "
        "point)"
    )


def _card(recipe: Recipe, data: Known, path: Path, steps: int, codec: AnyCodec) -> str:
    parameters = sum(tensor.numel() for tensor in codec.state_dict().values())
    measured = _measurement(recipe)
    return f"""# {recipe.name}

- **Family**: {_architecture(codec)}.
- **Takes**: {codec.takes}.
- **Training data**: {data.description} ({data.images:,} images of split `{data.split}`). Licence: {data.licence}
- **Recipe**: `vqcodec train {recipe.name}`; {steps:,} steps of {recipe.train.batch_size} images, seed
  {recipe.train.seed}, trained on {platform.machine()} with PyTorch {torch.__version__}.
- **Size**: {parameters:,} numbers, {path.stat().st_size:,} bytes, SHA-256 `{weights_file.sha256(path).hex()}`.
- **Configuration**: `{json.dumps(dataclasses.asdict(recipe.model))}`

`{measured}` measures it; the documentation has the results under Benchmarks.
"""


def _measurement(recipe: Recipe) -> str:
    """The command that measures a model."""
    model = recipe.model
    if isinstance(model, PhotoConfig | PhotoVQConfig | PhotoLosslessConfig):
        return f"vqcodec bench rd {recipe.name} --data kodak"
    if not isinstance(model, LadderConfig) or model.posterior == "uniform":
        return f"vqcodec eval {recipe.name} --data {recipe.data} --split test"
    if model.context:
        binary = "-binary" if model.likelihood == "bernoulli" else ""
        return f"vqcodec bench archive --data {recipe.data}{binary}"
    return f"vqcodec eval {recipe.name} --data {recipe.data}-binary --samples 5000"
