"""A second decoder of photographs by a ladder, written from bitstream/FORMAT.md alone and in its order.

NumPy and the plain Python arithmetic coder; no torch, nothing of vqcodec.codec but lossless storing."""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqcodec.codec import plain
from vqcodec.tests.reference.decoder import Decoder, Tensors, conv, relu, res, shuffle

CLASSES = ((1, 26, 3, 0), (26, 48, 10, 0), (48, 70, 36, 0), (70, 90, 36, 2), (90, 113, 36, 4))
"""Of every class: first index, index after the last, reach, low bits."""
DTYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64, "F16": np.float16}


def read_weights(path: Path, family: str = "photo") -> tuple[dict, Tensors]:
    """Configuration and tensors, int64 or float64, of a weights file of this family."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    told = json.loads(header.pop("__metadata__")["vqcodec"])
    assert told["family"] == family
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = np.frombuffer(data[8 + size + first : 8 + size + last], DTYPES[entry["dtype"]])
        tensors[name] = raw.reshape(entry["shape"]).astype(np.float64 if entry["dtype"][0] == "F" else np.int64)
    return told["config"], tensors


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def part(self) -> bytes:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at]

    def rest(self) -> bytes:
        return self.data[self.at :]


class Latents:
    """Latents by scale: small payloads, whose streams have one segment."""

    def __init__(self, payload: bytes, w: Tensors) -> None:
        data, self.w, self.streams = Bytes(payload), w, []
        for _ in CLASSES:
            segments, stream = data.number(), data.part()
            assert segments <= 1
            self.streams.append(Decoder(stream))
        self.lows = [byte >> bit & 1 for byte in data.part() for bit in reversed(range(8))]
        self.escapes = np.frombuffer(data.part(), "<i2").tolist()
        assert not data.rest()

    def part(self, scale: np.ndarray) -> np.ndarray:
        values = np.zeros(scale.size, np.int64)
        for number, (first, until, reach, low) in enumerate(CLASSES):
            members = [place for place, i in enumerate(scale.flat) if first <= i < until]
            symbols = [
                self.streams[number].symbol(self.w[f"tables{number}"][scale.flat[place] - first].tolist())
                for place in members
            ]
            for place, symbol in zip(members, symbols, strict=True):
                if symbol == 2 * reach + 1:
                    values[place] = self.escapes.pop(0)
                else:
                    bits = sum(self.lows.pop(0) << bit for bit in range(low))
                    values[place] = ((symbol - reach) << low) + bits
        return values.reshape(scale.shape)


def clip(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32767, 32767)


def at(table: np.ndarray, quality: int) -> np.ndarray:
    return table[quality - 1][:, None, None]


def floats(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """A convolution in floating point."""
    weight = w[f"{name}.weight"]
    pad, (height, width) = weight.shape[2] // 2, x.shape[1:]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    y = sum(
        np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, i : i + height, j : j + width])
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    )
    return y + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else y


def floats_res(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    y = x
    for number in (1, 3, 5):
        if f"{name}.body.{number}.weight" in w:
            y = floats(w, f"{name}.body.{number}", relu(y))
    return x + y


def floats_shuffle(x: np.ndarray, r: int) -> np.ndarray:
    c, h, w = x.shape
    return x.reshape(c // r**2, r, r, h, w).transpose(0, 3, 1, 4, 2).reshape(c // r**2, r * h, r * w)


def between(table: np.ndarray, quality: int) -> np.ndarray:
    p = 8 * (quality - 1) / 99
    low = min(int(p), 7)
    return (table[low] + (p - low) * (table[low + 1] - table[low]))[:, None, None]


def decode_tile(payload: bytes, quality: int, size: tuple[int, int], config: dict, w: Tensors) -> np.ndarray:
    """Pixels uint8 [H, W, 3]."""
    levels, latents = config["levels"], Latents(payload, w)
    rows, columns = (-(-side // levels[0]["stride"]) * levels[0]["stride"] for side in size)
    f = np.zeros((levels[0]["width"], rows // levels[0]["stride"], columns // levels[0]["stride"]), np.int64)
    finest, z = levels[-1]["stride"], []
    for number, level in enumerate(levels):
        f = clip(f) + at(w[f"prior.quality.{number}.table"], quality)
        for block in range(level["blocks"]):
            f = res(w, f"prior.blocks.{number}.{block}", f)
        mean, s = np.split(conv(w, f"prior.heads.{number}", f), 2)
        log_gain = at(w[f"prior.log_gain.{number}.table"], quality)
        k = latents.part(np.clip((16 * (s + log_gain) + 256 >> 9) + 40, 0, 112))
        if level["stride"] == finest:
            z.append(mean / 512 + k / np.exp(log_gain / 512))
        inverse = at(w[f"prior.inverse_gain.{number}.table"], quality)
        f = f + conv(w, f"prior.entries.{number}", clip(inverse * k + 64 >> 7))
        if number + 1 < len(levels) and levels[number + 1]["stride"] != level["stride"]:
            f = shuffle(conv(w, f"prior.expand.{number}.0", f))
        elif number + 1 < len(levels) and levels[number + 1]["width"] != level["width"]:
            f = conv(w, f"prior.expand.{number}", f)
    assert not latents.escapes
    z = np.concatenate(z)
    return pixels(z, np.concatenate([z, f / 512]), quality, config, w)[: size[0], : size[1]]


def pixels(z: np.ndarray, a: np.ndarray, quality: int, config: dict, w: Tensors) -> np.ndarray:
    stride = config["levels"][-1]["stride"]
    h = floats(w, "synthesis.entry", a) + between(w["synthesis.quality.table"], quality)
    for block in range(config["synthesis_blocks"]):
        h = floats_res(w, f"synthesis.base.{block}", h)
    h = floats_shuffle(floats(w, "synthesis.up.1", relu(h)), 2) + between(w["synthesis.fine_quality.table"], quality)
    for block in range(config["fine_blocks"]):
        h = floats_res(w, f"synthesis.fine.{block}", h)
    y = floats_shuffle(floats(w, f"synthesis.fine.{config['fine_blocks'] + 1}", relu(h)), stride // 2)
    y = y + floats_shuffle(floats(w, "synthesis.linear", z), stride)
    return np.clip(np.round(255 * (y + 0.5)), 0, 255).astype(np.uint8).transpose(1, 2, 0)


@dataclass
class Front:
    """What a file says before the model's payload, which comes next in `data`. told: colour profile and EXIF."""

    mode: int
    setting: int
    size: tuple[int, int]
    told: tuple[bytes, bytes]
    alpha: np.ndarray | None
    data: Bytes


def front(blob: bytes, cut: bool = False) -> Front:
    """Of a file; cut: of the start of one."""
    mode, parameter = blob[6], blob[7]
    width, height, extra, length = struct.unpack_from("<IIHQ", blob, 8)
    assert cut or len(blob) == 30 + extra + length
    data, told, alpha = Bytes(blob[26 + extra : 26 + extra + length]), (b"", b""), None
    if parameter & 128:
        told = zlib.decompress(data.part()), zlib.decompress(data.part())
    if mode in (3, 6):
        stored = data.part()
        described = Bytes(stored[1:])
        extra_of_alpha = described.part()
        alpha = plain.decode(stored[0], extra_of_alpha, described.rest(), width, height, "L").pixels
        alpha = alpha.reshape(height, width)
    return Front(mode, parameter & 127, (height, width), told, alpha, data)


def whole(image: np.ndarray, front: Front) -> np.ndarray:
    """Pixels uint8 [H, W] or [H, W, channels] in the file's mode, of an image uint8 [H, W, 3]."""
    if front.mode in (2, 3):
        image = ((image.sum(2, dtype=np.int64) + 1) // 3).astype(np.uint8)
    return image if front.alpha is None else np.dstack([image, front.alpha])


def spans(size: int) -> list[tuple[int, int]]:
    count = max(1, -(-(size - 64) // 2048))
    return [(2048 * t, min(size, 2048 * (t + 1) + 64)) for t in range(count)]


def tiles(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of every tile, row by row."""
    return [(b - a, d - c) for a, b in spans(size[0]) for c, d in spans(size[1])]


def joined(images: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The image, of its tiles."""
    columns = len(spans(size[1]))
    return lines([lines(images[i : i + columns], 1) for i in range(0, len(images), columns)], 0)


def lines(images: list[np.ndarray], axis: int) -> np.ndarray:
    image, *others = (np.moveaxis(image, axis, 0).astype(np.int64) for image in images)
    for b in others:
        j = np.arange(64)[:, None, None]
        overlap = ((127 - 2 * j) * image[-64:] + (2 * j + 1) * b[:64] + 64) // 128
        image = np.concatenate([image[:-64], overlap, b[64:]])
    return np.moveaxis(image, 0, axis).astype(np.uint8)


def decode_file(blob: bytes, weights: Path) -> tuple[np.ndarray, bytes, bytes]:
    """Pixels uint8 [H, W] or [H, W, channels] of a file, colour profile and EXIF."""
    config, w = read_weights(weights)
    told = front(blob)
    sizes = tiles(told.size)
    payloads = [told.data.part() for _ in sizes] if len(sizes) > 1 else [told.data.rest()]
    pairs = zip(payloads, sizes, strict=True)
    images = [decode_tile(payload, told.setting, size, config, w) for payload, size in pairs]
    return whole(joined(images, told.size), told), *told.told
