"""Models whose blocks hold many images: which there are, without loading them, and the models themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...bitstream.errors import ModelMismatch
from .. import models
from ..family import BINARY
from ..weights_file import Description, describe

AUTO, PLAIN = "auto", "plain"


@runtime_checkable
class BlockCodec(Protocol):
    """Square images of one size to a block's payload and back, the same everywhere."""

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""

    def pack_images(self, pixels: NDArray[np.uint8]) -> bytes:
        """Payload of images uint8 [N, S, S], N >= 1."""

    def unpack_images(self, payload: bytes, count: int) -> NDArray[np.uint8]:
        """Images uint8 [count, S, S]. Raises Corrupt or Truncated."""

    def cost_bits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """About what images uint8 [N, S, S] take, float64 [N]."""


@dataclass(frozen=True)
class Packer:
    """A model that is ready to pack images. number: 0 if not built in; prefix: 8 bytes of its weights' SHA-256."""

    name: str
    number: int
    prefix: bytes
    codec: BlockCodec


@dataclass(frozen=True)
class Candidate:
    """A model that may take images of `side` x `side` pixels. source: its name or the path of its weights file.

    binary: whether it takes pixels 0 and 255 only."""

    source: str
    side: int
    binary: bool


class Library(Protocol):
    """Where models come from. Travels to worker processes."""

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """The models to try; loads none. Raises ModelMismatch."""

    def load(self, source: str, device: str) -> Packer:
        """The model of a candidate. Raises ModelMismatch."""

    def find(self, number: int, name: str, prefix: bytes, model: str | None, device: str) -> Packer:
        """The model that a block names; model: weights file of one that is not built in. Raises ModelMismatch."""


@dataclass(frozen=True)
class BuiltIn:
    """The package's models, and weights files of the user."""

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """As in Library. model: "auto" (all that are built in), "plain" (none), a name or a weights file's path."""
        if model == PLAIN:
            return ()
        if model == AUTO:
            return tuple(_candidate(found.name, found) for found in models.for_packing())
        found = describe(models.find(model))
        if not (models.packs(found) or models.packs_too(found)):
            raise ModelMismatch(f"{model} cannot pack archives; use auto, plain, or a ladder-* or archive-* model")
        return (_candidate(model, found),)

    def load(self, source: str, device: str) -> Packer:
        """As in Library."""
        return _packer(models.load(source, device, archive=True))

    def find(self, number: int, name: str, prefix: bytes, model: str | None, device: str) -> Packer:
        """As in Library."""
        if number:
            return _packer(models.load_number(number, prefix, device, archive=True))
        return _packer(models.load_named(name, prefix, model, device, archive=True))


BUILT_IN = BuiltIn()


def _candidate(source: str, found: Description) -> Candidate:
    return Candidate(source, found.config.get("image_size", 28), found.config.get("likelihood", BINARY) == BINARY)


def _packer(model: models.Model) -> Packer:
    codec: Any = model.codec
    assert isinstance(codec, BlockCodec), "models.load sees to it"
    return Packer(model.name, model.number, model.sha256[:8], codec)
