"""Results of `bench rd` as CompressAI's JSON; read back by CompressAI's own plotting tool where that is installed."""

from __future__ import annotations

import copy
import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vqcodec.cli import main
from vqcodec.codec.files import FileError
from vqcodec.eval import compressai_peers
from vqcodec.eval.bench import plots
from vqcodec.eval.bench.compressai_json import ConversionError, convert, curves, file_name

RESULTS = Path(__file__).parents[2] / "docs" / "results"
# What results/image/kodak/compressai-bmshj2018-factorized_mse_cpu.json of CompressAI has.
THEIRS = {"psnr-rgb", "ms-ssim-rgb", "bpp", "encoding_time", "decoding_time"}


def point(codec: str, quality: int | None, bpd: float, psnr: float, **more: float) -> dict[str, Any]:
    distortion = {"mse": 1.0, "psnr_db": psnr, "psnr_db_of_mse": psnr - 0.5, "ssim": 0.9, "ms_ssim": psnr / 100}
    return {"codec": codec, "quality": quality, "bytes_per_image": bpd, "bpd": bpd, "distortion": distortion} | more


def timed(codec: str, quality: int | None, bpp: float, psnr: float) -> dict[str, Any]:
    return point(codec, quality, bpp / 3, psnr, bpp=bpp, encode_s=bpp / 100, decode_s=bpp / 200)


RESULT = {
    "models": ["ours"],
    "data": "photos test",
    "images": 1000,
    "environment": {
        "version": "0.1.0", "commit": "abc", "date": "2026", "cpu": "a CPU", "device": "cpu", "threads": 1,
        "batch": 256, "torch": "2.13.0", "coder": "TorchacCoder", "arithmetic": "int8",
    },
    "points": [timed("ours", None, 6.0, 99.0), timed("ours", 50, 1.5, 30.0), timed("ours", 100, 3.0, 36.0),
               timed("WebP lossless", None, 7.5, 99.0), timed("WebP", 1, 0.75, 28.0)],
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rd.json"
    path.write_text(json.dumps(RESULT))
    return path


def test_schema(source: Path, tmp_path: Path) -> None:
    written = convert(source, tmp_path / "out")
    assert [path.name for path in written] == ["ours-lossless.json", "ours.json", "webp-lossless.json", "webp.json"]
    told = json.loads(written[1].read_text())
    assert told.keys() == {"name", "description", "results"}
    assert told["name"] == "ours"
    assert told["description"].startswith(
        "photos test, 1,000 images, whole files, quality 50, 100; vqcodec bench rd: a C"
    )
    assert told["results"] == {
        "psnr-rgb": [30.0, 36.0],  # the mean over images, not that of the mean MSE
        "ms-ssim-rgb": [0.3, 0.36],
        "bpp": [1.5, 3.0],  # not per dimension
        "encoding_time": [0.015, 0.03],
        "decoding_time": [0.0075, 0.015],
    }
    assert told["results"].keys() == THEIRS
    lossless = json.loads(written[0].read_text())
    assert lossless["name"] == "ours lossless"
    assert lossless["results"]["bpp"] == [6.0]


@pytest.mark.parametrize("name", ["rd-mnist.json", "rd-omniglot28.json"])
def test_results_from_before_there_were_times(name: str) -> None:
    result = json.loads((RESULTS / name).read_text())
    for point in result["points"]:  # as it was before bpp and times
        for key in ("bpp", "encode_s", "decode_s"):
            point.pop(key, None)
    found = {curve.name: curve for curve in curves(result)}
    expected = {p["codec"] for p in result["points"]} | {
        f"{p['codec']} lossless" for p in result["points"] if p["quality"] is None and p["codec"] in result["models"]
    }
    assert found.keys() == expected
    for curve in found.values():
        assert curve.results.keys() == {"psnr-rgb", "bpp"}  # 28 pixels a side have no MS-SSIM
    webp = [point for point in result["points"] if point["codec"] == "WebP"]
    assert found["WebP"].results["bpp"] == [point["bytes_per_image"] * 8 / 784 for point in webp]


def test_command(tiny_ladder: Path, digits8: str, tmp_path: Path) -> None:
    out, folder = tmp_path / "rd.json", tmp_path / "curves"
    runner = CliRunner()
    ran = runner.invoke(main, ["bench", "rd", str(tiny_ladder), "--data", digits8, "--limit", "2", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    ran = runner.invoke(main, ["bench", "convert", str(out), str(folder)])
    assert ran.exit_code == 0, ran.output
    assert {Path(line) for line in ran.stdout.splitlines()} == set(folder.iterdir())
    told = json.loads((folder / "tiny-ladder.json").read_text())["results"]
    points = [p for p in json.loads(out.read_text())["points"] if p["codec"] == "tiny-ladder" and p["quality"]]
    assert told["bpp"] == [point["bytes_per_image"] * 8 / 784 for point in points] == [p["bpd"] for p in points]
    assert told.keys() == THEIRS - {"ms-ssim-rgb"}
    assert all(seconds > 0 for key in ("encoding_time", "decoding_time") for seconds in told[key])
    again = runner.invoke(main, ["bench", "convert", str(out), str(folder)])
    assert again.exit_code == 1
    assert "exists; use --force to overwrite it" in again.stderr
    assert runner.invoke(main, ["bench", "convert", str(out), str(folder), "--force"]).exit_code == 0


def test_nothing_is_written_if_a_file_exists(source: Path, tmp_path: Path) -> None:
    (tmp_path / "webp.json").write_text("theirs")
    with pytest.raises(FileError, match=r"webp\.json exists"):
        convert(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rd.json", "webp.json"]


@pytest.mark.parametrize("text", ["[1, 2]", "{}", "no JSON", '{"models": [], "points": [{"codec": "x"}]}', '"text"'])
def test_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConversionError, match=r"x\.json is no result of `bench rd`"):
        convert(tmp_path / "x.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read .*missing"):
        convert(tmp_path / "missing.json", tmp_path)
    with pytest.raises(FileError, match="cannot make the folder .*: No such file or directory"):
        convert(source, tmp_path / "no" / "where")
    with pytest.raises(FileError, match="cannot make the folder .*: File exists"):
        convert(source, source)


def test_names_of_files(source: Path, tmp_path: Path) -> None:
    assert file_name("compressai mbt2018-mean (random weights)") == "compressai-mbt2018-mean-random-weights.json"
    assert file_name("../Über/x.y") == "über-x.y.json"
    same = copy.deepcopy(RESULT)
    same["points"] = [timed("a b", 1, 1.0, 30.0), timed("A/B", 1, 1.0, 30.0)]
    source.write_text(json.dumps(same))
    with pytest.raises(ConversionError, match="two codecs would share a file: a b, A/B"):
        convert(source, tmp_path / "out")


@pytest.mark.skipif(find_spec("compressai") is None, reason="needs the extra: pip install vqcodec[compressai]")
def test_compressai_plots_it(source: Path, tmp_path: Path) -> None:
    compressai_peers.compressai()
    plotting = import_module("compressai.utils.plot.__main__")
    paths = convert(source, tmp_path / "out")
    read = plotting.parse_json_file(paths[1], "psnr")
    assert read == {"name": "ours", "xs": [1.5, 3.0], "ys": [30.0, 36.0]}
    decibels = plotting.parse_json_file(paths[1], "ms-ssim")["ys"]  # -10 log10(1 - x)
    assert decibels == pytest.approx([1.549020, 1.938200], abs=1e-6)
    for metric in ("psnr", "ms-ssim", "encoding_time", "decoding_time"):
        plotting.main(["-f", *map(str, paths), "-m", metric, "-o", str(tmp_path / f"{metric}.png")])
        assert (tmp_path / f"{metric}.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_ours_takes_the_same_result(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.plot(source, tmp_path / "rd.png")
