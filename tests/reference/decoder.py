"""A second decoder of both model families, written from bitstream/FORMAT.md alone and in its order.

NumPy integers and the plain Python arithmetic coder; no torch, nothing of vqcodec.codec. Slow and short on purpose: it
is the check of FORMAT.md and its illustration."""

import json
import struct
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path

import numpy as np

from vqcodec.bitstream.cdf import cdf_from_frequencies, quantise_weights, widen

Tensors = dict[str, np.ndarray]
Rectifier = Callable[[np.ndarray], np.ndarray]
DTYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}


def read_weights(path: Path) -> tuple[str, dict, Tensors]:
    """Family, configuration and tensors (int64) of a weights file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    told = json.loads(header.pop("__metadata__")["vqcodec"])
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = np.frombuffer(data[8 + size + first : 8 + size + last], DTYPES[entry["dtype"]])
        tensors[name] = raw.reshape(entry["shape"]).astype(np.int64)
    return told["family"], told["config"], tensors


class Decoder:
    """The arithmetic decoder of one segment."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.at, self.low, self.high, self.value = 0, 0, 2**32 - 1, 0
        for _ in range(32):
            self.value = 2 * self.value + self.next_bit()

    def next_bit(self) -> int:
        self.at += 1
        return int(self.bits[self.at - 1]) if self.at <= len(self.bits) else 0

    def symbol(self, cdf: list[int]) -> int:
        span = self.high - self.low + 1
        count = ((self.value - self.low + 1) * 65536 - 1) // span
        symbol = max(s for s in range(len(cdf) - 1) if cdf[s] <= count)
        self.high = self.low + (span * cdf[symbol + 1] >> 16) - 1
        self.low = self.low + (span * cdf[symbol] >> 16)
        while True:
            if self.high < 2**31:
                b = 0
            elif self.low >= 2**31:
                b = 2**31
            elif self.low >= 2**30 and self.high < 3 * 2**30:
                b = 2**30
            else:
                return symbol
            self.low, self.high = 2 * (self.low - b), 2 * (self.high - b) + 1
            self.value = 2 * (self.value - b) + self.next_bit()


def requantise(sums: np.ndarray, shift: int) -> np.ndarray:
    return np.clip(sums >> shift, -32767, 32767)


def linear(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return requantise(x @ w[f"{name}.weight"].T + w[f"{name}.bias"], int(w[f"{name}.shift"]))


def conv(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    weight = w[f"{name}.weight"]
    pad = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[1:]
    sums = w[f"{name}.bias"][:, None, None] + sum(
        np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, i : i + height, j : j + width])
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    )
    return requantise(sums, int(w[f"{name}.shift"]))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def res(w: Tensors, name: str, x: np.ndarray, rect: Rectifier = relu) -> np.ndarray:
    return x + conv(w, f"{name}.body.3", rect(conv(w, f"{name}.body.1", rect(x))))


def shuffle(x: np.ndarray, r: int = 2) -> np.ndarray:
    channels, height, width = x.shape
    out = np.zeros((channels // r**2, r * height, r * width), np.int64)
    for c in range(channels):
        out[c // r**2, c % r**2 // r :: r, c % r :: r] = x[c]
    return out


def bayer() -> np.ndarray:
    b = np.zeros((1, 1), np.int64)
    for _ in range(3):
        b = np.block([[4 * b, 4 * b + 2], [4 * b + 3, 4 * b + 1]])
    return b


def table_of_weights(logits: np.ndarray, exp: np.ndarray) -> np.ndarray:
    return cdf_from_frequencies(quantise_weights(exp[np.minimum(logits.max() - logits, len(exp) - 1)]))


def decode_indices(payload: bytes, levels: int, config: dict, w: Tensors) -> list[np.ndarray]:
    grid = config["image_size"] // 4
    alphabet = max(level["codes"] for level in config["levels"])
    coder, number = Decoder(payload), 0
    indices: list[np.ndarray] = []
    order: list[list[int]] = []
    for level in range(levels):
        spec = config["levels"][level]
        side = -(-grid // spec["stride"])
        indices.append(np.zeros(side * side, np.int64))
        order.append([])
        rank = [bayer()[(p // side + 5) % 8][(p % side + 5) % 8] for p in range(side * side)]
        for first, last in zip((0, *spec["stages"]), spec["stages"], strict=False):
            positions = [p for p in range(side * side) if first <= rank[p] < last]
            if not positions:
                continue
            known = [w[f"prior.net.embeddings.{j}.table"][indices[j][p]] for j in range(level + 1) for p in order[j]]
            logits = np.zeros((len(positions), spec["codes"]), np.int64)
            if known:
                x = np.concatenate(known)
                for layer in (0, 2, 4):
                    x = relu(linear(w, f"prior.net.nets.{number}.{layer}", x))
                logits = linear(w, f"prior.net.heads.{level}", x.reshape(len(positions), config["prior_head"]))
            logits = logits + w[f"prior.net.offsets.{number}.table"]
            for p, row in zip(positions, logits, strict=True):
                indices[level][p] = coder.symbol(widen(table_of_weights(row, w["prior.exp"]), alphabet).tolist())
            order[level] += positions
            number += 1
    return indices


def decode_vq(payload: bytes, parameter: int, config: dict, w: Tensors) -> np.ndarray:
    """Pixels uint8 [S, S] of a payload of the VQ family."""
    indices = decode_indices(payload, (parameter & 3) + 1, config, w)
    grid = config["image_size"] // 4
    z = np.zeros((config["latent_dim"], grid, grid), np.int64)
    for level, index in enumerate(indices):
        stride = config["levels"][level]["stride"]
        side = -(-grid // stride)
        q = w[f"quantiser.codebooks.{level}.table"][index].T.reshape(-1, side, side)
        z += q.repeat(stride, 1).repeat(stride, 2)[:, :grid, :grid]
    x = conv(w, "decoder.0", z)
    for block in (1, 2, 3):
        x = res(w, f"decoder.{block}", x)
    x = shuffle(conv(w, "decoder.5", relu(x)))
    x = shuffle(conv(w, "decoder.9", relu(res(w, "decoder.7", x))))
    pixels = np.clip((x[0] + 2) >> 2, 0, 255).astype(np.uint8)
    return 255 - pixels if parameter & 4 else pixels


Tables = list[np.ndarray]
Walk = Generator[Tables, np.ndarray, np.ndarray]


class Ladder:
    """The walk of one image through a model of the ladder family: yields tables, receives their symbols."""

    def __init__(self, config: dict, w: Tensors, setting: int) -> None:
        self.w, self.config, self.setting = w, config, setting
        self.binary = config["likelihood"] == "bernoulli"
        self.reach = [[(1, 2, 4, 8, 16, 31, 63)[int(index)] for index in row] for row in w["reach"]]
        self.alphabet = max(2 if self.binary else 16, *(2 * reach + 1 for row in self.reach for reach in row))
        self.priors: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def rect(self, x: np.ndarray) -> np.ndarray:
        leak = self.config["leak"]
        return np.maximum(x, x >> leak) if leak else relu(x)

    def stack(self, name: str, blocks: int, x: np.ndarray) -> np.ndarray:
        x = conv(self.w, f"{name}.0", x)
        for block in range(1, blocks + 1):
            x = res(self.w, f"{name}.{block}", x, self.rect)
        return x

    def walk(self, preview: bool = False) -> Walk:
        """Returns pixels uint8 [S, S], not inverted back."""
        context = yield from self.latents()
        lossless = self.setting == 0 and not preview
        pixels = (yield from self.pixels(context)) if lossless else self.render(context)
        return (pixels * (255 if self.binary else 1)).astype(np.uint8)

    def latents(self) -> Walk:
        """The context."""
        w, config, q = self.w, self.config, self.setting
        h = np.zeros((), np.int64)
        for level in reversed(range(len(config["latents"]))):
            channels, side = config["latents"][level], config["grids"][level]
            if level == len(config["latents"]) - 1:
                mean = np.zeros((channels, side, side), np.int64)
                log_scale = np.broadcast_to(w["generative.top.table"][q][:, None, None], mean.shape)
            else:
                mean, log_scale = np.split(conv(w, f"generative.heads.{level}.{q}", h), 2)
            self.priors[level] = mean, log_scale
            tables = w[f"tables{int(w['reach'][q][level])}"]
            rows = np.clip((32 * log_scale + 256 >> 9) + 72, 0, 160)
            symbols = yield [cdf_from_frequencies(tables[row]) for row in rows.flat]
            k = symbols.reshape(mean.shape) - self.reach[q][level]
            h = conv(w, f"generative.entries.{level}.{q}", k * 512 + mean) + h
            h = self.stack(f"generative.nets.{level}", config["blocks"], h)
            if level:
                h = conv(w, f"generative.expand.{level - 1}.1", self.rect(h))
                h = shuffle(h, config["grids"][level - 1] // side)
        return h

    def render(self, context: np.ndarray) -> np.ndarray:
        """The image of the latents, 0..255 or 0 and 1."""
        name, most = "generative.render", 1 if self.binary else 255
        h = self.rect(res(self.w, f"{name}.1", conv(self.w, f"{name}.0", context), self.rect))
        y = shuffle(conv(self.w, f"{name}.3", h), self.config["image_size"] // self.config["grids"][0])[0]
        return np.clip(most * y + 256 >> 9, 0, most)

    def pixels(self, context: np.ndarray) -> Walk:
        """The pixels, 0..255 or 0 and 1."""
        size, side = self.config["image_size"], self.config["grids"][0]
        r = size // side
        image = np.zeros((size, size), np.int64)
        order = sorted(range(r * r), key=lambda p: bayer()[p // r % 8][p % r % 8])
        untils = [0, *(stage["until"] for stage in self.config["stages"])]
        known = [context]
        for number, (first, last) in enumerate(pairwise(untils)):
            places = sorted(order[first:last])
            features = self.network(number, np.concatenate(known)).reshape(len(places), -1, side, side)
            values = yield from self.values(features.transpose(0, 2, 3, 1), self.config["stages"][number]["width"] == 0)
            for place, own in zip(places, values, strict=True):
                image[place // r :: r, place % r :: r] = own
                known.append(self.w["generative.pixels.embedding.table"][own].transpose(2, 0, 1))
        return image

    def network(self, number: int, x: np.ndarray) -> np.ndarray:
        name, stage = f"generative.pixels.nets.{number}", self.config["stages"][number]
        if not stage["width"]:
            return conv(self.w, name, x)
        return conv(self.w, f"{name}.{stage['blocks'] + 2}", self.rect(self.stack(name, stage["blocks"], x)))

    def values(self, features: np.ndarray, linear_stage: bool) -> Walk:
        """Values [n, side, side] of the pixels of a stage from their features [n, side, side, F]."""
        w, name = self.w, "generative.pixels"
        shape, f = features.shape[:3], features.reshape(-1, features.shape[-1])
        if self.binary:
            logits = linear(w, f"{name}.high", f if linear_stage else relu(f))
            symbols = yield self.tables(np.concatenate([np.zeros_like(logits), logits], 1))
            return symbols.reshape(shape)
        high = yield self.tables(linear(w, f"{name}.high", relu(f)))
        low = yield self.tables(linear(w, f"{name}.low", relu(f + w[f"{name}.high_embedding.table"][high])))
        return (16 * high + low).reshape(shape)

    def tables(self, logits: np.ndarray) -> Tables:
        return [table_of_weights(row, self.w["exp"]) for row in logits]


def decode_ladder(payload: bytes, parameter: int, config: dict, w: Tensors, preview: bool) -> np.ndarray:
    """Pixels uint8 [S, S] of a payload of the ladder family."""
    model = Ladder(config, w, 0 if config["likelihood"] == "bernoulli" else parameter)
    coder, walk = Decoder(payload), model.walk(preview)

    def symbols(tables: Tables) -> np.ndarray:
        return np.array([coder.symbol(widen(table, model.alphabet).tolist()) for table in tables])

    (inverted,) = symbols([np.array([0, 65408, 65536])])
    try:
        tables = next(walk)
        while True:
            tables = walk.send(symbols(tables))
    except StopIteration as stop:
        return 255 - stop.value if inverted else stop.value


def decode_payload(payload: bytes, parameter: int, weights: Path, preview: bool = False) -> np.ndarray:
    """Pixels uint8 [S, S] of a payload. preview: from the latents alone, or a VQ-VAE's first level."""
    family, config, w = read_weights(weights)
    if family == "ladder":
        return decode_ladder(payload, parameter, config, w, preview)
    return decode_vq(payload, parameter & 4 if preview else parameter, config, w)


def decode_file(blob: bytes, weights: Path, preview: bool = False) -> np.ndarray:
    """Pixels uint8 [S, S] of a file of the model in a weights file (checksum and fields not checked again)."""
    if blob[0] >> 3 == 0xA8 >> 3:
        return decode_payload(blob[3:-2], blob[0] & 7, weights, preview)
    extra, length = struct.unpack_from("<HQ", blob, 16)
    return decode_payload(blob[26 + extra : 26 + extra + length], blob[7], weights, preview)
