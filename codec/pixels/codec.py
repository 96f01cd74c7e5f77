"""Photographs of any size to payloads and back, every pixel as it was."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.ans import Integers, Stack
from ...bitstream.errors import Corrupt, Truncated, UnsupportedImage
from ...bitstream.numbers import leb128, read_leb128
from ..exact.guard import guarded
from ..family import COLOUR, GREY, CodedPhoto
from ..photo.base import PhotoCodecBase
from ..progress import Report, Steps, silent
from .config import CHANNELS, ORDER
from .exact import FARTHEST, PRECISION, ExactPerceptron, Samples, check_tables, from_levels, place, tables
from .model import NEIGHBOURS, PhotoLosslessModel
from .waves import Wave, Waves, groups, laid_out, taken_back

_AT_ONCE = 1 << 13  # pixels that the encoder computes together
_WAVES = 8  # a decoder has this much less to compute at once: the waves come one after the other
_MAX_LANES_LOG2, _LANE_PIXELS_LOG2 = 8, 10

Levels = NDArray[np.uint8]


def lanes(pixels: int) -> int:
    """Lanes of the stream of a group: one for every 1,024 pixels, a power of two, 256 at most."""
    return 1 << max(0, min(_MAX_LANES_LOG2, pixels.bit_length() - 1 - _LANE_PIXELS_LOG2))


class PhotoLosslessCodec(PhotoCodecBase):
    """A likelihood of photographs that is ready to code: all of it in integers."""

    tables: Tensor
    lossless = True
    qualities = 1

    def __init__(self, model: PhotoLosslessModel) -> None:
        """Convert a trained model, or a new one to load stored integers into."""
        super().__init__([0.0])
        self.config = model.config
        self.perceptron = ExactPerceptron(model.perceptron)
        self.register_buffer("tables", torch.from_numpy(tables(model.shape)))
        self.eval().requires_grad_(False)

    def check(self) -> None:
        """Raises ValueError unless the tables are valid."""
        super().check()
        check_tables(self.tables.cpu().numpy())

    @guarded(lambda codec, pixels, quality=1, render=True, progress=silent: pixels[:, :, 0].size)
    def encode_photo(
        self, pixels: Levels, quality: int = 1, render: bool = True, progress: Report = silent
    ) -> CodedPhoto:
        """An image uint8 [H, W, 3]. quality: there is one; render: whether to say what it decodes to: itself."""
        grey = bool((pixels == pixels[:, :, :1]).all())
        steps = Steps(progress, pixels.shape[0] * pixels.shape[1])
        parts = [self._encode([pixels[box] for box in boxes], grey, steps) for boxes in groups(*pixels.shape[:2])]
        payload = parts[0] if len(parts) == 1 else b"".join(leb128(len(part)) + part for part in parts)
        return CodedPhoto(payload, GREY if grey else COLOUR, pixels if render else None)

    @guarded(lambda codec, payload, parameter, height, width, progress=silent: height * width // _WAVES)
    def decode_photo(
        self, payload: bytes, parameter: int, height: int, width: int, progress: Report = silent
    ) -> Levels:
        """The image uint8 [H, W, 3] of a payload. Raises Corrupt, Truncated."""
        if parameter not in (COLOUR, GREY):
            raise Corrupt(f"setting: expected {COLOUR} or {GREY}, found {parameter}")
        image, found = np.empty((height, width, CHANNELS), np.uint8), groups(height, width)
        steps, at = Steps(progress, height * width), 0
        for boxes in found:
            length = len(payload)
            if len(found) > 1:
                length, at = read_leb128(payload, at)
            if at + length > len(payload):
                raise Truncated(f"payload: expected {length} bytes at offset {at}, found {len(payload) - at}")
            sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
            tiles = self._decode(payload[at : at + length], sizes, parameter == GREY, steps)
            for box, tile in zip(boxes, tiles, strict=True):
                image[box] = tile
            at += length
        if at != len(payload):
            raise Corrupt(f"payload: expected {at} bytes, found {len(payload)}")
        return image

    def preview_photo(self, payload: bytes, parameter: int, height: int, width: int) -> Levels:
        """Raises UnsupportedImage: pixels come one after the other."""
        raise UnsupportedImage("no preview: a lossless photograph decodes only as a whole")

    def _encode(self, tiles: list[Levels], grey: bool, steps: Steps) -> bytes:
        """The stream of a group of tiles. steps: one for every pixel."""
        waves = Waves([tile.shape[:2] for tile in tiles])
        levels = laid_out(waves, tiles)[:, ORDER]
        canvas = self._canvas(waves)
        own = from_levels(torch.from_numpy(levels).to(self.device))
        for wave in waves:
            self._put(canvas, waves, wave, own[wave.pixels])
        channels = 1 if grey else CHANNELS
        starts, freqs = (np.empty((channels, len(waves)), np.uint32) for _ in range(2))
        for begin in range(0, len(waves), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            known, errors = self.perceptron.pixels(self._near(canvas, waves, part)), list[Tensor]()
            for channel in range(channels):
                mean, log_scale = self.perceptron.expect(known, errors)
                whole, rows = place(mean, log_scale)
                symbols = levels[part, channel] - whole + FARTHEST
                starts[channel, part], freqs[channel, part] = Samples(self._flat, rows).intervals(symbols)
                errors.append(own[part, channel : channel + 1] - mean)
            steps.done(min(_AT_ONCE, len(waves) - begin))
        stack = Stack(lanes(len(waves)))
        for wave in reversed(list(waves)):
            for channel in reversed(range(channels)):
                stack.push_intervals(starts[channel, wave.pixels], freqs[channel, wave.pixels], PRECISION)
        return stack.to_bytes()

    def _decode(self, stream: bytes, sizes: list[tuple[int, int]], grey: bool, steps: Steps) -> list[Levels]:
        """The tiles of a group's stream. steps: one for every pixel. Raises Corrupt, Truncated."""
        stack = Stack.from_bytes(stream, lanes(sum(height * width for height, width in sizes)))
        waves, flat = Waves(sizes), self._flat
        canvas, levels = self._canvas(waves), np.empty((len(waves), CHANNELS), np.uint8)
        for wave in waves:
            known, own = self.perceptron.pixels(self._near(canvas, waves, wave.pixels)), list[Tensor]()
            errors = list[Tensor]()
            for channel in range(1 if grey else CHANNELS):
                mean, log_scale = self.perceptron.expect(known, errors)
                whole, rows = place(mean, log_scale)
                level = whole + stack.pop(Samples(flat, rows)) - FARTHEST
                levels[wave.pixels, channel] = _checked(level)
                own.append(from_levels(torch.from_numpy(level).to(self.device))[:, None])
                errors.append(own[-1] - mean)
            if grey:
                levels[wave.pixels, 1:] = levels[wave.pixels, :1]
            self._put(canvas, waves, wave, torch.cat(own, 1).expand(-1, CHANNELS))
            steps.done(wave.pixels.stop - wave.pixels.start)
        stack.check_empty()
        return taken_back(waves, levels[:, np.argsort(ORDER)], sizes)

    @property
    def _flat(self) -> NDArray[np.int32]:
        flat: NDArray[np.int32] = self.tables.cpu().numpy().reshape(-1)
        return flat

    def _canvas(self, waves: Waves) -> Tensor:
        return torch.zeros(waves.size, CHANNELS, dtype=torch.float64, device=self.device)

    def _near(self, canvas: Tensor, waves: Waves, pixels: slice) -> Tensor:
        """Neighbours of pixels [n, len(NEIGHBOURS), 3]."""
        at = (waves.places[pixels, None] + waves.offsets).ravel()
        return canvas.index_select(0, torch.from_numpy(at).to(self.device)).view(-1, len(NEIGHBOURS), CHANNELS)

    def _put(self, canvas: Tensor, waves: Waves, wave: Wave, own: Tensor) -> None:
        """Lay a wave's pixels on their places, and what lies beyond the edges beside them."""
        canvas[torch.from_numpy(waves.places[wave.pixels]).to(self.device)] = own
        if len(wave.of):
            canvas[torch.from_numpy(wave.echoes).to(self.device)] = own[torch.from_numpy(wave.of).to(self.device)]


def _checked(level: Integers) -> Integers:
    if level.min() < 0 or level.max() > 255:
        raise Corrupt(f"payload: expected levels of 0..255, found {level.min()} to {level.max()}")
    return level
