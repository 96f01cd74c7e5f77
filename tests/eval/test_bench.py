"""The benchmarks' numbers (not their times), and the classical codecs they compare with."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, features

import vqcodec
from vqcodec.cli import main
from vqcodec.eval.bench import lossless, plots, rd, speed
from vqcodec.eval.bench.rd import Comparison, RatePoint
from vqcodec.eval.metrics import Distortion
from vqcodec.eval.peers import Peer, lossless_peers, peers
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset


def errors(peer: Peer, quality: int | None, images: NDArray[np.uint8]) -> tuple[int, float]:
    """Bytes and mean squared error."""
    files = [peer.encode(image, quality) for image in images]
    decoded = np.stack([peer.decode(data) for data in files])
    assert decoded.dtype == np.uint8
    assert decoded.shape == images.shape
    return sum(map(len, files)), float(((decoded.astype(int) - images) ** 2).mean())


@pytest.mark.parametrize("peer", peers().values(), ids=lambda peer: peer.name)
def test_peers(peer: Peer, digits: NDArray[np.uint8]) -> None:
    sizes, mses = zip(*[errors(peer, quality, digits) for quality in peer.qualities], strict=True)
    if peer.qualities == (None,):
        assert mses == (0,)
    else:
        assert sizes[0] < sizes[-1]
        assert mses[-1] < 0.5 < mses[0]  # the curve reaches 51 dB


@pytest.mark.parametrize("peer", lossless_peers(binary=True), ids=lambda peer: peer.name)
def test_binary_peers(peer: Peer, binary_digits: NDArray[np.uint8]) -> None:
    size, mse = errors(peer, None, binary_digits)
    assert mse == 0
    grey = {grey.name: grey for grey in lossless_peers(binary=False)}
    assert peer.name == "TIFF G4" or size <= errors(grey[peer.name], None, binary_digits)[0]


def test_peers_of_binary_images_are_the_grey_ones_and_fax() -> None:
    names = [peer.name for peer in lossless_peers(binary=False)]
    assert names[:2] == ["PNG", "WebP lossless"]
    fax = ["TIFF G4"] if features.check("libtiff") else []
    assert sorted(peer.name for peer in lossless_peers(binary=True)) == sorted(names + fax)


def test_rate_distortion(tiny_model: Path, tiny_ladder: Path, digit_set: Dataset) -> None:
    result, digits = rd.measure([str(tiny_model), str(tiny_ladder)], digit_set), digit_set.images
    assert result.models == ["tiny", "tiny-ladder"]
    ours = [(point.codec, point.quality) for point in result.points[:5]]
    vq, ladder = [("tiny", 50), ("tiny", 100)], [("tiny-ladder", 50), ("tiny-ladder", 100)]
    assert ours == [*vq, ("tiny-ladder", None), *ladder]
    for point in result.points[:5]:
        model, lossless = str(tiny_model if point.codec == "tiny" else tiny_ladder), point.quality is None
        blobs = vqcodec.encode_batch(digits, model, lossless, point.quality)
        assert point.bytes_per_image == np.mean([len(blob) for blob in blobs])
        assert point.bpd == pytest.approx(point.bytes_per_image * 8 / 784)
    assert [(row.model, row.quality) for row in result.comparisons] == vq + ladder
    for row, point in zip(result.comparisons, [*result.points[:2], *result.points[3:5]], strict=True):
        assert row.ratio == pytest.approx(point.bytes_per_image / row.best_bytes)
    buffer = io.BytesIO()
    Image.fromarray(digits[0]).save(buffer, "PNG", optimize=True)
    png = next(point for point in rd.measure([str(tiny_model)], digit_set, 1).points if point.codec == "PNG")
    assert png.bytes_per_image == len(buffer.getvalue())
    assert png.distortion.mse == 0


def at(codec: str, size: float, psnr: float, quality: int | None = 50) -> RatePoint:
    return RatePoint(codec, quality, size, 0.0, Distortion(0.0, psnr, psnr, None, None))


def test_bytes_at_a_psnr() -> None:
    curve = [at("x", 100, 30), at("x", 400, 40), at("x", 200, 20)]  # the last is beaten by the first
    assert rd.bytes_at(30, curve) == pytest.approx(100)
    assert rd.bytes_at(35, curve) == pytest.approx(200)  # halfway between the logarithms
    assert rd.bytes_at(40, curve) == pytest.approx(400)
    assert rd.bytes_at(10, curve) == pytest.approx(100)  # no smaller file is known
    assert rd.bytes_at(40.1, curve) is None
    assert rd.bytes_at(50, [at("x", 275, 99, None)]) == pytest.approx(275)


def test_comparison_with_the_best() -> None:
    theirs = [at("A", 100, 30), at("A", 400, 40), at("B", 190, 36), at("C", 275, 99, None)]
    ours = at("ours", 80, 35)
    assert rd.compare(ours, theirs) == Comparison("ours", 50, 35, 80, "B", pytest.approx(190), pytest.approx(80 / 190))
    assert rd.compare(at("ours", 80, 39), theirs).best == "C"  # lossless is smaller than A's curve there
    assert rd.compare(at("ours", 80, 31), theirs).best == "A"


def test_rate_distortion_command(tiny_model: Path, tiny_ladder: Path, digits8: str, tmp_path: Path) -> None:
    out = tmp_path / "rd.json"
    names = [str(tiny_model), str(tiny_ladder)]
    text = CliRunner().invoke(main, ["bench", "rd", *names, "--data", digits8, "--limit", "2", "--out", str(out)])
    assert text.exit_code == 0, text.output
    result = json.loads(out.read_text())
    assert rd.table(result) == text.stdout.rstrip("\n")
    assert len(text.stdout.splitlines()) == 3 + len(result["points"]) + 3 + len(result["comparisons"])
    assert result["data"] == "mnist test"
    assert result["images"] == 2
    bare = rd.table(result | {"comparisons": []})
    assert len(bare.splitlines()) == 3 + len(result["points"])
    assert CliRunner().invoke(main, ["bench", "rd", "--data", digits8]).exit_code == 2


def test_lossless(tiny_ladder: Path, digit_set: Dataset) -> None:
    result = lossless.measure([str(tiny_ladder)], digit_set)
    assert not result.binary
    assert [row.codec for row in result.rows] == ["tiny-ladder", *(peer.name for peer in lossless_peers(False))]
    assert all(row.exact for row in result.rows)
    blobs = vqcodec.encode_batch(digit_set.images, str(tiny_ladder), lossless=True)
    assert result.rows[0].bytes_per_image == np.mean([len(blob) for blob in blobs])
    best = min(row.bytes_per_image for row in result.rows[1:])
    assert [row.of_best for row in result.rows] == [row.bytes_per_image / best for row in result.rows]


def test_lossless_needs_a_model_that_has_it(tiny_model: Path, digit_set: Dataset) -> None:
    with pytest.raises(vqcodec.UnsupportedImage, match="tiny is lossy"):
        lossless.measure([str(tiny_model)], digit_set)


def test_lossless_command(
    tiny_binary: Path, binary_digits: NDArray[np.uint8], digit_set: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary_set = dataclasses.replace(digit_set, images=binary_digits)
    monkeypatch.setitem(datasets._LOADERS, "binary8", lambda split, folder: binary_set)
    ran = CliRunner().invoke(main, ["bench", "lossless", str(tiny_binary), "--data", "binary8", "--json"])
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["binary"]
    lines = lossless.table(result).splitlines()
    assert "8 black and white images" in lines[0]
    assert all(line.endswith("yes") for line in lines[2:-1])
    wrong = result | {"binary": False, "rows": [result["rows"][0] | {"exact": False}]}
    assert lossless.table(wrong).splitlines()[2].endswith("NO")
    assert "8 grey images" in lossless.table(wrong)


RESULT: dict[str, Any] = {
    "points": [
        {"codec": "WebP", "quality": 5, "bytes_per_image": 126.6, "distortion": {"psnr_db_of_mse": 27.6}},
        {"codec": "PNG", "quality": None, "bytes_per_image": 275.0, "distortion": {"psnr_db_of_mse": 99.0}},
        {
            "codec": "JPEG XL lossless",
            "quality": None,
            "bytes_per_image": 186.0,
            "distortion": {"psnr_db_of_mse": 99.0},
        },
        {"codec": "ladder-mnist", "quality": None, "bytes_per_image": 115.0, "distortion": {"psnr_db_of_mse": 99.0}},
    ],
    "models": ["ladder-mnist"],
    "data": "mnist test",
    "images": 10000,
}


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source, target = tmp_path / "rd.json", tmp_path / "rd.png"
    source.write_text(json.dumps(RESULT))
    ran = CliRunner().invoke(main, ["bench", "plot", str(source), str(target)])
    assert ran.exit_code == 0, ran.output
    with Image.open(target) as drawn:
        assert drawn.format == "PNG"
    source.write_text("[1, 2]")
    with pytest.raises(plots.PlotError, match=r"cannot draw .*rd\.json"):
        plots.plot(source, target)


def test_plot_shows_our_lossless_sizes_and_the_best_peer() -> None:
    assert [point["codec"] for point in plots._lossless(RESULT)] == ["ladder-mnist", "JPEG XL lossless"]
    assert [plots._drawn(point) for point in RESULT["points"]] == [True, False, False, False]
    assert not plots._drawn({"quality": 100, "distortion": {"psnr_db_of_mse": 99.0}})  # AVIF at its best


def test_optional_packages_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(plots.PlotError, match="pip install matplotlib"):
        plots.plot(tmp_path / "rd.json", tmp_path / "rd.png")
    assert not [name for name in peers() if name.startswith("JPEG XL")]
    assert "JPEG XL lossless" not in {peer.name for peer in lossless_peers(binary=True)}


def test_speed(tiny_ladder: Path, digit_set: Dataset) -> None:
    result = speed.measure(str(tiny_ladder), digit_set, repeats=3)
    rates = ["lossless", "rate 1 of 2", "rate 2 of 2"]
    assert [timing.name for timing in result.timings] == [*rates, "PNG", "WebP, quality 50"]
    for timing in result.timings:
        assert len(timing.encode_s) == len(timing.decode_s) == 3
        assert timing.encode_images_per_s == 8 / sorted(timing.encode_s)[1]
        assert timing.decode_images_per_s == 8 / sorted(timing.decode_s)[1]
    for keep, timing in ((True, result.timings[0]), (False, result.timings[2])):
        blobs = vqcodec.encode_batch(digit_set.images, str(tiny_ladder), keep)
        assert timing.bytes_per_image == np.mean([len(blob) for blob in blobs])


def test_speed_command(tiny_model: Path, digits8: str) -> None:
    arguments = ["bench", "speed", str(tiny_model), "--data", digits8, "--limit", "2"]
    ran = CliRunner().invoke(main, [*arguments, "--json"])
    assert ran.exit_code == 0, ran.output
    lines = speed.table(json.loads(ran.stdout)).splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["rate 1 of 2", "rate 2 of 2", "PNG", "WebP, quality 50"]
    assert lines[5].split()[-2:] == ["1.00", "1.00"]
    failed = CliRunner().invoke(main, [*arguments, "--out", "/nowhere/at/all.json"])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: cannot write /nowhere/at/all.json")
