"""Rate and distortion on photographs of several sizes: points, BD-rates, the command, its plot and its conversion."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import vqcodec
from vqcodec.cli import main
from vqcodec.eval.bench import photo_speed, photographs, plots
from vqcodec.eval.bench.photographs import AnchorError, PhotoRates, Saving, measure, savings
from vqcodec.eval.bench.rd import RatePoint
from vqcodec.eval.metrics import Distortion, distortion, pooled
from vqcodec.eval.peers import Peer
from vqcodec.eval.photo_peers import jpegxl_distance, lossless_photo_peers, photo_peers
from vqcodec.eval.results import CHAPTERS, results
from vqcodec.training.data.photo_sets import PhotoSet

FEW = {"JPEG": (5, 50, 90), "WebP": (1, 50, 90)}


@pytest.fixture
def few_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick codecs at few qualities."""
    found = {
        name: Peer(name, FEW[name], peer.encode, peer.decode) for name, peer in photo_peers().items() if name in FEW
    }
    monkeypatch.setattr(photographs, "photo_peers", lambda: found)
    monkeypatch.setattr(photographs, "lossless_photo_peers", lambda: lossless_photo_peers()[:1])


@pytest.fixture
def result(fakes: None, few_peers: None, photos: PhotoSet) -> PhotoRates:
    return measure(["ours", "few"], photos)


@pytest.mark.parametrize("peer", [*photo_peers().values(), *lossless_photo_peers()], ids=lambda peer: peer.name)
def test_peers(peer: Peer, photos: PhotoSet) -> None:
    points = []
    for quality in peer.qualities[:: max(1, len(peer.qualities) - 1)]:
        files = [peer.encode(image, quality) for image in photos.images]
        decoded = [peer.decode(data) for data in files]
        assert [(x.shape, x.dtype) for x in decoded] == [(image.shape, np.uint8) for image in photos.images]
        error = sum(((x.astype(int) - image) ** 2).mean() for x, image in zip(decoded, photos.images, strict=True))
        points.append((sum(map(len, files)), error))
    if peer.qualities == (None,):
        assert points[0][1] == 0
    else:
        assert points[0][0] < points[1][0] / 4
        assert points[0][1] > points[1][1] > 0


def test_jpeg_is_progressive_with_half_the_colour(photos: PhotoSet) -> None:
    with Image.open(io.BytesIO(photo_peers()["JPEG"].encode(photos.images[0], 50))) as file:
        assert file.info["progressive"]
        assert [component[1:3] for component in file.layer] == [(2, 2), (1, 1), (1, 1)]


def test_distances_of_jpegxl() -> None:
    assert [jpegxl_distance(quality) for quality in (0, 90, 99)] == pytest.approx([25, 1, 0.19])
    assert jpegxl_distance(29) == pytest.approx(jpegxl_distance(30), abs=0.2)  # the two formulas meet
    distances = [jpegxl_distance(quality) for quality in range(100)]
    assert distances == sorted(distances, reverse=True)


def test_pooled_is_of_the_images_together(photos: PhotoSet) -> None:
    """On images of one size it is what `distortion` gives of them together."""
    x = np.stack([image[:180, :180] for image in photos.images])
    x_hat = np.minimum(x, np.array([200, 180, 90]).reshape(3, 1, 1, 1)).astype(np.uint8)
    whole = distortion(x, x_hat)
    parts = pooled([distortion(a[None], b[None]) for a, b in zip(x, x_hat, strict=True)], [x[0].size] * 3)
    assert parts.mse == whole.mse
    assert parts.psnr_db_of_mse == whole.psnr_db_of_mse
    for key in ("psnr_db", "ssim", "ms_ssim"):
        assert getattr(parts, key) == pytest.approx(getattr(whole, key), rel=1e-12)
    small = pooled(
        [distortion(x[:1], x_hat[:1]), distortion(x[:1, :100], x_hat[:1, :100])], [x[0].size, x[0, :100].size]
    )
    assert small.ms_ssim is None
    assert small.ssim is not None


def test_points(result: PhotoRates, photos: PhotoSet) -> None:
    assert (result.models, result.data, result.images, result.anchor) == (["ours", "few"], "parts test", 3, "JPEG")
    assert [(p.codec, p.quality) for p in result.points] == [
        *(("ours", quality) for quality in photographs.QUALITIES), ("few", 33), ("few", 66), ("few", 100),
        *((name, quality) for name, qualities in FEW.items() for quality in qualities), ("PNG", None),
    ]  # fmt: skip
    ours, webp = (next(p for p in result.points if (p.codec, p.quality) == key) for key in (("few", 100), ("WebP", 90)))
    files = [photo_peers()["WebP"].encode(image, 100) for image in photos.images]
    sizes, areas = np.array([3 + len(data) for data in files]), np.array([i.size / 3 for i in photos.images])
    assert ours.bytes_per_image == pytest.approx(sizes.mean())
    assert ours.bpp == pytest.approx((8 * sizes / areas).mean())  # the mean over images, not of all their pixels
    assert ours.bpd == pytest.approx(ours.bpp / 3)
    assert ours.bpp != pytest.approx(8 * sizes.sum() / areas.sum())
    decoded = [photo_peers()["WebP"].decode(data) for data in files]
    errors = [((x.astype(int) - image) ** 2).mean() for x, image in zip(decoded, photos.images, strict=True)]
    assert ours.distortion.psnr_db == pytest.approx(np.mean([10 * np.log10(255**2 / error) for error in errors]))
    assert ours.distortion.mse == pytest.approx(np.average(errors, weights=areas))
    assert None not in (ours.encode_s, webp.decode_s, webp.distortion.ms_ssim)


def test_a_real_model(tiny_photo: Path, few_peers: None, photos: PhotoSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "QUALITIES", (60, 100))
    ours = [p for p in measure([str(tiny_photo)], photos, 2).points if p.codec == "tiny-photo"]
    assert [p.quality for p in ours] == [60, 100]
    for point in ours:
        blobs = [vqcodec.encode(image, str(tiny_photo), quality=point.quality) for image in photos.images[:2]]
        assert point.bytes_per_image == np.mean([len(blob) for blob in blobs])
        decoded = [vqcodec.decode(blob, "numpy", str(tiny_photo)) for blob in blobs]
        errors = [((x.astype(int) - image) ** 2).mean() for x, image in zip(decoded, photos.images, strict=False)]
        psnrs = [10 * np.log10(255**2 / error) if error else 99 for error in errors]
        assert point.distortion.psnr_db == pytest.approx(np.mean(psnrs))


def point(codec: str, bpp: float, psnr: float, quality: int | None = 1) -> RatePoint:
    return RatePoint(codec, quality, 0.0, 0.0, Distortion(0.0, psnr, 0.0, None, None), bpp)


def test_savings() -> None:
    """Of each codec against the anchor, and of models against all others; by the mean PSNR, without lossless."""
    points = [
        point(codec, factor * 2**n, 30.0 + 3 * n)
        for codec, factor in {"m": 0.5, "A": 1, "B": 2}.items()
        for n in (0, 1, 2)
    ]
    points += [point("m", 24, 99.0, None), point("C", 1, 30.0)]
    found = savings(points, ["m"], ["m", "A", "B", "C"], "A")
    assert [(s.codec, s.anchor) for s in found] == [("m", "A"), ("B", "A"), ("C", "A"), ("m", "B"), ("m", "C")]
    assert [s.percent for s in found] == [pytest.approx(-50), pytest.approx(100), None, pytest.approx(-75), None]
    assert found[0] == Saving("m", "A", pytest.approx(-50), 30, 36)


def test_command(fakes: None, few_peers: None, photos3: str, tmp_path: Path) -> None:
    out = tmp_path / "rd.json"
    arguments = ["bench", "rd", "few", "--data", photos3, "--limit", "2", "--anchor", "WebP", "--out", str(out)]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    result = json.loads(out.read_text())
    assert photographs.table(result) == ran.stdout.rstrip("\n")
    assert (result["images"], result["anchor"], result["environment"]["batch"]) == (2, "WebP", 1)
    savings_shown, files_shown = photographs.tables(result)
    assert savings_shown.head == ["codec", "against WebP", "against JPEG"]
    assert [row[0] for row in savings_shown.rows] == ["few", "JPEG"]
    first = result["savings"][0]
    assert savings_shown.rows[0][1].startswith(f"{first['percent']:+.1f} % ({first['low_db']:.1f} to ")
    assert savings_shown.rows[1][2] == "-"
    assert [row[:2] for row in files_shown.rows[-2:]] == [["WebP", "90"], ["PNG", "lossless"]]
    (chapter,) = [chapter for chapter in CHAPTERS if chapter.tables is photographs.tables]
    out.rename(tmp_path / chapter.source)
    page = results(tmp_path)
    assert all("| " + " | ".join(row) + " |" in page for row in (*savings_shown.rows, *files_shown.rows))
    folder = tmp_path / "curves"
    ran = CliRunner().invoke(main, ["bench", "convert", str(tmp_path / chapter.source), str(folder)])
    assert ran.exit_code == 0, ran.output
    told = json.loads((folder / "few.json").read_text())["results"]
    ours = [p for p in result["points"] if p["codec"] == "few"]
    assert told["bpp"] == [p["bpp"] for p in ours]
    assert told["psnr-rgb"] == [p["distortion"]["psnr_db"] for p in ours]
    assert told["ms-ssim-rgb"] == [p["distortion"]["ms_ssim"] for p in ours]
    assert len(told["encoding_time"]) == len(told["decoding_time"]) == 3


def test_learned_peers_beside(fakes: None, few_peers: None, photos: PhotoSet, monkeypatch: pytest.MonkeyPatch) -> None:
    webp, asked = photo_peers()["WebP"], []

    def peers(specs: list[str]) -> list[Peer]:
        asked.extend(specs)
        return [
            Peer("learned", (quality,), lambda image, q: webp.encode(image, 20 * (q or 0)), webp.decode)
            for quality in (1, 2)
        ]

    monkeypatch.setattr(photographs.compressai_peers, "peers", peers)
    found = measure(["few"], photos, 1, others=["compressai:x:1:y"], anchor="learned")
    assert asked == ["compressai:x:1:y"]
    assert [p.quality for p in found.points if p.codec == "learned"] == [1, 2]
    assert {s.codec for s in found.savings if s.anchor == "learned"} == {"few", "JPEG", "WebP"}


def test_bad_requests(
    fakes: None, few_peers: None, photos: PhotoSet, digits8: str, tiny_model: Path, photos3: str
) -> None:
    with pytest.raises(AnchorError, match="no codec 'PNG' to compare with: there are ours, JPEG, WebP"):
        measure(["ours"], photos, anchor="PNG")
    with pytest.raises(vqcodec.UnsupportedImage, match="tiny.* takes grey images of 28 x 28 pixels, no photo"):
        measure([str(tiny_model)], photos)
    ran = CliRunner().invoke(main, ["bench", "rd", str(tiny_model), "--data", digits8, "--anchor", "JPEG"])
    assert ran.exit_code == 2
    assert "--anchor is for photographs; digits8 has none" in ran.stderr
    ran = CliRunner().invoke(main, ["bench", "rd", "ours", "--data", photos3, "--anchor", "GIF"])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: no codec 'GIF'")


# Plots


RESULT: dict[str, Any] = {
    "models": ["ours"], "data": "kodak test", "images": 24, "savings": [],
    "points": [
        {"codec": codec, "quality": quality, "bpp": bpp, "distortion": {"psnr_db": psnr, "psnr_db_of_mse": psnr - 1}}
        for codec, quality, bpp, psnr in (
            ("ours", 1, 0.2, 29.0), ("ours", 2, 0.5, 32.0), ("JPEG", 1, 0.3, 28.0), ("JPEG", 2, 1.0, 33.0),
            ("PNG", None, 13.0, 99.0),
        )
    ],
}  # fmt: skip


class Axes:
    """What is drawn."""

    def __init__(self) -> None:
        self.curves: dict[str, tuple[list[float], list[float]]] = {}
        self.styles: dict[str, str] = {}
        self.limits: dict[str, Any] = {}

    def add_subplot(self, **named: Any) -> Axes:
        self.named = named
        return self

    def plot(self, x: list[float], y: list[float], style: str = "-", *, label: str, **_: Any) -> None:
        self.curves[label], self.styles[label] = (x, y), style

    def set_xlim(self, left: float) -> None:
        self.limits = {"xlim": (left, 1.0), "ylim": (28.0, 33.0)}

    def get_xlim(self) -> tuple[float, float]:
        return self.limits["xlim"]

    def get_ylim(self) -> tuple[float, float]:
        return self.limits["ylim"]

    def set(self, **limits: Any) -> None:
        assert limits == self.limits


def test_curves_over_bits_per_pixel() -> None:
    axes = plots._photographs(RESULT, Axes())
    assert axes.named["xlabel"].startswith("bits per pixel")
    assert axes.curves == {"ours": ([0.2, 0.5], [29.0, 32.0]), "JPEG": ([0.3, 1.0], [28.0, 33.0])}


def test_published_curves_are_dashed_and_named_so() -> None:
    axes = plots._photographs(RESULT, Axes())
    plots._draw_published(axes, RESULT)
    added = {label: style for label, style in axes.styles.items() if label not in ("ours", "JPEG")}
    assert len(added) == len(plots.published_curves("kodak")) > 0
    assert all(label.endswith(", published") and style == "--" for label, style in added.items())
    for curve in plots.published_curves("kodak"):
        assert len(curve["bpp"]) == len(curve["psnr"])
        assert curve["bpp"] == sorted(curve["bpp"])
        assert curve["psnr"] == sorted(curve["psnr"])
    with pytest.raises(plots.PlotError, match="no published curves for mnist"):
        plots.published_curves("mnist")


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source, target = tmp_path / "rd.json", tmp_path / "rd.png"
    source.write_text(json.dumps(RESULT))
    ran = CliRunner().invoke(main, ["bench", "plot", str(source), str(target), "--published"])
    assert ran.exit_code == 0, ran.output
    with Image.open(target) as drawn:
        assert drawn.format == "PNG"


@pytest.mark.parametrize("command", [["eval"], ["bench", "lossless"], ["bench", "speed"], ["bench", "rd"]])
def test_measurements_of_digits_refuse_models_of_photographs(
    command: list[str], tiny_photo: Path, digits8: str
) -> None:
    result = CliRunner().invoke(main, [*command, str(tiny_photo), "--data", digits8])
    assert result.exit_code == 1
    assert "is for photographs" in result.output


def test_speed(tiny_photo: Path, photos: PhotoSet) -> None:
    result = photo_speed.measure(str(tiny_photo), photos, 1, repeats=1)
    assert [timing.name for timing in result.timings] == [
        *(f"quality {quality}" for quality in (10, 40, 70, 100)), "JPEG, quality 75", "WebP, quality 75",
    ]  # fmt: skip
    best = result.timings[3]
    assert best.bytes_per_image == len(vqcodec.encode(photos.images[0], str(tiny_photo), quality=100))
    assert best.encode_images_per_s == 1 / best.encode_s[0]
    assert "quality 100" in photo_speed.table(asdict(result))
