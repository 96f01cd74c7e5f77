"""Initial weights of Ladder VAEs with rounded latents: a linear transform codec, which training then improves.

With random weights the decoder takes thousands of steps to draw anything, while the rate term already silences the
latents. So the first channels of every hidden layer start out as the pixels of their patch: convolutions pass them on,
residual branches start at zero, latents are coefficients of a discrete cosine transform (coarse ones in the levels
above) in units of a quantisation step that suits the quality, and what is added to the top-down features is the inverse
transform. The other channels start at random (He et al. 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..codec.ladder.model import LadderModel


def cosine_basis(patch: int) -> Tensor:
    """Orthonormal two-dimensional DCT-II: float32 [patch**2, patch**2], a row per coefficient, by rising frequency."""
    n = torch.arange(patch, dtype=torch.float64)
    basis = torch.cos(math.pi / patch * (n + 0.5) * n[:, None]) * math.sqrt(2 / patch)
    basis[0] /= math.sqrt(2)
    order = (n[:, None] + n).flatten().argsort(stable=True)
    both = torch.einsum("ux,vy->uvxy", basis, basis)
    return both.flatten(2).flatten(0, 1)[order].float()


def loudness(rd_weight: float) -> float:
    """Latents per unit of a coefficient (pixels in 0..1): one over the step of uniform quantisation at this weight.

    At high rate a coefficient takes 1/2 log2(c / D) bits, so dR/dD = -rd_weight at D = 1 / (2 ln 2 rd_weight), and
    the step is sqrt(12 D) of 255 levels."""
    return 255 / math.sqrt(12 / (2 * math.log(2) * rd_weight))


@torch.no_grad()
def start_as_transform(model: LadderModel, rd_weights: list[float]) -> None:
    """Set the initial weights; rd_weights: bits per squared error (pixels in 0..255) of every quality.

    Does nothing where a level on the first grid has fewer channels than a patch has pixels."""
    config, pixels = model.config, model.config.patch**2
    own = [level for level in range(config.levels) if config.grids[level] == config.grids[0]]
    if min(config.widths[level] for level in own) < pixels or not config.skip:
        return
    basis, first = cosine_basis(config.patch), 0
    inference, generative = model.inference, model.generative
    for level in range(config.levels):
        for part in (inference.nets[level], generative.nets[level]):
            _pass_on(part, pixels if level in own else 0)
    for level, part in enumerate(generative.expand, start=1):
        _pass_on(part, pixels if level in own else 0)
        if level not in own:  # what comes from a coarser grid starts in the other channels
            _quiet(part, pixels * (config.grids[level - 1] // config.grids[level]) ** 2)
    for level in reversed(range(config.levels)):
        for quality, weight in enumerate(rd_weights):
            rows = basis[first : first + config.latents[level]] if level in own else basis[:0]
            _set_latents(model, level, quality, rows, loudness(weight))
        first += config.latents[level] if level in own else 0
    _pass_on(generative.render, pixels)
    last = generative.render[-2]
    assert isinstance(last, nn.Conv2d)
    _quiet(last, pixels)
    last.weight[:, :pixels, 0, 0] = torch.eye(pixels)


def _pass_on(part: nn.Module, channels: int) -> None:
    """Let the first convolution of a part pass its first channels on as they are; random weights for the rest."""
    for layer in part.modules():
        if not isinstance(layer, nn.Conv2d) or not bool(layer.weight.any()):  # residual branches stay at zero
            continue
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    first = next((layer for layer in part.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or not channels:
        return
    _quiet(first, channels)
    centre = first.kernel_size[0] // 2
    first.weight[:channels, :channels, centre, centre] = torch.eye(channels)


def _quiet(part: nn.Module, channels: int) -> None:
    """Let the first channels that the (first) convolution of a part makes be zero."""
    layer = next(layer for layer in part.modules() if isinstance(layer, nn.Conv2d))
    assert layer.bias is not None
    layer.weight[:channels] = 0.0
    layer.bias[:channels] = 0.0


def _set_latents(model: LadderModel, level: int, quality: int, rows: Tensor, loud: float) -> None:
    """Heads and entry of a level: coefficients `rows` [n, pixels], the other latents at random."""
    posterior = _at(model.inference.heads[level], quality)
    latents, pixels = model.config.latents[level], model.config.patch**2
    nn.init.normal_(posterior.weight, std=1 / math.sqrt(posterior.in_channels))
    entry = _at(model.generative.entries[level], quality)
    if len(rows):
        nn.init.zeros_(posterior.weight)
        posterior.weight[: len(rows), :pixels, 0, 0] = rows * loud
        _quiet(entry, pixels)
        entry.weight[:pixels, : len(rows), 0, 0] = rows.T / loud
        entry.weight[pixels:] /= loud
    _flat(posterior, latents, -1.0)
    if level + 1 < model.config.levels:
        prior = _at(model.generative.heads[level], quality)
        nn.init.zeros_(prior.weight)
        _flat(prior, latents, math.log(loud / 2) if len(rows) else 0.0)
    else:
        model.generative.top.weight[quality] = 0.0


def _flat(head: nn.Conv2d, latents: int, log_scale: float) -> None:
    """Let a head's log scale be constant, and its mean have no offset."""
    assert head.bias is not None
    head.weight[latents:] = 0.0
    head.bias[:latents] = 0.0
    head.bias[latents:] = log_scale


def _at(modules: nn.Module, index: int) -> nn.Conv2d:
    assert isinstance(modules, nn.ModuleList)
    found = modules[index]
    assert isinstance(found, nn.Conv2d)
    return found
