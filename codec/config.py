"""Frozen dataclasses from plain values, strictly: for recipes and for the configuration in weights files."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ..bitstream.errors import VqcodecError

T = TypeVar("T")


class ConfigError(VqcodecError):
    """A configuration that cannot be used: not TOML, an unknown key, a wrong type or a value out of range."""


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Dataclass of type `kind` from plain values, nested ones too; unknown keys and wrong types raise ConfigError."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast("type[Any]", hint), value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
    if plain and not (isinstance(value, hint) and isinstance(value, bool) == (hint is bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value
