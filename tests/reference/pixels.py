"""A second decoder of lossless photographs, written from bitstream/FORMAT.md alone and in its order.

NumPy int64 and Python integers; no torch. Container, layers and stack are those of the other references."""

from itertools import product
from pathlib import Path

import numpy as np

from vqcodec.tests.reference.archive import Distribution
from vqcodec.tests.reference.archive import Stack as BitsBackStack
from vqcodec.tests.reference.decoder import Tensors, linear, relu
from vqcodec.tests.reference.photo import Front, front, read_weights, whole

TILE, TOGETHER = 256, 64
"""Side of a tile, tiles of a group."""
NEIGHBOURS = [(a, b) for a, b in product(range(-3, 1), range(-3, 4)) if b < {0: 0, -1: 2}.get(a, 4)]
WEST, NORTH = NEIGHBOURS.index((0, -1)), NEIGHBOURS.index((-1, 0))
Size = tuple[int, int]


class Stack(BitsBackStack):
    """States and words without a supply."""

    def finish(self) -> None:
        assert self.states == [2**32] * len(self.states)
        assert not self.words


class Canvas:
    """A tile with what lies around it."""

    def __init__(self, size: Size) -> None:
        self.height, self.width = size
        self.x = np.zeros((self.height + 3, self.width + 6, 3), np.int64)

    def wave(self, number: int) -> list[Size]:
        """Its pixels, from the top."""
        return [(i, number - 2 * i) for i in range(self.height) if 0 <= number - 2 * i < self.width]

    def near(self, i: int, j: int) -> np.ndarray:
        """Neighbours [22, 3]."""
        return np.stack([self.x[3 + i + a, 3 + j + b] for a, b in NEIGHBOURS])

    def put(self, i: int, j: int, x: np.ndarray) -> None:
        self.x[3 + i, 3 + j] = x
        if j == 0 and i + 1 < self.height:
            self.x[4 + i, :3] = x
        if j == self.width - 1:
            self.x[3 + i, 4 + j :] = x

    def pixels(self) -> np.ndarray:
        """R, G, B, uint8 [height, width, 3]."""
        return (self.x[3:, 3:-3, [1, 0, 2]] // 32 + 128).astype(np.uint8)


class Samples:
    """Means and tables of the pixels of a wave, one sample after the other."""

    def __init__(self, near: np.ndarray, config: dict, w: Tensors) -> None:
        """near [n, 22, 3]."""
        self.w, self.errors = w, np.zeros((len(near), 0), np.int64)
        r = (near[:, WEST] + near[:, NORTH]) // 2
        d = (near - r[:, None]).reshape(len(near), -1)
        h = linear(w, "perceptron.entry", np.concatenate([d, r], 1))
        for t in range(config["blocks"]):
            name = f"perceptron.blocks.{t}.body"
            h = h + linear(w, f"{name}.3", relu(linear(w, f"{name}.1", relu(h))))
        self.f = np.split(linear(w, "perceptron.project.1", relu(h)), 3, 1)
        self.m = r + linear(w, "perceptron.linear", d)

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole parts of the means of the next sample, and rows of the tables, [n] each."""
        c = self.errors.shape[1]
        u, mean = self.f[c], self.m[:, c]
        if c > 0:
            u = u + linear(self.w, f"perceptron.known.{c - 1}", self.errors)
            mean = mean + linear(self.w, f"perceptron.direct.{c - 1}", self.errors)[:, 0]
        p, s = linear(self.w, f"perceptron.heads.{c}", relu(u)).T
        self.mean = np.clip(mean + p, -4096, 4064)
        q = self.mean + 4096 >> 5
        t = self.mean + 4096 - 32 * q >> 2
        return q, 8 * np.clip((8 * s + 256 >> 9) + 24, 0, 56) + t

    def told(self, x: np.ndarray) -> None:
        """Which values [n] these samples have."""
        self.errors = np.concatenate([self.errors, (x - self.mean)[:, None]], 1)


def decode_group(stream: bytes, sizes: list[Size], grey: bool, config: dict, w: Tensors) -> list[np.ndarray]:
    """Pixels uint8 [height, width, 3] of every tile."""
    pixels = sum(height * width for height, width in sizes)
    stack = Stack(stream, min(256, 2 ** max(0, (pixels // 1024).bit_length() - 1)))
    tables = [Distribution(24, 511, row.__getitem__) for row in w["tables"].tolist()]
    canvases = [Canvas(size) for size in sizes]
    for number in range(max(width - 1 + 2 * (height - 1) for height, width in sizes) + 1):
        places = [(canvas, i, j) for canvas in canvases for i, j in canvas.wave(number)]
        if not places:
            continue
        samples = Samples(np.stack([canvas.near(i, j) for canvas, i, j in places]), config, w)
        x = np.zeros((len(places), 3), np.int64)
        for c in range(1 if grey else 3):
            q, rows = samples.next()
            v = q + stack.pop([tables[row] for row in rows]) - 255
            assert 0 <= v.min() <= v.max() <= 255
            x[:, c] = 32 * (v - 128)
            samples.told(x[:, c])
        for (canvas, i, j), own in zip(places, x[:, [0, 0, 0]] if grey else x, strict=True):
            canvas.put(i, j, own)
    stack.finish()
    return [canvas.pixels() for canvas in canvases]


def decode_payload(payload: Front, config: dict, w: Tensors) -> np.ndarray:
    """Pixels uint8 [height, width, 3]."""
    assert payload.setting in (1, 2)
    height, width = payload.size
    image = np.zeros((height, width, 3), np.uint8)
    tiles = [image[i : i + TILE, j : j + TILE] for i in range(0, height, TILE) for j in range(0, width, TILE)]
    groups = [tiles[first : first + TOGETHER] for first in range(0, len(tiles), TOGETHER)]
    streams = [payload.data.part() for _ in groups] if len(groups) > 1 else [payload.data.rest()]
    assert len(groups) == 1 or not payload.data.rest()
    for group, stream in zip(groups, streams, strict=True):
        decoded = decode_group(stream, [tile.shape[:2] for tile in group], payload.setting == 2, config, w)
        for tile, own in zip(group, decoded, strict=True):
            tile[:] = own
    return image


def decode_file(blob: bytes, weights: Path) -> tuple[np.ndarray, bytes, bytes]:
    """Pixels uint8 [H, W] or [H, W, channels] of a file, colour profile and EXIF."""
    told = front(blob)
    return whole(decode_payload(told, *read_weights(weights, "photo-lossless")), told), *told.told
