"""Real processes, with what they take: time from start to end, and memory with that of their workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..bitstream.errors import VqcodecError

SAMPLED_EVERY_S = 0.1
_PROC = Path("/proc")


@dataclass(frozen=True)
class Ran:
    """A process that ended well. stdout: what it printed.

    wall_s: from its start to its end, so with starting Python and loading everything. cpu_s: of all cores, its workers'
    time included. peak_mib: the most memory that it and its workers had at a time, as sums of proportional set sizes
    (pages that several of them share count once) every SAMPLED_EVERY_S seconds; None where Linux' /proc is missing."""

    wall_s: float
    cpu_s: float
    peak_mib: float | None
    stdout: str


def run_vqcodec(arguments: Sequence[str]) -> Ran:
    """`vqcodec` with these arguments in a process of its own, by the interpreter and the paths of this one.

    Raises VqcodecError, with the last line of stderr, if it fails."""
    return run([sys.executable, "-m", f"{__package__.partition('.')[0]}.cli", *arguments])


def run(command: Sequence[str]) -> Ran:
    """A command in a process of its own, until its end. Raises VqcodecError, with the last line of stderr, if it
    fails."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    used, start = _children_s(), time.perf_counter()
    # A group of its own, so that its workers are known.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | paths, process_group=0
    ) as process:
        try:
            with _peak_of(process.pid) as peak_kib:
                stdout, stderr = process.communicate()
        except BaseException:  # Ctrl-C does not reach another group
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    took = time.perf_counter() - start
    if process.returncode:
        told = (stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise VqcodecError(f"{' '.join(command)}: {told}")
    return Ran(took, _children_s() - used, max(peak_kib) / 1024 if peak_kib else None, stdout)


def _children_s() -> float:
    """CPU time of processes that this one waited for, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _peak_of(group: int) -> Iterator[list[int]]:
    """Samples what a process group has, in KiB, into the list until the context ends."""
    samples: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLED_EVERY_S):
            found = group_kib(group)
            if found is not None:
                samples.append(found)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def group_kib(group: int) -> int | None:
    """Memory of all processes of a group now, proportional set size in KiB; None if it cannot be told."""
    found = [size for size in map(_pss_kib, _members(group)) if size is not None]
    return sum(found) if found else None


def _members(group: int) -> Iterator[Path]:
    """Folders in /proc of the processes of a group."""
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # state, parent, group, ...
            if int(fields[2]) == group:
                yield folder


def _pss_kib(folder: Path) -> int | None:
    with suppress(OSError):
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return None
