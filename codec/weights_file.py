"""Weights files: safetensors with the model's description as JSON in its metadata. Needs no torch to describe one.

Metadata key "vqcodec" holds {"format": 1, "name", "family", "config", "recipe", "results"}. A stream names the
SHA-256 of the whole file, so a file is written once and never changed."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bitstream.errors import ModelMismatch

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1
_MAX_HEADER = 1 << 24  # bytes; safetensors' own cap is 100 MB


@dataclass(frozen=True)
class Description:
    """What a weights file says of itself. config: of the family; recipe and results: for people."""

    name: str
    family: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]


def describe(path: Path) -> Description:
    """Read the metadata alone. Raises ModelMismatch if the file is missing or not a weights file of this version."""
    try:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > _MAX_HEADER:
                raise ModelMismatch(f"{path}: header of {size} bytes, at most {_MAX_HEADER} expected: no weights file")
            return _parse(json.loads(stream.read(size))["__metadata__"]["vqcodec"], path)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelMismatch(f"{path}: cannot be read as vqcodec weights: {error}") from error


def _parse(text: str, path: Path) -> Description:
    values = json.loads(text)
    if values.pop("format") != _FORMAT:
        raise ModelMismatch(f"{path}: weights of another format than {_FORMAT}, the one this build reads")
    return Description(**values)


def sha256(path: Path) -> bytes:
    """SHA-256 of the whole file."""
    return hashlib.sha256(path.read_bytes()).digest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors. Raises ModelMismatch if the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelMismatch(f"{path}: damaged weights: {error}") from error


def write(path: Path, description: Description, tensors: dict[str, Tensor]) -> None:
    """Write a weights file; equal contents give equal bytes."""
    from safetensors.torch import save_file

    metadata = json.dumps({"format": _FORMAT} | vars(description), sort_keys=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_suffix(".tmp")
    save_file(contiguous, temporary, {"vqcodec": metadata})
    temporary.chmod(0o644)  # safetensors makes it private
    temporary.replace(path)
