"""`vqcodec bench plot RESULT.json OUT.png`: rate-distortion curves of a result of `bench rd`; needs matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...bitstream.errors import VqcodecError
from ...codec.images import psnr_db

_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]  # bytes, on a logarithmic axis
_REFERENCE = Path(__file__).with_name("reference")


class PlotError(VqcodecError):
    """A plot that cannot be drawn: matplotlib is missing, or the file is no result."""


def plot(source: Path, target: Path, published: bool = False) -> None:
    """Draw the lossy points of a result (JSON file) as curves of PSNR over size.

    Of photographs, PSNR (mean of the images) over bits per pixel. Of others, PSNR (of the mean MSE) over bytes, and the
    lossless sizes of our models, and of the best peer, as dashed lines.
    published: with curves of other people's codecs on the same images, dashed, as they published them.
    Raises PlotError without matplotlib, for a file that is no such result, one that cannot be written, and where
    nothing is published for the images."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("a plot needs matplotlib: pip install matplotlib") from error
    try:
        result, figure = json.loads(source.read_text()), Figure(figsize=(7, 4.5), layout="constrained")
        axes = _photographs(result, figure) if "savings" in result else _grey(result, figure)
        if published:
            _draw_published(axes, result)
        axes.grid(alpha=0.3)
        axes.legend(title=f"{result['data']}, {result['images']:,} images", fontsize="small")
        figure.savefig(target, dpi=150)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlotError(f"cannot draw {source} as {target}: {error!r}") from error


def _photographs(result: dict[str, Any], figure: Any) -> Any:
    axes = figure.add_subplot(xlabel="bits per pixel, whole file", ylabel="PSNR (RGB), dB (mean of the images)")
    for codec, points in _curves(result).items():
        psnrs = [point["distortion"]["psnr_db"] for point in points]
        axes.plot([point["bpp"] for point in points], psnrs, marker="o", markersize=4, label=codec)
    axes.set_xlim(left=0)
    return axes


def _draw_published(axes: Any, result: dict[str, Any]) -> None:
    """Dashed and without marks, cut to the axes, which are those of what was measured."""
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    for number, curve in enumerate(published_curves(result["data"].split()[0])):
        axes.plot(curve["bpp"], curve["psnr"], "--", color=str(0.1 + 0.17 * number), linewidth=1.2,
                  label=f"{curve['name']}, published")  # fmt: skip
    axes.set(**limits)


def published_curves(data: str) -> list[dict[str, Any]]:
    """Name, bpp and psnr of the curves in `reference/`, which says where they are from. Raises PlotError."""
    path = _REFERENCE / f"{data}.json"
    if not path.is_file():
        raise PlotError(f"no published curves for {data}")
    curves: list[dict[str, Any]] = json.loads(path.read_text())["curves"]
    return curves


def _grey(result: dict[str, Any], figure: Any) -> Any:
    axes = figure.add_subplot(xscale="log", xlabel="bytes per image, whole file", ylabel="PSNR, dB (of the mean MSE)")
    colours = {}
    for codec, points in _curves(result).items():
        psnrs = [point["distortion"]["psnr_db_of_mse"] for point in points]
        (curve,) = axes.plot([point["bytes_per_image"] for point in points], psnrs, marker="o", label=codec)
        colours[codec] = curve.get_color()
    for point in _lossless(result):
        size, name = point["bytes_per_image"], point["codec"].removesuffix(" lossless")
        axes.axvline(size, color=colours.get(name, "grey"), linestyle="--", label=f"{name}, lossless")
    axes.set_xticks([size for size in _TICKS if axes.get_xlim()[0] <= size <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    return axes


def _curves(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The points that belong on a curve, by codec."""
    drawn = [point for point in result["points"] if _drawn(point)]
    return {
        codec: [point for point in drawn if point["codec"] == codec]
        for codec in dict.fromkeys(point["codec"] for point in drawn)
    }


def _drawn(point: dict[str, Any]) -> bool:
    """Whether a point belongs on a curve: lossy, and not so good that every pixel came back."""
    return point["quality"] is not None and float(point["distortion"]["psnr_db_of_mse"]) < psnr_db(0, 1)


def _lossless(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Lossless points of the models, and the smallest of the others."""
    points = [point for point in result["points"] if point["quality"] is None]
    ours = [point for point in points if point["codec"] in result["models"]]
    theirs = [point for point in points if point not in ours]
    return ours + sorted(theirs, key=lambda point: float(point["bytes_per_image"]))[:1]
