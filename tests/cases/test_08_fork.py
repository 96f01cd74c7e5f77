"""A forked process encodes and decodes, whatever its parent was doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SECONDS = 600
"""Far more than it takes; what hangs, hangs for ever."""

HOST = """
import multiprocessing, os, sys, threading
import numpy as np
import torch, vqcodec
from PIL import Image
from vqcodec.bitstream import backend
from vqcodec.codec import models

digits = np.load(sys.argv[1])
photo = np.asarray(Image.open(sys.argv[2]).convert("RGB"))[:48, :64]
folder = sys.argv[3]
kinds = {
    "plain": dict(image=photo, model="plain"),
    "digits lossless": dict(image=digits[0], lossless=True),
    "digits": dict(image=digits[1], model="vq-mnist"),
    "photograph": dict(image=photo, model="vq-photo"),
    "photograph lossless": dict(image=photo, lossless=True),
    "metadata": dict(image=photo, model="ladder-photo", quality=40),
}

def single(kind):
    blob = vqcodec.encode(**kinds[kind])
    return blob, vqcodec.decode(blob, "numpy").tobytes()

def archive(name):
    path = os.path.join(folder, f"{name}-{os.getpid()}.vqa")
    items = [vqcodec.Item(f"{n}.png", array=image) for n, image in enumerate([*digits, photo])]
    vqcodec.pack(items, path)
    with open(path, "rb") as stream:
        packed = stream.read()
    opened = vqcodec.Archive(path, output="numpy")
    assert opened.verify() == []
    vqcodec.unpack(path, os.path.join(folder, f"{name}-{os.getpid()}"))
    return packed, b"".join(image.tobytes() for image in opened)

def everything(name):
    return {kind: single(kind) for kind in kinds} | {"archive": archive(name)}

expected = everything("parent")
torch.rand(1 << 22).exp().sum()  # the host's own work, on all threads
for size in (64, 600):
    matrix = torch.rand(size, size, dtype=torch.float64)
    matrix @ matrix
count = torch.get_num_threads()
assert count == 2, count

def in_child(done):
    child = os.fork()
    if not child:
        try:
            os._exit(0 if done() else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

in_child(lambda: everything("child") == expected and torch.get_num_threads() == count)
print("os.fork", flush=True)

def in_grandchild():
    in_child(lambda: single("digits") == expected["digits"])
    return single("photograph") == expected["photograph"]

in_child(in_grandchild)
print("again", flush=True)

context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    assert dict(zip(kinds, pool.map(single, kinds))) == {kind: expected[kind] for kind in kinds}
print("multiprocessing", flush=True)

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(single("digits lossless")))
    thread.start()
    thread.join()
    return found == [expected["digits lossless"]]

in_child(in_thread)
print("thread", flush=True)

taken, free = threading.Event(), threading.Event()

def hold():
    with models._loading.held(), backend._choosing.held():
        taken.set()
        free.wait()

holder = threading.Thread(target=hold)
holder.start()
taken.wait()
in_child(lambda: single("digits") == expected["digits"])
free.set()
holder.join()
print("locks", flush=True)
assert single("photograph") == expected["photograph"]
assert torch.get_num_threads() == count
"""


def test_forked_processes_encode_and_decode(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "2"}
    files = [str(ROOT / "tests" / "images" / "mnist_test_8.npy"), str(ROOT / "codec" / "examples" / "photo.png")]
    command = [sys.executable, "-W", "ignore", "-c", HOST, *files, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["os.fork", "again", "multiprocessing", "thread", "locks"]
