"""Photographs for training: files decoded once into memory, and random crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .datasets import DataError, data_folder

SOURCES = ("bsds", "cid22", "coco", "imagenet_sample", "wallpapers")
HELD_OUT = 32
"""Photographs that are never trained on, for a look at how training goes (the test set is Kodak's)."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Photos:
    """Photographs of any size; indexed with numbers, they give random crops, flipped at random."""

    def __init__(self, images: Sequence[Tensor], side: int) -> None:
        """Images uint8 [3, H, W], H and W at least `side`, that of the crops."""
        self.images, self.side = list(images), side

    def __len__(self) -> int:
        """How many photographs."""
        return len(self.images)

    def to(self, device: str) -> Photos:
        """The same with all photographs on a device."""
        return Photos([image.to(device) for image in self.images], self.side)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """A crop of each, uint8 [B, 3, side, side], for numbers int64 [B]."""
        return torch.stack([self._crop(self.images[number]) for number in numbers.tolist()])

    def _crop(self, image: Tensor) -> Tensor:
        top, left = (int(torch.randint(size - self.side + 1, ())) for size in image.shape[1:])
        crop = image[:, top : top + self.side, left : left + self.side]
        return crop.flip(2) if bool(torch.rand(()) < 0.5) else crop

    def centres(self) -> Tensor:
        """The middle of each, uint8 [N, 3, side, side]."""
        return torch.stack([self._centre(image) for image in self.images])

    def _centre(self, image: Tensor) -> Tensor:
        top, left = ((size - self.side) // 2 for size in image.shape[1:])
        return image[:, top : top + self.side, left : left + self.side]


def load_photos(side: int, data_dir: str | Path | None = None, limit: int | None = None) -> tuple[Photos, Photos]:
    """Photographs of `photos/` in the data folder for training, and those held out. limit: how many to take at most.

    Smaller ones than the crops are left out. Raises DataError if there are none."""
    folder = data_folder(data_dir) / "photos"
    paths = [path for source in SOURCES for path in sorted((folder / source).glob("*")) if path.suffix in _SUFFIXES]
    if not paths:
        raise DataError(f"no photographs in {folder}/{{{','.join(SOURCES)}}}")
    order = np.random.default_rng(0).permutation(len(paths))[:limit]
    images = [_read(paths[number]) for number in order]
    fit = [torch.from_numpy(image).permute(2, 0, 1) for image in images if min(image.shape[:2]) >= side]
    held_out = min(HELD_OUT, max(1, len(fit) // 10))
    return Photos(fit[held_out:], side), Photos(fit[:held_out], side)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
