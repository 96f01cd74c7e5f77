"""Where and with what a measurement was made."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..bitstream.backend import backend
from ..codec.api import BATCH
from ..codec.exact.backend import selected


@dataclass(frozen=True)
class Environment:
    """What a measured speed depends on.

    commit: of the checkout, with + for uncommitted changes; None outside one.  device: of the networks.
    threads: PyTorch's on the CPU.  batch: images at once.  coder: entropy coder.  arithmetic: back end of exact sums.
    """

    version: str
    commit: str | None
    date: str
    cpu: str
    device: str
    threads: int
    batch: int
    torch: str
    coder: str
    arithmetic: str


def environment(device: str = "cpu") -> Environment:
    """The present process on this machine, networks on `device`."""
    return Environment(
        version=__version__,
        commit=commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=cpu_name(),
        device=device if device == "cpu" else f"{device}: {torch.cuda.get_device_name(device)}",
        threads=torch.get_num_threads(),
        batch=BATCH,
        torch=torch.__version__,
        coder=type(backend()).__name__,
        arithmetic=selected(),
    )


def line(where: dict[str, Any]) -> str:
    """An environment as it stands in JSON, in one line."""
    parts = [where["cpu"], where["device"], f"{where['threads']} thread(s)", f"batch {where['batch']}"]
    parts += [f"torch {where['torch']}", where["coder"], where["arithmetic"]]
    return ", ".join([*parts, f"vqcodec {where['version']}", f"commit {where['commit']}", where["date"]])


def cpu_name() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Short hash of the checkout that this package lies in, + if tracked files differ from it; None outside one."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    with suppress(OSError, subprocess.CalledProcessError):
        found = _git(folder, "rev-parse", "--short", "HEAD")
        return found + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    return None


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return result.stdout.strip()
