"""Photographs of any size to payloads and back, at any quality 1..100."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.cdf import check_cdf
from ...bitstream.errors import Corrupt, UnsupportedImage
from ...bitstream.latents import ESCAPE_LIMIT, LatentReader, LatentWriter, scale_tables
from ...bitstream.numbers import leb128, read_leb128
from ..exact.guard import guarded
from ..family import QUALITIES, CodedPhoto
from ..progress import Report, Steps, silent
from . import tiles
from .base import PhotoCodecBase, Pixels, padded, padded_size
from .exact import CLASSES, FRAC_BITS, SCALES, ExactPrior, scale_index
from .model import LatentStep, PhotoModel


class PhotoCodec(PhotoCodecBase):
    """A photograph model that is ready to code, at any quality 1..100."""

    qualities = QUALITIES

    def __init__(self, model: PhotoModel, psnr_floor: Sequence[float] = (0.0,) * QUALITIES) -> None:
        """Convert a trained model, or a new one to load stored weights into.

        psnr_floor: for every quality, the PSNR in dB below which an image counts as unknown to the model."""
        super().__init__(psnr_floor)
        self.config = model.config
        self.prior = ExactPrior(model.prior)
        self.analysis = model.analysis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.synthesis = model.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for number, table in enumerate(scale_tables(SCALES, CLASSES)):
            self.register_buffer(f"tables{number}", torch.from_numpy(table))
        self.eval().requires_grad_(False)

    def check(self) -> None:
        """Raises ValueError unless the tables are valid and all floats finite."""
        super().check()
        for table in self._tables():
            check_cdf(table)

    @guarded(lambda codec, pixels, quality, render=True, progress=silent: pixels[:, :, 0].size, floats=True)
    def encode_photo(self, pixels: Pixels, quality: int, render: bool = True, progress: Report = silent) -> CodedPhoto:
        """An image uint8 [H, W, 3] coded at a quality 1..100. render: whether to say what it decodes to."""
        height, width = pixels.shape[:2]
        boxes = tiles.boxes(height, width)
        steps = self._steps(progress, len(boxes))
        with self.float32():
            coded = [self._encode(pixels[box], quality, render, steps) for box in boxes]
        parts = [part for part, _ in coded]
        payload = parts[0] if len(parts) == 1 else b"".join(leb128(len(part)) + part for part in parts)
        shown = tiles.joined(height, width, (x_hat for _, x_hat in coded)) if render else None
        return CodedPhoto(payload, quality, shown)

    @guarded(lambda codec, payload, parameter, height, width, progress=silent: height * width, floats=True)
    def decode_photo(
        self, payload: bytes, parameter: int, height: int, width: int, progress: Report = silent
    ) -> Pixels:
        """The image uint8 [H, W, 3] of a payload. Raises Corrupt, Truncated."""
        steps = self._steps(progress, len(tiles.boxes(height, width)))
        with self.float32():
            return tiles.joined(height, width, self._decoded(payload, parameter, height, width, steps))

    def preview_photo(self, payload: bytes, parameter: int, height: int, width: int) -> Pixels:
        """Raises UnsupportedImage: a file shows nothing before it is whole."""
        raise UnsupportedImage("no preview: a photograph of this model decodes only as a whole")

    def _steps(self, progress: Report, tiles: int) -> Steps:
        """A step for every level of a tile, and one for rendering it."""
        return Steps(progress, tiles * (len(self.config.levels) + 1))

    def _decoded(self, payload: bytes, quality: int, height: int, width: int, steps: Steps) -> Iterator[Pixels]:
        boxes, place = tiles.boxes(height, width), 0
        for rows, columns in boxes:
            size = rows.stop - rows.start, columns.stop - columns.start
            length = len(payload)
            if len(boxes) > 1:
                length, place = read_leb128(payload, place)
            if place + length > len(payload):
                raise Corrupt(f"payload: expected {length} bytes at offset {place}, found {len(payload) - place}")
            yield self._decode(payload[place : place + length], quality, *size, steps)
            place += length
        if place != len(payload):
            raise Corrupt(f"payload: expected {place} bytes, found {len(payload)}")

    def _encode(self, pixels: Pixels, quality: int, render: bool, steps: Steps) -> tuple[bytes, Pixels]:
        height, width = pixels.shape[:2]
        x = self.pixels_in(padded(pixels, self.config.multiple))
        at = torch.tensor([quality], dtype=torch.float32, device=self.device)
        coefficients, features = self.analysis.up(x, at)
        writer, latents = LatentWriter(CLASSES, self._tables()), []
        exact, prior = self._exact(quality), self.prior
        below = prior.first(1, x.shape[2], x.shape[3])
        for number in range(len(self.config.levels)):
            step = prior.expect(number, below, exact)
            scale, told = scale_index(step), self._as_float(step, quality)
            offset = self.analysis.posterior(told, coefficients, features)
            k = offset.round_().clamp_(-ESCAPE_LIMIT, ESCAPE_LIMIT).double().masked_fill_(scale == 0, 0.0)
            writer.push(k.flatten().long().cpu().numpy(), scale.flatten().cpu().numpy())
            latents.append(self._placed(told, k))
            below = prior.take(step, k, exact)
            steps.done()
        shown = self._render(latents, below, at, height, width) if render else pixels[:0]
        steps.done()
        return writer.finish(), shown

    def _decode(self, payload: bytes, quality: int, height: int, width: int, steps: Steps) -> Pixels:
        rows, columns = padded_size(height, width, self.config.multiple)
        most = sum(level.latents * (rows // level.stride) * (columns // level.stride) for level in self.config.levels)
        reader, latents = LatentReader(CLASSES, self._tables(), payload, most), []
        exact, prior = self._exact(quality), self.prior
        below = prior.first(1, rows, columns)
        for number in range(len(self.config.levels)):
            step = prior.expect(number, below, exact)
            scale = scale_index(step)
            values = reader.pop(scale.flatten().cpu().numpy())
            k = torch.from_numpy(values).to(self.device).double().view(scale.shape)
            latents.append(self._placed(self._as_float(step, quality), k))
            below = prior.take(step, k, exact)
            steps.done()
        reader.finish()
        at = torch.tensor([quality], dtype=torch.float32, device=self.device)
        shown = self._render(latents, below, at, height, width)
        steps.done()
        return shown

    def _exact(self, quality: int) -> Tensor:
        return torch.tensor([quality], device=self.device)

    def _as_float(self, step: LatentStep, quality: int) -> LatentStep:
        """What the float networks see of a step of the exact prior."""
        unit = 2.0**-FRAC_BITS
        parts = {name: getattr(step, name).mul(unit).float() for name in ("mean", "log_scale", "features")}
        return replace(step, gain=step.gain.mul(unit).exp().float(), **parts)

    def _placed(self, step: LatentStep, k: Tensor) -> Tensor | None:
        """The latents at distances k in signal units, of the finest levels."""
        if self.config.levels[step.level].stride != self.config.stride:
            return None
        return step.mean + k.float() / step.gain

    def _render(
        self, latents: list[Tensor | None], features: Tensor, quality: Tensor, height: int, width: int
    ) -> Pixels:
        z = torch.cat([each for each in latents if each is not None], 1)
        z = z.contiguous(memory_format=torch.channels_last)
        x: Tensor = self.synthesis(z, features.mul(2.0**-FRAC_BITS).float(), quality)
        return self.pixels_out(x[:, :, :height, :width])

    def _tables(self) -> list[NDArray[np.int32]]:
        return [getattr(self, f"tables{number}").cpu().numpy() for number in range(len(CLASSES))]
