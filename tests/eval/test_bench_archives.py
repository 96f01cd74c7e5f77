"""`vqcodec bench archive` on the eight digits: its numbers (not its times) against the codec's own, and its tables."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vqcodec import ModelMismatch, UnsupportedImage
from vqcodec.cli import main
from vqcodec.codec import models
from vqcodec.codec.archive import api
from vqcodec.codec.archive.library import BlockCodec
from vqcodec.codec.archive.pack import Share
from vqcodec.eval import results
from vqcodec.eval.bench import archives
from vqcodec.eval.bench.archives import Archives
from vqcodec.eval.results import CHAPTERS
from vqcodec.training.data.datasets import Dataset


def codec_of(weights: Path) -> BlockCodec:
    codec = models.load(str(weights), archive=True).codec
    assert isinstance(codec, BlockCodec)
    return codec


@pytest.fixture(scope="module")
def grey(tiny_archive: Path, digit_set: Dataset) -> Archives:
    return archives.measure(str(tiny_archive), digit_set, jobs=1)


def test_the_archive_is_the_one_that_is_packed(grey: Archives, tiny_archive: Path, digits: NDArray[np.uint8],
                                               tmp_path: Path) -> None:  # fmt: skip
    np.save(tmp_path / "set.npy", digits)
    told = api.pack(tmp_path / "set.npy", tmp_path / "set.vqa", model=str(tiny_archive))
    packed = grey.archive
    assert packed.bytes_total == told.bytes_total == (tmp_path / "set.vqa").stat().st_size
    assert (packed.shares, packed.blocks) == (told.kinds, told.blocks)
    assert packed.exact
    assert packed.bytes_per_image == packed.bytes_total / 8
    assert packed.bpd == pytest.approx(packed.bytes_total / digits.size * 8)
    for process in (packed.pack, packed.unpack):
        assert process.wall_s > 0
        assert process.cpu_s > 0
        assert process.images_per_s == pytest.approx(8 / process.wall_s)
        assert process.coders == 1
        assert process.peak_mib is None or 50 < process.peak_mib < 5000


def test_elbo_and_gap(grey: Archives, tiny_archive: Path, digits: NDArray[np.uint8]) -> None:
    total = codec_of(tiny_archive).cost_bits(digits).sum()
    elbo = grey.elbo
    assert elbo.model == "tiny-archive"
    assert elbo.bits_per_image == pytest.approx(total / 8)
    assert elbo.nats_per_image == pytest.approx(total / 8 * math.log(2))
    assert elbo.bpd == pytest.approx(total / digits.size)
    assert elbo.gap_percent == pytest.approx(100 * (8 * grey.archive.bytes_total - total) / total)
    assert elbo.gap_error_percent == pytest.approx(100 * elbo.scatter_bits * 4 / total)


def test_scatter_is_that_of_samples(tiny_archive: Path, digits: NDArray[np.uint8]) -> None:
    codec = codec_of(tiny_archive)
    many = codec.cost_bits(np.repeat(digits[:1], 400, axis=0))  # of one image, each with latents of its own
    found = archives._scatter(codec, np.repeat(digits[:1], 400, axis=0))
    assert found == pytest.approx(many.std(), rel=0.2)  # standard error of either: 1 / sqrt(2 * 400)
    assert archives._scatter(codec, digits) > 0


def test_initial_bits(grey: Archives, tiny_archive: Path, digits: NDArray[np.uint8]) -> None:
    codec = codec_of(tiny_archive)
    assert [start.images for start in grey.starts] == [1, 8]
    for start in grey.starts:
        some = digits[: start.images]
        assert start.exact
        assert start.payload_bits == 8 * len(codec.pack_images(some))
        assert start.elbo_bits == pytest.approx(codec.cost_bits(digits)[: start.images].sum())
        assert start.excess_bits == pytest.approx(start.payload_bits - start.elbo_bits)


def test_counts() -> None:
    assert list(archives._counts(1)) == [1]
    assert list(archives._counts(10)) == [1, 10]
    assert list(archives._counts(8070)) == [1, 10, 100, 1000, 8070]
    assert list(archives._counts(10_000)) == [1, 10, 100, 1000, 10_000]


def test_peers_are_beside(grey: Archives, digits: NDArray[np.uint8]) -> None:
    assert {row.how for row in grey.peers} == {"raw bytes", "one mosaic image", "a file an image"}
    text = archives.table(asdict(grey))
    assert f"{grey.archive.bytes_total:,}" in text
    assert "every pixel comes back" in text
    assert "NO" not in text


def test_command(tiny_archive_binary: Path, binary8: str, tmp_path: Path) -> None:
    out = tmp_path / "archive-mnist.json"
    arguments = ["bench", "archive", "--data", binary8, "--model", str(tiny_archive_binary), "--limit", "3"]
    ran = CliRunner().invoke(main, [*arguments, "--jobs", "1", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "all 3 black and white images in one archive" in ran.stdout
    told = json.loads(out.read_text())
    assert (told["binary"], told["images"], told["model"]) == (True, 3, str(tiny_archive_binary))
    assert told["archive"]["exact"]
    page = results.results(tmp_path)
    assert "## Archives: mnist\n" in page
    assert "vqcodec bench archive --data mnist --out docs/results/archive-mnist.json" in page
    assert f"| file on disk, bytes | {told['archive']['bytes_total']:,} |" in page
    assert "omniglot" not in page


def test_what_does_not_come_back_is_told(grey: Archives) -> None:
    result = asdict(grey)
    result["archive"]["exact"] = result["starts"][0]["exact"] = result["peers"][0]["exact"] = False
    text = archives.table(result)
    assert text.count("NO") == 3  # the archive itself, once more as the first of the codecs, and a peer
    assert "1 of these blocks do not decode to their images." in text


def test_the_chapters_name_their_files() -> None:
    chapters = [chapter for chapter in CHAPTERS if chapter.tables is archives.tables]
    assert len(chapters) == 4
    assert all(chapter.command.endswith(f"--out docs/results/{chapter.source}") for chapter in chapters)


def test_auto_is_the_model_that_packs_most(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VQCODEC_MODELS", str(tiny_archive.parent))
    shares = [Share("files", None, 9, 900), Share("bits-back", "tiny-archive", 5, 500)]
    assert archives._model("auto", shares, "cpu").name == "tiny-archive"
    with pytest.raises(UnsupportedImage, match="--model"):
        archives._model("auto", shares[:1], "cpu")
    with pytest.raises(ModelMismatch, match="codes single images; name a model that packs archives"):
        archives._model("vq-mnist", shares, "cpu")
