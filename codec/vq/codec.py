"""The VQ-VAE as a codec: everything exact, from pixels to indices to bytes and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...bitstream.coder import BatchDecoder, BatchEncoder
from ..exact.export import to_exact
from ..exact.guard import guarded
from ..exact.layers import ExactEmbedding
from ..exact.softmax import TOTAL, cdf_from_frequencies, exp_table, frequencies
from ..family import INVERTED, Coded, Decoded, still_there, upright
from .config import VQConfig
from .model import VQModel
from .prior import StagedPrior, walk
from .quantiser import ResidualQuantiser, choose, pool, unpool
from .schedule import Step

FRAC_BITS = 10
"""Fractional bits of activations in encoder, quantiser and decoder: values within +-32 in steps of 1/1024."""
PRIOR_FRAC_BITS = 8
"""Fractional bits in the prior, whose features and logits grow larger: within +-128 in steps of 1/256."""
_LENGTH_UNITS = 16  # code lengths that weigh in the choice of codes are in 1/16 bit


@cache
def _length_table() -> Tensor:
    """ceil(16 * -log2(f / 65536)) for f = 0..65536 (entry 0 unused), by integer arithmetic, float64."""
    lengths = [_LENGTH_UNITS * 16 - ((f**_LENGTH_UNITS).bit_length() - 1) for f in range(1, TOTAL + 1)]
    return torch.tensor([0, *lengths], dtype=torch.float64)


@lru_cache(maxsize=16)
def _weighted_lengths(weight: int, device: torch.device) -> Tensor:
    """`_length_table` times an integer, float64 [65537]."""
    return (_length_table() * weight).to(device)


class ExactPrior(nn.Module):
    """The staged prior with exact leaves: integer frequencies instead of code lengths."""

    exp: Tensor

    def __init__(self, prior: StagedPrior) -> None:
        """Convert a float prior."""
        super().__init__()
        self.config, self.steps = prior.config, prior.steps
        exact = to_exact(prior, PRIOR_FRAC_BITS)
        assert isinstance(exact, StagedPrior)
        self.net = exact
        self.register_buffer("exp", exp_table(PRIOR_FRAC_BITS))

    def forward(self, step: Step, indices: Sequence[Tensor]) -> Tensor:
        """Frequencies int32 [B, n, K] of the step's positions, every row summing to 65536."""
        return frequencies(self.net.logits(step, indices), self.exp.double())


class ExactQuantiser(nn.Module):
    """Residual quantiser over integer vectors; see ResidualQuantiser for the meaning of the methods."""

    rd_weights: Tensor

    def __init__(self, quantiser: ResidualQuantiser, rd_weights: Sequence[float]) -> None:
        """rd_weights: squared distance per bit of every level, in the float model's units."""
        super().__init__()
        self.config = quantiser.config
        self.codebooks = nn.ModuleList(
            to_exact(nn.Embedding.from_pretrained(table.detach()), FRAC_BITS) for table in quantiser.codebooks
        )
        scaled = [round(weight * 4**FRAC_BITS / _LENGTH_UNITS) for weight in rd_weights]
        self.register_buffer("rd_weights", torch.tensor(scaled))

    def vectors(self, level: int, residual: Tensor) -> Tensor:
        """Float64 integers [B, D, H, W] -> [B, P_level, D]."""
        return pool(residual, self.config.levels[level].stride).floor().flatten(2).transpose(1, 2)

    def embed(self, level: int, index: Tensor) -> Tensor:
        """int64 [B, P_level] -> float64 integers [B, D, H, W]."""
        side = self.config.level_grid(level)
        q = self.codebooks[level](index).transpose(1, 2).unflatten(2, (side, side))
        return unpool(q, self.config.levels[level].stride, self.config.grid)

    def cost(self, level: int, vectors: Tensor, table: Tensor, rd_weight: float) -> Tensor:
        """Integers that order the codes by distance + rd_weight * code length, then by index: no two are equal.

        vectors [B, n, D], frequencies int32 [B, n, K] -> float64 [B, n, K], below 2**53."""
        book = self.codebooks[level]
        assert isinstance(book, ExactEmbedding)
        codebook = book.table.double()
        codes = len(codebook)
        index = torch.arange(codes, dtype=torch.float64, device=vectors.device)
        own = codebook.square().sum(1).mul_(codes).add_(index)
        cost = torch.matmul(vectors, codebook.mul_(-2 * codes).T).add_(own)
        lengths = _weighted_lengths(int(rd_weight) * codes, table.device)
        return cost.add_(lengths.index_select(0, table.flatten()).view(cost.shape))


class VQCodec(nn.Module):
    """Images of one size to payloads and back. Everything it computes is the same on every machine."""

    psnr_floor: Tensor

    def __init__(self, model: VQModel, rd_weights: Sequence[float] = (), psnr_floor: Sequence[float] = ()) -> None:
        """Convert a trained model, or a new one to load stored integers into.

        psnr_floor: for every number of levels, the PSNR in dB below which an image counts as unknown to the model.
        """
        super().__init__()
        self.config: VQConfig = model.config
        self.encoder = to_exact(model.encoder.eval(), FRAC_BITS)
        self.decoder = to_exact(model.decoder.eval(), FRAC_BITS)
        self.prior = ExactPrior(model.prior)
        levels = len(model.config.levels)
        self.quantiser = ExactQuantiser(model.quantiser, rd_weights or [0.0] * levels)
        self.register_buffer("psnr_floor", torch.tensor(psnr_floor or [0.0] * levels, dtype=torch.float64))

    @property
    def alphabet(self) -> int:
        """Width of the tables of a stream: the largest codebook."""
        return max(level.codes for level in self.config.levels)

    def _symbols(self, levels: int) -> int:
        return sum(self.config.level_grid(level) ** 2 for level in range(levels))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.psnr_floor.device

    @guarded(lambda codec, pixels, levels: pixels.size)
    def encode(self, pixels: NDArray[np.uint8], levels: int) -> tuple[list[bytes], list[Tensor]]:
        """Payloads of a batch of images, and their indices.

        pixels uint8 [B, S, S]; levels: how many levels are coded, 1..L. Indices: int64 [B, P] per level."""
        x = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).double()
        z = self.encoder(x[:, None].mul_(2.0 ** (FRAC_BITS - 8)))
        coder = BatchEncoder(self.alphabet)

        def push(step: Step, table: Tensor, symbols: Tensor) -> None:
            coder.push(symbols.cpu().numpy(), cdf_from_frequencies(table).cpu().numpy())

        steps = walk(self.prior, len(x), levels, self.device)
        indices = choose(steps, self.quantiser, z, self.quantiser.rd_weights.tolist(), push)
        return coder.finish(), indices

    @guarded(lambda codec, payloads, levels: len(payloads) * codec.image_size**2)
    def decode_indices(self, payloads: Sequence[bytes], levels: int) -> list[Tensor]:
        """Indices int64 [B, P] of every level from payloads of `levels` levels each. Raises Corrupt."""
        coder = BatchDecoder(list(payloads), self.alphabet, self._symbols(levels))
        steps = walk(self.prior, len(payloads), levels, self.device)
        try:
            _, table = next(steps)
            while True:
                symbols = torch.from_numpy(coder.pop(cdf_from_frequencies(table).cpu().numpy()))
                _, table = steps.send(symbols.to(self.device))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    @guarded(lambda codec, indices, levels: len(indices[0]) * codec.image_size**2)
    def reconstruct(self, indices: Sequence[Tensor], levels: int) -> NDArray[np.uint8]:
        """Pixels uint8 [B, S, S] from the indices of the first `levels` levels."""
        z_q = self.quantiser.embed(0, indices[0])
        for level in range(1, levels):
            z_q = z_q + self.quantiser.embed(level, indices[level])
        step = 2.0 ** (FRAC_BITS - 8)
        x_hat = self.decoder(z_q)[:, 0].add_(step / 2).div_(step).floor_().clamp_(0, 255)
        return x_hat.to(torch.uint8).cpu().numpy()  # type: ignore[no-any-return]

    def decode(self, payloads: Sequence[bytes], levels: int) -> NDArray[np.uint8]:
        """Pixels uint8 [B, S, S] from payloads of `levels` levels each. Raises Corrupt."""
        return self.reconstruct(self.decode_indices(payloads, levels), levels)

    @property
    def image_size(self) -> int:
        """Side of the images it takes."""
        return self.config.image_size

    @property
    def lossy_settings(self) -> int:
        """How many rates it has: one per level."""
        return len(self.config.levels)

    @property
    def has_lossless(self) -> bool:
        """No: only its latents are coded."""
        return False

    @property
    def takes(self) -> str:
        """The images it takes, in words."""
        return f"grey images of {self.image_size} x {self.image_size} pixels"

    def fits(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether pixels uint8 [S, S] have only values that the model knows: all do."""
        return True

    def floor(self, setting: int) -> float:
        """PSNR in dB below which an image is unlike anything the model was trained for."""
        return float(self.psnr_floor[setting - 1])

    def encode_images(self, pixels: NDArray[np.uint8], setting: int) -> list[Coded]:
        """Images uint8 [B, S, S] coded with `setting` levels.

        Images that are bright on the whole are coded inverted: models know bright ink on black."""
        inverted = pixels.mean((1, 2)) > 127.5
        payloads, indices = self.encode(upright(pixels, inverted), setting)
        shown = upright(self.reconstruct(indices, setting), inverted)
        parameters = np.where(inverted, INVERTED, 0) | (setting - 1)
        return [Coded(p, int(number), x) for p, number, x in zip(payloads, parameters, shown, strict=True)]

    def decode_images(self, payloads: Sequence[bytes], parameter: int) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] of payloads of one parameter. Raises Corrupt."""
        return upright(self.decode(payloads, (parameter & 3) + 1), bool(parameter & INVERTED))

    def preview_images(self, payloads: Sequence[bytes], parameter: int, whole: bool = True) -> NDArray[np.uint8]:
        """Images uint8 [B, S, S] of the first level alone; whole: False if payloads may be cut. Raises Truncated."""

        def decode(some: Sequence[bytes]) -> Decoded:
            indices = self.decode_indices(some, 1)
            return indices[0].cpu().numpy(), upright(self.reconstruct(indices, 1), bool(parameter & INVERTED))

        return still_there(payloads, whole, decode)
