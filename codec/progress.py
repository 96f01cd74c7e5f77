"""How much of a piece of work is done: a share of it, 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[float], None]
"""Told of the share done so far."""


def silent(share: float) -> None:
    """The report to nobody."""


def within(report: Report, begin: float, end: float) -> Report:
    """What a part of the work reports to, which takes it from the share `begin` to `end`."""
    if report is silent:
        return silent
    return lambda share: report(begin + (end - begin) * share)


class Steps:
    """Counts the steps of a piece of work, and reports the share done after each."""

    def __init__(self, report: Report, total: int) -> None:
        """total: steps that the work has, at least 1."""
        self._report, self._total, self._done = report, total, 0

    def done(self, steps: int = 1) -> None:
        """So many steps more are done."""
        self._done += steps
        self._report(min(1.0, self._done / self._total))


@contextmanager
def rising(report: Report) -> Iterator[Report]:
    """What a whole piece of work reports to: `report` is told of rising shares only, and of 1.0 once, when the context
    ends without an error."""
    if report is silent:
        yield silent
        return
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if told < share < 1.0:
            told = share
            report(share)

    yield tell
    report(1.0)
