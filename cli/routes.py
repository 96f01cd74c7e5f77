"""Which file every input of `compress` and `decompress` is written to; inputs whose outputs would lose something are
refused before anything is written."""

from __future__ import annotations

import os
import secrets
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..bitstream import archive, container
from ..bitstream.errors import BitstreamError
from ..codec.files import FileError
from ..codec.whole import TEMPORARY
from . import streams

_START = 16  # bytes of a file that tell what it is
_COMPACT_BYTES = 1 << 16  # compact files are smaller


@dataclass(frozen=True)
class Direction:
    """What a command makes of its inputs. suffix: of the outputs; makes: their kind, in words; is_output: whether a
    file is of that kind, so that a second name and --force overwrite it."""

    command: str
    suffix: str
    makes: str
    is_output: Callable[[Path], bool]


@dataclass(frozen=True)
class Route:
    """An input and its output; `-` stands for stdin and stdout."""

    source: str
    target: str


def is_vqcodec_file(path: Path) -> bool:
    """Whether a file holds one compressed image. Raises OSError."""
    with path.open("rb") as stream:
        data = stream.read(_COMPACT_BYTES)
    if data.startswith(container.MAGIC):
        return True
    try:
        return isinstance(container.read(data)[0], container.CompactHeader)  # they have no magic, but a checksum
    except BitstreamError:
        return False


def is_image_file(path: Path) -> bool:
    """Whether a file begins as images do that `decompress` writes. Raises OSError."""
    with path.open("rb") as stream:
        start = stream.read(_START)
    netpbm = start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace()
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return netpbm or webp or start.startswith((b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*"))


COMPRESS = Direction("compress", ".vqc", "vqcodec files", is_vqcodec_file)
DECOMPRESS = Direction("decompress", ".png", "images", is_image_file)


def routes(names: Sequence[str], output: str | None, direction: Direction) -> list[Route]:
    """The output of every input. names: IN, IN OUT, or three inputs and more; output: of -o, a file or a folder.

    Two names are IN OUT, unless there is `output`. Raises FileError for an OUT, or a name that is made up, of a file
    that the command does not write, for several inputs that share an output, for outputs that are inputs, and for
    names that cannot be used."""
    for name in (*names, *([output] if output is not None else [])):
        _check_name(name)
    if output is not None:
        found = _into(names, output, direction)
    elif len(names) == 2:
        _check_positional(names[0], names[1], direction)
        found = [Route(*names)]
    else:
        found = [Route(name, _beside(name, direction, len(names))) for name in names]
    _check_apart(found, direction)
    if folder_of(output) is not None or (output is None and len(names) != 2):
        _check_derived(found, direction)
    return found


def folder_of(output: str | None) -> Path | None:
    """The folder that -o names, be it there or not; None if it names a file."""
    if output is None or output == streams.STDIO:
        return None
    return Path(output) if output.endswith(_SEPARATORS) or os.path.isdir(output) else None


def make_folder(output: str | None) -> None:
    """Make the folder that -o names, unless it is there. Raises FileError."""
    folder = folder_of(output)
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror or error}") from error


_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


def _check_name(name: str) -> None:
    if not name:
        raise FileError("a name is empty; name a file, or - for stdin or stdout")
    if "\0" in name:
        raise FileError(f"{name!r} cannot be the name of a file")


def _into(names: Sequence[str], output: str, direction: Direction) -> list[Route]:
    folder = folder_of(output)
    if folder is not None:
        for name in filter(streams.is_stream, names):
            raise FileError(f"{streams.in_words(name)} has no name to use in {output}; name a file with -o")
        return [Route(name, str(folder / _renamed(name, direction).name)) for name in names]
    if len(names) > 1:
        raise FileError(
            f"-o {output} names one file for {len(names)} inputs; name a folder, or use -o {output}/ to make one"
        )
    return [Route(names[0], output)]


def _beside(name: str, direction: Direction, inputs: int) -> str:
    """Where the output of an input lies by default: of a stream, on stdout."""
    if not streams.is_stream(name):
        return str(_renamed(name, direction))
    if inputs > 1:
        raise FileError(
            f"{streams.in_words(name)} cannot be one of several inputs; {direction.command} it alone, with -o OUT"
        )
    return streams.STDIO


def _renamed(name: str, direction: Direction) -> Path:
    path = Path(name)
    try:
        return path.with_suffix(direction.suffix)
    except ValueError:  # . and /
        return path / direction.suffix


def _check_positional(source: str, target: str, direction: Direction) -> None:
    """Raises FileError if a second name may stand for another input: the file there is no output of the command."""
    if streams.is_stream(target):
        return
    advice = f"name the output with -o, or a folder for several inputs: {direction.command} IN... -o FOLDER/"
    if target.endswith(_SEPARATORS):
        raise FileError(f"{target} is the name of a folder; {direction.command} IN... -o {target} writes into it")
    if os.path.isdir(target):
        raise FileError(f"{target} is a folder; {direction.command} IN... -o {target} writes into it")
    only = f"{direction.command} IN OUT overwrites only {direction.makes}; {advice}"
    _check_content(source, target, direction, only)


def _check_derived(found: Sequence[Route], direction: Direction) -> None:
    """Raises FileError if a name that the command makes is that of a file of another kind, or of a link to one."""
    for route in found:
        if not streams.is_stream(route.target):
            _check_content(route.source, route.target, direction, "move it, or name the output with -o")


def _check_content(source: str, target: str, direction: Direction, advice: str) -> None:
    """Raises FileError, with advice, if the target is there and no output of the command; nor the source itself, of
    which the checks of every output say more."""
    path = Path(target)
    try:
        if path.is_file() and not _same(source, target) and not direction.is_output(path):
            raise FileError(f"{target} is {_content(path)}; {advice}")
    except OSError as error:
        raise FileError(f"cannot read {target}, which is there: {error.strerror or error}; {advice}") from error


def _content(path: Path) -> str:
    """What lies in a file, in words. Raises OSError."""
    with path.open("rb") as stream:
        start = stream.read(_START)
    if start.startswith(archive.MAGIC):
        return "an archive"
    if is_vqcodec_file(path):
        return "a vqcodec file"
    known = is_image_file(path) or start.startswith((b"\xff\xd8\xff", b"GIF8"))
    return "an image" if known else "a file of another kind"


def _check_apart(found: Sequence[Route], direction: Direction) -> None:
    """Raises FileError for inputs with one output, and for outputs that are inputs of others."""
    files = [route for route in found if not streams.is_stream(route.target)]
    inputs = {_identity(route.source): route for route in found if not streams.is_stream(route.source)}
    for route in files:
        other = inputs.get(_identity(route.target))
        if other is not None and other is not route and _identity(route.source) != _identity(route.target):
            raise FileError(
                f"{route.target} is an input, but also the output of {route.source}; {direction.command} them "
                "separately, or into a folder with -o"
            )
    _check_shared(files, _identity, direction)
    _check_shared(files, _folded, direction, lambda group: _merges(Path(group[0].target).parent))


def _check_shared(
    found: Sequence[Route],
    key: Callable[[str], Hashable],
    direction: Direction,
    matters: Callable[[Sequence[Route]], bool] = lambda group: True,
) -> None:
    groups: dict[Hashable, list[Route]] = defaultdict(list)
    for route in found:
        groups[key(route.target)].append(route)
    for group in groups.values():
        if len(group) > 1 and matters(group):
            *some, last = dict.fromkeys(route.source for route in group)
            if not some:
                raise FileError(f"{last} is named more than once; name it once")
            both = "all" if some[1:] else "both"
            raise FileError(
                f"{', '.join(some)} and {last} would {both} be written to {group[0].target}; {direction.command} them "
                "separately, and name each output with -o"
            )


def _identity(name: str) -> Hashable:
    """Equal for all names of a file, by links too."""
    try:
        there = os.stat(name)
        return there.st_dev, there.st_ino
    except OSError:
        return os.path.realpath(name)


def _folded(name: str) -> Hashable:
    """Equal for names that some file systems take for the same: by case, or by the form of accents."""
    real = os.path.realpath(name)
    return os.path.dirname(real), unicodedata.normalize("NFC", os.path.basename(real)).casefold()


def _merges(folder: Path) -> bool:
    """Whether names that differ by case or the form of accents are the same in a folder, or in what it will lie in."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    name = f"{TEMPORARY}{secrets.token_hex(6)}-\u00e9"
    twins = name.upper(), unicodedata.normalize("NFD", name)
    try:
        (folder / name).touch(exist_ok=False)
        return any((folder / twin).exists() for twin in twins)
    except OSError:
        return False  # nothing can be written there, which the checks of every output tell
    finally:
        with suppress(OSError):
            (folder / name).unlink()


def _same(one: str, other: str) -> bool:
    return not streams.is_stream(one) and _identity(one) == _identity(other)
