"""The package's docstrings as lists: a sentence that begins with `name:` or `one, other:` describes parameters."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DRAWING = re.compile(r"^.+(?:\n[├│└].*)+", re.MULTILINE)


class Parameters(griffe.Extension):
    """Turns the plain text of docstrings into Markdown."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Modules, whose drawings of trees become blocks of code."""
        if mod.docstring is not None:
            mod.docstring.value = _DRAWING.sub(r"```text\n\g<0>\n```", mod.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Functions and methods."""
        _format(func, [parameter.name for parameter in func.parameters])

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Classes, whose attributes and constructor's parameters their docstring describes."""
        made = cls.members.get("__init__")
        parameters = [one.name for one in made.parameters] if isinstance(made, griffe.Function) else []
        _format(cls, [*cls.attributes, *parameters])


def _format(described: griffe.Function | griffe.Class, names: list[str]) -> None:
    if described.docstring is not None:
        described.docstring.value = markdown(described.docstring.value, names)


def markdown(text: str, names: list[str]) -> str:
    """A docstring with an item of a list for each description of parameters, and a paragraph for what it raises."""
    text = re.sub(r"(?<=[.;)])\s+(?=Raises |Other )", "\n\n", text)
    if not names:
        return text
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    head = re.compile(rf"(?:^|(?<=[.;)])\s+|\n\s*)((?:{name})(?:, (?:{name}))*): ")
    paragraphs = text.split("\n\n")
    return "\n\n".join(head.sub(_item, paragraph).strip("\n") for paragraph in paragraphs)


def _item(match: re.Match[str]) -> str:
    names = ", ".join(f"`{name}`" for name in match[1].split(", "))
    return f"\n\n- {names}: "
