"""The benchmark of stacks: its symbols, and that it runs."""

from __future__ import annotations

import numpy as np
import pytest

from vqcodec.eval.bench import stacks


def test_symbols_are_as_likely_as_the_tables_say() -> None:
    freq, symbols = stacks._drawn(16)
    assert (freq.sum(-1) == 2**16).all()
    expected = np.take_along_axis(freq, symbols[..., None], -1).mean() / 2**16
    assert expected == pytest.approx(((freq / 2**16) ** 2).sum(-1).mean(), rel=0.02)


def test_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stacks, "_STEPS", 3)
    stacks.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:7]] == ["ours", "constriction"] * 3
    assert all(float(line.split()[2]) > 0 for line in lines[1:7:2])
