"""The command line, as real subprocesses."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec as package
from vqcodec.codec import models
from vqcodec.tests.command import run
from vqcodec.training.data.datasets import binarise

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "codec" / "examples"
Pixels = NDArray[np.uint8]


def vqcodec(*arguments: object, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    if not options:
        return run(arguments, cwd)
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links")}
    command = [sys.executable, "-m", "vqcodec.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, **options)  # type: ignore[call-overload,no-any-return]


def refused(*arguments: object, cwd: Path, code: int = 1, **options: object) -> str:
    """The one line on stderr of a command that fails and leaves the folder as it was."""
    before = {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}
    result = vqcodec(*arguments, cwd=cwd, **options)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()} == before
    if code == 1:
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("Error: ")
    return result.stderr


@pytest.mark.parametrize("name", ["digit", "character", "photo"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    source = tmp_path / f"{name}.png"
    source.write_bytes((EXAMPLES / f"{name}.png").read_bytes())
    result = vqcodec("compress", source.name, "--quality", 15, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{name}.png" in result.stdout
    blob = (tmp_path / f"{name}.vqc").read_bytes()
    assert len(blob) < source.stat().st_size
    assert vqcodec("decompress", f"{name}.vqc", "back.png", cwd=tmp_path).returncode == 0
    with Image.open(source) as before, Image.open(tmp_path / "back.png") as after:
        assert (before.mode, before.size) == (after.mode, after.size)
        told = json.loads(vqcodec("info", f"{name}.vqc", "--json", cwd=tmp_path).stdout)
        assert told["bytes_total"] == len(blob)
        assert not told["lossless"]


def test_json_names_and_sizes(tmp_path: Path) -> None:
    result = vqcodec("compress", EXAMPLES / "digit.png", tmp_path / "d.bin", "--quality", 1, "--json")
    told = json.loads(result.stdout)
    assert told["bytes_out"] == (tmp_path / "d.bin").stat().st_size
    assert told["lossless"] is False
    told = json.loads(vqcodec("decompress", tmp_path / "d.bin", "--json").stdout)
    assert (told["output"], told["width"], told["mode"]) == (str(tmp_path / "d.png"), 28, "L")


def test_models_lists_the_models() -> None:
    """Those with a number whose weights are there, of single images and of archives, then those measured only."""
    rows = json.loads(vqcodec("models", "--json").stdout)["models"]
    there = {number: name for number, name in models._numbered().items() if models._path(name).exists()}
    numbered = [row for row in rows if row["number"]]
    assert {row["number"]: row["name"] for row in numbered} == there
    assert {1, 2} <= there.keys()
    assert all(row["family"] == row["name"].split("-")[0] for row in numbered if row["number"] in models.BUILT_IN)
    assert [row["name"] for row in rows[len(numbered) :]] == ["lvae-mnist", "lvae-mnist-iw"]
    text = vqcodec("models").stdout
    assert all(name in text for name in (*there.values(), "plain"))


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from vqcodec.cli import main; main(['--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links")}
    assert (
        "compress"
        in subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout
    )
    for command in ("compress", "decompress", "info", "models", "train", "eval", "data"):
        assert vqcodec(command, "--help").returncode == 0


@dataclass(frozen=True)
class Given:
    """A ladder model as --model takes it, an image it codes losslessly, and the --model that decoding needs."""

    model: str
    image: Image.Image
    decoding: tuple[str, ...]


@pytest.fixture(params=["tiny", *(d.name for d in models.available().values() if d.family == "ladder")])
def given(request: pytest.FixtureRequest, digits: Pixels, characters: Pixels, binary_digits: Pixels) -> Given:
    if request.param == "tiny":
        weights = str(request.getfixturevalue("tiny_binary"))
        return Given(weights, Image.fromarray(binary_digits[6]), ("--model", weights))
    pixels = digits[0] if "mnist" in request.param else characters[0]
    image = Image.fromarray(pixels)
    if request.param.endswith("binary"):
        image = Image.fromarray(binarise(pixels[None], "x")[0] > 0)
    return Given(request.param, image, ())


def test_lossless_files_and_their_previews(given: Given, tmp_path: Path) -> None:
    given.image.save(tmp_path / "a.png")
    result = vqcodec("compress", "a.png", "--lossless", "--model", given.model, "--json", cwd=tmp_path)
    told = json.loads(result.stdout)
    assert result.stderr == ""
    assert told["lossless"] is True
    assert told["method"].endswith(", lossless")
    blob = (tmp_path / "a.vqc").read_bytes()
    assert told["bytes_out"] == len(blob)
    told = json.loads(vqcodec("info", "a.vqc", "--json", *given.decoding, cwd=tmp_path).stdout)
    assert (told["setting"], told["lossless"], told["mode"]) == (0, True, given.image.mode)

    assert vqcodec("decompress", "a.vqc", "b.png", *given.decoding, cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "b.png") as back:
        assert (back.mode, back.tobytes()) == (given.image.mode, given.image.tobytes())

    expected, whole = package.preview(blob, model=given.decoding[1] if given.decoding else None)
    assert whole
    result = vqcodec("decompress", "a.vqc", "p.png", "--preview", *given.decoding, "--json", cwd=tmp_path)
    assert result.stderr == ""
    assert json.loads(result.stdout)["preview"] is True
    with Image.open(tmp_path / "p.png") as shown:
        assert (shown.mode, shown.tobytes()) == (expected.mode, expected.tobytes())

    (tmp_path / "cut.vqc").write_bytes(blob[:-5])
    assert "cut.vqc" in refused("decompress", "cut.vqc", *given.decoding, cwd=tmp_path)
    result = vqcodec("decompress", "cut.vqc", "c.bmp", "--preview", *given.decoding, cwd=tmp_path)
    assert result.stderr == "note: the file is cut or damaged; the preview is what its start says, without a checksum\n"
    assert "preview of " in result.stdout
    with Image.open(tmp_path / "c.bmp") as shown:
        assert shown.convert("L").tobytes() == expected.convert("L").tobytes()
    start = len(blob) - told["bytes_payload"] - 1
    (tmp_path / "short.vqc").write_bytes(blob[:start])
    assert "short.vqc" in refused("decompress", "short.vqc", "--preview", *given.decoding, cwd=tmp_path)


def test_ladder_files_of_the_users_weights(
    tiny_ladder: Path, tiny_binary: Path, digits: Pixels, binary_digits: Pixels, tmp_path: Path
) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    result = vqcodec("compress", "a.png", "--model", tiny_ladder, "--quality", 50, cwd=tmp_path)
    assert result.stderr == ""
    assert "tiny-ladder, rate 1 of 2, lossy)" in result.stdout
    blob = (tmp_path / "a.vqc").read_bytes()
    assert "tiny-ladder, setting unknown without its weights" in vqcodec("info", "a.vqc", cwd=tmp_path).stdout
    told = json.loads(vqcodec("info", "a.vqc", "--json", cwd=tmp_path).stdout)
    assert "lossless" not in told
    told = json.loads(vqcodec("info", "a.vqc", "--json", "--model", tiny_ladder, cwd=tmp_path).stdout)
    assert (told["setting"], told["settings"], told["lossless"]) == (1, 2, False)
    assert "no model 'tiny-ladder'" in refused("decompress", "a.vqc", "b.png", cwd=tmp_path)
    assert "the file needs weights" in refused("decompress", "a.vqc", "b.png", "--model", tiny_binary, cwd=tmp_path)
    assert vqcodec("decompress", "a.vqc", "b.png", "--model", tiny_ladder, cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "b.png") as back:
        assert back.tobytes() == package.decode(blob, model=str(tiny_ladder)).tobytes()
    Image.fromarray(binary_digits[6]).save(tmp_path / "c.png")
    result = vqcodec("compress", "c.png", "--model", tiny_binary, cwd=tmp_path)
    assert result.stderr == ""  # it has no lossy rates: lossless is no surprise
    assert "tiny-binary, lossless)" in result.stdout


def test_models_refuse_other_images_and_settings(
    tiny_ladder: Path, tiny_binary: Path, tiny_model: Path, edited: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("digit.png", "photo.png"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    for number, description in models.available().items():
        if number > 2:
            assert f"{description.name} takes " in refused(
                "compress", "photo.png", "--model", description.name, cwd=tmp_path
            )
    error = refused("compress", "photo.png", "--model", tiny_ladder, cwd=tmp_path)
    assert "takes grey images of 28 x 28 pixels, found 192 x 128 pixels, mode RGB" in error
    error = refused("compress", "digit.png", "--model", tiny_binary, "--lossless", cwd=tmp_path)
    assert "takes black and white (pixels 0 and 255 only) images of 28 x 28 pixels, found 28 x 28 pixels" in error
    error = refused("compress", "digit.png", "--model", "vq-mnist", "--lossless", cwd=tmp_path)
    assert "vq-mnist is lossy; use model auto for a lossless file" in error
    gaussian = edited(tiny_binary, tmp_path / "gaussian.safetensors", posterior="gaussian")
    error = refused("compress", "digit.png", "--model", gaussian, cwd=tmp_path)
    assert "cannot code images; only those with posterior 'uniform'" in error
    assert vqcodec("compress", "photo.png", "--model", "plain", cwd=tmp_path).returncode == 0
    error = refused("decompress", "photo.vqc", "p2.png", "--preview", cwd=tmp_path)
    assert "no preview: this image was stored without a model" in error


@pytest.mark.parametrize(
    ("mode", "values"),
    [("RGBA", 4), ("LA", 2), ("P", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("L", 1)],
)
def test_any_png_comes_back(mode: str, values: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for width, height in ((1, 1), (37, 5), (28, 28)):
        if mode == "I;16":
            image = Image.fromarray(generator.integers(0, 65536, (height, width), np.uint16))
        elif mode in ("1", "P"):
            image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        else:
            shape = (height, width, values) if values > 1 else (height, width)
            image = Image.fromarray(generator.integers(0, 256, shape, np.uint8))
        source, packed, back = tmp_path / "in.png", tmp_path / "x.vqc", tmp_path / "out.png"
        image.save(source)
        assert vqcodec("compress", source, packed, "--force", "--model", "plain").returncode == 0
        assert vqcodec("decompress", packed, back, "--force").returncode == 0
        with Image.open(source) as before, Image.open(back) as after:
            assert (after.mode, after.size, after.tobytes()) == (before.mode, before.size, before.tobytes())
            assert after.getpalette() == before.getpalette()


def test_a_linked_output_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.vqc").symlink_to(tmp_path / "real" / "file.vqc")
    assert vqcodec("compress", EXAMPLES / "photo.png", tmp_path / "link.vqc").returncode == 0
    assert (tmp_path / "link.vqc").is_symlink()
    assert vqcodec("info", tmp_path / "real" / "file.vqc").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_that_cannot_be_printed_are_an_error_in_one_line(tmp_path: Path) -> None:
    vqcodec("compress", EXAMPLES / "photo.png", tmp_path / "p.vqc")
    command = [sys.executable, "-m", "vqcodec.cli", "info", str(tmp_path / "p.vqc")]
    with open("/dev/full", "w") as full:
        environment = os.environ | {"PYTHONPATH": str(ROOT / ".links")}
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_other_formats_in_and_out(tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "photo.png") as photo:
        photo.save(tmp_path / "p.jpg", quality=80)
        assert vqcodec("compress", tmp_path / "p.jpg", "--model", "plain").returncode == 0
        for suffix in ("bmp", "tiff", "webp", "ppm"):
            assert vqcodec("decompress", tmp_path / "p.vqc", tmp_path / f"p.{suffix}").returncode == 0
            with Image.open(tmp_path / "p.jpg") as before, Image.open(tmp_path / f"p.{suffix}") as after:
                assert after.convert("RGB").tobytes() == before.tobytes()
    assert "unknown suffix; use .png" in refused("decompress", "p.vqc", "q.jpg", cwd=tmp_path)


def test_turned_photographs_come_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (6, 9, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "t.png", exif=exif)
    assert vqcodec("compress", "t.png", cwd=tmp_path).returncode == 0
    assert vqcodec("decompress", "t.vqc", "u.png", cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "u.png") as after:
        assert after.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_bad_input_to_compress(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((EXAMPLES / "photo.png").read_bytes()[:3000])
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.vqc").write_text("precious")
    (tmp_path / "digit.png").write_bytes((EXAMPLES / "digit.png").read_bytes())
    Image.new("CMYK", (4, 4)).save(tmp_path / "print.tiff")
    frames = [Image.new("L", (4, 4), value) for value in (1, 2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert "No such file" in refused("compress", "nix.png", cwd=tmp_path)
    assert "not a readable image" in refused("compress", "text.png", cwd=tmp_path)
    assert "not a readable image" in refused("compress", "empty.png", cwd=tmp_path)
    assert "PNG" in refused("compress", "cut.png", cwd=tmp_path)
    assert "folder" in refused("compress", "folder", cwd=tmp_path)
    assert "folder" in refused("compress", "digit.png", "folder", cwd=tmp_path)
    assert "does not exist" in refused("compress", "digit.png", "nix/out.vqc", cwd=tmp_path)
    for force in ((), ("--force",)):
        error = refused("compress", "digit.png", "there.vqc", *force, cwd=tmp_path)
        assert "there.vqc is a file of another kind" in error
        assert "with -o" in error
    assert "--force" in refused("compress", "digit.png", "-o", "there.vqc", cwd=tmp_path)
    assert "is the input" in refused("compress", "digit.png", "digit.png", "--force", cwd=tmp_path)
    assert "folder" in refused("compress", ".", cwd=tmp_path)
    assert "too long" in refused("compress", "digit.png", "x" * 300, cwd=tmp_path)
    assert "no model 'nix'" in refused("compress", "digit.png", "--model", "nix", cwd=tmp_path)
    assert "CMYK" in refused("compress", "print.tiff", cwd=tmp_path)
    assert "several frames" in refused("compress", "moving.gif", cwd=tmp_path)
    assert "limit 100" in refused("compress", "digit.png", "--max-pixels", 100, cwd=tmp_path)
    assert "cannot be used" in refused("compress", "digit.png", "--device", "nix", cwd=tmp_path)
    assert "0" in refused("compress", "digit.png", "--quality", 0, cwd=tmp_path, code=2)
    if Path("/dev/zero").exists():
        assert "is a device; name a regular file" in refused("compress", "/dev/zero", "o.vqc", cwd=tmp_path)
    weights = tmp_path / "broken.safetensors"
    weights.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    assert "cannot be read as vqcodec weights" in refused("compress", "digit.png", "--model", weights, cwd=tmp_path)


def test_bad_input_to_decompress(tmp_path: Path) -> None:
    assert vqcodec("compress", EXAMPLES / "digit.png", tmp_path / "d.vqc").returncode == 0
    blob = (tmp_path / "d.vqc").read_bytes()
    (tmp_path / "flipped.vqc").write_bytes(blob[:9] + bytes([blob[9] ^ 1]) + blob[10:])
    (tmp_path / "cut.vqc").write_bytes(blob[:-1])
    (tmp_path / "empty.vqc").write_bytes(b"")
    (tmp_path / "there.png").write_text("precious")
    (tmp_path / "photo.png").write_bytes((EXAMPLES / "photo.png").read_bytes())
    for name in ("flipped.vqc", "cut.vqc", "empty.vqc"):
        for command in ("decompress", "info"):
            assert name in refused(command, name, cwd=tmp_path)
    assert "found a PNG" in refused("decompress", "photo.png", "o.png", cwd=tmp_path)
    for force in ((), ("--force",)):
        assert "name the output with -o" in refused("decompress", "d.vqc", "there.png", *force, cwd=tmp_path)
    assert "--force" in refused("decompress", "d.vqc", "-o", "there.png", cwd=tmp_path)
    assert "No such file" in refused("decompress", "nix.vqc", cwd=tmp_path)
    assert "is the input" in refused("decompress", "photo.png", cwd=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "d.png").write_bytes(b"x")
    (tmp_path / "d.png").chmod(0)
    assert "Permission denied" in vqcodec("compress", "d.png", cwd=tmp_path).stderr


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails half-way in both cases."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    error = refused(
        "compress",
        "noise.png",
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert "cannot write noise.vqc" in error
