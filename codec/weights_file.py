"""Weights files: safetensors with the model's description as JSON in its metadata. Needs no torch to describe one.

Metadata key "vqcodec" holds {"format": 1, "name", "family", "config", "recipe", "results"}. A stream names the
SHA-256 of the whole file, so a file is written once and never changed.

A file may come from a stranger: everything in it is checked before anything of its size is made, and what is wrong
raises ModelMismatch."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bitstream.errors import ModelMismatch
from .config import ConfigError
from .configs import check_config

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1
MAX_FILE = 1 << 26
"""Bytes of a weights file."""
_MAX_HEADER = 1 << 22  # bytes; safetensors' own cap is 100 MB
_MAX_TENSORS = 1 << 14
_NAME = re.compile(r"[a-z0-9-]{1,255}")


@dataclass(frozen=True)
class Description:
    """What a weights file says of itself. config: of the family; recipe and results: for people."""

    name: str
    family: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]


class Stored(NamedTuple):
    """A tensor of a weights file. dtype: as safetensors name it, "I16", "F32", ..."""

    dtype: str
    shape: tuple[int, ...]


def describe(path: Path) -> Description:
    """Read the metadata alone. Raises ModelMismatch if the file is missing or not a weights file of this version, and
    for a configuration that its family does not have."""
    metadata = _header(path).get("__metadata__")
    text = metadata.get("vqcodec") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelMismatch(f"{path}: cannot be read as vqcodec weights: no description in it")
    return _parse(_object(text, path), path)


def tensors_of(path: Path) -> dict[str, Stored]:
    """The tensors by name, without reading them. Raises ModelMismatch."""
    header = _header(path)
    header.pop("__metadata__", None)
    if len(header) > _MAX_TENSORS:
        raise ModelMismatch(f"{path}: {len(header)} tensors, at most {_MAX_TENSORS} expected")
    return {name: _stored(name, told, path) for name, told in header.items()}


def _stored(name: str, told: Any, path: Path) -> Stored:
    dtype, shape = (told.get("dtype"), told.get("shape")) if isinstance(told, dict) else (None, None)
    sizes: list[Any] = shape if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or not all(type(size) is int and 0 <= size <= MAX_FILE for size in sizes):
        raise ModelMismatch(f"{path}: tensor {name[:80]!r} has no type or shape")
    if len(sizes) > 8 or math.prod(sizes) > MAX_FILE:
        raise ModelMismatch(f"{path}: tensor {name[:80]!r} is larger than the file")
    return Stored(dtype, tuple(sizes))


def _header(path: Path) -> dict[str, Any]:
    """The JSON at the start of the file. Raises ModelMismatch."""
    try:
        with path.open("rb") as stream:
            if path.stat().st_size > MAX_FILE:
                raise ModelMismatch(f"{path} is not a weights file: it has more than {MAX_FILE} bytes")
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > _MAX_HEADER:
                raise ModelMismatch(f"{path} is not a weights file: its header claims {size} bytes")
            text = stream.read(size).decode()
    except (OSError, UnicodeDecodeError, struct.error) as error:
        raise ModelMismatch(f"{path}: cannot be read as vqcodec weights: {error}") from error
    return _object(text, path)


def _object(text: str, path: Path) -> dict[str, Any]:
    """A JSON object in which no key is there twice. Raises ModelMismatch."""
    try:
        values = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ModelMismatch(f"{path}: cannot be read as vqcodec weights: {error}") from error
    if not isinstance(values, dict):
        raise ModelMismatch(f"{path}: cannot be read as vqcodec weights: a {type(values).__name__} for an object")
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _parse(values: dict[str, Any], path: Path) -> Description:
    found = values.pop("format", None)
    if type(found) is not int or found != _FORMAT:
        raise ModelMismatch(f"{path}: unknown weights format; this build reads {_FORMAT}")
    kinds = {"name": str, "family": str, "config": dict, "recipe": dict, "results": dict}
    if values.keys() != kinds.keys() or not all(isinstance(values[key], kind) for key, kind in kinds.items()):
        raise ModelMismatch(
            f"{path}: cannot be read as vqcodec weights: expected {', '.join(kinds)} in its description"
        )
    if not _NAME.fullmatch(values["name"]):
        raise ModelMismatch(f"{path}: name of the model: expected 1 to 255 characters a-z, 0-9 and -")
    try:
        check_config(values["family"], values["config"])
    except ConfigError as error:
        raise ModelMismatch(f"{path}: {error}") from error
    return Description(**values)


def sha256(path: Path) -> bytes:
    """SHA-256 of the whole file."""
    return hashlib.sha256(path.read_bytes()).digest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors. Raises ModelMismatch if the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())  # not mapped into memory: a file that is cut meanwhile would end the process
    except (SafetensorError, ValueError, KeyError, OSError) as error:
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
