"""Little work is done by one thread, whatever the host's count, which stays; large work by all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from vqcodec.cli import console
from vqcodec.codec.exact.threads import LITTLE, threads_for

ROOT = Path(__file__).parents[2]
HOST = """
import json, os, sys
import numpy as np
import torch, vqcodec
from PIL import Image
vqcodec.encode(np.zeros((9, 9), np.uint8))  # loads the coder
{before}
def threads():
    return len(os.listdir("/proc/self/task"))
found = {{}}
def told(name, work):
    before = threads()
    work()
    found[name] = [threads() - before, torch.get_num_threads()]
digits = np.load(sys.argv[1])
digits = np.resize(digits, (40, 28, 28)) // np.arange(1, 41, dtype=np.uint8)[:, None, None] * 2 // 2
photo = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
blobs = []
told("digits", lambda: blobs.extend(vqcodec.encode_batch(digits, lossless=True)))
told("decoded digits", lambda: vqcodec.decode_batch(blobs))
told("lossy digits", lambda: vqcodec.encode_batch(digits[:3], model="vq-mnist"))
told("photograph", lambda: vqcodec.encode(photo[:64, :64]))
told("lossless photograph", lambda: vqcodec.encode(photo[:64, :64], lossless=True))
told("many pixels", lambda: vqcodec.encode(np.tile(photo, (3, 3, 1)), model="vq-photo"))
print(json.dumps(found))
"""
LITTLE_WORK = ("digits", "decoded digits", "lossy digits", "photograph", "lossless photograph")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize("before", ["", "torch.set_num_threads(2)"])
def test_threads_of_the_process(before: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    files = [str(ROOT / "tests" / "images" / "mnist_test_8.npy"), str(ROOT / "codec" / "examples" / "photo.png")]
    command = [sys.executable, "-c", HOST.format(before=before), *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {name: found[name] for name in LITTLE_WORK} == {name: [0, 2] for name in LITTLE_WORK}
    assert found["many pixels"] == [1, 2]


def test_the_count_is_of_this_thread_and_set_back() -> None:
    counts: list[int] = []

    def count() -> None:
        counts.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(LITTLE - 1):
            assert torch.get_num_threads() == 1
            with threads_for(0):
                pass
            assert torch.get_num_threads() == 1
            other = threading.Thread(target=count)
            other.start()
            other.join()
        with pytest.raises(KeyError), threads_for(0):
            raise KeyError
        count()
        with threads_for(LITTLE):
            count()
    finally:
        torch.set_num_threads(before)
    assert counts == [2, 2, 2]


def test_the_host_may_keep_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_THREADS", "host")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(0):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("VQCODEC_THREADS", "seven")
    with pytest.raises(ValueError, match="VQCODEC_THREADS: expected auto or host, found 'seven'"), threads_for(0):
        pass


def test_threads_of_commands_do_not_spin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 13))
    console.use_one_thread(large)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_NUM_THREADS" not in os.environ
    console.use_one_thread()
    assert os.environ["OMP_NUM_THREADS"] == "1"
