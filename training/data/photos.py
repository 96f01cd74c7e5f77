"""Photographs for training: files decoded once into memory, and random crops of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .datasets import DataError, data_folder

SOURCES = ("bsds", "cid22", "coco", "imagenet_sample", "wallpapers")
HELD_OUT = 32
"""Photographs that are never trained on, for a look at how training goes (the test set is Kodak's)."""
CHANNELS = 3
_HARDLY = 0.9  # of its size: a copy that is larger shows nothing new
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Photos:
    """Photographs of any size; indexed with numbers, they give random crops, flipped at random.

    All pixels lie in one tensor, so that a batch is one gather, on whatever device they are."""

    def __init__(self, images: Sequence[Tensor], side: int, originals: int | None = None) -> None:
        """Images uint8 [3, H, W], H and W at least `side`, that of the crops. originals: how many of them, the first
        ones, are no reduced copies; default all."""
        self.side = side
        self.originals = len(images) if originals is None else originals
        self._sizes = torch.tensor([image.shape[1:] for image in images])
        areas = self._sizes.prod(1) * CHANNELS
        self._starts = areas.cumsum(0) - areas
        self._pixels = torch.cat([image.flatten() for image in images])

    def __len__(self) -> int:
        """How many photographs, reduced copies included."""
        return len(self._sizes)

    def to(self, device: str) -> Photos:
        """The same with all photographs on a device."""
        moved = copy(self)
        for name in ("_sizes", "_starts", "_pixels"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """A crop of each, uint8 [B, 3, side, side], for numbers int64 [B] on the photographs' device."""
        room = self._sizes[numbers] - self.side + 1
        corners = (torch.rand(room.shape, device=room.device) * room).long()
        return self._crops(numbers, corners, torch.rand(len(numbers), device=room.device) < 0.5)

    def centres(self, count: int | None = None) -> Tensor:
        """The middle of each (or of the first `count`), uint8 [N, 3, side, side]."""
        numbers = torch.arange(len(self), device=self._sizes.device)[:count]
        corners = (self._sizes[numbers] - self.side) // 2
        return self._crops(numbers, corners, torch.zeros_like(numbers, dtype=torch.bool))

    def _crops(self, numbers: Tensor, corners: Tensor, flipped: Tensor) -> Tensor:
        """Crops of photographs [B] from their corners [B, 2]: top, left."""
        place = torch.arange(self.side, device=numbers.device)
        rows = corners[:, :1] + place
        columns = corners[:, 1:] + torch.where(flipped[:, None], self.side - 1 - place, place)
        heights, widths = self._sizes[numbers].T[..., None]
        channel = torch.arange(CHANNELS, device=numbers.device) * heights * widths + self._starts[numbers, None]
        return self._pixels[channel[:, :, None, None] + (rows * widths)[:, None, :, None] + columns[:, None, None]]


def load_photos(
    side: int, data_dir: str | Path | None = None, limit: int | None = None, smallest: float = 1.0
) -> tuple[Photos, Photos]:
    """Photographs of `photos/` in the data folder for training, and those held out. limit: how many to take at most.

    Smaller ones than the crops are left out. smallest: below 1, every photograph that is large enough is there a second
    time, reduced by a random factor from this one up, which hides what JPEG did to it. Raises DataError if there are
    none."""
    folder = data_folder(data_dir) / "photos"
    paths = [path for source in SOURCES for path in sorted((folder / source).glob("*")) if path.suffix in _SUFFIXES]
    if not paths:
        raise DataError(f"no photographs in {folder}/{{{','.join(SOURCES)}}}")
    order = np.random.default_rng(0).permutation(len(paths))[:limit]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(_read, (paths[number] for number in order)))
        fit = [image for image in images if min(image.size) >= side]
        held_out = min(HELD_OUT, max(1, len(fit) // 10))
        factors = smallest + (1 - smallest) * np.random.default_rng(1).random(len(fit))
        reduced = pool.map(lambda image, factor: _reduced(image, factor, side), fit[held_out:], factors[held_out:])
        more = [image for image in reduced if image] if smallest < 1 else []
        planes = list(pool.map(_planes, fit + more))
    return Photos(planes[held_out:], side, len(fit) - held_out), Photos(planes[:held_out], side)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: {error}") from error


def _reduced(image: Image.Image, factor: float, side: int) -> Image.Image | None:
    """By a factor, or by as much as leaves room for a crop; None where that is hardly any less."""
    factor = max(factor, side / min(image.size))
    if factor > _HARDLY:
        return None
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _planes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
