"""The command `vqcodec` in real processes that start quickly: forks of one that has loaded what commands load.

    result = run(["info", "a.vqc"], cwd=folder)
    result.returncode, result.stdout, result.stderr

As a module it is that process: it reads a request from each line of stdin, and answers with an exit code."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

LINKS = Path(__file__).parents[1] / ".links"


def run(arguments: Sequence[object], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command with these arguments, in this process's environment; stdin is empty."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {
            "arguments": [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in arguments],
            "cwd": str(cwd or Path.cwd()), "out": str(out), "err": str(err), "environment": dict(os.environ),
        }  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process that commands are forked from has ended"
        return subprocess.CompletedProcess(list(arguments), int(answer), out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(LINKS)}
    command = [sys.executable, "-m", "vqcodec.tests.command"]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    for stream in (server.stdin, server.stdout):
        assert stream is not None
        stream.close()
    server.wait(10)


def _serve() -> None:
    _load()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _load() -> None:
    """What commands load, but no model: those read their files in every process."""
    import torch

    import vqcodec.cli.archives
    import vqcodec.codec.api
    import vqcodec.codec.ladder.codec
    import vqcodec.codec.photo.codec
    import vqcodec.codec.photo_vq.codec
    import vqcodec.codec.pixels.codec
    import vqcodec.codec.vq.codec  # noqa: F401
    from vqcodec.bitstream.backend import backend

    torch.set_num_threads(1)
    backend()


def _become(request: dict[str, Any]) -> None:
    """Run the command in this process, and end it."""
    from vqcodec.cli import main

    code = 1
    try:
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        flags = os.O_WRONLY | os.O_CREAT
        for descriptor, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
            opened = os.open(path, flags if descriptor else os.O_RDONLY, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.argv = ["vqcodec", *request["arguments"]]
        main(prog_name="vqcodec")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
