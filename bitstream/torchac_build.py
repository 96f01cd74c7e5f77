"""Compiles torchac's own C++ once per environment, quietly, and loads it.

`import torchac` would compile on every fresh cache, print to stdout, leave out -O3, and wait for ever on the lock file
of a killed build. So the package is only located, never imported; its source is compiled by torch's cpp_extension in a
child process (its output goes to build.log), and the finished library is moved into place, so what is there is whole.

    $VQCODEC_CACHE or $XDG_CACHE_HOME/vqcodec or ~/.cache/vqcodec / torchac-KEY / vqcodec_torchac.so, build.log, mutex

Code is loaded only from where nobody but this user and root can put it: the library, its folders and all folders
above belong to one of them, and no others may write to them (folders above may be sticky, as /tmp is). A cache that is
sound but cannot be written is used for what it holds; otherwise a private temporary folder serves.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from .errors import CoderUnavailable

NAME = "vqcodec_torchac"
_FLAGS = ["-O3"]
_BUILD_SECONDS = 600
_MAX_LINKS = 40  # on the way to a file, as Linux allows
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
        key = f"torchac-{_environment_key(torchac_source())}"
        library = _prepared(key) or _built(cache_folder() / key)
        return _load(library)
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        raise CoderUnavailable(f"torchac's C++ coder cannot be built or loaded: {error}") from error


def _prepared(key: str) -> Path | None:
    """The library of the user's cache folder, which may be read-only, if it is there and sound."""
    root = _wanted_folder()
    library = (root or Path()) / key / f"{NAME}.so"
    with suppress(OSError):
        if root is not None and library.is_file() and not (fault_of(library.parent) or fault_of(library)):
            return library.resolve()
    return None


def _built(folder: Path) -> Path:
    """The library in a folder of a cache that can be written, made now if it is not there.

    Raises CoderUnavailable if others can write there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{NAME}.so"
    _check(folder)
    if not os.path.lexists(library):
        _build_once(library)
    _check(library)
    return library.resolve()


def _check(path: Path) -> None:
    """Raises CoderUnavailable for what others could have written."""
    if fault := fault_of(path):
        raise CoderUnavailable(f"{fault}; set VQCODEC_CACHE to a folder of your own")


def fault_of(path: Path) -> str | None:
    """Why code at this path may be somebody else's, None if it is this user's or root's alone.

    So it is if a file or folder on the way, or what a link on the way leads to, belongs to another user, or others may
    write to it; folders above the path may be sticky instead, so that others can rename nothing in them. Raises OSError
    for what is not there."""
    if not hasattr(os, "geteuid"):
        return None  # Windows: the cache is in the user's profile, which others cannot write
    trusted = {os.geteuid(), 0}
    parts = _steps(Path(os.path.abspath(path)))
    for number, part in enumerate(parts):
        found = part.lstat()
        if found.st_uid not in trusted:
            return f"{part} belongs to user {found.st_uid}"
        above = number < len(parts) - 1
        if stat.S_ISLNK(found.st_mode) or (above and found.st_mode & stat.S_ISVTX):
            continue
        if found.st_mode & 0o022:
            return f"{part} can be written by others"
    return None


def _steps(path: Path) -> list[Path]:
    """Every folder and link on the way to a path, from the root down, as the system walks them; its end last."""
    steps: list[Path] = []
    rest, here, links = [*path.parts[1:]], Path(path.anchor), 0
    steps.append(here)
    while rest:
        name = rest.pop(0)
        here = here.parent if name == ".." else here / name
        steps.append(here)
        if here.is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"{path}: too many links")
            target = here.readlink()
            rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
            here = Path(target.anchor) if target.is_absolute() else here.parent
    return steps


def torchac_source() -> Path:
    """The C++ file inside the installed torchac package. Raises CoderUnavailable if there is none."""
    spec = importlib.util.find_spec("torchac")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        source = Path(folder) / "backend" / "torchac_backend.cpp"
        if source.is_file():
            return source
    raise CoderUnavailable("torchac is not installed")


def cache_folder() -> Path:
    """The user's cache folder for vqcodec, or a private temporary one where that cannot be written, or others can.

    Raises CoderUnavailable if others can write to the temporary one too: they could plant a library."""
    root = _wanted_folder()
    if root is None or not _made(root):
        return _private_temporary_folder()
    if fault := fault_of(root):
        folder = _private_temporary_folder()
        sys.stderr.write(f"vqcodec: {fault}, so its code is not trusted; using {folder}\n")
        return folder
    return root


def _wanted_folder() -> Path | None:
    """$VQCODEC_CACHE, $XDG_CACHE_HOME/vqcodec (unless it is relative, as its specification says) or ~/.cache/vqcodec.

    None if there is none of these, as where the user has no home."""
    if given := os.environ.get("VQCODEC_CACHE"):
        return Path(given).absolute()
    above = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not above.is_absolute():
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        above = Path(home) / ".cache"
    return above / "vqcodec"


def _made(root: Path) -> bool:
    """Whether a folder can be written; it is made, for this user alone, if it is not there."""
    try:
        for folder in [*reversed(root.parents), root]:
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return root.is_dir() and os.access(root, os.W_OK | os.X_OK)


def _private_temporary_folder() -> Path:
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"vqcodec-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink():
        raise CoderUnavailable(f"{folder} is a link, expected a folder; set VQCODEC_CACHE to a folder of your own")
    _check(folder)
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
        if os.path.lexists(library):
            return
        _check_tools()
        sys.stderr.write("vqcodec: compiling torchac's entropy coder (about 30 s, only once)\n")
        sys.stderr.flush()
        work = library.with_name("build")
        shutil.rmtree(work, ignore_errors=True)  # of a killed build, with cpp_extension's lock file
        work.mkdir(mode=0o700)
        _run_build(work, lock)
        (work / f"{NAME}.so").chmod(0o755)
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
