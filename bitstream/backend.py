"""Chooses the coder: torchac where it can be built, otherwise plain Python, with the same bytes."""

from __future__ import annotations

import functools
import os
import sys
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import CoderUnavailable
from .forks import Lock
from .python_coder import PythonCoder
from .torchac_backend import TorchacCoder

_choosing = Lock()


class Backend(Protocol):
    """One stream of symbols with one table each, see TorchacCoder."""

    def encode(self, tables: NDArray[np.int16], symbols: NDArray[np.int16]) -> bytes:
        """See TorchacCoder.encode."""

    def decode(self, tables: NDArray[np.int16], data: bytes) -> NDArray[np.int16]:
        """See TorchacCoder.decode."""


def backend() -> Backend:
    """The coder that the environment variable VQCODEC_CODER names: auto (the default), torchac or python.

    Raises CoderUnavailable if it is torchac and that cannot be built, ValueError if it is another word."""
    with _choosing.held():  # one thread builds and loads it
        return _backend(os.environ.get("VQCODEC_CODER") or "auto")


@functools.cache
def _backend(choice: str) -> Backend:
    if choice not in ("auto", "torchac", "python"):
        raise ValueError(f"VQCODEC_CODER: expected auto, torchac or python, found {choice!r}")
    if choice == "python":
        return PythonCoder()
    try:
        return TorchacCoder()
    except CoderUnavailable as error:
        if choice == "torchac":
            raise
        sys.stderr.write(f"vqcodec: using the slow pure-Python coder, the files are the same: {error}\n")
        return PythonCoder()
