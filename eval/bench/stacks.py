"""`python -m vqcodec.eval.bench.stacks`: the stack of `bitstream.ans` beside constriction's AnsCoder (if installed).

Million symbols a second, pushing and popping tables that are all different, as archives have them: two symbols (the
pixels of black-and-white images), sixteen (half a pixel), and 128 (a latent on a grid). Tables exist before the clock
starts. constriction takes probabilities as float64, of which it makes tables of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ...bitstream.ans import Stack, Tables
from ...bitstream.cdf import cdf_from_frequencies, quantise_weights
from ..environment import environment, line
from ..tables import aligned

_LANES, _STEPS = 1024, 60
_ALPHABETS = (2, 16, 128)


def rates(alphabet: int) -> tuple[float, float]:
    """Million symbols a second, pushed and popped, of our stack."""
    freq, symbols = _drawn(alphabet)
    tables = [Tables(cdf_from_frequencies(each), 16) for each in freq]
    stack = Stack(_LANES)

    def push() -> None:
        for each, table in zip(symbols, tables, strict=True):
            stack.push(each, table)

    pushed = _seconds(push)
    popped = _seconds(lambda: [stack.pop(table) for table in reversed(tables)])
    return symbols.size / pushed / 1e6, symbols.size / popped / 1e6


def rates_of_constriction(alphabet: int) -> tuple[float, float] | None:
    """The same of constriction's AnsCoder; None if it is not installed."""
    try:
        import constriction
    except ImportError:
        return None
    freq, symbols = _drawn(alphabet)
    probabilities = freq.reshape(-1, alphabet) / 2.0**16
    family = constriction.stream.model.Categorical(perfect=False)
    coder, given = constriction.stream.stack.AnsCoder(), symbols.ravel().astype(np.int32)
    pushed = _seconds(lambda: coder.encode_reverse(given, family, probabilities))
    popped = _seconds(lambda: coder.decode(family, probabilities))
    return symbols.size / pushed / 1e6, symbols.size / popped / 1e6


def _drawn(alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [steps, lanes, alphabet], and symbols [steps, lanes] that are as likely as they say."""
    rng = np.random.default_rng(0)
    freq = quantise_weights(rng.integers(1, 1000, (_STEPS, _LANES, alphabet)) ** 2)
    count = rng.integers(0, 2**16, (_STEPS, _LANES, 1))
    return freq, (np.cumsum(freq, -1) <= count).sum(-1)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    rows = [["symbols", "coder", "push, M/s", "pop, M/s"]]
    for alphabet in _ALPHABETS:
        for name, found in (("ours", rates(alphabet)), ("constriction", rates_of_constriction(alphabet))):
            shown = ["-", "-"] if found is None else [f"{rate:.1f}" for rate in found]
            rows.append([str(alphabet), name, *shown])
    print(aligned(rows))
    print(line(environment("cpu").__dict__))


if __name__ == "__main__":
    main()
