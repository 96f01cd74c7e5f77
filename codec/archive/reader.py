"""Archives as sequences of images: one image is read by reading its block only."""

from __future__ import annotations

import operator
import os
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast, overload

from ...bitstream.archive import Block, Names, Reader
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import BitstreamError, ModelMismatch, VqcodecError
from ...bitstream.forks import Lock
from .. import inputs
from ..files import FileError
from ..images import Output, from_pil
from .blocks import TOGETHER, OpenBlock, Options, Stored, decode_block, decode_together, kind_of, open_block
from .io.access import open_path, open_stream
from .io.workers import in_order
from .library import BUILT_IN, Library

_Member = tuple[int, int]  # number of an image, and its position in its block


@dataclass(frozen=True)
class BlockTold:
    """What the index says of a block. kind: "files", "bits-back" or "solid"; bytes: of its payload."""

    number: int
    kind: str
    model: str | None
    mode: str | None
    images: int
    bytes: int
    offset: int


@dataclass(frozen=True)
class ArchiveInfo:
    """What an archive says of itself. bytes_total: of the whole file."""

    images: int
    bytes_total: int
    blocks: tuple[BlockTold, ...]


@dataclass(frozen=True)
class Damage:
    """A block that cannot be read or decoded, and the images that are lost with it."""

    block: int
    offset: int
    names: tuple[str, ...]
    reason: str


class Archive(Sequence[Any]):
    """The images of an archive, by number, slice or name; each is read from the file when you ask for it.

    source: a path, a URL that fsspec knows, a stream that can seek, or the archive's bytes.
    model: the weights file of a model that is not built in.
    device: where the networks run: "cpu", "cuda", "cuda:1", ...
    output: "pil" (Pillow images), "numpy" (uint8 [H, W] or [H, W, C], bool [H, W] or uint16 [H, W]) or "torch".
    max_pixels, max_bytes: the most pixels (width x height) of an image, and the most bytes of its samples once decoded
        (one for each of up to 8 bits, two above).
    cache_bytes: bytes of decoded blocks that are kept in memory. Blocks hold up to 5,000 images, so shuffled access is
        quick only while the blocks in use fit the cache.
    library: where models come from; the default knows the built-in ones and weights files.

    Threads and forked processes may read it at the same time, also while the parent does (but for a stream that is no
    local file and not in memory). It serves as a map-style data set of torch (DataLoader needs no base class).

    Opening raises FileError for what cannot be read, a BitstreamError for what is not an archive or is damaged, and
    BadArgument for wrong arguments. Getting an image raises IndexError or KeyError for one that is not there, a
    BitstreamError that names the block (TooLarge beyond the limits), ModelMismatch for a model that this build lacks,
    and UnsupportedImage for 16-bit colour, which Pillow cannot hold."""

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview,
        model: str | None = None,
        device: str = "cpu",
        output: Output = "pil",
        max_pixels: int = MAX_PIXELS,
        cache_bytes: int = 1 << 28,
        library: Library = BUILT_IN,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        model, device = inputs.checked_weights(model), inputs.checked_device(device)
        limits = inputs.checked_count("max_pixels", max_pixels), inputs.checked_count("max_bytes", max_bytes)
        self._output: Output = inputs.checked_output(output)
        self._options = Options(model, device, limits[0], library, limits[1])
        self._cache_bytes = inputs.checked_count("cache_bytes", cache_bytes, 0)
        self._path = inputs.checked_path(source) if isinstance(source, str | os.PathLike) else None
        self._given = None if isinstance(source, str | os.PathLike) else inputs.stream_of(source)
        self._open()

    def _open(self) -> None:
        self._lock = Lock()  # of the cache
        self._cache: OrderedDict[int, OpenBlock] = OrderedDict()
        with self._reading():
            path, given = self._path, self._given
            self._access = open_path(path) if path is not None else open_stream(cast(BinaryIO, given))
        try:
            with self._reading():
                self._reader = Reader(self._access)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, unless it was given as a stream, which is the caller's."""
        self._access.close()

    def __del__(self) -> None:
        if "_access" in vars(self):
            self.close()  # data sets are rarely closed by hand

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._path is None:
            raise TypeError("an archive that was opened from a stream cannot be pickled; open it by path")
        own = ("_lock", "_cache", "_access", "_reader")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def names(self) -> Names:
        """Names of the images, in order; `name in archive.names` is quick."""
        return self._reader.names

    def __len__(self) -> int:
        return len(self._reader.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is an image of this name."""
        return isinstance(name, str) and name in self._reader.names

    @overload
    def __getitem__(self, key: int | str) -> Any: ...

    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...

    def __getitem__(self, key: int | str | slice) -> Any:
        """An image, or those of a slice. Raises IndexError or KeyError for one that is not there."""
        if isinstance(key, slice):
            return list(self._images(range(len(self))[key]))
        return from_pil(self._stored(self._number(key)).pil(), self._output)

    def _number(self, key: int | str) -> int:
        """Raises IndexError or KeyError."""
        if isinstance(key, str):
            return self.names.number(key)
        number = operator.index(key)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"number of an image: expected {-len(self)}..{len(self) - 1}, found {key}")
        return number

    def __iter__(self) -> Iterator[Any]:
        """All images in order; every block is decoded once as long as those that overlap fit the cache."""
        return self._images(range(len(self)))

    def info(self) -> ArchiveInfo:
        """What the archive says of itself, without decoding it. Raises Corrupt."""
        told = tuple(
            BlockTold(number, *kind_of(block.kind, block.extra), len(block.numbers), block.size, block.offset)
            for number, block in enumerate(self._reader.blocks)
        )
        with self._reading():
            return ArchiveInfo(len(self), self._access.size(), told)

    def stored(
        self,
        numbers: Iterable[int] | None = None,
        damaged: Callable[[Damage], None] | None = None,
        progress: Callable[[int], None] = lambda images: None,
        jobs: int = 1,
    ) -> Iterator[tuple[int, Stored]]:
        """Numbers and images as they are stored, block by block, each decoded once; so not in order.

        numbers: of the images wanted; None: all. damaged: told of every block that cannot be read or decoded, whose
        images are left out; None: the error is raised. progress: called with how many images were done since. jobs:
        processes that decode blocks, as for `pack`."""
        for block, members, images in self._decoded(numbers, jobs, check=False):
            if isinstance(images, VqcodecError):
                self._tell(damaged, block, members, images)
                continue
            for (number, _), image in zip(members, images, strict=True):
                yield number, image
                progress(1)

    def verify(self, progress: Callable[[int], None] = lambda images: None, jobs: int = 1) -> list[Damage]:
        """Decode every image; the blocks that are damaged. Raises ModelMismatch.

        Image files that are kept as they came are not looked into: their block's checksum is right."""
        found: list[Damage] = []
        for block, members, images in self._decoded(None, jobs, check=True):
            if isinstance(images, VqcodecError):
                self._tell(found.append, block, members, images)
            progress(len(members))
        return found

    def _decoded(
        self, numbers: Iterable[int] | None, jobs: int, check: bool
    ) -> Iterator[tuple[int, list[_Member], list[Stored] | VqcodecError]]:
        """Blocks, the images wanted of them, and these decoded (none with `check`), or why they cannot be."""
        under_way: deque[tuple[int, list[_Member]]] = deque()

        def tasks() -> Iterator[tuple[Block | BitstreamError, list[int]]]:
            for block, members in self._by_block(numbers):
                under_way.append((block, members))
                yield self._read(block), [position for _, position in members]

        with closing(in_order(partial(decode_block, self._options, check), tasks(), jobs)) as results:
            for result in results:
                yield *under_way.popleft(), result

    def _read(self, block: int) -> Block | BitstreamError:
        try:
            with self._reading():
                return self._reader.block(block)
        except BitstreamError as error:
            return error

    def _tell(
        self,
        damaged: Callable[[Damage], None] | None,
        block: int,
        members: Sequence[_Member],
        error: VqcodecError,
    ) -> None:
        """Calls damaged; without it, or if a model is missing, raises the error."""
        offset = self._reader.blocks[block].offset
        named = _naming(block, offset, error)
        if damaged is None or not isinstance(error, BitstreamError):
            raise named from error
        damaged(Damage(block, offset, tuple(self.names[number] for number, _ in members), str(named)))

    def _by_block(self, numbers: Iterable[int] | None) -> Iterator[tuple[int, list[_Member]]]:
        """Blocks, ascending, and their images."""
        if numbers is None:
            for block, told in enumerate(self._reader.blocks):
                yield block, [(number, position) for position, number in enumerate(told.numbers)]
            return
        found: dict[int, list[_Member]] = defaultdict(list)
        for number in numbers:
            block, position = self._reader.place(number)
            found[block].append((number, position))
        yield from sorted(found.items())

    def _images(self, numbers: range) -> Iterator[Any]:
        """Images in the order of numbers."""
        for start in range(0, len(numbers), TOGETHER):
            for image in decode_together([self._stored(number) for number in numbers[start : start + TOGETHER]]):
                yield from_pil(image.pil(), self._output)

    def _stored(self, number: int) -> Stored:
        block, position = self._reader.place(number)
        return self._opened(block)[position]

    def _opened(self, block: int) -> OpenBlock:
        """A block, from the cache or the file."""
        with self._lock.held():
            if block not in self._cache:
                with self._reading():
                    read = self._reader.block(block)
                try:
                    self._cache[block] = open_block(read, self._options)
                except (BitstreamError, ModelMismatch) as error:
                    raise _naming(block, self._reader.blocks[block].offset, error) from error
            self._cache.move_to_end(block)
            while len(self._cache) > 1 and sum(opened.nbytes for opened in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return self._cache[block]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"cannot read {self._path or 'the archive'}: {error.strerror or error}") from error


def _naming(block: int, offset: int, error: VqcodecError) -> VqcodecError:
    """The error with the block in front of its message, unless it is there."""
    where = f"block {block} at offset {offset}"
    return error if str(error).startswith(where) else type(error)(f"{where}: {error}")
