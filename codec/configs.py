"""The configurations of all families. Needs no torch."""

from __future__ import annotations

from typing import Any

from .config import from_dict
from .ladder.config import LadderConfig
from .photo.config import PhotoConfig
from .photo_vq.config import PhotoVQConfig
from .pixels.config import PhotoLosslessConfig
from .vq.config import VQConfig

_KINDS: dict[str, type[Any]] = {
    "vq": VQConfig,
    "ladder": LadderConfig,
    "photo": PhotoConfig,
    "photo-vq": PhotoVQConfig,
    "photo-lossless": PhotoLosslessConfig,
}


def check_config(family: str, config: dict[str, Any]) -> None:
    """Raises ConfigError for a configuration that no model of the family has; other families are not looked at."""
    if family in _KINDS:
        from_dict(_KINDS[family], config, "config")
