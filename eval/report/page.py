"""One self-contained HTML page from sections of prose, facts, tables and figures.

Everything is inside: style, SVG, images as data. The page has no script and asks for nothing: its content security
policy forbids both. Text is escaped here; only `Html` goes in as it is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ..tables import Table

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup: what `escaped`, charts and pictures give; pages take it as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class Facts:
    """Pairs of a term and what it is; `code` is for commands and hashes."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figure:
    """Charts or pictures under a title, above a caption. wide: it takes a row by itself."""

    title: str
    caption: str
    parts: Sequence[Html]
    wide: bool = False


Block = str | Facts | Table | Figure
"""What a section holds; a str is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of a page, under a heading of its own."""

    title: str
    blocks: Sequence[Block]


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document. Sections without blocks are left out; tables or figures that follow each other share rows."""
    shown = [section for section in sections if section.blocks]
    links = "\n".join(f'<li><a href="#s{n}">{escaped(s.title)}</a></li>' for n, s in enumerate(shown, 1))
    body = "\n".join(_section(number, section) for number, section in enumerate(shown, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}: {escaped(subtitle)}</title>
<style>
{_STYLE.read_text("utf-8")}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
<p>{escaped(subtitle)}</p>
<nav aria-label="Contents">
<ul>
{links}
</ul>
</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def escaped(text: str) -> Html:
    """Text as markup; Html stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def code(text: str) -> Html:
    """Text as one types or compares it: a command, a hash."""
    return Html(f"<code>{escaped(text)}</code>")


def _section(number: int, section: Section) -> str:
    parts = []
    for kind, group in groupby(section.blocks, type):
        blocks = list(group)
        body = "\n".join(map(_block, blocks))
        parts.append(f'<div class="{_row_class(kind, len(blocks))}">\n{body}\n</div>')
    return "\n".join([f'<section id="s{number}">', f"<h2>{escaped(section.title)}</h2>", *parts, "</section>"])


def _row_class(kind: type, blocks: int) -> str:
    """How blocks of one kind that follow each other share rows: figures by two, or by three where that fills them."""
    if kind is Figure:
        return "figures thirds" if blocks >= 3 and blocks != 4 else "figures"
    return "tables" if kind is Table else "text"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        return _figure(block)
    if isinstance(block, Facts):
        return _facts(block)
    return f"<p>{escaped(block)}</p>"


def _facts(facts: Facts) -> str:
    rows = [f"<div><dt>{escaped(term)}</dt><dd>{escaped(said)}</dd></div>" for term, said in facts.pairs]
    return "\n".join(['<dl class="facts">', *rows, "</dl>"])


def _figure(figure: Figure) -> str:
    wide = ' class="wide"' if figure.wide else ""
    title = f"<h3>{escaped(figure.title)}</h3>"
    return "\n".join([
        f"<figure{wide}>", title, *figure.parts, f"<figcaption>{escaped(figure.caption)}</figcaption>", "</figure>",
    ])  # fmt: skip


def _table(table: Table) -> str:
    """Wide ones scroll inside their own region, which the keyboard reaches too."""
    note = f"<small>{escaped(table.note)}</small>" if table.note else ""
    head = "".join(f'<th scope="col">{escaped(text)}</th>' if text else "<td></td>" for text in table.head)
    return "\n".join([
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(table.title)}">',
        f"<table>\n<caption><span>{escaped(_sentence(table.title))}{note}</span></caption>",
        f"<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>", *map(_row, table.rows), "</tbody>\n</table>\n</div>",
    ])  # fmt: skip


def _sentence(title: str) -> str:
    """With a capital, unless it starts with a symbol such as z1."""
    return title[:1].upper() + title[1:] if title.split(" ")[0].replace("-", "").isalpha() else title


def _row(row: Sequence[str]) -> str:
    label, *values = row
    part = ' class="part"' if label.startswith(" ") else ""
    cells = "".join(f"<td>{escaped(value)}</td>" for value in values)
    return f'<tr><th scope="row"{part}>{escaped(label.strip())}</th>{cells}</tr>'
