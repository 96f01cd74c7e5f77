"""A second decoder of the VQ family, written from bitstream/FORMAT.md alone and in its order.

NumPy integers and the plain Python arithmetic coder; no torch, nothing of vqcodec.codec. Slow and short on purpose: it
is the check of FORMAT.md and its illustration."""

import json
import struct
from pathlib import Path

import numpy as np

from vqcodec.bitstream.cdf import cdf_from_frequencies, quantise_weights, widen

Tensors = dict[str, np.ndarray]
DTYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}


def read_weights(path: Path) -> tuple[dict, Tensors]:
    """Configuration and tensors (int64) of a weights file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    config = json.loads(header.pop("__metadata__")["vqcodec"])["config"]
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = np.frombuffer(data[8 + size + first : 8 + size + last], DTYPES[entry["dtype"]])
        tensors[name] = raw.reshape(entry["shape"]).astype(np.int64)
    return config, tensors


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


def res(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return x + conv(w, f"{name}.body.3", relu(conv(w, f"{name}.body.1", relu(x))))


def shuffle(x: np.ndarray) -> np.ndarray:
    channels, height, width = x.shape
    out = np.zeros((channels // 4, 2 * height, 2 * width), np.int64)
    for c in range(channels):
        out[c // 4, c % 4 // 2 :: 2, c % 2 :: 2] = x[c]
    return out


def bayer() -> np.ndarray:
    b = np.zeros((1, 1), np.int64)
    for _ in range(3):
        b = np.block([[4 * b, 4 * b + 2], [4 * b + 3, 4 * b + 1]])
    return b


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
                weights = w["prior.exp"][np.minimum(row.max() - row, 4096)]
                cdf = widen(cdf_from_frequencies(quantise_weights(weights)), alphabet)
                indices[level][p] = coder.symbol(cdf.tolist())
            order[level] += positions
            number += 1
    return indices


def decode_compact(blob: bytes, weights: Path) -> np.ndarray:
    """Pixels uint8 [S, S] of a compact file of the model in a weights file (checksum and fields not checked again)."""
    config, w = read_weights(weights)
    levels = (blob[0] & 3) + 1
    indices = decode_indices(blob[3:-2], levels, config, w)
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
    return 255 - pixels if blob[0] & 4 else pixels
