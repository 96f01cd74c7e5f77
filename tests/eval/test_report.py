"""The page of a measurement: its markup, its numbers, its charts, and how a real browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vqcodec.cli import main
from vqcodec.eval import gaussian, ladder, model, vq
from vqcodec.eval.report import (
    Axis,
    Bars,
    Figure,
    Rule,
    Section,
    Series,
    Strip,
    Table,
    bar_chart,
    image_grid,
    line_chart,
    page,
    report,
    scatter_chart,
)
from vqcodec.eval.report.axes import scale, tick_text
from vqcodec.eval.report.pca import pca_figure, projection
from vqcodec.tests.eval.browser import Document, browse, needs_chromium
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset

MODELS = ("tiny_model", "tiny_ladder", "tiny_binary", "tiny_gaussian")


@pytest.fixture(scope="module")
def labelled(digit_set: Dataset) -> Dataset:
    return dataclasses.replace(digit_set, labels=np.array([0, 1, 2, 0, 1, 2, 0, 1], np.uint8))


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, labelled: Dataset) -> dict[str, dict[str, Any]]:
    binary = dataclasses.replace(labelled, images=request.getfixturevalue("binary_digits"))
    weights = {name: str(request.getfixturevalue(name)) for name in MODELS}
    special = {"tiny_binary": dataclasses.replace(binary, labels=None), "tiny_gaussian": binary}
    data = {name: special.get(name, labelled) for name in MODELS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQCODEC_DATA", "/nowhere")  # nothing is fitted on the training split
        measured = {name: dataclasses.asdict(model.measure(weights[name], data[name])) for name in MODELS}
    return {name: {"result": measured[name], "model": weights[name], "data": data[name]} for name in MODELS}


@pytest.fixture(scope="module")
def pages(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: report(**given, device="cpu", command=f"vqcodec eval {name}") for name, given in results.items()}


def curves() -> str:
    """A page that uses what reports do not: curves over epochs, names, odd numbers."""
    runs = [
        Series(f"run {n} <&>", [(epoch, (n + 1) * 0.97 ** (epoch / 9)) for epoch in range(0, 2001, 20)])
        for n in range(5)
    ]
    broken = Series("broken", [(0.0, float("nan")), (1.0, -1.0), (2.0, 1e-9)], ["a", "b", "c"])
    parts = [
        line_chart(runs, Axis("epoch"), Axis("KL", log=True), "curves", [Rule("x", 200, "warm-up")], ordered=True),
        line_chart([broken], Axis("x"), Axis("y", log=True), "broken"),
        line_chart([], Axis("x"), Axis("y"), "empty"),
        bar_chart(["a", "b"], [Bars("one", [1234567, -3.5]), Bars("two", [0, 2])], "group", "value", "bars"),
    ]  # fmt: skip
    parts.append(bar_chart("abc", [Bars(str(n), [n, 10 * n, 100 * n]) for n in range(7)], "x", "y", "narrow"))
    table = Table("beside the paper", ["", "here", "paper"], [["NLL", "1", "2"], ["  of it KL", "3", "4"]], "a note")
    return page("Curves", "of a training", [Section("All", ["A paragraph", table, Figure("F", "c", parts, wide=True)])])


@pytest.mark.parametrize("name", MODELS)
def test_markup(pages: dict[str, str], name: str) -> None:
    found = Document(pages[name])
    assert pages[name].startswith("<!DOCTYPE html>\n")
    assert found.attributes("html") == [{"lang": "en"}]
    assert len(found.texts("title")) == len(found.texts("h1")) == len(found.texts("main")) == 1
    sections = [attributes["id"] for attributes in found.attributes("section")]
    assert [attributes["href"] for attributes in found.attributes("a")] == [f"#{name}" for name in sections]
    assert len(found.texts("h2")) == len(sections) == 7 - (name == "tiny_gaussian")
    figures = len(found.texts("figure"))
    assert len(found.texts("h3")) == len([text for text in found.texts("figcaption") if text]) == figures
    assert figures >= 9 - (name != "tiny_ladder")
    for picture in found.attributes("img"):
        assert picture["alt"]
        assert (picture["src"] or "").startswith("data:image/png;base64,")
    charts = [attributes for attributes in found.attributes("svg") if attributes.get("class") == "chart"]
    assert len(charts) == figures - 2 - (name == "tiny_gaussian")  # the others are pictures
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert {attributes["scope"] for attributes in found.attributes("th")} == {"col", "row"}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_from_outside(pages: dict[str, str], name: str) -> None:
    found = Document(pages[name])
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _, _ in found.elements}
    assert "://" not in pages[name]
    assert "@import" not in pages[name]
    assert not re.search(r"url\(", pages[name])
    assert not any(key.startswith("on") for _, attributes, _ in found.elements for key in attributes)


@pytest.mark.parametrize(
    ("name", "tables"),
    [("tiny_model", vq.tables), ("tiny_ladder", ladder.tables), ("tiny_gaussian", gaussian.tables)],
)
def test_every_number_is_in_a_table(
    results: dict[str, dict[str, Any]], pages: dict[str, str], name: str, tables: Callable[..., list[Table]]
) -> None:
    expected = tables(results[name]["result"])
    found = Document(pages[name])
    assert [
        text.lower().startswith(table.title.lower())
        for text, table in zip(found.texts("caption"), expected, strict=True)
    ]
    rows = [[cell.strip() for cell in row] for table in expected for row in (table.head, *table.rows)]
    assert found.rows() == rows


def test_what_was_measured(results: dict[str, dict[str, Any]], pages: dict[str, str]) -> None:
    result = results["tiny_ladder"]["result"]
    told = " ".join(Document(pages["tiny_ladder"]).texts("dd"))
    for value in (result["weights"], result["pixels"], result["environment"]["date"], "the first 8 of 8 images",
                  "vqcodec eval tiny_ladder", result["environment"]["torch"]):  # fmt: skip
        assert value in told
    assert "entropy coder" in told
    told = " ".join(Document(pages["tiny_gaussian"]).texts("dd"))
    assert "matrix products of the bounds in bf16" in told
    assert "entropy coder" not in told


def test_figures_by_family(pages: dict[str, str]) -> None:
    titles = {name: Document(text).texts("h3") for name, text in pages.items()}
    assert {"Use of the codebooks", "PCA of level 2", "Rate and distortion"} <= set(titles["tiny_model"])
    assert {"KL by level", "Active units by level", "KL of every unit", "PCA of z3"} <= set(titles["tiny_ladder"])
    assert "Rate and distortion" in titles["tiny_ladder"]
    assert "Rate and distortion" not in titles["tiny_binary"]  # it is lossless only
    assert {"Importance-weighted bounds", "KL of every unit", "PCA of z3"} <= set(titles["tiny_gaussian"])
    assert "Importance-weighted bounds" in Document(pages["tiny_gaussian"]).texts("caption")
    # A strip of originals, one per setting, and one per setting of samples; or one per level, two, one per upper level.
    pictures = [len(Document(text).attributes("img")) for text in pages.values()]
    assert pictures == [1 + 2 * 2, 1 + 2 * 3, 1 + 2, 1 + 3 + 2 + 2]


def test_unit_kl_is_that_of_the_result(results: dict[str, dict[str, Any]]) -> None:
    from vqcodec.codec import models
    from vqcodec.codec.ladder.codec import LadderCodec
    from vqcodec.eval.report.ladder import _latents

    given = results["tiny_ladder"]
    codec = models.load(given["model"]).codec
    assert isinstance(codec, LadderCodec)
    for setting, point in enumerate(given["result"]["points"]):
        latents = _latents(codec, given["data"].images, setting)
        assert [z.shape for z in latents.z] == [(8, 98), (8, 98), (8, 4)]
        for nats, level in zip(latents.nats, point["levels"], strict=True):
            assert nats.sum() == pytest.approx(level["kl_nats"])
            assert (nats > ladder.ACTIVE_NATS).sum() == level["active"]


@pytest.mark.parametrize("name", ["tiny_ladder", "tiny_gaussian"])
def test_same_result_same_page(results: dict[str, dict[str, Any]], pages: dict[str, str], name: str) -> None:
    assert report(**results[name], device="cpu", command=f"vqcodec eval {name}") == pages[name]


def test_hostile_names(results: dict[str, dict[str, Any]]) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;"
    given = results["tiny_model"]
    data = dataclasses.replace(given["data"], description=evil, ink=evil)
    text = report(given["result"] | {"model": evil, "data": evil}, given["model"], data, "cpu", evil)
    found = Document(text)
    assert found.texts("h1") == [f"{evil} on {evil}"]
    assert "script" not in {tag for tag, _, _ in found.elements}
    chart = line_chart([Series(evil, [(0, 0)], [evil])], Axis(evil), Axis(evil), evil, [Rule("y", 0, evil)])
    grid = image_grid([Strip(evil, np.zeros((1, 2, 2), np.uint8), evil, evil)])
    table = Table(evil, [evil, evil], [[evil, evil]], evil)
    found = Document(page(evil, evil, [Section(evil, [evil, table, Figure(evil, evil, [chart, *grid])])]))
    assert "script" not in {tag for tag, _, _ in found.elements}
    assert [picture["alt"] for picture in found.attributes("img")] == [evil]


def test_sections_without_blocks_are_left_out() -> None:
    found = Document(page("t", "s", [Section("empty", []), Section("full", ["text"])]))
    assert found.texts("h2") == ["full"]


@pytest.mark.parametrize(
    ("axis", "values", "ticks"),
    [
        (Axis(""), [0, 10], (0, 2, 4, 6, 8, 10)),
        (Axis(""), [0.13, 0.29], (0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3)),
        (Axis("", zero=True), [30, 70], (0, 10, 20, 30, 40, 50, 60, 70)),
        (Axis(""), [5, 5], (2, 3, 4, 5, 6, 7, 8)),
        (Axis(""), [], (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (Axis("", log=True), [3, 40], (2, 5, 10, 20, 50)),
        (Axis("", log=True), [1, 1], (1, 2)),
        (Axis("", log=True), [2e-6, 0, -1, float("inf"), 0.9], (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)),
    ],
)  # fmt: skip
def test_scales(axis: Axis, values: list[float], ticks: tuple[float, ...]) -> None:
    found = scale(axis, values)
    assert found.ticks == pytest.approx(ticks)
    shown = [value for value in values if axis.shows(value)]
    assert all(-1e-9 <= found.at(value) <= 1 + 1e-9 for value in [*shown, *found.ticks])


def test_tick_text() -> None:
    values = [0, 2000, 0.05, -3, 1e-6, 2e-6, 1.5e8, 0.001]
    assert [tick_text(value) for value in values] == ["0", "2,000", "0.05", "−3", "10⁻⁶", "2·10⁻⁶", "1.5·10⁸", "0.001"]


def test_line_chart_leaves_out_what_an_axis_cannot_show() -> None:
    chart = line_chart(
        [Series("s", [(0, 1), (1, float("nan")), (2, 0), (3, 10)], ["a", "b", "c", "d"])],
        Axis("x"), Axis("y", log=True), "alt",
    )  # fmt: skip
    found = Document(chart)
    assert len(found.attributes("circle")) == 2
    assert [text for text in found.texts("text") if text in "abcd"] == ["a", "d"]


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart(["a", "b"], [Bars("one", [10, 5]), Bars("two", [0, 20])], "x", "y", "alt")
    paths = [re.findall(r"[\d.]+", a["d"] or "") for a in Document(chart).attributes("path") if a.get("class") == "bar"]
    lengths = [float(low) - float(high) for _, low, high, *_ in paths[:4]]
    assert lengths == pytest.approx([90, 45, 0, 180], abs=0.2)
    stacked = Document(bar_chart(["a"], [Bars("one", [10]), Bars("two", [20])], "x", "y", "alt", stacked=True))
    assert "30" in stacked.texts("text")


def test_scatter_labels_do_not_cover_each_other() -> None:
    series = [Series(str(n), [(0.0, 0.0), (1.0, 1.0)]) for n in range(10)]
    found = Document(scatter_chart(series, Axis("x"), Axis("y"), "alt"))
    places = [(float(a["x"] or 0), float(a["y"] or 0)) for a in found.attributes("text") if a.get("class") == "mark"]
    assert len(set(places)) == len(places) == 10


def test_projection_finds_the_directions_of_most_variance() -> None:
    t = np.linspace(-1, 1, 50)
    x = np.outer(t, [3, 4]) + np.outer(t**2 - (t**2).mean(), [-0.4, 0.3])  # two orthogonal directions
    found = projection(x + 7)
    assert np.allclose(found.points[:, 0], 5 * t)
    assert np.allclose(np.abs(found.points[:, 1]), 0.5 * np.abs(t**2 - (t**2).mean()))
    assert sum(found.explained) == pytest.approx(1)
    assert found.explained[0] == pytest.approx(25 * t.var() / (25 * t.var() + 0.25 * (t**2).var()))


@pytest.mark.parametrize("shape", [(1, 5), (6, 1), (1, 1), (4, 3)])
def test_projection_of_nothing_much(shape: tuple[int, int]) -> None:
    found = projection(np.ones(shape))
    assert found.points.shape == (shape[0], 2)
    assert not found.points.any()
    assert found.explained == (0, 0)
    Document(pca_figure("t", "w", np.ones(shape), None).parts[0])


def test_images_are_as_they_were() -> None:
    images = np.random.default_rng(0).integers(0, 256, (13, 28, 28), np.uint8)
    (picture,) = Document(image_grid([Strip("s", images, "alt")])[0]).attributes("img")
    data = base64.b64decode((picture["src"] or "").partition(",")[2])
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.asarray(opened)[::4, ::4]
    assert (pixels.shape[1], pixels.shape[0]) == (int(picture["width"] or 0) // 4, int(picture["height"] or 0) // 4)
    assert pixels.shape == (58, 358, 2)
    assert (pixels[:28, 30:58, 0] == images[1]).all()
    assert (pixels[30:58, :28, 0] == images[12]).all()
    assert (pixels[:28, :28, 1] == 255).all()
    assert not pixels[30:, 30:, 1].any()


def test_command_line(
    tiny_binary: Path, results: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets._LOADERS, "black & white", lambda split, folder: results["tiny_binary"]["data"])
    out, target = tmp_path / "result.json", tmp_path / "page.html"
    target.write_text("an older page")
    arguments = ["eval", str(tiny_binary), "--data", "black & white", "--limit", "3"]
    arguments += ["--out", str(out), "--report", str(target)]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    result = json.loads(out.read_text())
    assert ladder.table(result) == ran.stdout.rstrip("\n")
    found = Document(target.read_text("utf-8"))
    assert found.texts("h1") == ["tiny-binary on mnist"]
    told = shlex.split(found.texts("code")[-1])  # options may come in another order
    assert (told[:3], sorted(told)) == (["vqcodec", *arguments[:2]], sorted(["vqcodec", *arguments]))
    assert sorted(os.listdir(tmp_path)) == ["page.html", "result.json"]


@pytest.mark.parametrize("trouble", ["missing folder", "folder", "read-only", "same"])
def test_bad_targets_are_told_before_measuring(
    trouble: str, digits8: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "measure", lambda *_: pytest.fail("it measured"))
    target = {"missing folder": tmp_path / "no" / "page.html", "folder": tmp_path}.get(trouble, tmp_path / "page.html")
    if trouble == "read-only":  # root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    more = ["--out", str(target)] if trouble == "same" else []
    ran = CliRunner().invoke(main, ["eval", "tiny", "--data", digits8, "--report", str(target), *more])
    assert ran.exit_code == (2 if trouble == "same" else 1)
    said = {
        "missing folder": "does not exist",
        "folder": "is a folder",
        "read-only": "you may not write",
        "same": "same file",
    }
    assert said[trouble] in ran.stderr.strip().splitlines()[-1]
    assert trouble == "same" or ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_only_eval_has_pages() -> None:
    assert "--report" in CliRunner().invoke(main, ["eval", "--help"]).stdout
    for command in ("rd", "speed", "lossless"):
        assert "--report" not in CliRunner().invoke(main, ["bench", command, "--help"]).stdout


@pytest.mark.slow
@needs_chromium
def test_in_a_browser(pages: dict[str, str], tmp_path: Path) -> None:
    pages = pages | {"curves": curves()}
    seen, console = browse(tmp_path, pages)
    assert len(console) == 1, console
    assert '"looked"' in console[0]
    assert len(seen) == 2 * len(pages)
    for title, view in seen.items():
        found = Document(pages[title.split()[0]])
        assert view["problems"] == [], title
        for tag in ("h2", "table", "figure", "img"):
            assert view[tag] == len(found.attributes(tag)), (title, tag)
    assert seen["tiny_ladder 400"]["scrolls"]  # tables do, inside their own region
    assert not seen["tiny_model 1280"]["scrolls"]
