"""Recipes: what to train, on what, and how, as TOML files read into frozen dataclasses."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from ..codec.config import ConfigError, check_range, from_dict
from ..codec.ladder.config import LadderConfig
from ..codec.photo.config import PhotoConfig
from ..codec.photo_vq.config import PhotoVQConfig
from ..codec.pixels.config import PhotoLosslessConfig
from ..codec.vq.config import VQConfig

_MAX_FILE = 1 << 20  # bytes of a recipe


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated alike. clip: largest norm of their gradient; rate: factor of the learning rate."""

    parameters: list[nn.Parameter]
    clip: float
    rate: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """How to train a model of any family.

    epochs: passes over the training set.  batch_size: images a step.  learning_rate: peak of Adam's, after
    `warmup_steps` linear steps.  schedule: "cosine" (falls to 1 % along one), "constant", or "steps" (x 0.75 every 200
    epochs, as in the fine-tuning of Sonderby et al. 2016).  seed: of weights, data order and noise.
    grad_clip: largest gradient norm (of the autoencoder, for a VQ-VAE).  precision: "bf16" (autocast; float32 on CPUs
    without instructions for it) or "float32".  evaluate_every: epochs from one checkpoint and measurement to the next.
    capture: on a single GPU, launch whole steps as CUDA graphs, where the loss allows it (photographs' ladders and
    Gaussian ones).
    compile: have PyTorch's compiler fuse such steps.
    """

    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    schedule: str = "cosine"
    seed: int = 0
    grad_clip: float = 5.0
    precision: str = "bf16"
    evaluate_every: int = 1
    capture: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        if min(self.epochs, self.batch_size, self.warmup_steps, self.evaluate_every) < 1:
            raise ValueError("epochs, batch_size, warmup_steps and evaluate_every must be at least 1")
        check_range(1, 10**6, epochs=self.epochs, batch_size=self.batch_size, evaluate_every=self.evaluate_every)
        check_range(1, 10**9, warmup_steps=self.warmup_steps)
        check_range(0, 2**32 - 1, seed=self.seed)
        check_range(1e-12, 1e3, learning_rate=self.learning_rate)
        check_range(1e-9, math.inf, grad_clip=self.grad_clip)
        if self.schedule not in ("cosine", "constant", "steps"):
            raise ValueError(f"schedule must be 'cosine', 'constant' or 'steps', found {self.schedule!r}")
        if self.precision not in ("bf16", "float32"):
            raise ValueError(f"precision must be 'bf16' or 'float32', found {self.precision!r}")


@dataclass(frozen=True)
class VQTrain(TrainConfig):
    """How to train a VQ-VAE.

    rate_bits: for every level, the bits per image that the rate-distortion weight is steered to.
    rate_start: share of the training after which rates are steered (before, the nearest code is taken).
    commitment: weight of the commitment term beside the squared error of pixels (beta of van den Oord et al. 2017).
    restart_until: share of the training up to which dead codes are restarted; restart_below: uses per batch that count
    as dead.
    """

    rate_bits: tuple[float, ...] = (100.0, 108.0, 150.0)
    rate_start: float = 0.02
    commitment: float = 2.0
    restart_until: float = 0.6
    restart_below: float = 0.02

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        super().__post_init__()
        check_range(0, 1e9, rate_bits=self.rate_bits, commitment=self.commitment, restart_below=self.restart_below)
        check_range(0, 1, rate_start=self.rate_start, restart_until=self.restart_until)


@dataclass(frozen=True)
class LadderTrain(TrainConfig):
    """How to train a Ladder VAE.

    ladder_rate: learning rate of all but the pixels' networks, as a factor of `learning_rate`.
    kl_warmup: share of the training over which the weight of the KL term rises from 0 to 1 (deterministic warm-up,
    Sonderby et al. 2016, section 3).
    round_from: share of the training after which latents are rounded as the codec does, with straight-through
    gradients, instead of receiving noise (uniform posteriors only).
    rd_weights: for every quality but the lossless one, bits per unit of squared error of pixels in 0..255.
    preview_weight: the same for the lossless quality, beside its likelihood: makes its latents a preview.
    lossy_share: of every batch, how many images also go through a lossy quality, drawn per step.
    turns: flip and transpose training images at random.
    importance: samples per image; more than one trains the importance-weighted bound (Burda et al. 2016, eq. 8;
    Gaussian posteriors only).
    """

    batch_size: int = 128
    ladder_rate: float = 0.5
    kl_warmup: float = 0.05
    round_from: float = 0.6
    rd_weights: tuple[float, ...] = ()
    preview_weight: float = 0.0002
    lossy_share: float = 0.5
    turns: bool = False
    importance: int = 1

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        super().__post_init__()
        if not (0 <= self.kl_warmup <= 1 and 0 <= self.round_from <= 1 and 0 <= self.lossy_share <= 1):
            raise ValueError("kl_warmup, round_from and lossy_share must be in 0..1")
        check_range(
            0, 1e6, rd_weights=self.rd_weights, preview_weight=self.preview_weight, ladder_rate=self.ladder_rate
        )
        if self.importance < 1:
            raise ValueError("importance must be at least 1")
        check_range(1, 10**6, importance=self.importance)


@dataclass(frozen=True)
class PhotoTrain(TrainConfig):
    """How to train a photograph model.

    crop: side of the crops in pixels, a multiple of the coarsest stride.
    round_from: share of the training after which latents are rounded, with straight-through gradients; noise before.
    smallest: below 1, photographs are also seen reduced by random factors from this one up.
    watched: qualities that are measured on held-out photographs after every epoch.
    """

    batch_size: int = 16
    learning_rate: float = 1e-3
    crop: int = 256
    round_from: float = 0.6
    smallest: float = 1.0
    watched: tuple[int, ...] = (10, 40, 70, 100)

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        super().__post_init__()
        check_range(1, 1 << 14, crop=self.crop)
        check_range(0, 1, round_from=self.round_from)
        check_range(1e-3, 1, smallest=self.smallest)
        check_range(1, 100, watched=self.watched)


@dataclass(frozen=True)
class PhotoVQTrain(TrainConfig):
    """How to train a VQ-VAE of photographs.

    crop: side of the crops in pixels, a multiple of twice the coarsest stride.
    prior_rate: learning rate of the prior, as a factor of `learning_rate`.
    price_warmup: share of the training over which the price of bits in the choice of indices rises from 0.
    split_until: share of the training up to which unused codes become halves of used ones; split_below: uses, as a
    share of the codebook's mean, that count as unused.
    """

    batch_size: int = 8
    learning_rate: float = 1e-3
    crop: int = 256
    prior_rate: float = 1.0
    price_warmup: float = 0.1
    split_until: float = 0.7
    split_below: float = 0.05

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        super().__post_init__()
        check_range(1, 1 << 14, crop=self.crop)
        check_range(0, 1e6, prior_rate=self.prior_rate)
        if not (0 <= self.price_warmup <= 1 and 0 <= self.split_until <= 1 and 0 <= self.split_below <= 1):
            raise ValueError("price_warmup, split_until and split_below must be in 0..1")


@dataclass(frozen=True)
class PhotoLosslessTrain(TrainConfig):
    """How to train a lossless photograph model.

    crop: side of the crops in pixels.  pixels: how many of a crop count in a step.  grey: share of the crops that are
    made grey.  smallest: as for PhotoTrain.
    """

    batch_size: int = 16
    learning_rate: float = 2e-3
    grad_clip: float = 1.0
    crop: int = 128
    pixels: int = 8192
    grey: float = 0.05
    smallest: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        super().__post_init__()
        check_range(1, 1 << 14, crop=self.crop)
        check_range(1e-3, 1, smallest=self.smallest)
        if not (0 <= self.grey <= 1 and 1 <= self.pixels <= self.crop**2):
            raise ValueError("grey must be in 0..1, pixels in 1..crop^2")


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. name: of the weights file; data: a data set of `training.datasets`; note: what to expect."""

    name: str
    data: str
    note: str
    model: VQConfig | LadderConfig | PhotoConfig | PhotoVQConfig | PhotoLosslessConfig
    train: TrainConfig
    family: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the name; raises ValueError."""
        if not re.fullmatch(r"[a-z0-9-]{1,255}", self.name):
            raise ValueError(f"name must be 1 to 255 characters a-z, 0-9 and -, found {self.name[:80]!r}")


@dataclass(frozen=True)
class VQRecipe(Recipe):
    """For a VQ-VAE."""

    model: VQConfig
    train: VQTrain
    family: ClassVar[str] = "vq"

    def __post_init__(self) -> None:
        """Check that model and training fit; raises ValueError."""
        super().__post_init__()
        if len(self.train.rate_bits) != len(self.model.levels):
            raise ValueError(f"train.rate_bits needs one entry per level, {len(self.model.levels)} in all")


@dataclass(frozen=True)
class LadderRecipe(Recipe):
    """For a Ladder VAE."""

    model: LadderConfig
    train: LadderTrain
    family: ClassVar[str] = "ladder"

    def __post_init__(self) -> None:
        """Check that model and training fit; raises ValueError."""
        super().__post_init__()
        if len(self.train.rd_weights) != self.model.qualities - 1:
            raise ValueError(f"train.rd_weights needs one entry per lossy quality, {self.model.qualities - 1} in all")
        if self.train.importance > 1 and self.model.posterior != "gaussian":
            raise ValueError("train.importance needs a Gaussian posterior")


@dataclass(frozen=True)
class PhotoRecipe(Recipe):
    """For a photograph model."""

    model: PhotoConfig
    train: PhotoTrain
    family: ClassVar[str] = "photo"

    def __post_init__(self) -> None:
        """Check that model and training fit; raises ValueError."""
        super().__post_init__()
        if self.train.crop % self.model.multiple:
            raise ValueError(f"train.crop must be a multiple of {self.model.multiple}, found {self.train.crop}")


@dataclass(frozen=True)
class PhotoVQRecipe(Recipe):
    """For a VQ-VAE of photographs."""

    model: PhotoVQConfig
    train: PhotoVQTrain
    family: ClassVar[str] = "photo-vq"

    def __post_init__(self) -> None:
        """Check that model and training fit; raises ValueError."""
        super().__post_init__()
        if self.train.crop % self.model.multiple:
            raise ValueError(f"train.crop must be a multiple of {self.model.multiple}, found {self.train.crop}")


@dataclass(frozen=True)
class PhotoLosslessRecipe(Recipe):
    """For a lossless photograph model."""

    model: PhotoLosslessConfig
    train: PhotoLosslessTrain
    family: ClassVar[str] = "photo-lossless"


AnyPhotoRecipe = PhotoRecipe | PhotoVQRecipe | PhotoLosslessRecipe
"""Those that train on photographs."""

FAMILIES: dict[str, type[Recipe]] = {
    kind.family: kind for kind in (VQRecipe, LadderRecipe, PhotoRecipe, PhotoVQRecipe, PhotoLosslessRecipe)
}


def read_recipe(path: str | Path) -> Recipe:
    """Recipe from a TOML file, or from a name in training/recipes. Raises ConfigError."""
    path = Path(path)
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        path = Path(__file__).parent / "recipes" / f"{path}.toml"
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigError(f"recipe {path}: at most {_MAX_FILE} bytes expected")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no TOML, or an endless number
        raise ConfigError(f"cannot read recipe {path}: {error}") from error
    family = values.pop("family", None)
    if not isinstance(family, str) or family not in FAMILIES:
        found = family[:80] if isinstance(family, str) else None if family is None else type(family).__name__
        raise ConfigError(f"recipe {path}: family must be one of {', '.join(FAMILIES)}, found {found!r}")
    return from_dict(FAMILIES[family], values, "recipe")
