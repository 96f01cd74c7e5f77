"""`vqcodec bench convert RESULT.json FOLDER`: a result of `bench rd` as CompressAI's JSON, one file per codec.

The schema is that of results/image/kodak/*.json in https://github.com/InterDigitalInc/CompressAI (1.2.8), which its
`compressai.utils.eval_model` and `compressai.utils.bench` write and `compressai.utils.plot` reads: an object of name,
description and results, the last a list per metric with a number per point. What the numbers are here:

    psnr-rgb        dB, mean over the images of each one's PSNR, as there; 99 for an image without error (there: inf)
    ms-ssim-rgb     mean over the images, in 0..1; left out below 176 pixels a side, where there is none
    bpp             8 * bytes / (H * W) of whole files, headers included (eval_model counts the coder's strings only)
    encoding_time   seconds per image, our models in batches but for photographs; left out if the result does not have
    decoding_time   them

Grey images go by the -rgb keys as well: the plotting tool knows no others (it reads `psnr` as `psnr-rgb`), and its
sister tools would turn these images into three equal channels. Of these, all these numbers are the same for any codec
that keeps them equal, as ours and the classical ones do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bitstream.errors import VqcodecError
from ...codec.files import FileError, check_target, read_bytes, write_bytes
from ..environment import line


class ConversionError(VqcodecError):
    """A file that is no result of `bench rd`, or codecs whose files would have one name."""


@dataclass(frozen=True)
class CodecResults:
    """The curve of one codec, its fields those of CompressAI's JSON. results: a number per point by metric."""

    name: str
    description: str
    results: dict[str, list[float]]


def convert(source: Path, folder: Path, force: bool = False) -> list[Path]:
    """Write the curves of a result (JSON file) into a folder, which is made if need be, and give the files' paths.

    Raises ConversionError, and FileError if a file is there already (unless `force`) or cannot be read or written."""
    try:
        found = curves(json.loads(read_bytes(source)))
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{source} is no result of `bench rd`: {error!r}") from error
    named = {folder / file_name(curve.name): curve for curve in found}
    if len(named) < len(found):
        raise ConversionError(f"{source}: two codecs would share a file: {', '.join(curve.name for curve in found)}")
    _make(folder)
    for target in named:
        check_target(target, force)
    for target, curve in named.items():
        write_bytes(target, (json.dumps(asdict(curve), indent=2) + "\n").encode(), force)
    return list(named)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def curves(result: dict[str, Any]) -> list[CodecResults]:
    """The codecs of a result of `rd.measure`, as it stands in JSON.

    Lossless points are no part of a curve: those of a model go to a codec of their own, "NAME lossless"."""
    names = [_name(point, result["models"]) for point in result["points"]]
    groups = {
        name: [point for point, of in zip(result["points"], names, strict=True) if of == name]
        for name in dict.fromkeys(names)
    }
    return [CodecResults(name, _description(result, points), _results(points)) for name, points in groups.items()]


def _name(point: dict[str, Any], models: Sequence[str]) -> str:
    lossless = point["quality"] is None and point["codec"] in models
    return f"{point['codec']} lossless" if lossless else str(point["codec"])


def _description(result: dict[str, Any], points: Sequence[dict[str, Any]]) -> str:
    qualities = ", ".join("lossless" if point["quality"] is None else str(point["quality"]) for point in points)
    what = f"{result['data']}, {result['images']:,} images, whole files, quality {qualities}"
    return f"{what}; vqcodec bench rd: {line(result['environment'])}"


def _results(points: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """A list per metric that all points have."""
    columns = [_numbers(point) for point in points]
    return {key: [column[key] for column in columns] for key in columns[0] if None not in [c[key] for c in columns]}


def _numbers(point: dict[str, Any]) -> dict[str, Any]:
    """By CompressAI's key; None for what was not measured. Results without bpp are of grey images, where it is bpd."""
    return {
        "psnr-rgb": point["distortion"]["psnr_db"],
        "ms-ssim-rgb": point["distortion"]["ms_ssim"],
        "bpp": point.get("bpp", point["bpd"]),
        "encoding_time": point.get("encode_s"),
        "decoding_time": point.get("decode_s"),
    }


def file_name(codec: str) -> str:
    """`WebP lossless` -> `webp-lossless.json`: lower case, anything unusual becomes a hyphen."""
    return re.sub(r"[^\w.]+", "-", codec.lower()).strip("-.") + ".json"
