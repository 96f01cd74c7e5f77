"""The functions that encode honour the limits of pixels and bytes for images in every form."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vqcodec

PIXELS = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def path(folder: Path) -> Path:
    (folder / "a.png").write_bytes(png())
    return folder / "a.png"


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": path,
    "bytes": lambda folder: png(),
    "file object": lambda folder: io.BytesIO(png()),
    "Pillow image": lambda folder: Image.open(io.BytesIO(png())),
    "array": lambda folder: PIXELS,
}


@pytest.mark.parametrize("limit", ["max_pixels", "max_bytes"])
@pytest.mark.parametrize("form", FORMS)
def test_images_beyond_a_limit_are_too_large(form: str, limit: str, tmp_path: Path) -> None:
    below: Any = {limit: PIXELS.size - 1}
    equal: Any = {limit: PIXELS.size}
    with pytest.raises(vqcodec.TooLarge, match="limit 1199"):
        vqcodec.encode(FORMS[form](tmp_path), "plain", **below)
    with pytest.raises(vqcodec.TooLarge, match="limit 1199"):
        vqcodec.encode_batch([FORMS[form](tmp_path)], "plain", **below)
    assert vqcodec.encode(FORMS[form](tmp_path), "plain", **equal)


@pytest.mark.parametrize("limit", ["max_pixels", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "9", None, True])
def test_limits_are_whole_numbers(limit: str, value: Any) -> None:
    wrong: Any = {limit: value}
    with pytest.raises(vqcodec.BadArgument, match=limit):
        vqcodec.encode(PIXELS, "plain", **wrong)
    with pytest.raises(vqcodec.BadArgument, match=limit):
        vqcodec.encode_batch([PIXELS], "plain", **wrong)
