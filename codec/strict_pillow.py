"""Pillow as reading needs it, whatever the host has set: our limit of pixels, no made-up pixels, no warnings."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile

from ..bitstream.container import MAX_PIXELS
from ..bitstream.errors import TooLarge

_TILE_PIXELS = 1 << 22  # a tile of a small image may be larger than the image


@contextmanager
def strict_pillow(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Inside, on this thread, Pillow allows images of max_pixels, whatever Image.MAX_IMAGE_PIXELS says: that stays as
    it is, and other threads go by it. Beyond, Pillow's plug-ins raise TooLarge before they allocate.

    What Pillow has for the whole process only is changed for as long as any thread is inside: cut files are errors,
    whatever ImageFile.LOAD_TRUNCATED_IMAGES says, and warnings of Pillow's modules are ignored."""
    before = getattr(_thread, "limit", None)
    _process.enter()
    _thread.limit = max(max_pixels, _TILE_PIXELS)
    try:
        yield
    finally:
        _thread.limit = before
        _process.leave()


class _Process:
    """What holds for the whole process while any thread is inside `strict_pillow`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._change()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def after_fork(self) -> None:
        """The threads that were inside are not in the child."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            self._restore()

    def _change(self) -> None:
        self._check: Any = Image._decompression_bomb_check
        Image._decompression_bomb_check = self._limited
        self._truncated = ImageFile.LOAD_TRUNCATED_IMAGES
        if self._truncated:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\.")

    def _restore(self) -> None:
        self._warnings.__exit__(None, None, None)
        if self._truncated:
            ImageFile.LOAD_TRUNCATED_IMAGES = self._truncated
        Image._decompression_bomb_check = self._check

    def _limited(self, size: tuple[int, int], **options: Any) -> None:
        """In place of Pillow's check of an image's size, which threads outside still get."""
        limit = getattr(_thread, "limit", None)
        if limit is None:
            self._check(size, **options)
        elif size[0] * size[1] > limit:
            raise TooLarge(f"{size[0]} x {size[1]} pixels, limit {limit}")


_thread = threading.local()
_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)
