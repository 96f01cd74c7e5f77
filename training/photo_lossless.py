"""Training of lossless photograph models: code length alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..codec.pixels.config import ORDER, PhotoLosslessConfig
from ..codec.pixels.model import NEIGHBOURS, RADIUS, UNIT, PhotoLosslessModel, canvas
from .config import ParameterGroup, PhotoLosslessTrain


class PhotoLosslessTask(nn.Module):
    """A PhotoLosslessModel and its training objective."""

    constant = True
    """The loss changes neither with the step nor with the progress."""

    offsets: Tensor

    def __init__(self, model: PhotoLosslessConfig, train: PhotoLosslessTrain) -> None:
        """Build the model."""
        super().__init__()
        self.model = PhotoLosslessModel(model)
        self.train_config = train
        self.register_buffer("offsets", torch.tensor(NEIGHBOURS), persistent=False)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike."""
        return [ParameterGroup(list(self.model.parameters()), self.train_config.grad_clip)]

    def loss(self, images: Tensor, step: int, progress: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Bits per pixel of some pixels of uint8 [B, 3, S, S], a few of which are made grey."""
        config, device = self.train_config, images.device
        grey = torch.rand(len(images), device=device) < config.grey
        mean = images.float().mean(1, keepdim=True).round_().to(torch.uint8)
        images = torch.where(grey[:, None, None, None], mean, images)
        side = images.shape[2]
        chosen = torch.randint(side * side, (len(images), config.pixels), device=device)
        bpp = self._bits(images, chosen).mean()
        return bpp, {"bpp": bpp.detach()}

    def _bits(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Bits [B, n] of chosen pixels (raster, int64 [B, n]) of images uint8 [B, 3, S, S]."""
        x = torch.stack([images[:, channel] for channel in ORDER], 3).float().sub_(128).div_(UNIT)
        surrounded, side = canvas(x), images.shape[3]
        width = side + 2 * RADIUS
        place = (chosen // side + RADIUS) * width + chosen % side + RADIUS
        place = place + torch.arange(len(images), device=place.device)[:, None] * surrounded[0, :, :, 0].numel()
        offsets = self.offsets[:, 0] * width + self.offsets[:, 1]
        flat, place = surrounded.flatten(0, 2), place.flatten()
        near = flat.index_select(0, (place[:, None] + offsets).flatten()).view(len(place), len(NEIGHBOURS), -1)
        nats = self.model.nats(near, flat[place])
        return nats.sum(1).view(len(images), -1) / math.log(2)

    @torch.no_grad()
    def evaluate(self, images: Tensor, batch_size: int = 4) -> dict[str, float]:
        """Bits per pixel of crops uint8 [N, 3, S, S], in full precision."""
        every = torch.arange(images.shape[2] * images.shape[3], device=images.device)
        parts = [self._bits(batch, every.expand(len(batch), -1)).flatten() for batch in torch.split(images, batch_size)]
        return {"bpp": float(torch.cat(parts).mean())}
