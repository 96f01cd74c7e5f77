"""The demonstration: its functions, and the whole of it in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqcodec.eval import demo


@pytest.mark.slow
def test_whole_demo() -> None:
    result = subprocess.run([sys.executable, "-m", "vqcodec.eval.demo"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["image", *(name for name, _ in demo.CASES)]
    for line, (name, options) in zip(lines[1:], demo.CASES, strict=True):
        assert name == "photo.png" or "vq-" in line or "ladder-" in line
        assert ("lossless" in line.replace("--lossless", "")) or "--lossless" not in options


def test_lossless_round_trip(tmp_path: Path) -> None:
    source = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(source)
    folder = tmp_path / "out"
    folder.mkdir()
    row = demo.round_trip(source, folder)
    assert (row.name, row.psnr_db) == ("noise.png", None)
    assert row.our_bytes == (folder / "noise.vqc").stat().st_size
    assert row.png_bytes == source.stat().st_size  # Pillow's default differs from its optimised only in the effort


def test_failing_command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(demo.DemoError, match="info nowhere.vqc: exit code 1"):
        demo.run("info", "nowhere.vqc")
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path)
    assert demo.main() == 1
    assert "demo failed: vqcodec compress" in capfd.readouterr().err


def test_changed_images_are_noticed(tmp_path: Path) -> None:
    photo = Image.open(demo.EXAMPLES / "photo.png")
    darker = photo.point(lambda value: value // 2)
    with pytest.raises(demo.DemoError, match="came back as L"):
        demo.compare("photo.png", photo, photo.convert("L"), lossless=True)
    with pytest.raises(demo.DemoError, match="pixels changed"):
        demo.compare("photo.png", photo, darker, lossless=True)
    assert 5 < (demo.compare("photo.png", photo, darker, lossless=False) or 0) < 15
    assert demo.compare("photo.png", photo, photo, lossless=False) is None


def test_table() -> None:
    rows = [
        demo.Row("a.png", "--lossless", 1000, 250, None, "webp"),
        demo.Row("b.png", "", 50, 5, 31.256, "vq, rate 1"),
    ]
    assert demo.table(rows).splitlines() == [
        "image     options  PNG, bytes  vqcodec, bytes  of PNG  PSNR, dB      method",
        "a.png  --lossless       1,000             250   25.0%  lossless        webp",
        "b.png                      50               5   10.0%     31.26  vq, rate 1",
    ]
