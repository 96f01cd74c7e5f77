"""Frozen dataclasses from plain values, strictly: for recipes and for the configuration in weights files."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from ..bitstream.errors import VqcodecError

T = TypeVar("T")

_LARGEST = 1 << 53  # of whole numbers, so that all of them are exact as floats too
_MOST_ITEMS = 4096  # of a list


class ConfigError(VqcodecError):
    """A configuration that cannot be used: not TOML, an unknown key, a wrong type or a value out of range."""


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Dataclass of type `kind` from plain values, nested ones too; unknown keys, wrong types, NaN, finite numbers
    beyond 2^53, and values that the dataclass refuses raise ConfigError."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(key) for key in values if key not in known):
        raise ConfigError(f"{where}: unknown key {unknown[0][:80]!r}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_range(low: float, high: float, **values: float | tuple[float, ...]) -> None:
    """Raises ValueError for values, or values of tuples, that are not in [low, high]; they are named by their keys."""
    for name, value in values.items():
        for each in value if isinstance(value, tuple) else (value,):
            if not low <= each <= high:
                raise ValueError(f"{name} must be in {low:g}..{high:g}, found {each}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast("type[Any]", hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {_shown(value)}")
        if len(value) > _MOST_ITEMS:
            raise ConfigError(f"{where}: expected at most {_MOST_ITEMS} items, found {len(value)}")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if isinstance(value, int | float) and not (abs(value) <= _LARGEST or value in (math.inf, -math.inf)):  # also of NaN
        raise ConfigError(f"{where}: expected a number of at most 2^53, found {_shown(value)}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
    if plain and not (isinstance(value, hint) and isinstance(value, bool) == (hint is bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, float) or (isinstance(value, int) and math.log2(abs(value) or 1) < 64):
        return repr(value)
    return f"a value of type {type(value).__name__}"
