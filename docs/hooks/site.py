"""What the site takes from the rest of the repository: Python files, the format, and the cards of the models."""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "build" / "docs-source" / "vqcodec"
"""A copy of the package's Python files, apart from environments, tests and builds that lie beside them."""
PACKAGES = ("bitstream", "codec", "training", "eval", "cli")
FORMAT = "bitstream/FORMAT.md"
CARDS = "codec/weights"

_LINK = re.compile(r"(?<=\]\()(?:\.\./)+(bitstream/FORMAT\.md|codec/weights/[\w-]+\.md)")
_INLINE_CODE = re.compile(r"(<code>)([^<]*)(</code>)")
_OPTION = re.compile(r"(?<!\S)--?[\w-]+")
_FENCE = re.compile(r"^\s*```")
_ITEM = re.compile(r"^ {0,3}(?:[-*]|\d+\.) ")


def on_startup(command: str, dirty: bool) -> None:
    """Copies the Python files that the reference is made from."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    files = [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
    for path in files:
        copy = SOURCE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for the card of every model."""
    for card in sorted((ROOT / CARDS).glob("*.md")):
        files.append(File.generated(config, f"models/{card.name}", content=card.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page: format.md shows the format itself, and links to files outside docs/ lead to their pages."""
    path = page.file.src_uri
    if path == "format.md":
        markdown = _blocks((ROOT / FORMAT).read_text(encoding="utf-8"))
    return _LINK.sub(lambda link: posixpath.relpath(_page_of(link[1]), posixpath.dirname(path) or "."), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Options such as --json in running text stay in one line: browsers break lines after hyphens."""
    unbroken = r'<span class="option">\g<0></span>'
    return _INLINE_CODE.sub(lambda code: code[1] + _OPTION.sub(unbroken, code[2]) + code[3], html)


def _page_of(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    return "format.md" if path == FORMAT else f"models/{posixpath.basename(path)}"


def _blocks(markdown: str) -> str:
    """Markdown of GitHub for Python-Markdown: an empty line before lists, fences with one word, no links by name."""
    lines: list[str] = []
    is_code = False
    for line in markdown.splitlines():
        if _FENCE.match(line):
            is_code = not is_code
            line = "```text" if is_code else line
        if not is_code and lines and _begins_list(lines[-1], line):
            lines.append("")
        lines.append(line if is_code else _without_links(line))
    return "\n".join(lines) + "\n"


def _begins_list(before: str, line: str) -> bool:
    """Whether a line is the first item of a list, right after a paragraph."""
    return bool(_ITEM.match(line) and before.strip() and not before.startswith(" ") and not _ITEM.match(before))


def _without_links(line: str) -> str:
    """The line with x[i][j] escaped, which looks like a link."""
    parts = line.split("`")  # every second one is code
    return "`".join(part if number % 2 else part.replace("][", "]\\[") for number, part in enumerate(parts))
