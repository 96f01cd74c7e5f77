"""Lossless photographs by the package's model: as the public functions, the command line and archives make them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.errors import UnsupportedImage
from vqcodec.codec import api, models, plain
from vqcodec.tests.test_cli import refused
from vqcodec.tests.test_cli import vqcodec as command

NAME = "lossless-photo"
Pixels = NDArray[np.uint8]


def plain_size(image: Image.Image) -> int:
    return len(api.encode_plain(plain.from_pil(image)))


def png_size(image: Image.Image) -> int:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return len(buffer.getvalue())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photograph_is_smaller_than_plain_and_keeps_every_pixel(photo: Pixels, mode: str) -> None:
    image = Image.fromarray(photo).convert(mode)
    blob = vqcodec.encode(image, lossless=True)
    told = vqcodec.info(blob)
    assert (told.model, told.lossless, told.setting, told.settings, told.mode) == (NAME, True, 0, 0, mode)
    assert len(blob) < 0.95 * plain_size(image)
    assert len(blob) < 0.9 * png_size(image)
    back = vqcodec.decode(blob)
    assert (back.mode, back.tobytes()) == (mode, image.tobytes())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_under_transparency_are_kept(photo: Pixels, mode: str) -> None:
    image = Image.fromarray(photo).convert("L" if mode == "LA" else "RGB")
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    blob = vqcodec.encode(image, lossless=True)
    assert vqcodec.info(blob).model == NAME
    assert vqcodec.decode(blob).tobytes() == image.tobytes()


def test_a_colour_image_of_greys_takes_the_bytes_of_a_grey_one(photo: Pixels) -> None:
    grey = Image.fromarray(photo).convert("L")
    assert len(vqcodec.encode(grey.convert("RGB"), NAME)) == len(vqcodec.encode(grey, NAME))


def test_drawings_and_what_is_no_photograph_stay_plain(photo: Pixels) -> None:
    drawing = np.zeros((96, 96, 3), np.uint8)
    drawing[20:40, 30:70] = (200, 10, 90)
    for image in (Image.fromarray(drawing), Image.fromarray(photo).quantize(16)):
        blob = vqcodec.encode(image, lossless=True)
        assert vqcodec.info(blob).kind == "plain"
        assert vqcodec.decode(blob).tobytes() == image.tobytes()


def test_noise_by_name_stays_plain_where_that_is_no_larger() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    blob = vqcodec.encode(noise, NAME)
    assert len(blob) <= plain_size(Image.fromarray(noise))
    assert np.array_equal(vqcodec.decode(blob, "numpy"), noise)


@pytest.mark.parametrize("wish", [{"quality": 50}, {"bpp": 3.0}])
def test_there_is_nothing_to_choose(photo: Pixels, wish: dict[str, float]) -> None:
    with pytest.raises(UnsupportedImage, match="keeps every pixel"):
        vqcodec.encode(photo, NAME, **wish)  # type: ignore[arg-type]


def test_what_a_lossy_model_renders_badly_is_kept_by_this_one(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = models.load(models.PHOTOGRAPHS_FIRST).codec
    monkeypatch.setattr(type(codec), "floor", lambda self, setting: 99.0)
    assert vqcodec.info(vqcodec.encode(photo)).model == NAME


def test_on_the_command_line_with_metadata(photo: Pixels, tmp_path: Path) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=b"a profile" * 9)
    told = command("compress", "a.png", "--lossless", "--keep-metadata", "--json", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout)["method"] == f"{NAME}, lossless"
    assert command("decompress", "a.vqc", "b.png", cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "b.png") as back:
        assert np.array_equal(np.asarray(back), photo)
        assert back.info["icc_profile"] == b"a profile" * 9


def test_nonsense_on_the_command_line(photo: Pixels, tmp_path: Path) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    error = refused("compress", "a.png", "--model", NAME, "--quality", "9", cwd=tmp_path)
    assert "keeps every pixel" in error
    (tmp_path / "a.vqc").write_bytes(vqcodec.encode(photo, NAME))
    assert "no preview" in refused("decompress", "a.vqc", "b.png", "--preview", cwd=tmp_path)


def test_archives_take_it_for_photographs(photo: Pixels, tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    for name, pixels in zip(names, (photo, photo[::-1]), strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    vqcodec.pack([tmp_path / name for name in names], tmp_path / "c.vqa")
    assert (tmp_path / "c.vqa").stat().st_size < 0.8 * sum((tmp_path / name).stat().st_size for name in names)
    with vqcodec.Archive(tmp_path / "c.vqa") as archive:
        assert np.array_equal(np.asarray(archive["b.png"]), photo[::-1])
