"""Pages as their markup says and as a real browser shows them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

VOID = {"meta", "img", "br", "hr", "link", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


class Document(HTMLParser):
    """Elements in document order, each (tag, attributes, the text inside); fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        ids = [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return ["".join(text).strip() for name, _, text in self.elements if name == tag]

    def rows(self) -> list[list[str]]:
        """Cells of all rows of all tables."""
        rows: list[list[str]] = []
        for name, _, text in self.elements:
            if name == "tr":
                rows.append([])
            elif name in ("th", "td"):
                rows[-1].append("".join(text))
        return rows


LOOK = """
function boxes(svg) {
  return [...svg.querySelectorAll("text:not(.mark)")].map(text => [text.textContent, text.getBBox()]);
}
function problems(frame) {
  const page = frame.contentDocument, found = [], width = page.documentElement.clientWidth;
  if (width !== frame.width * 1) found.push("the view is " + width + " wide");
  if (page.documentElement.scrollWidth > width) found.push("the page scrolls sideways");
  for (const image of page.images) if (!image.complete || !image.naturalWidth) found.push("no image: " + image.alt);
  for (const svg of page.querySelectorAll("svg.chart")) {
    const view = svg.viewBox.baseVal, all = boxes(svg), name = svg.getAttribute("aria-label") + ": ";
    for (const [text, box] of all) {
      if (box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height)
        found.push(name + "cut off: " + text);
    }
    all.forEach(([a, p], i) => all.slice(i + 1).forEach(([b, q]) => {
      if (p.x + p.width > q.x + 1 && q.x + q.width > p.x + 1 && p.y + p.height > q.y + 4 && q.y + q.height > p.y + 4)
        found.push(name + a + " covers " + b);
    }));
  }
  return found;
}
addEventListener("load", () => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, count = name => page.querySelectorAll(name).length;
    seen[frame.title] = {
      problems: problems(frame), h2: count("h2"), table: count("table"), figure: count("figure"), img: count("img"),
      sizes: [...new Set([...page.images].map(image => image.width + " x " + image.height))],
      rows: new Set([...page.images].map(image => Math.round(image.getBoundingClientRect().top))).size,
      scrolls: [...page.querySelectorAll(".scroll")].some(one => one.scrollWidth > one.clientWidth),
    };
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
  console.log("looked");
});
"""


def browse(folder: Path, pages: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What Chromium makes of pages at the widths of a phone and of a screen, and what it writes to its console."""
    assert CHROMIUM is not None
    frames = []
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
        frames += [f'<iframe title="{name} {width}" src="{name}.html" width="{width}" height="800" '
                   'style="border: 0"></iframe>' for width in (400, 1280)]  # fmt: skip
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f'<!DOCTYPE html><pre id="seen"></pre>{"".join(frames)}<script>{LOOK}</script>', "utf-8")
    ran = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--no-first-run", f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files",
         "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.+?)</pre>', ran.stdout)
    assert found, ran.stdout[:1000] + ran.stderr[-1000:]
    return json.loads(html.unescape(found[1])), [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
