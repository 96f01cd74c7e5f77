"""The page of crops: which files are compared, what is shown of them, and how a real browser shows it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from vqcodec.cli import main
from vqcodec.eval.bench import crops
from vqcodec.eval.bench.crops import SIDE, CropError, Crops, Place, measure, nearest, parse
from vqcodec.eval.photo_peers import photo_peers
from vqcodec.eval.report.crops import crops_page
from vqcodec.tests.eval.browser import Document, browse, needs_chromium
from vqcodec.training.data.photo_sets import KODAK, PhotoSet

BPP = 1.0


@pytest.fixture(autouse=True)
def _quick_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "PEERS", ("JPEG", "WebP"))


@pytest.fixture
def found(fakes: None, photos: PhotoSet) -> Crops:
    return measure(["ours", "few"], photos, BPP, ["b:0,16", "a:32,0"])


@pytest.mark.parametrize("qualities", [range(1, 101), (10, 50, 90), (7,)])
@pytest.mark.parametrize("target", [0.0, 21.0, 103.9, 250.0, 899.0, 901.0, 5e4])
def test_nearest(qualities: Sequence[int], target: float) -> None:
    """Against trying all; sizes are the squares of the quality, over 10."""
    made: list[int] = []

    def encode(quality: int) -> bytes:
        made.append(quality)
        return bytes(quality**2 // 10)

    quality, blob = nearest(encode, qualities, target)
    assert len(blob) == quality**2 // 10
    assert abs(len(blob) - target) == min(abs(q**2 // 10 - target) for q in qualities)
    assert len(made) == len(set(made)) <= 9


def test_files_are_of_equal_size(found: Crops, photos: PhotoSet) -> None:
    assert [row.place for row in found.rows] == [Place("b", 0, 16), Place("a", 32, 0)]
    for row in found.rows:
        image = photos.images[photos.names.index(row.place.name)]
        assert (row.height, row.width) == image.shape[:2]
        assert [shown.codec for shown in row.shown] == ["original", "ours", "few", "JPEG", "WebP"]
        original, ours, few, jpeg, webp = row.shown
        assert (original.quality, original.bytes_total) == (None, None)
        assert ours.bytes_total is not None
        for shown in (jpeg, webp):
            sizes = {q: len(photo_peers()[shown.codec].encode(image, q)) for q in range(1, 100)}
            off = min(abs(size - ours.bytes_total) for size in sizes.values())
            assert abs((shown.bytes_total or 0) - ours.bytes_total) <= off + 0.01 * ours.bytes_total  # sizes waver
        assert few.quality in (33, 66, 100)
        assert ours.bpp == pytest.approx(8 * ours.bytes_total / (row.width * row.height))
        assert ours.bpp == pytest.approx(BPP, rel=0.05)


def test_what_is_shown_is_what_is_in_the_file(found: Crops, photos: PhotoSet) -> None:
    row, jpeg = found.rows[0], found.rows[0].shown[3]
    image = photos.images[1]
    decoded = photo_peers()["JPEG"].decode(photo_peers()["JPEG"].encode(image, jpeg.quality))
    assert np.array_equal(jpeg.crop, decoded[16 : 16 + SIDE, :SIDE])
    assert np.array_equal(row.shown[0].crop, image[16 : 16 + SIDE, :SIDE])
    assert jpeg.psnr_db == pytest.approx(10 * np.log10(255**2 / ((decoded.astype(int) - image) ** 2).mean()))


def test_places(photos: PhotoSet) -> None:
    assert parse("a:32,0", photos) == Place("a", 32, 0)
    for text, message in {
        "a": r"crop 'a': expected NAME:LEFT,TOP, in pixels",
        "a:1": "expected NAME:LEFT,TOP",
        "a:-1,0": "expected NAME:LEFT,TOP",
        "a:1,2,3": "expected NAME:LEFT,TOP",
        "d:0,0": r"crop 'd:0,0': parts has a, b, c",
        "a:49,0": r"crop a:49,0: its 176 x 176 pixels lie outside 224 x 192",
        "a:0,17": "lie outside 224 x 192",
    }.items():
        with pytest.raises(CropError, match=message):
            parse(text, photos)
    assert crops._default(photos) == [Place("a", 24, 8), Place("b", 8, 16), Place("c", 16, 12)]


def test_places_of_kodak() -> None:
    tall = {4, 9, 10, 17, 18, 19}  # shared/data/README.md
    sizes = [(768, 512, 3) if int(name[-2:]) in tall else (512, 768, 3) for name in KODAK]
    kodak = PhotoSet("kodak", "test", tuple(KODAK), tuple(np.zeros(size, np.uint8) for size in sizes), "", "")
    assert [place.name for place in crops._default(kodak)] == [place.name for place in crops.PLACES["kodak"]]


def pixels(source: str | None) -> NDArray[np.uint8]:
    """Of an image inside a page."""
    kind, _, data = (source or "").partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def test_page(found: Crops, photos: PhotoSet) -> None:
    text = crops_page(found, photos, "vqcodec bench crops ...")
    document = Document(text)
    shown = [shown for row in found.rows for shown in row.shown]
    images = document.attributes("img")
    assert len(images) == len(shown)
    for one, image in zip(shown, images, strict=True):
        assert np.array_equal(pixels(image["src"]), one.crop)
        assert (image["width"], image["height"]) == (str(SIDE), str(SIDE))
        assert one.codec in (image["alt"] or "")
    notes = document.texts("small")
    for one, note in zip(shown, notes, strict=True):
        expected = "24 bits per pixel" if one.bytes_total is None else (
            f"{one.bytes_total:,} bytes, {one.bpp:.3f} bpp, {one.psnr_db:.2f} dB"
        )  # fmt: skip
        assert note == expected
    assert document.texts("h2") == ["What is shown", "b", "a"]
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert crops_page(found, photos, "vqcodec bench crops ...") == text


def test_command(fakes: None, photos3: str, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ["bench", "crops", "few", "--data", photos3, "--bpp", "0.5", "--crop", "c:0,0"]
    ran = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["photograph", "codec", "quality", "bytes", "bits/pixel", "PSNR,", "dB"]
    assert [line.split()[:2] for line in lines[1:]] == [["c", codec] for codec in ("original", "few", "JPEG", "WebP")]
    document = Document(out.read_text())
    (command,) = document.texts("code")
    assert command == f"vqcodec bench crops few --data {photos3} --bpp 0.5 --crop c:0,0 --out {out}"
    bad = CliRunner().invoke(main, [*arguments, "--crop", "c:99,0", "--out", str(out)])
    assert bad.exit_code == 1
    assert bad.stderr.startswith("Error: crop c:99,0: its 176 x 176 pixels")


@pytest.mark.slow
@needs_chromium
def test_in_a_browser(found: Crops, photos: PhotoSet, tmp_path: Path) -> None:
    text = crops_page(found, photos, "vqcodec bench crops ...")
    seen, console = browse(tmp_path, {"crops": text})
    assert len(console) == 1, console
    for width in (400, 1280):
        view = seen[f"crops {width}"]
        assert view["problems"] == []
        assert (view["h2"], view["figure"], view["img"]) == (3, 2, 10)
        assert view["sizes"] == [f"{SIDE} x {SIDE}"]  # all equal, pixel by pixel
    assert seen["crops 1280"]["rows"] == 2  # those of a photograph stand side by side
