"""The VQ-VAE in float, as it is trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .config import VQConfig
from .network import build_decoder, build_encoder
from .prior import StagedPrior
from .quantiser import ResidualQuantiser


class VQModel(nn.Module):
    """Encoder, quantiser, decoder and prior (van den Oord et al. 2017), each with an exact counterpart."""

    def __init__(self, config: VQConfig) -> None:
        """Build all parts with PyTorch's default initialisation."""
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.quantiser = ResidualQuantiser(config)
        self.decoder = build_decoder(config)
        self.prior = StagedPrior(config)

    def reconstruct(self, indices: Sequence[Tensor], levels: int) -> Tensor:
        """x_hat [B, 1, S, S] from the indices [B, P] of the first `levels` levels."""
        z_q = sum(self.quantiser.embed(level, indices[level]) for level in range(levels))
        return self.decoder(z_q)  # type: ignore[no-any-return]
