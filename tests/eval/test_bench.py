"""The benchmarks' numbers (not their times), and the classical codecs they compare with."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import main
from vqcodec.eval.bench import rd, speed
from vqcodec.eval.peers import Peer, peers


@pytest.mark.parametrize("peer", peers().values(), ids=lambda peer: peer.name)
def test_peers(peer: Peer, digits: NDArray[np.uint8]) -> None:
    sizes, errors = [], []
    for quality in peer.qualities:
        files = [peer.encode(image, quality) for image in digits]
        decoded = np.stack([peer.decode(data) for data in files])
        assert decoded.dtype == np.uint8
        assert decoded.shape == digits.shape
        sizes.append(sum(map(len, files)))
        errors.append(float(((decoded.astype(int) - digits) ** 2).mean()))
    if peer.qualities == (None,):
        assert errors == [0]
    else:
        assert sizes == sorted(sizes)
        assert errors[-1] < errors[0] / 4


def test_rate_distortion(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    result = rd.measure(str(tiny_model), digits, "digits")
    ours = [point for point in result.points if point.codec == "tiny"]
    assert [point.quality for point in ours] == [50, 100]
    for point in ours:
        blobs = vqcodec.encode_batch(digits, str(tiny_model), quality=point.quality)
        assert point.bytes_per_image == np.mean([len(blob) for blob in blobs])
        assert point.bpd == pytest.approx(point.bytes_per_image * 8 / 784)
    buffer = io.BytesIO()
    Image.fromarray(digits[0]).save(buffer, "PNG", optimize=True)
    png = next(point for point in rd.measure(str(tiny_model), digits[:1], "digits").points if point.codec == "PNG")
    assert png.bytes_per_image == len(buffer.getvalue())
    assert png.distortion.mse == 0


def test_rate_distortion_command(tiny_model: Path, digits8: str, tmp_path: Path) -> None:
    out = tmp_path / "rd.json"
    text = CliRunner().invoke(
        main, ["bench", "rd", str(tiny_model), "--data", digits8, "--limit", "2", "--out", str(out)]
    )
    assert text.exit_code == 0, text.output
    result = json.loads(out.read_text())
    assert rd.table(result) == text.stdout.rstrip("\n")
    assert len(text.stdout.splitlines()) == 2 + len(result["points"])
    assert result["data"] == "digits8 test"
    assert result["images"] == 2


RESULT = {
    "points": [
        {"codec": "WebP", "quality": 5, "bytes_per_image": 126.6, "distortion": {"psnr_db_of_mse": 27.6}},
        {"codec": "PNG", "quality": None, "bytes_per_image": 275.0, "distortion": {"psnr_db_of_mse": 99.0}},
    ],
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
    with pytest.raises(rd.PlotError, match=r"cannot draw .*rd\.json"):
        rd.plot(source, target)


def test_optional_packages_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(rd.PlotError, match="pip install matplotlib"):
        rd.plot(tmp_path / "rd.json", tmp_path / "rd.png")
    assert "JPEG XL" not in peers()


def test_speed(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    result = speed.measure(str(tiny_model), digits, "digits", repeats=3)
    assert [timing.name for timing in result.timings] == ["1 level(s)", "2 level(s)", "PNG", "WebP, quality 50"]
    for timing in result.timings:
        assert len(timing.encode_s) == len(timing.decode_s) == 3
        assert timing.encode_images_per_s == 8 / sorted(timing.encode_s)[1]
        assert timing.decode_images_per_s == 8 / sorted(timing.decode_s)[1]
    blobs = vqcodec.encode_batch(digits, str(tiny_model))
    assert result.timings[1].bytes_per_image == np.mean([len(blob) for blob in blobs])


def test_speed_command(tiny_model: Path, digits8: str) -> None:
    arguments = ["bench", "speed", str(tiny_model), "--data", digits8, "--limit", "2"]
    ran = CliRunner().invoke(main, [*arguments, "--json"])
    assert ran.exit_code == 0, ran.output
    lines = speed.table(json.loads(ran.stdout)).splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["1 level(s)", "2 level(s)", "PNG", "WebP, quality 50"]
    assert lines[5].split()[-2:] == ["1.00", "1.00"]
    failed = CliRunner().invoke(main, [*arguments, "--out", "/nowhere/at/all.json"])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: cannot write /nowhere/at/all.json")
