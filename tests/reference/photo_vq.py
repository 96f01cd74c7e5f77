"""A second decoder of photographs by vector quantisation, written from bitstream/FORMAT.md alone and in its order.

NumPy and the plain Python arithmetic coder; no torch. Container, tiles and layers are those of the other references."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vqcodec.tests.reference import photo as photo
from vqcodec.tests.reference.decoder import Decoder, Tensors, conv, relu, res, shuffle, table_of_weights
from vqcodec.tests.reference.photo import Bytes, floats, floats_res, floats_shuffle

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Rows and columns, each even or odd."""
Indices = list[np.ndarray]


def levels(data: Bytes, tiles: int, most: int) -> Iterator[list[bytes]]:
    """The streams of a level, of its tiles; ends before a level that is not all there."""
    for _ in range(most):
        try:
            streams = [data.part() for _ in range(tiles)]
        except IndexError:
            return
        if data.at > len(data.data):
            return
        yield streams


def decode_indices(streams: list[bytes], rows: int, columns: int, config: dict, w: Tensors) -> Indices:
    """Indices [rows / stride, columns / stride] of every level that a tile of rows x columns has streams of."""
    books, name = config["codebooks"], "prior.net"
    indices: Indices = []
    f = np.zeros(())  # no level yet
    for number, stream in enumerate(streams):
        stride, coder = books[number]["stride"], Decoder(stream)
        index = np.zeros((rows // stride, columns // stride), np.int64)
        assert index.size <= min(2**18, 2**28 // (books[number]["size"] + 1))  # one segment
        if number == 0:
            f = np.broadcast_to(w[f"{name}.start.table"][0][:, None, None], (config["prior_width"], *index.shape))
        else:
            f = below(f, number - 1, indices[-1], stride < books[number - 1]["stride"], w)
        known: list[np.ndarray] = []
        for phase, (i, j) in enumerate(PHASES):
            logits = stage(f[:, i::2, j::2], known, number, phase, w)
            symbols = [coder.symbol(table_of_weights(row, w["prior.exp"]).tolist()) for row in logits]
            index[i::2, j::2] = np.reshape(symbols, index[i::2, j::2].shape)
            known.append(embedded(index[i::2, j::2], number, w))
        indices.append(index)
    return indices


def embedded(index: np.ndarray, level: int, w: Tensors) -> np.ndarray:
    return w[f"prior.net.embeddings.{level}.table"][index].transpose(2, 0, 1)


def below(f: np.ndarray, level: int, index: np.ndarray, halves: bool, w: Tensors) -> np.ndarray:
    """What the next level starts from, of what a level started from and its indices."""
    f = f + conv(w, f"prior.net.entries.{level}", embedded(index, level, w))
    if halves:
        f = shuffle(conv(w, f"prior.net.expand.{level}.0", f))
    return res(w, f"prior.net.blocks.{level}", f)


def stage(f: np.ndarray, known: Indices, level: int, phase: int, w: Tensors) -> np.ndarray:
    """Logits [positions, K] of a phase of a level, of f at its positions and of the phases before it."""
    name = f"prior.net.stages.{4 * level + phase}"
    x = conv(w, f"{name}.own", f)
    if known:
        x = x + conv(w, f"{name}.known", np.concatenate(known))
    logits = conv(w, f"prior.net.heads.{level}", relu(conv(w, f"{name}.mix.1", relu(x))))
    return logits.reshape(len(logits), -1).T


def halved(w: Tensors, name: str, x: np.ndarray, halves: bool) -> np.ndarray:
    return floats_shuffle(floats(w, f"{name}.0", x), 2) if halves else floats(w, name, x)


def pixels(indices: Indices, rows: int, columns: int, config: dict, w: Tensors) -> np.ndarray:
    """Pixels uint8 [rows, columns, 3]."""
    books, name = config["codebooks"], "model.synthesis"
    z, h = np.zeros(()), np.zeros(())
    for level, book in enumerate(books):
        stride = book["stride"]
        grid = rows // stride, columns // stride
        if level == 0:
            m, h = np.zeros((book["length"], *grid)), np.zeros((config["width"], *grid))
        else:
            halves = stride < books[level - 1]["stride"]
            m = halved(w, f"{name}.carry.{level - 1}", z, halves)
            h = halved(w, f"{name}.expand.{level - 1}", h, halves) if halves else h
            for block in range(book["blocks"]):
                h = floats_res(w, f"{name}.blocks.{level - 1}.{block}", h)
            m = m + floats(w, f"{name}.heads.{level - 1}", h)
        coded = level < len(indices)
        q = w[f"model.codebooks.{level}"][indices[level]].transpose(2, 0, 1) if coded else np.zeros_like(m)
        z = m + q
        h = h + floats(w, f"{name}.entries.{level}", np.concatenate([z, q]) / stride)
        h = h if coded else h + w[f"{name}.absent.{level}"]
    return shown(z, h, stride, config, w)


def shown(z: np.ndarray, h: np.ndarray, stride: int, config: dict, w: Tensors) -> np.ndarray:
    name, fine = "model.synthesis", config["fine_blocks"]
    for block in range(config["synthesis_blocks"]):
        h = floats_res(w, f"{name}.base.{block}", h)
    h = floats_shuffle(floats(w, f"{name}.fine.1", relu(h)), 2)
    for block in range(3, fine + 3):
        h = floats_res(w, f"{name}.fine.{block}", h)
    y = floats_shuffle(floats(w, f"{name}.fine.{fine + 4}", relu(h)), stride // 2)
    y = y + floats_shuffle(floats(w, f"{name}.linear", z), stride)
    return np.clip(np.round(255 * (y + 0.5)), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def decode(blob: bytes, weights: Path, cut: bool = False) -> tuple[list[Indices], np.ndarray, photo.Front]:
    """Indices of every tile and level, and pixels uint8 [H, W] or [H, W, channels], of a file; cut: of the start of
    one, of the levels that are there."""
    config, w = photo.read_weights(weights, "photo-vq")
    front = photo.front(blob, cut)
    sizes, multiple = photo.tiles(front.size), 2 * config["codebooks"][0]["stride"]
    coded = list(levels(front.data, len(sizes), front.setting))
    assert cut or (len(coded) == front.setting and not front.data.rest())
    indices, images = [], []
    for tile, (height, width) in enumerate(sizes):
        rows, columns = (-(-side // multiple) * multiple for side in (height, width))
        indices.append(decode_indices([streams[tile] for streams in coded], rows, columns, config, w))
        images.append(pixels(indices[-1], rows, columns, config, w)[:height, :width])
    return indices, photo.whole(photo.joined(images, front.size), front), front
