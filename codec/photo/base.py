"""What the codecs of photographs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.uint8]


class PhotoCodecBase(nn.Module):
    """A photograph model that is ready to code: its prior in integers, the rest in float32 (float16 when stored)."""

    photographs = True
    archives = False
    lossless = False

    psnr_floor: Tensor

    def __init__(self, psnr_floor: Sequence[float]) -> None:
        """psnr_floor: for every setting, the PSNR in dB below which an image counts as unknown to the model."""
        super().__init__()
        self.register_buffer("psnr_floor", torch.tensor(psnr_floor, dtype=torch.float64))
        self.register_load_state_dict_post_hook(_in_float32)  # type: ignore[no-untyped-call]

    @property
    def takes(self) -> str:
        """The images it takes, in words."""
        return "colour and grey images of 8 bits, of any size"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.psnr_floor.device

    def floor(self, setting: int) -> float:
        """PSNR in dB below which an image is unlike anything the model was made for."""
        return float(self.psnr_floor[setting - 1])

    def stored(self) -> dict[str, Tensor]:
        """The state as a weights file holds it: floats as float16."""
        state = self.state_dict()
        return {name: each.half() if each.dtype == torch.float32 else each for name, each in state.items()}

    def check(self) -> None:
        """Raises ValueError unless all floats are finite: one too large for float16 is stored as infinity."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters()):
            raise ValueError("weights must be finite")

    def float32(self) -> AbstractContextManager[None]:
        """Context in which a GPU's convolutions keep all bits of float32; without it they round to 11 (TF32)."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    def pixels_in(self, padded: Pixels) -> Tensor:
        """Pixels uint8 [H, W, 3] as the networks take them: -0.5..0.5, [1, 3, H, W]."""
        x = torch.from_numpy(padded).to(self.device).permute(2, 0, 1)[None].float().div_(255).sub_(0.5)
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def pixels_out(x: Tensor) -> Pixels:
        """The inverse of `pixels_in`, rounded."""
        levels = x[0].add(0.5).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        pixels: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The next multiples."""
    return height + -height % multiple, width + -width % multiple


def padded(pixels: Pixels, multiple: int) -> Pixels:
    """Pixels uint8 [H, W, 3] with the last row and column repeated, to multiples of `multiple`."""
    height, width = pixels.shape[:2]
    rows, columns = padded_size(height, width, multiple)
    return np.pad(pixels, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")


def _in_float32(codec: nn.Module, _: object) -> None:
    """Floats are stored as float16, and computed in float32 with channels last."""
    assert isinstance(codec, PhotoCodecBase)
    for parameter in codec.parameters():  # not the buffers of the exact parts
        layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        parameter.data = parameter.data.float().contiguous(memory_format=layout)
    codec.requires_grad_(False)
