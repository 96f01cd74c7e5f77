"""Photographs of any size to payloads and back, level by level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ...bitstream.coder import StreamDecoder, StreamEncoder
from ...bitstream.errors import Corrupt, Truncated
from ...bitstream.numbers import leb128, read_leb128
from ..exact.guard import guarded
from ..exact.softmax import cdf_from_frequencies
from ..family import CodedPhoto
from ..photo import tiles
from ..photo.base import PhotoCodecBase, Pixels, padded, padded_size
from ..progress import Report, Steps, silent
from .exact import ExactPrior, code_lengths
from .model import PhotoVQModel
from .prior import Stage, walk
from .quantiser import Chooser, draw, price, tell


class PhotoVQCodec(PhotoCodecBase):
    """A VQ-VAE of photographs that is ready to code: its prior in integers, the rest in float32 (float16 when stored).

    A payload has a stream for every level, coarse to fine, and in a level for every tile, each with its length in front
    as LEB128. So the start of a payload shows what the levels that are whole say."""

    def __init__(self, model: PhotoVQModel, psnr_floor: Sequence[float] = ()) -> None:
        """Convert a trained model, or a new one to load stored weights into.

        psnr_floor: for every number of levels, the PSNR in dB below which an image counts as unknown to the model."""
        super().__init__(psnr_floor or [0.0] * len(model.config.codebooks))
        self.config = model.config
        self.prior = ExactPrior(model.prior)
        self.model = model.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)

    @property
    def qualities(self) -> int:
        """How many settings there are: the number of levels."""
        return len(self.config.codebooks)

    def check(self) -> None:
        """Raises ValueError unless the code vectors and all other floats are finite."""
        super().check()
        for codebook in self.model.codebooks:
            if not bool(codebook.isfinite().all()):
                raise ValueError("code vectors must be finite")

    @guarded(lambda codec, pixels, quality, render=True, progress=silent: pixels[:, :, 0].size, floats=True)
    def encode_photo(self, pixels: Pixels, quality: int, render: bool = True, progress: Report = silent) -> CodedPhoto:
        """An image uint8 [H, W, 3] coded with `quality` levels, 1..qualities. render: whether to say what it decodes
        to. Raises ValueError for another quality."""
        if not 1 <= quality <= self.qualities:
            raise ValueError(f"quality: expected 1..{self.qualities}, found {quality}")
        height, width = pixels.shape[:2]
        boxes = tiles.boxes(height, width)
        steps = Steps(progress, len(boxes) * (quality + render))
        coded = [self._encode(pixels[box], quality, steps) for box in boxes]
        payload = b"".join(
            leb128(len(streams[level])) + streams[level] for level in range(quality) for streams, _ in coded
        )
        shown = self._joined([indices for _, indices in coded], height, width, steps) if render else None
        return CodedPhoto(payload, quality, shown)

    @guarded(lambda codec, payload, parameter, height, width, progress=silent: height * width, floats=True)
    def decode_photo(
        self, payload: bytes, parameter: int, height: int, width: int, progress: Report = silent
    ) -> Pixels:
        """The image uint8 [height, width, 3] of a payload of `parameter` levels.

        Raises Corrupt, Truncated; ValueError for impossible sizes and numbers of levels."""
        streams, end = self._streams(payload, self._checked(parameter, height, width), height, width)
        if len(streams) < parameter:
            raise Truncated(f"payload: expected {parameter} levels, found {len(streams)} in {len(payload)} bytes")
        if end != len(payload):
            raise Corrupt(f"payload: expected {end} bytes, found {len(payload)}")
        return self._decode(streams, height, width, progress)

    @guarded(lambda codec, payload, parameter, height, width: height * width, floats=True)
    def preview_photo(self, payload: bytes, parameter: int, height: int, width: int) -> Pixels:
        """The image uint8 [height, width, 3] of those levels that are whole in a payload's start.

        Raises Truncated if the first is not; Corrupt and ValueError as `decode_photo`."""
        streams, _ = self._streams(payload, self._checked(parameter, height, width), height, width)
        if not streams:
            raise Truncated(f"payload: its {len(payload)} bytes end within the first level")
        return self._decode(streams, height, width)

    def _checked(self, parameter: int, height: int, width: int) -> int:
        if not 1 <= parameter <= self.qualities:
            raise Corrupt(f"levels: expected 1..{self.qualities}, found {parameter}")
        if min(height, width) < 1:
            raise ValueError(f"size: expected at least 1 x 1, found {width} x {height}")
        return parameter

    def _streams(self, payload: bytes, levels: int, height: int, width: int) -> tuple[list[list[bytes]], int]:
        """Streams of every level that is whole, by tile; and where they end."""
        count, place, found = len(tiles.boxes(height, width)), 0, []
        with suppress(Truncated):
            for _ in range(levels):
                level, begin = [], place
                for _ in range(count):
                    length, begin = read_leb128(payload, begin)
                    if begin + length > len(payload):
                        raise Truncated(f"payload: expected {length} bytes at offset {begin}")
                    level.append(payload[begin : begin + length])
                    begin += length
                found.append(level)
                place = begin
        return found, place

    def _decode(self, streams: list[list[bytes]], height: int, width: int, progress: Report = silent) -> Pixels:
        indices, boxes = [], tiles.boxes(height, width)
        steps = Steps(progress, len(boxes) * (len(streams) + 1))
        for number, (rows, columns) in enumerate(boxes):
            own = [level[number] for level in streams]
            indices.append(self._indices(own, rows.stop - rows.start, columns.stop - columns.start))
            steps.done(len(own))
        return self._joined(indices, height, width, steps)

    def _encode(self, pixels: Pixels, levels: int, steps: Steps) -> tuple[list[bytes], list[Tensor]]:
        """Streams and indices int64 [1, h, w] of every level, of a tile. steps: one for every level."""
        x = self.pixels_in(padded(pixels, self.config.multiple))
        present = (torch.arange(self.qualities, device=self.device) < levels)[:, None]
        coders = [StreamEncoder(book.size) for book in self.config.codebooks[:levels]]

        def push(stage: Stage, table: Tensor, symbols: Tensor) -> None:
            coders[stage.level].push(symbols[0].cpu().numpy(), cdf_from_frequencies(table)[0].cpu().numpy())

        stages = walk(self.prior, 1, x.shape[2], x.shape[3], levels, self.device)
        chooser = Chooser(stages, code_lengths, push, price(self.config.weight))
        told, _ = tell(self.model, x, present, chooser)
        steps.done(levels)
        return [coder.finish() for coder in coders], [level.index for level in told]

    def _indices(self, streams: list[bytes], height: int, width: int) -> list[Tensor]:
        """Indices int64 [1, h, w] of a tile's levels. Raises Corrupt, Truncated."""
        size = padded_size(height, width, self.config.multiple)
        coders = []
        for level, stream in enumerate(streams):
            rows, columns = self.config.grid(level, *size)
            coders.append(StreamDecoder(stream, self.config.codebooks[level].size, rows * columns))
        steps = walk(self.prior, 1, *size, len(streams), self.device)
        try:
            stage, table = next(steps)
            while True:
                symbols = coders[stage.level].pop(cdf_from_frequencies(table)[0].cpu().numpy())
                stage, table = steps.send(torch.from_numpy(symbols)[None].to(self.device))
        except StopIteration as stop:
            indices: list[Tensor] = stop.value
        return indices

    def _joined(self, indices: list[list[Tensor]], height: int, width: int, steps: Steps) -> Pixels:
        """The image of the indices of all its tiles. steps: one for every tile."""
        return tiles.joined(height, width, self._rendered(indices, height, width, steps))

    def _rendered(self, indices: list[list[Tensor]], height: int, width: int, steps: Steps) -> Iterator[Pixels]:
        for own, (rows, columns) in zip(indices, tiles.boxes(height, width), strict=True):
            size = rows.stop - rows.start, columns.stop - columns.start
            x = draw(self.model, own, *padded_size(*size, self.config.multiple))
            yield self.pixels_out(x[:, :, : size[0], : size[1]])
            steps.done()
