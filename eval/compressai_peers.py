"""CompressAI's learned codecs as peers: --peer compressai:ARCHITECTURE:QUALITY:CHECKPOINT.

They need the extra `compressai` (InterDigital's package, 1.2.8), run on the CPU, and decide probabilities with float
networks: a file decodes in the process that made it, which is all that a comparison asks; no promise beyond that.

File of a peer: 2 * height + (1 if colour), width, and the length of every string of CompressAI but the last, each as
LEB128 (7 bits a byte, low first, top bit set if more follow), then the strings. For a grey image of 28 x 28: 3 bytes,
or 2 for the factorised priors, which have one string."""

from __future__ import annotations

import io
import pickle
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.library import Library
from torch.nn.functional import pad

from ..bitstream.errors import VqcodecError
from ..codec.files import read_bytes
from .metrics import Images
from .peers import Peer

RANDOM = "random"
"""In place of a checkpoint: untrained weights, always the same, for trying things out."""
_MULTIPLE = 64  # sides are padded to multiples of it, as in compressai.utils.eval_model: at most six strides of two
_WRAPPERS = ("network", "state_dict", "model_state_dict")  # keys under which training scripts keep the weights
_BAD_CHECKPOINT = (AttributeError, EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


class PeerError(VqcodecError):
    """A peer that cannot be had: compressai is missing, an unknown architecture or quality, a bad checkpoint."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network. model: its class in `compressai.models`.  strings: how many `compress` gives.

    qualities: 1 to this number name its sizes in `compressai.zoo`."""

    model: str
    strings: int
    qualities: int


# By class and not by CompressAI's own functions, of which the one for -relu builds the network without (zoo/image.py).
ARCHITECTURES = {
    "bmshj2018-factorized": Architecture("FactorizedPrior", 1, 8),
    "bmshj2018-factorized-relu": Architecture("FactorizedPriorReLU", 1, 8),
    "bmshj2018-hyperprior": Architecture("ScaleHyperprior", 2, 8),
    "mbt2018-mean": Architecture("MeanScaleHyperprior", 2, 8),
    "mbt2018": Architecture("JointAutoregressiveHierarchicalPriors", 2, 8),
    "cheng2020-anchor": Architecture("Cheng2020Anchor", 2, 6),
    "cheng2020-attn": Architecture("Cheng2020Attention", 2, 6),
}


@dataclass(frozen=True)
class Asked:
    """What names a peer. checkpoint: path of a state dict; None for random weights."""

    architecture: str
    quality: int
    checkpoint: Path | None

    @property
    def name(self) -> str:
        """Of the curve: the same for all qualities of an architecture."""
        return f"compressai {self.architecture}" + (" (random weights)" if self.checkpoint is None else "")


def peers(specs: Sequence[str]) -> list[Peer]:
    """Peers as the command line names them, one quality each; those of one architecture share their name.

    Raises PeerError, also for a quality that is named twice, and FileError for a checkpoint that cannot be read."""
    asked = [parse(spec) for spec in specs]
    if len({(one.name, one.quality) for one in asked}) < len(asked):
        raise PeerError(f"{', '.join(specs)}: the same quality of one architecture twice; measure them in two runs")
    return [peer(one) for one in asked]


def parse(spec: str) -> Asked:
    """compressai:ARCHITECTURE:QUALITY:CHECKPOINT, CHECKPOINT a path or "random". Raises PeerError."""
    kind, *parts = spec.split(":", 3)
    if kind != "compressai" or len(parts) != 3 or not parts[2]:
        raise PeerError(f"peer {spec!r}: expected compressai:ARCHITECTURE:QUALITY:CHECKPOINT (a path, or {RANDOM!r})")
    name, quality, checkpoint = parts
    if name not in ARCHITECTURES:
        raise PeerError(f"peer {spec!r}: unknown architecture {name!r}, expected one of {', '.join(ARCHITECTURES)}")
    last = ARCHITECTURES[name].qualities
    if quality not in map(str, range(1, last + 1)):
        raise PeerError(f"peer {spec!r}: quality {quality!r}, expected 1 to {last}")
    return Asked(name, int(quality), None if checkpoint == RANDOM else Path(checkpoint))


def peer(asked: Asked) -> Peer:
    """A codec of grey images uint8 [H, W], which it takes as three equal channels and gives back as their mean; and
    of colour uint8 [H, W, 3]. (CompressAI's evaluator compares the three channels without that mean, which averages
    their errors; on colour images both give the same PSNR.) With a checkpoint, the quality is but its label: the
    weights tell the network's size.

    Raises PeerError, or FileError for a checkpoint that cannot be read."""
    architecture, package = ARCHITECTURES[asked.architecture], compressai()
    network = _random(asked, package) if asked.checkpoint is None else _trained(asked, asked.checkpoint, package)
    network.eval().update(force=True)  # fills the tables of the entropy coder, which checkpoints need not have
    decode = partial(_decode, network, architecture.strings)
    return Peer(asked.name, (asked.quality,), partial(_encode, network), decode)


def compressai() -> Any:
    """The package compressai, past its import trap. Raises PeerError where it is missing or does not import."""
    try:
        _import_torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it decorates with torch.jit.script
            return import_module("compressai")
    except (ImportError, RuntimeError) as error:
        raise PeerError(f"peers of CompressAI need its package: pip install vqcodec[compressai] ({error})") from error


def _import_torchvision() -> None:
    """Import torchvision even where its own operators cannot be loaded, which none of the networks here calls.

    Such is the package index's wheel, built for CUDA, beside a CPU torch: "operator torchvision::nms does not exist".
    What its modules expect to find is then declared without being there; the next import of torchvision succeeds."""
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()


@cache  # keeps the library alive: its declarations would end with it
def _declare_operators() -> Library:
    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _random(asked: Asked, package: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _class(asked, package)(*package.zoo.image.cfgs[asked.architecture][asked.quality])


def _trained(asked: Asked, path: Path, package: Any) -> Any:
    """The network of a state dict, bare or under one of the usual keys; nothing in the file is run."""
    data = read_bytes(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # an odd file is an error below, or fine
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for key in _WRAPPERS:
            state = state.get(key, state)
        return _class(asked, package).from_state_dict(package.zoo.load_state_dict(state))
    except _BAD_CHECKPOINT as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
        raise PeerError(f"{path} is no checkpoint of {asked.architecture}: {reason}") from error


def _class(asked: Asked, package: Any) -> Any:
    return getattr(package.models, ARCHITECTURES[asked.architecture].model)


def _encode(network: Any, image: Images, _: int | None) -> bytes:
    height, width = image.shape[:2]
    with torch.no_grad():
        coded = network.compress(pad(_planes(image), _margins(height, width)))
    strings = [string for (string,) in coded["strings"]]
    numbers = [2 * height + (image.ndim == 3), width, *(len(string) for string in strings[:-1])]
    return b"".join([*map(_leb128, numbers), *strings])


def _decode(network: Any, count: int, data: bytes) -> Images:
    """count: of strings in the file."""
    stream = io.BytesIO(data)
    (height, colour), width = divmod(_read_leb128(stream), 2), _read_leb128(stream)
    sizes = [_read_leb128(stream) for _ in range(count - 1)]
    strings = [[stream.read(size)] for size in [*sizes, -1]]
    left, right, top, bottom = _margins(height, width)
    padded = (height + top + bottom, width + left + right)
    with torch.no_grad():
        x_hat = network.decompress(strings, [side // network.downsampling_factor for side in padded])["x_hat"]
    return _image(x_hat[..., top : top + height, left : left + width], bool(colour))


def _margins(height: int, width: int) -> tuple[int, int, int, int]:
    """Zeros to add left, right, above and below: the image stays in the middle (`compressai.ops.compute_padding`)."""
    rows, columns = -height % _MULTIPLE, -width % _MULTIPLE
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def _planes(image: Images) -> Tensor:
    """uint8 [H, W] or [H, W, 3] -> float32 [1, 3, H, W] in 0..1."""
    colours = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    return torch.from_numpy(colours.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def _image(x_hat: Tensor, colour: bool) -> Images:
    """float32 [1, 3, H, W] -> uint8 [H, W, 3], or the mean of the channels, uint8 [H, W]; both rounded."""
    planes = x_hat[0].clamp(0, 1) if colour else x_hat[0].clamp(0, 1).mean(0, keepdim=True)
    levels: Images = (planes * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return levels if colour else levels[:, :, 0]


def _leb128(value: int) -> bytes:
    """A number >= 0, 7 bits a byte, low first."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _leb128(value >> 7)


def _read_leb128(stream: io.BytesIO) -> int:
    (byte,) = stream.read(1)
    return byte if byte < 128 else byte & 127 | _read_leb128(stream) << 7
