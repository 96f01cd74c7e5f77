"""The exactness matrix of photographs on tiny models: it passes, and it notices what it is there to notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vqcodec.eval import exactness, exactness_photo
from vqcodec.eval.exactness import ArchiveError, Setting
from vqcodec.eval.exactness_photo import PhotoFiles, PhotoOutcome, farthest, main, matrix, table
from vqcodec.training.data.photo_sets import PhotoSet


@pytest.fixture(scope="module")
def images(photo: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [photo, photo[:50, :33]]


@pytest.fixture(scope="module")
def found(tiny_photo: Path, images: list[NDArray[np.uint8]]) -> tuple[PhotoFiles, list[PhotoOutcome]]:
    return matrix(images, str(tiny_photo), 60)


def test_photographs_decode_alike(found: tuple[PhotoFiles, list[PhotoOutcome]]) -> None:
    files, outcomes = found
    assert len({outcome.setting for outcome in outcomes}) == 5
    assert all(outcome.good for outcome in outcomes)
    assert [pixels.shape for pixels in files.shown] == [(96, 128, 3), (50, 33, 3)]
    assert table(outcomes, 2).count("yes") == 5


def test_differences_are_noticed(found: tuple[PhotoFiles, list[PhotoOutcome]]) -> None:
    files, (outcome, *_) = found
    other = [files.shown[0] ^ 2, files.shown[1]]
    assert farthest(files.shown, other) == 2
    assert not replace(outcome, theirs=2).good
    assert not replace(outcome, ours=255).good
    assert "NO" in table([replace(outcome, theirs=2)], 2)


def test_files_are_kept_and_read_back(found: tuple[PhotoFiles, list[PhotoOutcome]], tmp_path: Path) -> None:
    files, _ = found
    files.write(tmp_path / "files.npz")
    again = PhotoFiles.read(tmp_path / "files.npz")
    assert again.blobs == files.blobs
    assert farthest(again.shown, files.shown) == 0
    (tmp_path / "bad.npz").write_bytes((tmp_path / "files.npz").read_bytes()[:-40])
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(ArchiveError, match=name):
            PhotoFiles.read(tmp_path / name)


def test_the_command(
    tiny_photo: Path, tiny_model: Path, images: list[NDArray[np.uint8]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = PhotoSet("kodak", "test", ("a", "b"), tuple(images), "", "")
    monkeypatch.setattr(exactness_photo, "load", lambda *_: several)
    monkeypatch.setattr(exactness_photo, "settings", lambda *_: [Setting("cpu", 1, n, True, "auto") for n in (1, 2)])
    kept = str(tmp_path / "kept.npz")
    ran = CliRunner().invoke(main, [str(tiny_photo), "--write", kept])
    assert ran.exit_code == 0, ran.output
    ran = CliRunner().invoke(main, [str(tiny_photo), "--check", kept, "--limit", "1"])
    assert ran.exit_code == 0, ran.output
    assert "2 decoded on cpu, pixels within 0" in ran.output
    files = PhotoFiles.read(Path(kept))
    PhotoFiles(files.blobs, [255 - pixels for pixels in files.shown]).write(Path(kept))
    ran = CliRunner().invoke(main, [str(tiny_photo), "--check", kept, "--limit", "1"])
    assert ran.exit_code == 1
    assert CliRunner().invoke(main, [str(tiny_model)]).exit_code == 2
    ran = CliRunner().invoke(exactness.main, [str(tiny_photo), "--data", "mnist"])
    assert (ran.exit_code, "exactness_photo" in ran.output) == (2, True)
