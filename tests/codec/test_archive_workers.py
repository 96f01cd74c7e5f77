"""Work in this process, in worker processes and on Ray: the same results, in order. The work is `eval`, which every
process can import."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vqcodec.bitstream.errors import VqcodecError
from vqcodec.codec.archive.io.workers import cores, in_order

RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
PID = "__import__('os').getpid()"


def test_results_come_in_order_whoever_is_quicker() -> None:
    tasks = [f"__import__('time').sleep({0.2 if n == 0 else 0}) or {n}" for n in range(9)]
    assert list(in_order(eval, tasks, jobs=2)) == list(range(9))


def test_one_job_and_little_work_stay_in_this_process() -> None:
    assert set(in_order(eval, [PID] * 3, jobs=1)) == {os.getpid()}
    assert set(in_order(eval, [PID], jobs=2)) == {os.getpid()}
    assert list(in_order(eval, [], jobs=2)) == []


def test_workers_are_other_processes_with_one_thread() -> None:
    threads = "__import__('torch').get_num_threads()"
    found = list(in_order(eval, [PID, PID, threads, threads], jobs=2))
    assert os.getpid() not in found[:2]
    assert found[2:] == [1, 1]


def test_no_jobs_means_all_cores() -> None:
    assert cores() >= 1
    assert list(in_order(eval, ["1", "2"], jobs=0)) == [1, 2]
    with pytest.raises(ValueError, match="jobs must be at least 0, found -1"):
        in_order(eval, ["1"], jobs=-1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_tasks_are_under_way_at_a_time(jobs: int) -> None:
    taken = 0

    def tasks() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 51):
            yield str(taken)

    for done, result in enumerate(in_order(eval, tasks(), jobs), 1):
        assert result == done
        assert taken - done <= (0 if jobs == 1 else jobs + 2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_the_work_and_of_the_tasks_arrive(jobs: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(eval, ["1", "1 / 0", "2"], jobs))

    def tasks() -> Iterator[str]:
        yield from ["1", "2", "3"]
        raise VqcodecError("no more tasks")

    with pytest.raises(VqcodecError, match="no more tasks"):
        list(in_order(eval, tasks(), jobs))


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(VqcodecError, match="a worker process died. It ran out of memory, or"):
        list(in_order(eval, ["__import__('os')._exit(3)", "1", "2"], jobs=2))


_SLEEPERS = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
from vqcodec.codec.archive.io.workers import in_order
for pid in in_order(eval, [{PID!r}] * 2 + ["__import__('time').sleep(60)"] * 4, 2):
    print(pid, flush=True)
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_parent_that_is_killed(how: signal.Signals) -> None:
    with run(_SLEEPERS) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        assert parent.pid not in workers
        parent.send_signal(how)
        parent.wait(120)
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)


def test_a_missing_ray_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VqcodecError, match=r"Ray is not installed: pip install 'vqcodec\[ray\]'"):
        list(in_order(eval, ["1"], ray="local"))


_ON_RAY = """
import io, sys
import numpy as np
from PIL import Image
from vqcodec.bitstream.errors import VqcodecError
from vqcodec.codec.archive.pack import pack
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.archive.io.workers import in_order

jpeg = io.BytesIO()
Image.fromarray(np.zeros((8, 8), np.uint8)).save(jpeg, "JPEG")
pixels = np.random.default_rng(0).integers(0, 4, (9, 8, 8), np.uint8)
items = [Item(f"{n:04}", file=jpeg.getvalue()) if n >= 9 else Item(f"{n:04}", array=pixels[n]) for n in range(2100)]
archives = []
for options in ({}, {"jobs": 2, "ray": "local"}):
    archives.append(io.BytesIO())
    pack(items, archives[-1], model="plain", **options)
assert archives[0].getvalue() == archives[1].getvalue()
assert "torch" not in sys.modules or options == {}

import ray
assert not ray.is_initialized()
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
assert list(in_order(eval, [str(n) for n in range(9)], ray="auto")) == list(range(9))
for task, kind in (("1 / 0", ZeroDivisionError), ("__import__('os')._exit(1)", VqcodecError)):
    try:
        list(in_order(eval, [task], ray="auto"))
    except kind as error:
        assert "\\n" not in str(error)
    else:
        raise AssertionError(task)
assert ray.is_initialized()
ray.shutdown()
try:
    list(in_order(eval, ["1"], ray="no-such-scheme://here"))
except VqcodecError as error:
    assert str(error).startswith("Ray at 'no-such-scheme://here': ")
print("done")
"""


@RAY
@pytest.mark.slow
def test_ray_gives_the_same_bytes() -> None:
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", _ON_RAY], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.endswith("done\n"), done.stderr
