"""Processes made by a fork: only the thread that forked goes on in them, but what the others held stays held.

So thread pools of the parent never answer there, and locks that its other threads had taken are never given back."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_forked = False


def forked() -> bool:
    """Whether this process is a fork of one that had loaded this module."""
    return _forked


class Lock:
    """A re-entrant lock that is free in a forked process, whichever thread of the parent held it."""

    def __init__(self) -> None:
        """Free."""
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Forget who holds it."""
        self._lock = threading.RLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context in which this thread has it."""
        with self._lock:  # the one of now: within the context, the process may fork
            yield


def _after_fork() -> None:
    global _forked
    _forked = True
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_after_fork)
