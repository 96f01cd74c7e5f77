"""The exactness matrix on a tiny model: that it passes, and that it notices what it is there to notice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from vqcodec import UnsupportedImage
from vqcodec.codec import api, models
from vqcodec.codec.ladder import exact
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.model import LadderModel
from vqcodec.codec.ladder.oracle import Emitted, differing
from vqcodec.eval import exactness
from vqcodec.eval.exactness import Agreement, ArchiveError, Files, Outcome, Setting


@pytest.fixture(scope="module")
def made(tiny_model: Path, digits: NDArray[np.uint8]) -> tuple[Files, list[Outcome]]:
    return exactness.matrix(digits, str(tiny_model), 2)


def test_files_do_not_depend_on_how_they_are_made(made: tuple[Files, list[Outcome]]) -> None:
    files, outcomes = made
    assert len({outcome.setting for outcome in outcomes}) == 18
    assert {(outcome.files, outcome.pixels) for outcome in outcomes} == {(outcomes[0].files, outcomes[0].pixels)}
    assert files.pixels.shape == (8, 28, 28)
    assert len(files.blobs) == 8


def test_settings_are_in_force_and_undone() -> None:
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    with exactness.under(Setting("cpu", 1, threads + 1, False, "float64")):
        assert torch.get_num_threads() == threads + 1
        assert not torch.backends.mkldnn.enabled
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled) == (threads, onednn)


def test_other_devices_come_after_the_cpu() -> None:
    assert exactness.settings(["cpu"]) == exactness.settings(["cpu", "cpu"])
    assert [setting.device for setting in exactness.settings(["cuda"])[18:]] == ["cuda"] * 3


def test_oracle_agrees(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    model = models.load(str(tiny_model))
    assert exactness.against_oracle(model, digits, 2) == Agreement(8 * 2 * 49, 0)
    assert exactness.against_oracle(model, digits, 1) == Agreement(8 * 49, 0)


@pytest.mark.parametrize("setting", [0, 1, 2])
def test_oracle_agrees_on_ladders(setting: int, tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    bright = np.concatenate([digits[:3], 255 - digits[:1]])
    symbols = 2 * 49 * 2 + 4 + (0 if setting else 2 * 784)
    assert exactness.against_oracle(models.load(str(tiny_ladder)), bright, setting) == Agreement(4 * symbols, 0)


def test_oracle_agrees_on_binary_ladders(tiny_binary: Path, binary_digits: NDArray[np.uint8]) -> None:
    found = exactness.against_oracle(models.load(str(tiny_binary)), binary_digits, 0)
    assert found == Agreement(8 * (2 * 49 * 2 + 4 + 784), 0)


@pytest.mark.parametrize(
    "config",
    [
        LadderConfig(form="mlp", latents=(8, 4), widths=(16, 12), grids=(1, 1), leak=3, stages=(Stage(784, 0),),
                     pixel_features=1),
        LadderConfig(form="mlp", latents=(8, 4), widths=(12, 12), grids=(1, 1), skip=False, batch_norm=True,
                     stages=(Stage(784, 0),), pixel_features=2),
        LadderConfig(latents=(2, 2), widths=(4, 6), grids=(14, 7), blocks=1, likelihood="categorical", leak=2,
                     stages=(Stage(1, 4, 1), Stage(4, 0)), pixel_embed=3, pixel_features=5),
    ],
    ids=["dense", "without skip", "mixed"],
)  # fmt: skip
def test_oracle_agrees_on_other_architectures(config: LadderConfig, binary_digits: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    codec = LadderCodec(LadderModel(config))
    assert exactness._ladder_against_oracle(codec, binary_digits[:3], 0).different == 0


def test_oracle_notices(tiny_ladder: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.load(str(tiny_ladder))
    right = exact.frequencies
    monkeypatch.setattr(exact, "frequencies", lambda logits, table: right(logits + (logits > 0), table))
    assert exactness.against_oracle(model, digits[:2], 0).different > 0
    assert exactness.against_oracle(model, digits[:2], 1).different == 0  # no pixels there
    symbols, freq = np.array([[0, 1]]), np.array([[[1, 65535], [1, 65535]]])
    oracle = Emitted(np.array([[0, 0]]), freq)
    assert differing(symbols, freq, oracle) == 1
    assert differing(symbols, freq[..., ::-1], oracle) == 2


def test_default_settings(tiny_model: Path, tiny_ladder: Path, tiny_binary: Path) -> None:
    vq, grey, binary = (models.load(str(path)) for path in (tiny_model, tiny_ladder, tiny_binary))
    assert [exactness.setting_for(model, None, False) for model in (vq, grey, binary)] == [2, 0, 0]
    assert [exactness.setting_for(grey, quality, False) for quality in (1, 50, 51, 100)] == [1, 1, 2, 2]
    assert exactness.setting_for(grey, None, True) == 0
    with pytest.raises(UnsupportedImage, match="tiny has no lossless"):
        exactness.setting_for(vq, None, True)
    with pytest.raises(UnsupportedImage, match="tiny-binary has no lossy"):
        exactness.setting_for(binary, 50, False)


def test_archive_round_trip(made: tuple[Files, list[Outcome]], tiny_model: Path, tmp_path: Path) -> None:
    files, _ = made
    files.write(tmp_path / "files.npz")
    back = Files.read(tmp_path / "files.npz")
    assert (back.source, back.blobs) == (files.source, files.blobs)
    assert np.array_equal(back.pixels, files.pixels)
    assert exactness.against_files(files, back, str(tiny_model), "cpu") == (Agreement(8, 0), Agreement(8, 0))


@pytest.mark.parametrize("setting", [0, 2])
def test_ladder_files_do_not_depend_on_how_they_are_made(
    setting: int, tiny_ladder: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "THREADS", (1,))
    monkeypatch.setattr(api, "plain_is_smaller", lambda pixels, attempt, size: False)
    files, outcomes = exactness.matrix(digits, str(tiny_ladder), setting)
    assert {(outcome.files, outcome.pixels) for outcome in outcomes} == {(outcomes[0].files, outcomes[0].pixels)}
    assert np.array_equal(files.pixels, digits) == (setting == 0)
    other = exactness.matrix(digits, str(tiny_ladder), 1)[0]
    with pytest.raises(ArchiveError, match="other images"):
        exactness.against_files(files, other, str(tiny_ladder), "cpu")


def test_binary_files(tiny_binary: Path, binary_digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "THREADS", (1,))
    files, outcomes = exactness.matrix(binary_digits, str(tiny_binary), 0)
    assert {(outcome.files, outcome.pixels) for outcome in outcomes} == {(outcomes[0].files, outcomes[0].pixels)}
    assert np.array_equal(files.pixels, binary_digits)


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
    ran = CliRunner().invoke(exactness.main, [*arguments, "--quality", "1", "--check", str(archive)])
    assert (ran.exit_code, "other images" in ran.stderr) == (1, True)
    ran = CliRunner().invoke(exactness.main, [*arguments, "--quality", "1", "--lossless"])
    assert (ran.exit_code, "takes no --quality" in ran.stderr) == (2, True)
    ran = CliRunner().invoke(exactness.main, [*arguments, "--check", str(tmp_path / "none.npz")])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: cannot read")


@pytest.mark.parametrize("weights", ["tiny_archive", "tiny_archive_binary"])
def test_archives(weights: str, binary_digits: NDArray[np.uint8], request: pytest.FixtureRequest) -> None:
    model = str(request.getfixturevalue(weights))
    files, outcomes = exactness.matrix(binary_digits, model, 0)
    assert len({outcome.setting for outcome in outcomes}) == 6
    assert {(outcome.files, outcome.pixels) for outcome in outcomes} == {(outcomes[0].files, outcomes[0].pixels)}
    assert np.array_equal(files.pixels, binary_digits)
    assert len(files.blobs) == 1
    assert exactness.against_files(files, files, model, "cpu") == (Agreement(1, 0), Agreement(8, 0))


def test_archive_command(tiny_archive: Path, digits8: str, tmp_path: Path) -> None:
    arguments = [str(tiny_archive), "--data", digits8, "--limit", "3"]
    ran = CliRunner().invoke(exactness.main, [*arguments, "--write", str(tmp_path / "files.npz")])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.count(" yes") == 6
    assert "oracle" not in ran.stdout
    ran = CliRunner().invoke(exactness.main, [*arguments, "--check", str(tmp_path / "files.npz")])
    assert ran.exit_code == 0, ran.output
    assert "files.npz: 3 compared, 0 different" in ran.stdout
    ran = CliRunner().invoke(exactness.main, [*arguments, "--quality", "1"])
    assert (ran.exit_code, "has no lossy coding" in ran.stderr) == (1, True)
