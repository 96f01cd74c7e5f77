"""Sets of photographs: the right files and no others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vqcodec.cli import main
from vqcodec.training.data import datasets, photo_sets
from vqcodec.training.data.datasets import DataError

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"
REAL_DATA = os.environ.get("VQCODEC_DATA")


@pytest.fixture
def small_kodak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose kodak/ has a landscape and a portrait, which stand for the suite."""
    (tmp_path / "kodak").mkdir()
    with Image.open(PHOTO) as photo:
        for number, size in enumerate([(48, 32), (32, 48)], 1):
            photo.convert("RGB").resize(size).save(tmp_path / "kodak" / f"kodim{number:02}.png")
    files = sorted((tmp_path / "kodak").iterdir())
    known = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    monkeypatch.setattr(photo_sets, "KODAK", known)
    return tmp_path


def test_images_of_several_sizes(small_kodak: Path) -> None:
    kodak = photo_sets.load_any("kodak", "test", small_kodak)
    assert isinstance(kodak, photo_sets.PhotoSet)
    assert kodak.names == ("kodim01", "kodim02")
    assert [image.shape for image in kodak.images] == [(32, 48, 3), (48, 32, 3)]
    for name, image in zip(kodak.names, kodak.images, strict=True):
        with Image.open(small_kodak / "kodak" / f"{name}.png") as stored:
            assert np.array_equal(image, np.asarray(stored))


def test_other_files(small_kodak: Path) -> None:
    path = small_kodak / "kodak" / "kodim02.png"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"kodim02\.png: SHA-256 .*, expected .*: not the official file"):
        photo_sets.load("kodak", "test", small_kodak)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*kodim02\.png: No such file.*holds kodak/ by --data-dir"):
        photo_sets.load("kodak", "test", small_kodak)


def test_names(small_kodak: Path) -> None:
    with pytest.raises(DataError, match="kodak has no split 'train': it has test"):
        photo_sets.load("kodak", "train", small_kodak)
    with pytest.raises(DataError, match="unknown set of photographs 'tecnick': this build has kodak"):
        photo_sets.load("tecnick", "test", small_kodak)
    with pytest.raises(DataError, match="unknown data set 'tecnick': this build has mnist, .*, kodak"):
        photo_sets.load_any("tecnick", "test", small_kodak)
    assert tuple(photo_sets._LOADERS) == datasets.PHOTOGRAPHS


def test_only_for_photographs(small_kodak: Path, tiny_model: Path) -> None:
    ran = CliRunner().invoke(main, ["eval", str(tiny_model), "--data", "kodak", "--data-dir", str(small_kodak)])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: kodak is a set of photographs, which only `vqcodec bench rd`")


def test_the_suite() -> None:
    assert list(photo_sets.KODAK) == [f"kodim{number:02}" for number in range(1, 25)]
    assert {len(bytes.fromhex(sha256)) for sha256 in photo_sets.KODAK.values()} == {32}


@pytest.mark.skipif(not REAL_DATA or not Path(REAL_DATA, "kodak").is_dir(), reason="no Kodak images in $VQCODEC_DATA")
def test_the_real_suite() -> None:
    shapes = [image.shape for image in photo_sets.load("kodak", "test").images]
    assert len(shapes) == 24
    assert set(shapes) == {(512, 768, 3), (768, 512, 3)}
