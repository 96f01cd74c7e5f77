"""A quiet end of the command line when the system asks for it: what was begun is cleaned up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_SAME_S = 2.0  # a second signal within so many seconds is the same order: `timeout` sends two


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit with the code 128 + signal inside the context, so that temporary files are
    removed and worker processes ended. A signal that is ignored (by nohup) still is. Only for the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def end(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < _SAME_S:
            return
        first[:] = [now]
        sys.exit(128 + number)

    asked = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in asked}
    ours = [number for number in asked if before[number] is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
