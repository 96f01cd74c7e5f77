"""Processes that are watched: their output, time, memory with that of their workers, failures, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqcodec import VqcodecError
from vqcodec.eval import processes

LINUX = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux' /proc")
HOLD = "import time; data = bytearray(b'x') * (100 << 20); time.sleep(0.6)"


def python(code: str) -> processes.Ran:
    return processes.run([sys.executable, "-c", code])


def test_output_and_time() -> None:
    ran = python("import time; time.sleep(0.3); print('done')")
    assert ran.stdout == "done\n"
    assert ran.wall_s > 0.3
    assert 0 <= ran.cpu_s < ran.wall_s + 1


@LINUX
def test_memory() -> None:
    ran = python(HOLD)
    assert ran.peak_mib is not None
    assert 100 < ran.peak_mib < 200


@LINUX
def test_memory_of_workers_counts() -> None:
    alone = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"
    ran = python(f"data = bytearray(b'x') * (50 << 20); {alone}")
    assert ran.peak_mib is not None
    assert 150 < ran.peak_mib < 250


@LINUX
def test_other_processes_do_not_count() -> None:
    assert processes.group_kib(1 << 30) is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0) as process:
        time.sleep(0.2)
        found = processes.group_kib(process.pid)
        assert found is not None
        assert 1000 < found < 50_000
        process.communicate(b"\n")


def test_failures_are_told() -> None:
    with pytest.raises(VqcodecError, match="no such thing$"):
        python("import sys; print('first', file=sys.stderr); sys.exit('no such thing')")
    with pytest.raises(VqcodecError, match="exit code 3$"):
        python("import sys; sys.exit(3)")


def test_the_command_line_runs() -> None:
    assert processes.run_vqcodec(["--version"]).stdout.startswith("vqcodec")
    with pytest.raises(VqcodecError, match="missing.vqa"):
        processes.run_vqcodec(["verify", "missing.vqa"])


def test_interrupted_processes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        python("import time; time.sleep(60)")
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0], 0)
