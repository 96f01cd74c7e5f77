"""README and documentation: their Python code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vqcodec.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MOST_LINES = 150
"""Of the README."""
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}(.*)$", re.MULTILINE)
_COMMAND = re.compile(r"^.*?\b(vqcodec .*)$", re.MULTILINE)
_INLINE = re.compile(r"`(vqcodec [^`]*)`")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def code_of(page: Path) -> list[str]:
    return _PYTHON.findall(page.read_text(encoding="utf-8"))


def ran(page: Path) -> None:
    """Run all Python code of a page, one block after the other."""
    names: dict[str, object] = {}
    for code in code_of(page):
        exec(compile(code, page.name, "exec"), names)


def test_readme_is_one_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_readme_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert len(code_of(README)) == 1
    ran(README)
    size, _, method = capsys.readouterr().out.partition(" bytes, ")
    assert int(size) < 2000
    assert method == "ladder-photo, quality 40 of 100\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", [page.name for page in PAGES if code_of(page)])
def test_examples_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the example images, which also lie in its folder `images`."""
    shutil.copytree(ROOT / "codec" / "examples", tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "codec" / "examples", tmp_path / "images", ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.chdir(tmp_path)
    ran(ROOT / "docs" / name)


def anchors_of(page: Path) -> set[str]:
    """The anchors that headings get on the site."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, ROOT / "CHANGELOG.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_linked_from_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f": {page.name}\n" not in navigation] == []


def commands_of(page: Path) -> Iterator[list[str]]:
    """Commands of blocks of code and of code in lines, as lists of words."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join([*_SHELL.findall(text), *_INDENTED.findall(_FENCED.sub("", text))])
    for line in [*_COMMAND.findall(blocks), *_INLINE.findall(text)]:
        yield shlex.split(line, comments=True)


def unknown_options(words: list[str]) -> list[str]:
    """The long options that the command does not have. Raises KeyError for an unknown command."""
    command: click.Command = main
    context = click.Context(main)
    for word in words[1:]:
        if not isinstance(command, click.Group) or word.startswith("-") or word.isupper():
            break
        found = command.get_command(context, word)
        if found is None:
            raise KeyError(word)
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in words if word.startswith("--") and word not in known]


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for words in commands_of(page):
        assert unknown_options(words) == [], shlex.join(words)
