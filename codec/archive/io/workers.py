"""Work done elsewhere: in this process, in processes of this machine, or on a Ray cluster. Results come in the order of
the tasks and are the same everywhere; few tasks are under way at a time, which bounds the memory.

The function and its arguments travel as pickles. This module, and what it needs, is imported without torch."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ....bitstream.errors import VqcodecError

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F")
_WAITING = 2  # tasks that are ready for workers which are done


def in_order(
    work: Callable[[T], R], tasks: Iterable[T], jobs: int = 1, ray: str | None = None
) -> Generator[R, None, None]:
    """work(task) for every task, in order. Close it if you leave early: that ends the workers.

    jobs: processes; 1: this one, also if there is a single task; 0: one per core. ray: None, or "local"
    (a cluster of `jobs` workers, for this call), or the address of a cluster ("auto", "ray://..."): all of its cores.
    Raises what the work raises, and VqcodecError if a worker dies or Ray is not to be had."""
    if jobs < 0:
        raise ValueError(f"jobs must be at least 0, found {jobs}")
    if ray is not None:
        return _on_ray(work, tasks, jobs or cores(), ray)
    tasks = iter(tasks)
    first = list(islice(tasks, 2)) if jobs != 1 else []
    if len(first) < 2:
        return _here(work, chain(first, tasks))
    return _in_processes(work, chain(first, tasks), jobs or cores())


def _here(work: Callable[[T], R], tasks: Iterable[T]) -> Generator[R, None, None]:
    yield from map(work, tasks)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bounded(submit: Callable[[T], F], tasks: Iterable[T], limit: int, result: Callable[[F], R]) -> Iterator[R]:
    """Results in order, with at most `limit` tasks submitted whose results were not taken."""
    under_way: deque[F] = deque()
    for task in tasks:
        under_way.append(submit(task))
        del task  # the worker has it
        if len(under_way) >= limit:
            yield result(under_way.popleft())
    while under_way:
        yield result(under_way.popleft())


def _in_processes(work: Callable[[T], R], tasks: Iterable[T], jobs: int) -> Generator[R, None, None]:
    # Spawned: a fork would copy threads' locks in any state, and torch's thread pools do not survive it.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    pool, process = ProcessPoolExecutor(jobs, context, _begin, (theirs,)), os.getpid()

    def check() -> None:
        if os.getpid() != process:  # the answers go to the parent: they would never come
            raise VqcodecError("a forked process cannot go on with what its parent's worker processes do; begin anew")

    def submit(task: T) -> Future[R]:
        check()
        return pool.submit(work, task)

    def result(future: Future[R]) -> R:
        check()
        return future.result()

    with ours, theirs:
        try:
            yield from _bounded(submit, tasks, jobs + _WAITING, result)
        except BrokenProcessPool as error:
            raise VqcodecError(
                "a worker process died. It ran out of memory, or the script lacks `if __name__ == '__main__':`. "
                "--jobs 1 (jobs=1) works without workers"
            ) from error
        finally:
            ours.close()  # ends the workers: what they are at is of no use any more, and torch takes its time to leave
            if os.getpid() == process:
                pool.shutdown(cancel_futures=True)


def _begin(parent: Connection) -> None:
    """Prepare a worker process: one thread, and its end once the parent closes its own end of the pipe or is killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:  # by a script's own imports, which a spawned process repeats
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    """A killed parent closes no queue that a worker waits at, but this pipe."""
    parent.poll(None)
    os._exit(1)


def _on_ray(work: Callable[[T], R], tasks: Iterable[T], jobs: int, address: str) -> Generator[R, None, None]:
    ray = _import_ray()
    with _cluster(ray, address, jobs):
        try:
            remote = ray.remote(num_cpus=1)(_call)
            shared = ray.put(work)
            limit = int(ray.cluster_resources().get("CPU", 1)) + _WAITING
            yield from _bounded(partial(remote.remote, shared), tasks, limit, ray.get)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise VqcodecError(f"Ray: {' '.join(str(error).split())}") from error


def _call(work: Callable[[T], R], task: T) -> R:
    return work(task)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise VqcodecError("Ray is not installed: pip install 'vqcodec[ray]'") from error


@contextmanager
def _cluster(ray: Any, address: str, jobs: int) -> Iterator[None]:
    """Connects to a cluster, unless the caller has done so, and leaves it afterwards."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    local = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise VqcodecError(f"Ray at {address!r}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()
