"""`-`, pipes, /dev/stdin and FIFOs as inputs and outputs of the command line."""

from __future__ import annotations

import io
import json
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import vqcodec
from vqcodec.cli import main

PIXELS = np.random.default_rng(0).integers(0, 4, (9, 11, 3), np.uint8)
PLAIN = ("--model", "plain")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@dataclass(frozen=True)
class Ran:
    code: int
    data: bytes
    text: str
    notes: str


@contextmanager
def placed(number: int, descriptor: int) -> Iterator[None]:
    """The descriptor as the process's standard input (0) or output (1)."""
    kept = os.dup(number)
    os.dup2(descriptor, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def pipe_of(data: bytes) -> int:
    """The end of a pipe that gives the data, which are few enough to fit into it."""
    ours, theirs = os.pipe()
    os.write(theirs, data)
    os.close(theirs)
    return ours


def run(*arguments: str, stdin: bytes = b"") -> Ran:
    """The command line with real pipes as descriptors 0 and 1."""
    source = pipe_of(stdin)
    ours, theirs = os.pipe()
    try:
        with placed(0, source), placed(1, theirs):
            result = CliRunner().invoke(main, arguments)
    finally:
        os.close(source)
        os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        return Ran(result.exit_code, stream.read(), result.stdout, result.stderr)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.vqc").write_bytes(vqcodec.encode(PIXELS, "plain"))
    return tmp_path


@pytest.mark.parametrize("arguments", [("-",), ("-", "-"), ("-", "-o", "-"), ("/dev/stdin", "/dev/stdout"),
                                       ("/dev/fd/0", "/dev/fd/1"), ("/dev/stdin",)])  # fmt: skip
def test_through_a_pipe(folder: Path, arguments: tuple[str, ...]) -> None:
    before = sorted(os.listdir())
    for told in ((), ("--json",)):
        there = run("compress", *arguments, *PLAIN, *told, stdin=png())
        assert there.code == 0, there.notes
        assert there.text == ""
        back = run("decompress", *arguments, *told, stdin=there.data)
        assert back.code == 0, back.notes
        assert np.array_equal(pixels(back.data), PIXELS)
        assert back.text == ""
        if told:
            assert json.loads(there.notes)["bytes_out"] == len(there.data)
            assert json.loads(back.notes)["width"] == 11
        else:
            assert there.notes.endswith("lossless)\n") or "deflate" in there.notes
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("output", [("out",), ("-o", "out")])
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_from_a_pipe_to_a_file_and_back(folder: Path, source: str, output: tuple[str, ...]) -> None:
    assert run("compress", source, *output, *PLAIN, stdin=png()).code == 0
    blob = (folder / "out").read_bytes()
    assert np.array_equal(vqcodec.decode(blob, "numpy"), PIXELS)
    for place in (("-",), ("-o", "-"), ("/dev/stdout",)):
        assert np.array_equal(pixels(run("decompress", "out", *place).data), PIXELS)
        assert run("compress", "a.png", *place, *PLAIN).data == vqcodec.encode(PIXELS, "plain")
    (folder / "out").unlink()
    assert run("decompress", source, *output, stdin=blob).code == 0
    assert np.array_equal(pixels((folder / "out").read_bytes()), PIXELS)


def test_a_file_that_is_called_dash(folder: Path) -> None:
    assert run("compress", "a.png", "./-", *PLAIN).code == 0
    assert "11 x 9" in run("decompress", "./-", "-o", "b.png").text
    told = run("info", "./-", "--json")
    assert json.loads(told.text)["height"] == 9
    assert (folder / "-").exists()


def test_info_of_a_pipe(folder: Path) -> None:
    for name in ("-", "/dev/stdin"):
        told = run("info", name, "--json", stdin=(folder / "a.vqc").read_bytes())
        assert json.loads(told.text)["width"] == 11
        assert "stdin" in run("info", name, stdin=b"no such file").notes
    vqcodec.pack([str(folder / "a.png")], folder / "x.vqa", model="plain")
    told = run("info", "-", "--names", "--json", stdin=(folder / "x.vqa").read_bytes())
    assert json.loads(told.text)["names"] == ["a.png"]


def test_archives_through_pipes(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "one.png").write_bytes(png())
    there = run("pack", "set", "-", "--jobs", "1", "--json")
    assert there.code == 0, there.notes
    assert json.loads(there.notes)["bytes_total"] == len(there.data)
    told = run("verify", "-", "--jobs", "1", stdin=there.data)
    assert told.text == "stdin: 1 image in 1 block, all sound\n"
    assert run("unpack", "-", "back", "--jobs", "1", stdin=there.data).code == 0
    assert np.array_equal(pixels((folder / "back" / "one.png").read_bytes()), PIXELS)
    assert run("verify", "-", stdin=there.data[:-3]).code == 1


def test_fifos_and_process_substitution(folder: Path) -> None:
    os.mkfifo("in.fifo")
    os.mkfifo("out.fifo")
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: Path("in.fifo").write_bytes(png())),
        threading.Thread(target=lambda: found.append(Path("out.fifo").read_bytes())),
    ]
    for thread in threads:
        thread.start()
    assert run("compress", "in.fifo", "out.fifo", *PLAIN).code == 0
    for thread in threads:
        thread.join(60)
    assert np.array_equal(vqcodec.decode(found[0], "numpy"), PIXELS)
    source = pipe_of(png())
    try:
        assert run("compress", f"/dev/fd/{source}", "b.vqc", *PLAIN).code == 0
    finally:
        os.close(source)
    assert np.array_equal(vqcodec.decode((folder / "b.vqc").read_bytes(), "numpy"), PIXELS)


def test_a_shell_sends_stdout_to_a_file(folder: Path) -> None:
    for name in ("-", "/dev/stdout", "/dev/fd/1"):
        with open("shell.out", "wb") as stream, placed(1, stream.fileno()):
            stream.write(b"before")
            stream.flush()
            assert CliRunner().invoke(main, ["compress", "a.png", name, *PLAIN]).exit_code == 0
        assert (folder / "shell.out").read_bytes() == b"before" + vqcodec.encode(PIXELS, "plain")


def test_terminals_are_refused(folder: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with placed(1, theirs):
            for arguments in (["compress", "a.png", "-"], ["decompress", "a.vqc", "-o", "-"], ["pack", "a.png", "-"]):
                result = CliRunner().invoke(main, arguments)
                assert result.exit_code == 1
                assert "is a terminal" in result.stderr
        with placed(0, theirs):
            for command in ("compress", "decompress", "info"):
                result = CliRunner().invoke(main, [command, "-"])
                assert result.exit_code == 1
                assert "stdin is a terminal" in result.stderr or "stdout is a terminal" in result.stderr
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_a_pipe_cannot_be(folder: Path) -> None:
    before = sorted(os.listdir())
    assert "one of several" in run("compress", "a.png", "-", "a.png").notes
    assert "no name" in run("compress", "-", "-o", "out/").notes
    assert "stdin is not a readable image" in run("compress", "-", "out", stdin=b"text").notes
    assert "stdin" in run("decompress", "-", "out", stdin=b"text").notes
    assert "is a device; name a regular file" in run("compress", "/dev/zero", "out").notes
    assert "is a stream" in run("unpack", "a.vqa", "-").notes
    source = pipe_of(b"")
    try:
        assert "for reading only" in run("compress", "a.png", f"/dev/fd/{source}", *PLAIN).notes
    finally:
        os.close(source)
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_output(folder: Path) -> None:
    with open("/dev/full", "wb") as full, placed(1, full.fileno()):
        result = CliRunner().invoke(main, ["compress", "a.png", "-"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
