"""Long work tells how much of it is done: a bar on terminals, and a callback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "TERM": "xterm", "OMP_NUM_THREADS": "1"}


def check(shares: list[float], at_least: int = 1) -> None:
    assert len(shares) >= at_least
    assert all(isinstance(share, float) for share in shares)
    assert all(0 < share <= 1 for share in shares)
    assert all(a < b for a, b in pairwise(shares))
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "reports"),
    [
        ({"quality": 50}, 4),
        ({"bpp": 1.0}, 8),
        ({"model": "vq-photo"}, 2),
        ({"lossless": True}, 2),
        ({"model": "lossless-photo"}, 2),
        ({"model": "plain"}, 1),
    ],
)
def test_photographs(photo: NDArray[np.uint8], options: dict[str, object], reports: int) -> None:
    image = photo if reports == 2 else photo[:64, :96]
    there: list[float] = []
    blob = vqcodec.encode(image, **options, progress=there.append)  # type: ignore[arg-type]
    check(there, reports)
    assert blob == vqcodec.encode(image, **options)  # type: ignore[arg-type]
    for decoded in (vqcodec.decode, vqcodec.decode_to_png):
        back: list[float] = []
        decoded(blob, progress=back.append)  # type: ignore[operator]
        check(back, 1 if options.get("model") == "plain" else 2)


def test_small_and_flat_images(digits: NDArray[np.uint8]) -> None:
    for image in (digits[0], Image.new("RGBA", (30, 20)), Image.new("1", (5, 5))):
        there, back = list[float](), list[float]()
        vqcodec.decode(vqcodec.encode(image, progress=there.append), progress=back.append)
        check(there)
        check(back)


def test_an_error_is_no_end() -> None:
    told: list[float] = []
    with pytest.raises(vqcodec.VqcodecError):
        vqcodec.decode(b"VQC\x1a", progress=told.append)
    assert 1.0 not in told


class Terminal:
    """A process whose stderr is a terminal, and what it shows there."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = bytearray()
        self.process = subprocess.Popen(
            command, stderr=theirs, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=cwd, env=ENVIRONMENT
        )
        os.close(theirs)
        self._something = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._ours, 4096)
            except OSError:  # as Linux says that the other end is closed
                part = b""
            with self._something:
                self.shown += part
                self._something.notify_all()
            if not part:
                return

    def wait_for(self, text: bytes) -> bool:
        with self._something:
            return self._something.wait_for(lambda: text in self.shown, 100)

    def end(self) -> tuple[int, bytes]:
        """Exit code, and what went to stdout."""
        out, _ = self.process.communicate(timeout=100)
        self._reader.join(10)
        os.close(self._ours)
        return self.process.returncode, out


def test_a_bar_appears_for_long_work_only(tmp_path: Path) -> None:
    """The input is a pipe that gives the image once the bar is there."""
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "late.png")
    command = [sys.executable, "-m", "vqcodec.cli", "compress", "late.png", "-o", "a.vqc", "--model", "plain"]
    terminal = Terminal(*command, cwd=tmp_path)
    assert terminal.wait_for(b"compressing")
    (tmp_path / "late.png").write_bytes((tmp_path / "a.png").read_bytes())
    code, out = terminal.end()
    assert code == 0
    assert b"late.png" in out
    assert b"compressing" not in out


def test_quick_work_and_files_see_no_bar(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from vqcodec.cli import bar\n"
        "with bar.progress_bar('quick', 3) as told: told(3)\n"
        "with bar.progress_bar('slow') as told:\n"
        "    told.expect(3); time.sleep(bar.DELAY_S + 1); told(2)\n"
        "    with told.aside(): print('a result', flush=True)\n"
        "    time.sleep(1)\n"
    )
    terminal = Terminal(sys.executable, "-c", script, cwd=tmp_path)
    apart = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, timeout=100)
    assert terminal.end() == (0, b"a result\n")
    assert b"slow" in terminal.shown
    assert b"2/3" in terminal.shown
    assert b"quick" not in terminal.shown
    assert (apart.stdout, apart.stderr) == (b"a result\n", b"")
