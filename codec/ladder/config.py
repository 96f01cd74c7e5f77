"""Configuration of a Ladder VAE, as it stands in recipes and in the weights file."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..config import check_range


@dataclass(frozen=True)
class Stage:
    """Pixels that are coded together, given the latents and the pixels of the stages before.

    until: the stage takes the pixels of each patch whose interleaving rank is below this (and not taken before).
    width: channels of its network; 0 for a linear layer.  blocks: residual blocks of the network.
    """

    until: int
    width: int = 64
    blocks: int = 2

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        check_range(0, 4096, width=self.width)
        check_range(0, 64, blocks=self.blocks)
        if self.until < 1 or self.width < 0 or self.blocks < 0:
            raise ValueError(f"a stage needs until >= 1, width >= 0 and blocks >= 0, found {self}")


@dataclass(frozen=True)
class LadderConfig:
    """Architecture of a Ladder VAE over square grey images; tuples run from the image upwards (z_1, z_2, ...).

    image_size: side in pixels, a multiple of the first grid.
    form: "conv" (residual convolutions) or "mlp" (two dense layers a level, as in the paper; all grids 1).
    latents, widths, grids: of every level, the channels of z, the hidden channels and the side of the grid.
    blocks: residual blocks of a level's network (conv only).
    inference: "ladder" (bottom-up deterministic, then precision-weighted with the prior, Sonderby et al. 2016) or
    "bottom-up" (the plain hierarchical VAE, q(z_l | z_(l-1))).
    top_down: of the ladder's inference: "shared" (the prior's own pass, the paper's equations) or "separate" (networks
    of its own from z_(l+1) to what z_l is merged with, as in the authors' code; Gaussian, without skip or grids).
    posterior: "gaussian" (the paper's) or "uniform" (unit width: latents that can be rounded and coded).
    skip: top-down features carry all z above (else p(z_l | z_(l+1)) alone, the paper's).
    batch_norm: on hidden layers, and on means and log scales.
    leak: slope 2**-leak of the rectifiers below zero, 0 for none.
    qualities: settings that share all but the layers next to the latents; setting 0 is the lossless one.
    likelihood: "bernoulli" (pixels 0 and 1) or "categorical" (0..255, as a high and a low half of 4 bits).
    stages: of the pixels; the last `until` is the number of pixels of a patch, (image_size / grids[0])**2.
    pixel_embed, pixel_features: channels that stand for a known pixel, and from which a pixel's table is made.
    context: 0 for pixels in stages; R > 0 for pixels in raster order, each given the latents and its causal
    neighbours, at most R rows above and R columns away (`causal`). There is a single stage then, whose width and blocks
    are those of a perceptron; pixel_features are what it sees of the latents, pixel_embed is unused.
    """

    image_size: int = 28
    form: str = "conv"
    latents: tuple[int, ...] = (8, 4, 24)
    widths: tuple[int, ...] = (64, 64, 128)
    grids: tuple[int, ...] = (7, 7, 1)
    blocks: int = 2
    inference: str = "ladder"
    top_down: str = "shared"
    posterior: str = "uniform"
    skip: bool = True
    batch_norm: bool = False
    leak: int = 0
    qualities: int = 1
    likelihood: str = "bernoulli"
    stages: tuple[Stage, ...] = (Stage(1), Stage(2), Stage(4), Stage(8), Stage(16))
    pixel_embed: int = 2
    pixel_features: int = 32
    context: int = 0

    def __post_init__(self) -> None:
        """Check the fields against each other; raises ValueError."""
        _choice("form", self.form, "conv", "mlp")
        _choice("inference", self.inference, "ladder", "bottom-up")
        _choice("top_down", self.top_down, "shared", "separate")
        _choice("posterior", self.posterior, "gaussian", "uniform")
        _choice("likelihood", self.likelihood, "bernoulli", "categorical")
        check_range(1, 16, levels=len(self.latents))
        check_range(1, 1024, stages=len(self.stages))
        check_range(1, 512, image_size=self.image_size, grids=self.grids)
        check_range(1, 8192, latents=self.latents, widths=self.widths)
        check_range(0, 4096, pixel_embed=self.pixel_embed, pixel_features=self.pixel_features)
        check_range(0, 64, blocks=self.blocks)
        check_range(0, 15, leak=self.leak)
        check_range(1, 255, qualities=self.qualities)
        if not self.latents or not len(self.latents) == len(self.widths) == len(self.grids):
            raise ValueError("latents, widths and grids need one entry per level, and at least one")
        if min(*self.latents, *self.widths, *self.grids, self.qualities, self.pixel_features, self.image_size) < 1:
            raise ValueError("image_size, latents, widths, grids, qualities and pixel_features must be at least 1")
        if min(self.blocks, self.leak, self.pixel_embed) < 0:
            raise ValueError("blocks, leak and pixel_embed must not be negative")
        sides = (self.image_size, *self.grids)
        if any(below % above for below, above in pairwise(sides)):
            raise ValueError(f"each of image_size, then grids, must be a multiple of the next, found {sides}")
        if self.form == "mlp" and set(self.grids) != {1}:
            raise ValueError("form 'mlp' has grids of 1")
        if self.qualities > 1 and not self.skip:
            raise ValueError("several qualities need skip = true")
        if self.qualities > 1 and self.posterior == "gaussian":
            raise ValueError("several qualities need posterior 'uniform': Gaussian latents are not coded at a rate")
        if self.qualities > 1 and self.likelihood == "bernoulli":
            raise ValueError("several qualities need likelihood 'categorical': black and white is always lossless")
        untils = [stage.until for stage in self.stages]
        if untils != sorted(set(untils)) or not untils or untils[-1] != self.patch**2:
            raise ValueError(f"stages must increase and end with {self.patch**2}, found {untils}")
        if not 0 <= self.context < self.image_size:
            raise ValueError(f"context must be in 0..{self.image_size - 1}, found {self.context}")
        if self.context and not (len(self.stages) == 1 and self.stages[0].width and self.posterior == "gaussian"):
            raise ValueError("context needs a single stage of at least one channel, and posterior 'gaussian'")
        if self.context and (self.inference, self.top_down) != ("ladder", "shared"):
            raise ValueError("context needs the ladder's inference and its shared top-down pass, which archives have")
        if self.inference == "bottom-up" and self.posterior == "uniform":
            raise ValueError("rounded latents need the ladder's inference: the prior is known before the posterior")
        fits = (
            self.inference == "ladder" and self.posterior == "gaussian" and not self.skip and len(set(self.grids)) == 1
        )
        if self.top_down == "separate" and not fits:
            raise ValueError(
                "a separate top-down pass needs the ladder's inference, Gaussian, without skip, on one grid"
            )

    @property
    def levels(self) -> int:
        """How many stochastic levels."""
        return len(self.latents)

    @property
    def patch(self) -> int:
        """Side of the square of pixels that one position of the first grid stands for."""
        return self.image_size // self.grids[0]

    @property
    def values(self) -> int:
        """How many values a pixel has."""
        return 2 if self.likelihood == "bernoulli" else 256


def _choice(name: str, found: str, *known: str) -> None:
    if found not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, found {found!r}")
