"""CompressAI's networks as peers, and its MS-SSIM beside ours; most of it only where the extra is installed."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from vqcodec.cli import main
from vqcodec.codec.files import FileError
from vqcodec.eval import compressai_peers, metrics
from vqcodec.eval.bench import rd
from vqcodec.eval.compressai_peers import ARCHITECTURES, Asked, PeerError, parse, peer, peers
from vqcodec.eval.peers import Peer
from vqcodec.training.data.datasets import Dataset

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"
needs_extra = pytest.mark.skipif(
    find_spec("compressai") is None, reason="needs the extra: pip install vqcodec[compressai]"
)


# What needs no CompressAI


def test_specs() -> None:
    assert parse("compressai:mbt2018-mean:3:a:b.pth") == Asked("mbt2018-mean", 3, Path("a:b.pth"))
    assert parse("compressai:cheng2020-attn:6:random") == Asked("cheng2020-attn", 6, None)
    assert parse("compressai:mbt2018:1:./random").checkpoint == Path("random")
    assert parse("compressai:mbt2018:1:x").name == parse("compressai:mbt2018:2:y").name == "compressai mbt2018"
    assert parse("compressai:mbt2018:1:random").name == "compressai mbt2018 (random weights)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "expected compressai:ARCHITECTURE:QUALITY:CHECKPOINT"),
        ("tfc:mbt2018:1:random", "expected compressai:"),
        ("compressai:mbt2018:1", "expected compressai:"),
        ("compressai:mbt2018:1:", "expected compressai:"),
        ("compressai:mbt2019:1:random", "unknown architecture 'mbt2019', expected one of bmshj2018-factorized, "),
        ("compressai:mbt2018:9:random", "quality '9', expected 1 to 8"),
        ("compressai:cheng2020-anchor:7:random", "expected 1 to 6"),
        ("compressai:mbt2018:0:random", "expected 1 to 8"),
        ("compressai:mbt2018:01:random", "expected 1 to 8"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(PeerError, match=message):
        parse(spec)


def test_the_same_twice() -> None:
    with pytest.raises(PeerError, match="the same quality of one architecture twice"):
        peers(["compressai:mbt2018:1:a.pth", "compressai:mbt2018:2:b.pth", "compressai:mbt2018:1:c.pth"])


def test_extra_missing(
    tiny_model: Path, digits8: str, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    arguments = ["bench", "rd", str(tiny_model), "--data", digits8, "--peer", "compressai:mbt2018:1:random"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: peers of CompressAI need its package: pip install vqcodec[compressai] (")
    assert len(ran.stderr.splitlines()) == 1
    assert peers([]) == []


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """modules(name=source, ...): modules to import in place of the real ones, until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.setitem(sys.modules, name, None)  # so that it is taken out again
            monkeypatch.delitem(sys.modules, name)

    return make


def test_torchvision_without_its_operators(modules: Callable[..., None]) -> None:
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    modules(torchvision=f"import torch\nif not hasattr(torch.ops.torchvision, 'nms'):\n    {broken}",
            compressai="import torchvision; found = True")  # fmt: skip
    assert compressai_peers.compressai().found
    assert torch.ops.torchvision.nms
    assert torch.ops.torchvision.qnms


def test_torchvision_broken_otherwise(modules: Callable[..., None]) -> None:
    modules(torchvision="raise RuntimeError('out of luck')")
    with pytest.raises(PeerError, match=r"pip install vqcodec\[compressai\] \(out of luck\)"):
        compressai_peers.compressai()


def planes_as_strings(strings: int) -> Any:
    """A stand-in for a network that stores its padded input as it is, in some strings of different lengths."""
    cuts = [0, *range(200, 200 * strings, 200), None]

    def compress(x: Tensor) -> dict[str, Any]:
        assert x.shape[0] == 1
        assert x.shape[2] % 64 == x.shape[3] % 64 == 0
        data = x.numpy().tobytes()
        return {"strings": [[data[start:end]] for start, end in pairwise(cuts)]}

    def decompress(given: list[list[bytes]], shape: list[int]) -> dict[str, Tensor]:
        assert [len(one) for (one,) in given[:-1]] == [200] * (strings - 1)
        data = b"".join(one for (one,) in given)
        return {"x_hat": torch.from_numpy(np.frombuffer(data, np.float32).copy()).view(1, 3, *(64 * n for n in shape))}

    return SimpleNamespace(compress=compress, decompress=decompress, downsampling_factor=64)


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (64, 64), (65, 130), (28, 28, 3), (200, 1, 3)])
@pytest.mark.parametrize("strings", [1, 2])
def test_files(shape: tuple[int, ...], strings: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    network = planes_as_strings(strings)
    data = compressai_peers._encode(network, image, None)
    decoded = compressai_peers._decode(network, strings, data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, image)  # grey is the mean of three equal channels
    height, width = (-(-side // 64) * 64 for side in shape[:2])
    numbers = [2 * shape[0] + len(shape) - 2, shape[1]] + [200] * (strings - 1)
    assert len(data) == sum(1 if number < 128 else 2 for number in numbers) + 4 * 3 * height * width


def test_header_of_a_digit(digits: NDArray[np.uint8]) -> None:
    assert compressai_peers._encode(planes_as_strings(1), digits[0], None)[:2] == bytes([56, 28])
    assert compressai_peers._encode(planes_as_strings(2), digits[0], None)[:4] == bytes([56, 28, 200, 1])  # 72 + 128


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16383, 16384, 2**40 + 5])
def test_leb128(value: int) -> None:
    data = compressai_peers._leb128(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert compressai_peers._read_leb128(io.BytesIO(data + b"\xff")) == value


# What does


@pytest.fixture(scope="session")
def package() -> Any:
    return compressai_peers.compressai()


def small(package: Any, architecture: str = "bmshj2018-hyperprior", seed: int = 1) -> Any:
    """A network of few channels, not updated, with random weights."""
    torch.manual_seed(seed)
    return getattr(package.models, ARCHITECTURES[architecture].model)(8, 12)


@pytest.fixture
def checkpoint(package: Any, tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save(small(package).state_dict(), path)
    return path


def by_their_own_means(network: Any, image: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    """Bytes of CompressAI's strings and the decoded image, step by step as in compressai.utils.eval_model."""
    padding, unpadding = import_module("compressai.ops").compute_padding(*image.shape, min_div=64)
    x = torch.from_numpy(np.stack([image] * 3)).float()[None] / 255
    with torch.no_grad():
        coded = network.compress(pad(x, padding))
        x_hat = pad(network.decompress(coded["strings"], coded["shape"])["x_hat"], unpadding)
    return sum(len(one) for (one,) in coded["strings"]), (x_hat[0].mean(0) * 255).round().to(torch.uint8).numpy()


@needs_extra
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("best", [False, True])
def test_architectures(architecture: str, best: bool, package: Any, digits: NDArray[np.uint8]) -> None:
    kind = ARCHITECTURES[architecture]
    assert package.zoo.image.cfgs[architecture].keys() == set(range(1, kind.qualities + 1))
    made = peer(Asked(architecture, kind.qualities if best else 1, None))
    assert made.qualities == (kind.qualities if best else 1,)
    network = made.encode.args[0]  # type: ignore[attr-defined]
    assert type(network).__name__ == kind.model
    assert not network.training
    data = made.encode(digits[0], 1)
    size, x_hat = by_their_own_means(network, digits[0])
    assert len(data) == size + 1 + kind.strings
    np.testing.assert_array_equal(made.decode(data), x_hat)


@needs_extra
def test_all_architectures_of_the_package_that_code_one_rate_are_here(package: Any) -> None:
    assert ARCHITECTURES.keys() == {name for name in package.zoo.image_models if not name.endswith("-vbr")}


@needs_extra
def test_random_weights_are_always_the_same(digits: NDArray[np.uint8]) -> None:
    before = torch.random.get_rng_state()
    first = peer(parse("compressai:bmshj2018-factorized:1:random")).encode(digits[3], 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    second = peer(parse("compressai:bmshj2018-factorized:1:random"))
    assert second.encode(digits[3], 1) == first
    assert second.decode(first).shape == (28, 28)


def module_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


@needs_extra
@pytest.mark.parametrize("wrap", [dict, module_prefix, lambda state: {"state_dict": state, "epoch": 3},
                                  lambda state: {"network": module_prefix(state)}])  # fmt: skip
@pytest.mark.parametrize("updated", [False, True])
def test_checkpoints(
    wrap: Callable[..., Any], updated: bool, package: Any, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    network = small(package)
    if updated:
        network.update()
    torch.save(wrap(network.state_dict()), tmp_path / "net.pth.tar")
    (made,) = peers([f"compressai:bmshj2018-hyperprior:4:{tmp_path / 'net.pth.tar'}"])
    assert (made.name, made.qualities) == ("compressai bmshj2018-hyperprior", (4,))
    network.eval().update()
    size, x_hat = by_their_own_means(network, digits[1])
    data = made.encode(digits[1], 4)
    assert len(data) == size + 3
    again = peer(Asked("bmshj2018-hyperprior", 1, tmp_path / "net.pth.tar"))  # which knows nothing of the first
    np.testing.assert_array_equal(again.decode(data), x_hat)


@needs_extra
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 130)])
def test_grey_and_colour_of_any_size(size: tuple[int, int], checkpoint: Path) -> None:
    made = peer(Asked("bmshj2018-hyperprior", 1, checkpoint))
    grey = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    colour = np.stack([grey] * 3, 2)
    as_grey, as_colour = (made.decode(made.encode(image, 1)) for image in (grey, colour))
    assert as_grey.shape == size
    assert as_colour.shape == (*size, 3)
    assert made.encode(grey, 1)[1:] == made.encode(colour, 1)[1:]  # but for the mark in the first number
    assert np.abs(as_colour.mean(2) - as_grey).max() <= 1  # each channel is rounded by up to 0.5, and the mean too


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("the file has run",))


@needs_extra
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("no checkpoint"), "UnpicklingError"),
        (lambda path: path.write_bytes(b""), "EOFError"),
        (lambda path: path.write_bytes(pickle.dumps(Evil())), "UnpicklingError"),
        (lambda path: torch.save([1, 2], path), "AttributeError"),
        (lambda path: torch.save({"g_a.0.weight": 1}, path), "AttributeError"),
        (lambda path: torch.save({"epoch": 3}, path), "KeyError: 'g_a.0.weight'"),
        (lambda path: torch.save({1: torch.ones(1)}, path), "AttributeError"),
    ],
)
def test_bad_checkpoints(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "bad.pth")
    with pytest.raises(PeerError, match=rf"bad\.pth is no checkpoint of mbt2018: {message}"):
        peer(Asked("mbt2018", 1, tmp_path / "bad.pth"))
    assert capsys.readouterr().out == ""


@needs_extra
def test_checkpoints_of_something_else(checkpoint: Path, tmp_path: Path) -> None:
    for architecture in ("bmshj2018-factorized", "mbt2018-mean"):
        with pytest.raises(PeerError, match=f"no checkpoint of {architecture}: RuntimeError: Error.* in loading"):
            peer(Asked(architecture, 1, checkpoint))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(PeerError, match="cut.pth is no checkpoint"):
        peer(Asked("bmshj2018-hyperprior", 1, cut))
    with pytest.raises(FileError, match="cannot read .*none.pth"):
        peer(Asked("bmshj2018-hyperprior", 1, tmp_path / "none.pth"))


@needs_extra
def test_in_the_benchmark(tiny_model: Path, checkpoint: Path, digit_set: Dataset, digits8: str, tmp_path: Path) -> None:
    specs = [f"compressai:bmshj2018-hyperprior:{quality}:{checkpoint}" for quality in (1, 2)]
    result = rd.measure([str(tiny_model)], digit_set, 2, others=specs)
    learned = result.points[-2:]
    assert [(point.codec, point.quality) for point in learned] == [
        ("compressai bmshj2018-hyperprior", n) for n in (1, 2)
    ]
    made: Peer = peer(Asked("bmshj2018-hyperprior", 1, checkpoint))
    sizes = [len(made.encode(image, 1)) for image in digit_set.images[:2]]
    assert learned[0].bytes_per_image == np.mean(sizes)
    assert learned[0].bpp == pytest.approx(np.mean(sizes) * 8 / 784)
    assert {row.best for row in result.comparisons}.isdisjoint({"compressai bmshj2018-hyperprior"})
    arguments = ["bench", "rd", str(tiny_model), "--data", digits8, "--limit", "2"]
    ran = CliRunner().invoke(main, [*arguments, *(f"--peer={spec}" for spec in specs)])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.count("compressai bmshj2018-hyperprior") == 2


@needs_extra
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ms_ssim_is_that_of_pytorch_msssim(mode: str) -> None:
    """Sides are multiples of 16: for odd sides, pytorch_msssim pads before it halves an image and we leave a row out.

    Both sums are in float64, but its window is computed in float32, to a relative error of about 2^-24 per weight:
    that moves a mean of 121 products of such weights by less than 1e-6."""
    with Image.open(PHOTO) as photo:
        images = np.stack([np.asarray(photo.convert(mode).resize((208, 176)))] * 3)
    spoilt = images.copy()
    spoilt[0] = images[0] // 32 * 32
    spoilt[1] = np.asarray(Image.fromarray(images[1]).resize((52, 44)).resize((208, 176)))
    spoilt[2] = 255 - images[2]
    x, x_hat = (
        torch.from_numpy(values.reshape(3, 176, 208, -1)).permute(0, 3, 1, 2).double() for values in (images, spoilt)
    )
    theirs = import_module("pytorch_msssim").ms_ssim(x, x_hat, data_range=255, size_average=False)
    ours = metrics.ms_ssim(images, spoilt)
    assert ours.max() > 0.9
    assert ours == pytest.approx(theirs.numpy(), abs=1e-6)
