"""How many threads torch's kernels use: one for little work and in forked processes, else as many as the host has.

OpenMP's threads meet after every operation, and those that wait spin. On a busy machine a meeting takes a time slice,
so that little work takes many times as long on two threads as on one. In a forked process the other threads are gone,
and a meeting never ends.

`torch.set_num_threads` would change what the host's other threads get. The counts of OpenMP and MKL that are set here
are those of the calling thread alone. The environment variable VQCODEC_THREADS selects: auto (default), or host (left
alone, but in forked processes)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ...bitstream.forks import forked

LITTLE = 1 << 17
"""Pixels that go through the networks together, below which it is little work."""

_Setter = Callable[[int], int]


@contextmanager
def threads_for(pixels: int) -> Iterator[None]:
    """Context in which this thread computes on as many threads as suit the work.

    Raises ValueError if VQCODEC_THREADS is neither auto nor host."""
    if not (_selected() == "auto" and pixels < LITTLE) and not forked():
        yield
        return
    set_openmp, set_mkl = _setters()
    before = torch.get_num_threads()  # first of all: it has torch choose the count of a new thread
    mkl_before = set_mkl(1)
    set_openmp(1)
    try:
        yield
    finally:
        set_openmp(before)
        set_mkl(mkl_before)


def _selected() -> str:
    wanted = os.environ.get("VQCODEC_THREADS", "auto")
    if wanted not in ("auto", "host"):
        raise ValueError(f"VQCODEC_THREADS: expected auto or host, found {wanted!r}")
    return wanted


@cache
def _setters() -> tuple[_Setter, _Setter]:
    """Functions that set this thread's count for OpenMP, and for MKL, where 0 stands for OpenMP's; the latter returns
    what it was before. They do nothing where torch is built without."""
    library = ctypes.CDLL(torch._C.__file__)  # looks also into the libraries that it needs
    return _function(library, "omp_set_num_threads"), _function(library, "MKL_Set_Num_Threads_Local")


def _function(library: ctypes.CDLL, name: str) -> _Setter:
    try:
        found: _Setter = getattr(library, name)
    except AttributeError:
        return lambda count: 0
    return found
