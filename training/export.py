"""From a trained task to a weights file and its card."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import torch

from ..codec import weights_file
from ..codec.api import psnr_db
from ..codec.vq.codec import VQCodec
from ..codec.weights_file import Description
from .config import Recipe
from .datasets import Dataset
from .vq import VQTask

_FLOOR_QUANTILE = 0.001  # of the training images' PSNR ...
_FLOOR_MARGIN_DB = 1.0  # ... minus this: below, an image is unlike anything the model was trained for
_FLOOR_IMAGES = 4096


def export(task: VQTask, recipe: Recipe, data: Dataset, folder: Path, steps: int) -> Path:
    """Write folder/NAME.safetensors (exact integers) and folder/NAME.md; returns the weights' path.

    data: the training set, on which the PSNR floors are measured."""
    task.eval().to("cpu")
    weights = task.rd_weights.tolist()
    codec = VQCodec(task.model, weights)
    floors = _psnr_floors(codec, data.images[:_FLOOR_IMAGES])
    codec = VQCodec(task.model, weights, floors)
    results = {"steps": steps, "device": platform.processor() or platform.machine(), "psnr_floor_db": floors}
    described = dataclasses.asdict(recipe)
    model = described.pop("model")
    description = Description(recipe.name, "vq", model, described, results)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recipe.name}.safetensors"
    weights_file.write(path, description, codec.state_dict())
    path.with_suffix(".md").write_text(_card(recipe, data, path, steps, codec))
    return path


def _psnr_floors(codec: VQCodec, images: np.ndarray) -> list[float]:
    floors = []
    for levels in range(1, len(codec.config.levels) + 1):
        values = []
        for start in range(0, len(images), 256):
            batch = images[start : start + 256]
            _, indices = codec.encode(batch, levels)
            error = codec.reconstruct(indices, levels).astype(np.int64) - batch
            values += [psnr_db(int(square), batch[0].size) for square in (error**2).sum((1, 2))]
        floors.append(round(float(np.quantile(values, _FLOOR_QUANTILE)) - _FLOOR_MARGIN_DB, 2))
    return floors


def _card(recipe: Recipe, data: Dataset, path: Path, steps: int, codec: VQCodec) -> str:
    parameters = sum(tensor.numel() for tensor in codec.state_dict().values())
    return f"""# {recipe.name}

- **Family**: VQ-VAE, {len(recipe.model.levels)} residual levels, exact staged context prior (all parts in fixed point).
- **Takes**: 8-bit grey images of {recipe.model.image_size} x {recipe.model.image_size} pixels.
- **Training data**: {data.description} ({len(data.images):,} images of split `{data.split}`). Licence: {data.licence}
- **Recipe**: `vqcodec train {recipe.name}`; {steps:,} steps of {recipe.train.batch_size} images, seed
  {recipe.train.seed}, trained on {platform.machine()} with PyTorch {torch.__version__}.
- **Size**: {parameters:,} integers, {path.stat().st_size:,} bytes, SHA-256 `{weights_file.sha256(path).hex()}`.
- **Configuration**: `{json.dumps(dataclasses.asdict(recipe.model))}`

Results: `vqcodec eval {recipe.name} --data {recipe.data} --split test`, in the README.
"""
