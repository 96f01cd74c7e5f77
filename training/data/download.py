"""Fetch the public data sets, checked by content: `get` downloads what is missing, `verify` checks what is there.

Mirrors pack the same data differently, so what is hashed is the data inside: the uncompressed IDX file, and the PNGs of
a zip in the order of their names.
"""

import gzip
import hashlib
import os
import sys
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .datasets import OMNIGLOT_ZIPS, DataError, data_folder, read_omniglot_zip

MAX_BYTES = 2**28  # of one download
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Source:
    """One file of a data set."""

    path: str  # below the data folder
    urls: tuple[str, ...]  # tried in this order
    sha256: str  # of the content, as `content` hashes it
    content: Callable[[Path], str]


def idx_sha256(path: Path) -> str:
    """SHA-256 of a file, uncompressed if it is gzip. Raises DataError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def zip_sha256(path: Path) -> str:
    """SHA-256 over the PNGs of a zip by name: name, NUL, length as 8 bytes (big-endian), content. Raises DataError."""
    digest = hashlib.sha256()
    for name, png in sorted(read_omniglot_zip(path).items()):
        digest.update(name.encode() + b"\0" + len(png).to_bytes(8, "big") + png)
    return digest.hexdigest()


_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"


def _mnist(name: str, sha256: str) -> Source:
    return Source(f"mnist/{name}.gz", tuple(f"{mirror}{name}.gz" for mirror in _MNIST_MIRRORS), sha256, idx_sha256)


def _omniglot(name: str, sha256: str) -> Source:
    return Source(f"omniglot/{name}", (_OMNIGLOT + name,), sha256, zip_sha256)


SOURCES: dict[str, tuple[Source, ...]] = {
    "mnist": (
        _mnist("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        _mnist("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        _mnist("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        _mnist("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
    "omniglot28": (
        _omniglot(OMNIGLOT_ZIPS[0], "cf1a6cbcdbecf5c37d4f6aba9dbcf04dc45e5eec6a75f15594c1d25b6534e8cf"),
        _omniglot(OMNIGLOT_ZIPS[1], "cda6915567cdc792bbef828ec7e3396dc47e172ed8beda1fce519a79bc388d9f"),
    ),
}


def get(
    name: str, data_dir: str | Path | None = None, sources: Mapping[str, tuple[Source, ...]] | None = None
) -> list[Path]:
    """Download the files of a data set that are not there yet; the paths of all.

    data_dir as for `datasets.load`; progress goes to stderr. A file appears only once its content is right. Raises
    DataError for an unknown name, a file there already with other content, and when no address gives the right file.
    """
    files = _files(name, SOURCES if sources is None else sources)
    return [_ensure(name, data_folder(data_dir) / source.path, source) for source in files]


def verify(
    name: str, data_dir: str | Path | None = None, sources: Mapping[str, tuple[Source, ...]] | None = None
) -> list[Path]:
    """Paths of a data set's files, all there and with the right content. Raises DataError for the first that is not."""
    files = _files(name, SOURCES if sources is None else sources)
    return [_verified(name, data_folder(data_dir) / source.path, source) for source in files]


def _files(name: str, sources: Mapping[str, tuple[Source, ...]]) -> tuple[Source, ...]:
    if name not in sources:
        raise DataError(f"unknown data set {name!r}: can get {', '.join(sources)}")
    return sources[name]


def _present(path: Path) -> Path | None:
    """The file, or for PATH.gz also its uncompressed form PATH."""
    forms = (path.with_suffix(""), path) if path.suffix == ".gz" else (path,)
    return next((form for form in forms if form.is_file()), None)


def _verified(name: str, path: Path, source: Source) -> Path:
    found = _present(path)
    if found is None:
        raise DataError(f"missing {path}: `vqcodec data get {name}` downloads it")
    if (actual := source.content(found)) != source.sha256:
        raise DataError(f"{found}: content has SHA-256 {actual}, expected {source.sha256}; delete it to get it anew")
    return found


def _ensure(name: str, path: Path, source: Source) -> Path:
    if _present(path) is not None:
        return _verified(name, path, source)
    failures = []
    for url in source.urls:
        try:
            return _download(url, path, source)
        except (OSError, ValueError, DataError) as error:  # ValueError: not a URL; URLError is an OSError
            failures.append(f"{url}: {error}")
    raise DataError(f"cannot get {path.name}: " + "; ".join(failures))


def _download(url: str, path: Path, source: Source) -> Path:
    """Fetch to a temporary name, check, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        part = Path(folder) / path.name
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, part.open("wb") as file:
            _copy(response, file, path.name, int(response.headers.get("Content-Length") or 0))
        if (actual := source.content(part)) != source.sha256:
            raise DataError(f"content has SHA-256 {actual}, expected {source.sha256}")
        os.replace(part, path)
    return path


def _copy(response: IO[bytes], file: IO[bytes], name: str, total: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(name, total=total or None)
        copied = 0
        while block := response.read(2**16):
            copied += len(block)
            if copied > MAX_BYTES:
                raise DataError(f"more than {MAX_BYTES} bytes")
            file.write(block)
            progress.update(task, completed=copied)
    if total and copied != total:
        raise DataError(f"ended after {copied} of {total} bytes")
