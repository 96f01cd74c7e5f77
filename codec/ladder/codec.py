"""The Ladder VAE as a codec: rounded latents coarse to fine, then (lossless) the pixels, in one stream.

Everything is exact, the encoder too: the same image gives the same file, and the file the same pixels, everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.coder import BatchDecoder, BatchEncoder
from ..exact.guard import guarded
from ..exact.softmax import TOTAL, cdf_from_frequencies
from ..family import LOSSLESS, Coded, Decoded, still_there, upright
from ..images import is_binary
from .exact import REACHES, ExactLadder
from .model import LadderModel, LatentStep, Step
from .pixels import HALF, PixelStep

_FLAG_ODDS = 128  # of 65536: what an inverted image is expected to be

Emit = Callable[[Step, Tensor, Tensor], None]


class LadderCodec(ExactLadder):
    """Images of one size to payloads and back."""

    psnr_floor: Tensor

    def __init__(self, model: LadderModel, reach: Tensor | None = None, psnr_floor: Sequence[float] = ()) -> None:
        """Convert a trained model, or a new one to load stored integers into.

        psnr_floor: for every quality, the PSNR in dB below which an image counts as unknown to the model."""
        super().__init__(model, reach)
        floors = psnr_floor or [0.0] * model.config.qualities
        self.register_buffer("psnr_floor", torch.tensor(floors, dtype=torch.float64))

    @property
    def image_size(self) -> int:
        """Side of the images it takes."""
        return self.config.image_size

    @property
    def lossy_settings(self) -> int:
        """How many rates it has."""
        return self.config.qualities - 1

    has_lossless = True
    archives = False  # whether it codes many images into one payload (`bitsback`)

    @property
    def takes(self) -> str:
        """The images it takes, in words."""
        kind = "black and white (pixels 0 and 255 only)" if self.config.values == 2 else "grey"
        return f"{kind} images of {self.image_size} x {self.image_size} pixels"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.psnr_floor.device

    def fits(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether pixels uint8 [S, S] have only values that the model knows."""
        return self.config.values == 256 or is_binary(pixels)

    def floor(self, setting: int) -> float:
        """PSNR in dB below which an image counts as unknown."""
        return float("-inf") if setting == LOSSLESS else float(self.psnr_floor[setting])

    @guarded(lambda codec, pixels, setting: pixels.size)
    def encode_images(self, pixels: NDArray[np.uint8], setting: int) -> list[Coded]:
        """Images uint8 [B, S, S] coded at setting 0 (lossless) or 1.. (lossy).

        Images that are bright on the whole are coded inverted: models know bright ink on black."""
        inverted = pixels.mean((1, 2)) > 127.5
        coder = BatchEncoder(self.alphabet)
        coder.push(inverted[:, None].astype(np.int64), _flag_table(len(pixels)))

        def push(step: Step, symbols: Tensor, freq: Tensor) -> None:
            coder.push(symbols.cpu().numpy(), _tables(freq))

        x_hat = self.drive(self.values(upright(pixels, inverted)), setting, push)
        shown = self._shown(x_hat, inverted)
        return [Coded(payload, setting, image) for payload, image in zip(coder.finish(), shown, strict=True)]

    @guarded(lambda codec, pixels, setting: pixels.size)
    def latents(self, pixels: NDArray[np.uint8], setting: int) -> list[Tensor]:
        """Distances of the latents from their priors' means, int64 [B, n] per level from the image up."""
        found: list[Tensor] = [torch.zeros(0)] * self.config.levels

        def keep(step: Step, symbols: Tensor, freq: Tensor) -> None:
            if isinstance(step, LatentStep):
                found[step.level] = symbols - self.reach_of(step, setting)

        self.drive(self.values(pixels), setting, keep, pixels=False)
        return found

    def drive(self, values: Tensor, setting: int, emit: Emit, pixels: bool | None = None) -> Tensor:
        """The encoder's side of the walk: emit(step, symbols int64 [B, n], frequencies int32 [B, n, K]) step by step.

        values int64 [B, S, S]. pixels: whether to go on to the pixels; by default, for the lossless setting. Returns
        what the decoder will see, uint8 [B, S, S]."""
        features = self.features(self.pixels_in(values))
        patches = self.generative.pixels.to_patches(values)
        walk = self.generative.walk(len(values), setting, setting == LOSSLESS if pixels is None else pixels)
        try:
            step = next(walk)
            while True:
                if isinstance(step, LatentStep):
                    k = self.offset(step, features[step.level], setting)
                    symbols = k.flatten(1).long() + self.reach_of(step, setting)
                    emit(step, symbols, self.latent_frequencies(step, setting))
                    step = walk.send(self.place(step, k))
                else:
                    symbols = self.generative.pixels.symbols(patches, step)
                    emit(step, symbols, self.pixel_frequencies(step))
                    step = walk.send(symbols)
        except StopIteration as stop:
            context, found = stop.value
        return self.render(context) if found is None else values.to(torch.uint8)

    @guarded(lambda codec, payloads, parameter: len(payloads) * codec.image_size**2)
    def decode_images(self, payloads: Sequence[bytes], parameter: int) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] of payloads of one parameter. Raises Corrupt."""
        setting = self._setting(parameter)
        return self._decode(payloads, setting, setting == LOSSLESS)[1]

    @guarded(lambda codec, payloads, parameter, whole=True: len(payloads) * codec.image_size**2)
    def preview_images(self, payloads: Sequence[bytes], parameter: int, whole: bool = True) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] rendered from the latents alone. whole: False if the payloads may be cut.

        Raises Corrupt, and Truncated if a payload ends before its latents do."""
        return still_there(payloads, whole, lambda some: self._decode(some, self._setting(parameter), False))

    def _setting(self, parameter: int) -> int:
        """Parameters of binary models tell the image's mode; all else is lossless."""
        return LOSSLESS if self.config.values == 2 else parameter

    def _decode(self, payloads: Sequence[bytes], setting: int, pixels: bool) -> Decoded:
        coder = BatchDecoder(list(payloads), self.alphabet, 1 + self._symbols(pixels))
        found = [coder.pop(_flag_table(len(payloads)))]
        walk = self.generative.walk(len(payloads), setting, pixels)
        try:
            step = next(walk)
            while True:
                found.append(coder.pop(_tables(self._frequencies(step, setting))))
                step = walk.send(self._received(step, torch.from_numpy(found[-1]).to(self.device), setting))
        except StopIteration as stop:
            context, values = stop.value
        x = self.render(context) if values is None else self._from_patches(values)
        return np.concatenate(found, 1), self._shown(x, found[0][:, 0] == 1)

    def _frequencies(self, step: Step, setting: int) -> Tensor:
        return self.latent_frequencies(step, setting) if isinstance(step, LatentStep) else self.pixel_frequencies(step)

    def _received(self, step: Step, symbols: Tensor, setting: int) -> Tensor:
        """What the walk is sent for the symbols int64 [B, n] of a step: latents, or the symbols of pixels."""
        if isinstance(step, PixelStep):
            return symbols
        k = symbols.double().sub_(self.reach_of(step, setting))
        return self.place(step, k.view(step.mean.shape))

    @property
    def alphabet(self) -> int:
        """Width of the tables of a stream: that of the widest latents, or of half a pixel."""
        pixel = 2 if self.config.values == 2 else HALF
        return max(pixel, *(2 * REACHES[int(index)] + 1 for index in self.reach.flatten()))

    def _symbols(self, pixels: bool) -> int:
        config = self.config
        latents = sum(channels * side**2 for channels, side in zip(config.latents, config.grids, strict=True))
        return latents + (config.image_size**2 * (1 if config.values == 2 else 2) if pixels else 0)

    def values(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Grey levels uint8 [B, S, S] as the model takes them, int64 [B, S, S]: 0..255, or 0 and 1."""
        values = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).long()
        return values if self.config.values == 256 else (values > 0).long()

    def _from_patches(self, values: Tensor) -> Tensor:
        return self.generative.pixels.from_patches(values).to(torch.uint8)

    def _shown(self, x: Tensor, inverted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Values uint8 [B, S, S] as grey levels, upright."""
        return upright(x.cpu().numpy() * np.uint8(1 if self.config.values == 256 else 255), inverted)


def _flag_table(batch: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.array([0, TOTAL - _FLAG_ODDS, TOTAL]), (batch, 1, 3))


def _tables(freq: Tensor) -> NDArray[np.int32]:
    tables: NDArray[np.int32] = cdf_from_frequencies(freq).cpu().numpy()
    return tables
