"""A progress bar on stderr, where that is a terminal, for work that takes longer than a moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DELAY_S = 2.0
"""Seconds until the bar appears: what is done sooner says nothing."""
_PER_SECOND = 4  # times that it is drawn


class Bar:
    """How much is done of a piece of work; call it with how much was done since."""

    def __init__(self, action: str, total: float | None = None) -> None:
        """action: what is done, in a word. total: of the work, in any unit; None as long as it is not known."""
        self._action, self._total, self._done = action, total, 0.0
        self._lock = threading.RLock()
        self._shown: tuple[Progress, TaskID] | None = None
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Let it appear in a while."""
        self._timer = threading.Timer(DELAY_S, self._appear)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Let it disappear."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._timer = None
            if self._shown is not None:
                self._shown[0].stop()
                self._shown = None

    def __call__(self, done: float) -> None:
        """So much was done since."""
        self.reach(self._done + done)

    def reach(self, done: float) -> None:
        """So much of the total is done."""
        self._done = done
        self._update()

    def expect(self, total: float) -> None:
        """The total is known now."""
        self._total = total
        self._update()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context in which lines can be printed: the bar is not there."""
        with self._lock:
            if self._shown is None:
                yield
                return
            self._shown[0].stop()
            try:
                yield
            finally:
                self._shown[0].start()

    def _appear(self) -> None:
        progress = _drawn(self._total is None or self._total > 1)
        with self._lock:
            if self._timer is None:  # it was stopped meanwhile
                return
            task = progress.add_task(self._action, total=self._total)
            progress.update(task, completed=self._done)
            self._shown = progress, task
            progress.start()

    def _update(self) -> None:
        if self._shown is None:
            return
        with self._lock:
            if self._shown is not None:
                progress, task = self._shown
                progress.update(task, total=self._total, completed=self._done)


def _drawn(counted: bool) -> Progress:
    """A bar of rich's. counted: whether the work is a number of things, not a share of one."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # results belong to stdout, wherever that goes
        refresh_per_second=_PER_SECOND,
    )


@contextmanager
def progress_bar(action: str, total: float | None = None) -> Iterator[Bar]:
    """A bar that appears on stderr after DELAY_S, if that is a terminal, and is gone when the context ends."""
    bar = Bar(action, total)
    if sys.stderr is not None and sys.stderr.isatty():
        bar.start()
    try:
        yield bar
    finally:
        bar.stop()
