"""What is said of the machine beside every measurement."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from vqcodec.eval import environment
from vqcodec.eval.tables import aligned, number


def test_environment_is_json_and_one_line() -> None:
    where = json.loads(json.dumps(asdict(environment.environment())))
    assert where["threads"] == torch.get_num_threads()
    assert where["torch"] == torch.__version__
    assert where["device"] == "cpu"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(where["date"])).total_seconds()) < 3600
    assert where["cpu"]
    line = environment.line(where)
    assert line.startswith(f"{where['cpu']}, cpu, {where['threads']} thread(s)")
    assert "\n" not in line


def test_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{7,40}\+?", found)
    package = tmp_path / "vqcodec" / "eval"
    package.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    assert environment.commit() is None  # installed, not a checkout
    (tmp_path / "vqcodec" / ".git").mkdir()
    assert environment.commit() is None  # git cannot read it


def test_tables() -> None:
    assert aligned([["", "a", "bb"], ["row", "1,000", "-"]]) == "         a  bb\nrow  1,000   -"
    assert [number(1234.5678, 2), number(7.0), number(None, 3)] == ["1,234.57", "7", "-"]
