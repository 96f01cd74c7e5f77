"""The exactness matrix on a tiny model: that it passes, and that it notices what it is there to notice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from vqcodec.codec import models
from vqcodec.eval import exactness
from vqcodec.eval.exactness import Agreement, ArchiveError, Files, Outcome, Setting


@pytest.fixture(scope="module")
def made(tiny_model: Path, digits: NDArray[np.uint8]) -> tuple[Files, list[Outcome]]:
    return exactness.matrix(digits, str(tiny_model))


def test_files_do_not_depend_on_how_they_are_made(made: tuple[Files, list[Outcome]]) -> None:
    files, outcomes = made
    assert len({outcome.setting for outcome in outcomes}) == 18
    assert {(outcome.files, outcome.pixels) for outcome in outcomes} == {(outcomes[0].files, outcomes[0].pixels)}
    assert files.pixels.shape == (8, 28, 28)
    assert len(files.blobs) == 8


def test_settings_are_in_force_and_undone() -> None:
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    with exactness._under(Setting("cpu", 1, threads + 1, False, "float64")):
        assert torch.get_num_threads() == threads + 1
        assert not torch.backends.mkldnn.enabled
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled) == (threads, onednn)


def test_other_devices_come_after_the_cpu() -> None:
    assert exactness.settings(["cpu"]) == exactness.settings(["cpu", "cpu"])
    assert [setting.device for setting in exactness.settings(["cuda"])[18:]] == ["cuda"] * 3


def test_oracle_agrees(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    model = models.load(str(tiny_model))
    assert exactness.against_oracle(model, digits) == Agreement(8 * 2 * 49, 0)


def test_archive_round_trip(made: tuple[Files, list[Outcome]], tiny_model: Path, tmp_path: Path) -> None:
    files, _ = made
    files.write(tmp_path / "files.npz")
    back = Files.read(tmp_path / "files.npz")
    assert (back.source, back.blobs) == (files.source, files.blobs)
    assert np.array_equal(back.pixels, files.pixels)
    assert exactness.against_files(files, back, str(tiny_model), "cpu") == (Agreement(8, 0), Agreement(8, 0))


def test_differences_are_counted(made: tuple[Files, list[Outcome]], tiny_model: Path) -> None:
    files, outcomes = made
    pixels = files.pixels.copy()
    pixels[5, 0, 0] ^= 1
    there = dataclasses.replace(files, pixels=pixels, blobs=[files.blobs[1], *files.blobs[1:]])
    found = exactness.against_files(files, there, str(tiny_model), "cpu")
    assert found == (Agreement(8, 1), Agreement(8, 2))  # image 0 now decodes to image 1, and image 5 was changed
    wrong = dataclasses.replace(outcomes[1], pixels="0" * 64)
    assert exactness.table([outcomes[0], wrong]).splitlines()[2].endswith("NO")
    assert exactness.table(outcomes[:2]).splitlines()[2].endswith("yes")


def test_other_images_or_weights_are_refused(made: tuple[Files, list[Outcome]], tiny_model: Path) -> None:
    with pytest.raises(ArchiveError, match="other images"):
        exactness.against_files(made[0], dataclasses.replace(made[0], source="00"), str(tiny_model), "cpu")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"nonsense"])
def test_damaged_archives(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "files.npz").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"cannot read .*files\.npz"):
        Files.read(tmp_path / "files.npz")
    with pytest.raises(ArchiveError, match="missing"):
        Files.read(tmp_path / "missing.npz")


def test_archive_of_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "files.npz", pixels=np.zeros(3))
    with pytest.raises(ArchiveError, match="lengths"):
        Files.read(tmp_path / "files.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ArchiveError, match="cannot read"):
        Files.read(tmp_path / "one.npy")


def test_command(tiny_model: Path, digits8: str, tmp_path: Path) -> None:
    archive = tmp_path / "files.npz"
    arguments = [str(tiny_model), "--data", digits8, "--limit", "3", "--oracle", "1"]
    ran = CliRunner().invoke(exactness.main, [*arguments, "--write", str(archive)])
    assert ran.exit_code == 0, ran.output
    assert "oracle's tables: 98 compared, 0 different" in ran.stdout
    assert ran.stdout.count(" yes") == 18
    ran = CliRunner().invoke(exactness.main, [*arguments, "--check", str(archive)])
    assert ran.exit_code == 0, ran.output
    assert f"pixels of {archive}: 3 compared, 0 different" in ran.stdout
    stored = Files.read(archive)
    dataclasses.replace(stored, blobs=stored.blobs[::-1]).write(archive)
    ran = CliRunner().invoke(exactness.main, [*arguments, "--check", str(archive)])
    assert ran.exit_code == 1
    assert f"files of {archive}: 3 compared, 2 different" in ran.stdout
    ran = CliRunner().invoke(exactness.main, [*arguments, "--check", str(tmp_path / "none.npz")])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: cannot read")
