"""Photographs on the command line, as real subprocesses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.tests.test_cli import refused, vqcodec

Pixels = NDArray[np.uint8]


@pytest.fixture
def picture(tmp_path: Path, photo: Pixels) -> Path:
    """A photograph with EXIF that says it lies on its side, and a colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    exif[0x010F] = "a maker"
    path = tmp_path / "picture.png"
    Image.fromarray(photo).save(path, exif=exif, icc_profile=b"a profile" * 20)
    return path


def test_a_size_and_metadata(picture: Path, tiny_photo: Path) -> None:
    folder, model = picture.parent, ("--model", tiny_photo)
    told = vqcodec("compress", "picture.png", *model, "--bpp", 1.5, "--keep-metadata", "--json", cwd=folder)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    size = (folder / "picture.vqc").stat().st_size
    assert json.loads(told.stdout)["bytes_out"] == size <= 1.5 * 96 * 128 / 8
    assert not json.loads(told.stdout)["lossless"]
    done = vqcodec("decompress", "picture.vqc", "back.png", *model, cwd=folder)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "back.png") as back:
        assert back.size == (96, 128)  # turned
        assert back.info["icc_profile"] == b"a profile" * 20
        assert dict(back.getexif()) == {0x010F: "a maker", 0x0112: 1}  # upright
    info = json.loads(vqcodec("info", "picture.vqc", *model, "--json", cwd=folder).stdout)
    assert (info["settings"], info["mode"]) == (100, "RGB")


def test_more_than_the_model_can_do_is_told(picture: Path, tiny_photo: Path) -> None:
    told = vqcodec("compress", "picture.png", "--model", tiny_photo, "--bpp", 0.001, cwd=picture.parent)
    assert told.returncode == 0
    assert "this image needs at least" in told.stderr


@pytest.mark.parametrize(
    "wrong", [("--bpp", "1", "--quality", "5"), ("--bpp", "1", "--lossless"), ("--bpp", "0"), ("--bpp", "nan")]
)
def test_wrong_wishes(picture: Path, wrong: tuple[str, ...]) -> None:
    assert "Usage" in refused("compress", "picture.png", *wrong, cwd=picture.parent, code=2)


def test_no_preview_of_a_ladder(picture: Path, tiny_photo: Path) -> None:
    folder = picture.parent
    assert vqcodec("compress", "picture.png", "--model", tiny_photo, cwd=folder).returncode == 0
    said = refused("decompress", "picture.vqc", "a.png", "--preview", "--model", tiny_photo, cwd=folder)
    assert "decodes only as a whole" in said


def test_lossless_by_name_is_refused(picture: Path, tiny_photo: Path) -> None:
    said = refused("compress", "picture.png", "--model", tiny_photo, "--lossless", cwd=picture.parent)
    assert "is lossy; use model auto for a lossless file" in said
