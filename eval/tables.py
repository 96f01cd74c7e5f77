"""Results as text: labelled rows, one column per setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = tuple[str, str, int]
"""A row of a table: label, key of its values, decimals."""


@dataclass(frozen=True)
class Table:
    """Cells as they are shown. head: of the columns; rows: a label and its values, as many as the head has.

    A label that starts with spaces is a part of the one above it. note: what a reader must know besides."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(table: Table) -> str:
    """A table as Markdown, its title above it and its note below."""
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    rows = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"**{table.title}**", "", *rows, *(["", table.note] if table.note else [])])


def number(value: float | None, decimals: int = 0) -> str:
    """A number with thousands separated; a dash for None."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def cells(rows: Sequence[Cell], columns: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Label and the columns' values of every row."""
    return [[text, *(number(column[key], decimals) for column in columns)] for text, key, decimals in rows]


def stacked(tables: Sequence[Table]) -> list[list[str]]:
    """Rows of tables of equally many columns: of the first below its head, of the others below their titles."""
    rows = [list(tables[0].head), *map(list, tables[0].rows)]
    for table in tables[1:]:
        rows += [[f"-- {table.title}", *[""] * (len(table.head) - 1)], *map(list, table.rows)]
    return rows
