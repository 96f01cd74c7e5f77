"""torchac (C++) behind checked NumPy arrays. Its own Python package is never imported, see torchac_build."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .torchac_build import load_extension

Int16Array = NDArray[np.int16]


class TorchacCoder:
    """torchac's coder. Raises CoderUnavailable if it cannot be built or loaded here."""

    def __init__(self) -> None:
        extension = load_extension()
        import torch

        self._from_numpy = torch.from_numpy
        self._encode = extension.encode_cdf
        self._decode = extension.decode_cdf

    def encode(self, tables: Int16Array, symbols: Int16Array) -> bytes:
        """Stream of symbols: tables int16 [N, L + 1] (modulo 65536), symbols int16 [N] in 0..L-1 -> the stream.

        Raises ValueError for arrays that torchac would read wrongly."""
        _check(tables)
        _check(symbols)
        stream: bytes = self._encode(self._from_numpy(tables), self._from_numpy(symbols))
        return stream

    def decode(self, tables: Int16Array, data: bytes) -> Int16Array:
        """First N symbols of a stream: tables int16 [N, L + 1] (modulo 65536) -> int16 [N].

        Raises ValueError for arrays that torchac would read wrongly."""
        _check(tables)
        symbols: Int16Array = self._decode(self._from_numpy(tables), data).numpy()
        return symbols


def _check(array: Int16Array) -> None:
    """Raises ValueError: torchac walks memory with int offsets and ignores strides."""
    if array.dtype != np.int16 or not array.flags.c_contiguous or array.size >= 1 << 31:
        raise ValueError("expected a contiguous int16 array of fewer than 2^31 values")
