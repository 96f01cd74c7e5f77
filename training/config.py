"""Recipes: what to train, on what, and how, as TOML files read into frozen dataclasses."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..codec.config import ConfigError, from_dict
from ..codec.vq.config import VQConfig


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    epochs: passes over the training set.  batch_size: images a step.  learning_rate: peak of Adam's, after
    `warmup_steps` linear steps, falling to 1 % along a cosine.  seed: of weights, data order and noise.
    grad_clip: largest gradient norm of encoder and decoder.
    rate_bits: for every level, the bits per image that the rate-distortion weight is steered to.
    rate_start: share of the training after which rates are steered (before, the nearest code is taken).
    commitment: weight of the commitment term beside the squared error of pixels (beta of van den Oord et al. 2017).
    restart_until: share of the training up to which dead codes are restarted; restart_below: uses per batch that count
    as dead.  precision: "bf16" (autocast) or "float32".
    """

    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    seed: int = 0
    grad_clip: float = 5.0
    rate_bits: tuple[float, ...] = (100.0, 108.0, 150.0)
    rate_start: float = 0.02
    commitment: float = 2.0
    restart_until: float = 0.6
    restart_below: float = 0.02
    precision: str = "bf16"

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if self.precision not in ("bf16", "float32"):
            raise ValueError(f"precision must be 'bf16' or 'float32', found {self.precision!r}")


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. name: of the weights file; data: a data set of `training.datasets`; note: what to expect."""

    name: str
    data: str
    note: str
    model: VQConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        """Check that model and training fit; raises ValueError."""
        if len(self.train.rate_bits) != len(self.model.levels):
            raise ValueError(f"train.rate_bits needs one entry per level, {len(self.model.levels)} in all")


def read_recipe(path: str | Path) -> Recipe:
    """Recipe from a TOML file, or from a name in training/recipes. Raises ConfigError."""
    path = Path(path)
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        path = Path(__file__).parent / "recipes" / f"{path}.toml"
    try:
        return from_dict(Recipe, tomllib.loads(path.read_text()), "recipe")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read recipe {path}: {error}") from error
