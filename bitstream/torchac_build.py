"""Compiles torchac's own C++ once per environment, quietly, and loads it.

`import torchac` would compile on every fresh cache, print to stdout, leave out -O3, and wait for ever on the lock file
of a killed build. So the package is only located, never imported; its source is compiled by torch's cpp_extension in a
child process (its output goes to build.log), and the finished library is moved into place, so what is there is whole.

    $VQCODEC_CACHE or $XDG_CACHE_HOME/vqcodec or ~/.cache/vqcodec / torchac-KEY / vqcodec_torchac.so, build.log, mutex
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from .errors import CoderUnavailable

NAME = "vqcodec_torchac"
_FLAGS = ["-O3"]
_BUILD_SECONDS = 600
_BUILD_SCRIPT = """
import sys
from torch.utils.cpp_extension import load
name, source, folder, *flags = sys.argv[1:]
load(name, [source], extra_cflags=flags, build_directory=folder, verbose=True, with_cuda=False)
"""


def load_extension() -> ModuleType:
    """C++ module of torchac (functions encode_cdf, decode_cdf), built first if this environment has not built it yet.

    Raises CoderUnavailable, naming what is missing, if torch, torchac, a compiler or Python's headers are not there, or
    if the build or the loading fails."""
    try:
        import torch  # noqa: F401 - the library needs torch's symbols in the process
    except ImportError as error:
        raise CoderUnavailable("torch is not installed") from error
    try:
        folder = cache_folder() / f"torchac-{_environment_key(torchac_source())}"
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / f"{NAME}.so"
        if not library.exists():
            _build_once(library)
        return _load(library)
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        raise CoderUnavailable(f"torchac's C++ coder cannot be built or loaded: {error}") from error


def torchac_source() -> Path:
    """The C++ file inside the installed torchac package. Raises CoderUnavailable if there is none."""
    spec = importlib.util.find_spec("torchac")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        source = Path(folder) / "backend" / "torchac_backend.cpp"
        if source.is_file():
            return source
    raise CoderUnavailable("torchac is not installed")


def cache_folder() -> Path:
    """The user's cache folder for vqcodec, or a private temporary one where that cannot be written.

    Raises CoderUnavailable if the temporary folder exists and belongs to somebody else, who could plant a library."""
    default = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = Path(os.environ.get("VQCODEC_CACHE") or Path(default) / "vqcodec")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _private_temporary_folder()
    return root if os.access(root, os.W_OK) else _private_temporary_folder()


def _private_temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"vqcodec-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise CoderUnavailable(f"{folder} can be written by others; set VQCODEC_CACHE to a folder of your own")
    return folder


def _environment_key(source: Path) -> str:
    """Changes with everything that decides whether a compiled library fits: interpreter, torch, source, flags."""
    import torch

    parts = [
        platform.machine(),
        str(sysconfig.get_config_var("EXT_SUFFIX")),
        torch.__version__,
        str(torch._C._GLIBCXX_USE_CXX11_ABI),
        *_FLAGS,
    ]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + source.read_bytes()).hexdigest()[:16]


def _build_once(library: Path) -> None:
    """Builds unless another process does it meanwhile. Raises CoderUnavailable, OSError or SubprocessError."""
    with _locked(library.with_name("mutex")) as lock:
        if library.exists():
            return
        _check_tools()
        sys.stderr.write("vqcodec: compiling torchac's entropy coder (about 30 s, only once)\n")
        sys.stderr.flush()
        work = library.with_name("build")
        shutil.rmtree(work, ignore_errors=True)  # of a killed build, with cpp_extension's lock file
        work.mkdir()
        _run_build(work, lock)
        os.replace(work / f"{NAME}.so", library)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Holds an exclusive lock, which the system drops when every process that has the descriptor has ended."""
    import fcntl  # not on Windows: ImportError, so the Python coder is used there

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_tools() -> None:
    """Raises CoderUnavailable at once for what a build would miss after many seconds."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    if shutil.which(compiler) is None:
        raise CoderUnavailable(f"no C++ compiler ({compiler}) found; install one, or set CXX")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise CoderUnavailable(f"Python's headers are missing ({header}); install python3-dev")


def _run_build(work: Path, lock: int) -> None:
    """Compiles in a child that shares the lock, so that the lock outlives this process if the child does."""
    log = work.with_name("build.log")
    command = [sys.executable, "-P", "-c", _BUILD_SCRIPT, NAME, str(torchac_source()), str(work), *_FLAGS]
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            env=_build_environment(),
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            timeout=_BUILD_SECONDS,
            check=False,
        )
    if done.returncode:
        raise CoderUnavailable(f"compiling torchac failed, see {log}")


def _build_environment() -> dict[str, str]:
    """Environment variables as here, with pip's ninja on PATH even when the virtual environment is not activated."""
    folders = [os.environ.get("PATH", os.defpath)]
    if importlib.util.find_spec("ninja"):
        import ninja

        folders.insert(0, ninja.BIN_DIR)
    return {**os.environ, "PATH": os.pathsep.join(filter(None, folders))}


def _load(library: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(library))
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(NAME, loader, origin=str(library)))
    loader.exec_module(module)
    return module
