"""A second reader of archives, written from bitstream/FORMAT.md alone and in its order, for sound archives only.

NumPy and Python integers; no torch, nothing of vqcodec.codec. It belongs to `decoder`, which reads files."""

import io
import lzma
import re
import struct
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import isqrt
from pathlib import Path

import numpy as np

from vqcodec.bitstream.archive import Block
from vqcodec.bitstream.cdf import cdf_from_frequencies, quantise_weights
from vqcodec.tests.reference.decoder import Ladder, Tensors, Walk, conv, linear, read_weights


def read_archive(blob: bytes) -> tuple[list[Block], list[str]]:
    """The blocks, and the names of the images in order."""
    length, _, _ = struct.unpack("<II4s", blob[-12:])
    stored = io.BytesIO(blob[-12 - length : -12])

    def word() -> str:
        name = b"".join(iter(lambda: stored.read(1), b"\0"))
        return re.sub(rb"\\(..)", lambda escape: bytes.fromhex(escape[1].decode()), name).decode(
            errors="surrogateescape"
        )

    method = stored.read(1)[0]
    if method:
        varint(stored)
        expand: list[Callable[[bytes], bytes]] = [lambda data: zlib.decompress(data, -15), from_lzma]
        stored = io.BytesIO(expand[method - 1](stored.read()))
    count = varint(stored)
    kinds = [(stored.read(1)[0], stored.read(varint(stored))) for _ in range(varint(stored))]
    at, after, heads, blocks = 5, 0, [], []
    for _ in range(count):
        heads.append((kinds[varint(stored)], varint(stored), stored.read(4)))
    for (kind, extra), size, _ in heads:
        numbers: list[int] = []
        for _ in range(varint(stored)):
            step, run = varint(stored), varint(stored) + 1
            first = after + (step // 2 if step % 2 == 0 else -(step + 1) // 2)
            numbers += range(first, first + run)
            after = first + run
        blocks.append(Block(kind, extra, blob[at : at + size], numbers))
        at += size
    lengths = [varint(stored) + 1 for _ in range(varint(stored))]
    firsts = [word() for _ in lengths]
    return blocks, [name for first, run in zip(firsts, lengths, strict=True) for name in counted(first, run)]


def varint(stream: io.BytesIO) -> int:
    value, shift, byte = 0, 0, 0x80
    while byte & 0x80:
        byte = stream.read(1)[0]
        value, shift = value | (byte & 0x7F) << shift, shift + 7
    return value


def from_lzma(data: bytes) -> bytes:
    return lzma.decompress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**23}])


def counted(first: str, count: int) -> list[str]:
    dot = first.rfind(".")
    suffix = first[dot:] if dot >= 0 and first[dot + 1 : dot + 2] not in tuple("0123456789") else ""
    stem = first[: len(first) - len(suffix)]
    end = next((at for at in range(len(stem), 0, -1) if stem[at - 1] in "0123456789"), 0)
    begin = end
    while begin and stem[begin - 1] in "0123456789":
        begin -= 1
    if count == 1:
        return [first]
    digits = range(int(stem[begin:end]), int(stem[begin:end]) + count)
    return [stem[:begin] + str(number).zfill(end - begin) + stem[end:] + suffix for number in digits]


def files_of(block: Block) -> list[tuple[int, bytes]]:
    """Tag and bytes of the images of a FILES block."""
    stream, found = io.BytesIO(block.payload), []
    for _ in block.numbers:
        length, tag = varint(stream), stream.read(1)[0]
        found.append((tag, stream.read(length)))
    assert not stream.read()
    return found


@dataclass(frozen=True)
class SolidImage:
    """Samples [H, W, channels], and what else PNG would say of the image."""

    samples: np.ndarray
    mode: int
    depth: int
    palette: bytes
    transparency: bytes


CHANNELS = {1: 1, 2: 1, 3: 2, 4: 1, 5: 3, 6: 4, 7: 1, 9: 3, 10: 4, 11: 2}


def solid_images_of(block: Block) -> list[SolidImage]:
    """The images of a SOLID block."""
    stream = io.BytesIO(block.payload)
    size = varint(stream)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": max(4096, min(size, 2**26))}]
    body = io.BytesIO(lzma.decompress(stream.read(), lzma.FORMAT_RAW, filters=filters))
    kinds = [(*body.read(2), body.read(varint(body))) for _ in range(varint(body))]
    count = varint(body)
    columns = [[varint(body) for _ in range(count)] for _ in range(4)]
    found = []
    for kind, more, width, height in zip(*columns, strict=True):
        found += [solid_image(body, *kinds[kind], width + 1, height + 1) for _ in range(more + 1)]
    assert len(found) == len(block.numbers)
    assert not body.read()
    return found


def solid_image(body: io.BytesIO, mode: int, arrangement: int, extra: bytes, width: int, height: int) -> SolidImage:
    default = {1: 1, 7: 16, 9: 16, 10: 16, 11: 16}.get(mode, 8)
    depth, coded = (1 << (extra[0] % 16), 1 << extra[0] // 16) if extra else (default, default)
    colours = 3 * (extra[1] + 1) if mode == 4 else 0
    begin = 2 if mode == 4 else 1
    bits = CHANNELS[mode] * coded
    rows = rows_in_order(body, -(-width * bits // 8), height, max(1, bits // 8), arrangement // 16)
    for y in range(height):
        rows[y] = unfiltered(rows[y], rows[y - 1] if y else [0] * len(rows[y]), max(1, bits // 8), arrangement % 8)
    samples = np.array([row_samples(row, width, CHANNELS[mode], coded) for row in rows], np.int64)
    if arrangement // 8 % 2:
        samples[:, :, [0, 2]] = (samples[:, :, [0, 2]] + samples[:, :, 1:2]) % 256
    unit, coded_unit = (1 if mode == 4 else 255 // (2**d - 1) for d in (depth, coded)) if coded < 16 else (1, 1)
    samples = samples * coded_unit // unit
    return SolidImage(samples, mode, depth, extra[begin : begin + colours], extra[begin + colours :])


def rows_in_order(body: io.BytesIO, row: int, height: int, pixel: int, order: int) -> list[list[int]]:
    data = list(body.read(row * height))
    if order == 0:
        return [data[y * row : (y + 1) * row] for y in range(height)]
    if order == 2:
        return [[data[x * height + y] for x in range(row)] for y in range(height)]
    plane = row * height // pixel
    return [[data[x % pixel * plane + (y * row + x) // pixel] for x in range(row)] for y in range(height)]


def unfiltered(row: list[int], above: list[int], pixel: int, kind: int) -> list[int]:
    found: list[int] = []
    for x, value in enumerate(row):
        a, b, c = (found[x - pixel], above[x], above[x - pixel]) if x >= pixel else (0, above[x], 0)
        paeth = min((a, b, c), key=lambda near: abs(a + b - c - near))
        found.append((value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
    return found


def row_samples(row: list[int], width: int, channels: int, depth: int) -> list[list[int]]:
    bits = "".join(f"{byte:08b}" for byte in row)
    flat = [int(bits[at : at + depth], 2) for at in range(0, width * channels * depth, depth)]
    return [flat[x * channels : (x + 1) * channels] for x in range(width)]


def images_of(block: Block, weights: Path) -> np.ndarray:
    """Pixels uint8 [N, S, S] of a BITS_BACK block of the model in a weights file."""
    _, config, w = read_weights(weights)
    kind = Gaussian if config.get("context") else Rounded
    return kind(config, w).decode(block.payload, len(block.numbers))


@dataclass(frozen=True)
class Distribution:
    """Symbol j in [0, count) owns [below(j), below(j + 1)) of [0, 2^precision)."""

    precision: int
    count: int
    below: Callable[[int], int]

    def symbol(self, value: int) -> int:
        return bisect_right(range(self.count), value, key=self.below) - 1

    def interval(self, symbol: int) -> tuple[int, int]:
        start = self.below(symbol)
        return start, self.below(symbol + 1) - start


def of_table(table: np.ndarray) -> Distribution:
    return Distribution(16, len(table) - 1, table.tolist().__getitem__)


def bit(ones: int) -> Distribution:
    return Distribution(24, 2, [0, 2**24 - ones, 2**24].__getitem__)


class Stack:
    """The states of the lanes and the words under them."""

    def __init__(self, data: bytes, lanes: int) -> None:
        bits, at, heads = "".join(f"{byte:08b}" for byte in data), 0, []
        for _ in range(lanes):
            end = at + 5 + int(bits[at : at + 5], 2)
            heads.append(int("1" + bits[at + 5 : end], 2))
            at = end
        words = np.frombuffer(data, "<u4", offset=-(-at // 8)).tolist()
        self.words, lows = words[: len(words) - lanes], words[len(words) - lanes :]
        self.states = [head << 32 | low for head, low in zip(heads, lows, strict=True)]

    def narrow(self, lanes: int) -> None:
        for state in self.states[lanes:]:
            assert state >> 32 == 1
            self.words.append(state & 0xFFFFFFFF)
        del self.states[lanes:]

    def pop(self, distributions: Sequence[Distribution]) -> list[int]:
        symbols, lanes = [0] * len(distributions), len(self.states)
        for begin in range(0, len(distributions), lanes):
            for i in reversed(range(begin, min(begin + lanes, len(distributions)))):
                symbols[i] = self._pop(i % lanes, distributions[i])
        return symbols

    def push(self, symbols: Sequence[int], distributions: Sequence[Distribution]) -> None:
        lanes = len(self.states)
        for begin in reversed(range(0, len(symbols), lanes)):
            for i in range(begin, min(begin + lanes, len(symbols))):
                self._push(i % lanes, symbols[i], distributions[i])

    def _pop(self, lane: int, distribution: Distribution) -> int:
        state, precision = self.states[lane], distribution.precision
        value = state % 2**precision
        symbol = distribution.symbol(value)
        start, freq = distribution.interval(symbol)
        state = (state >> precision) * freq + value - start
        self.states[lane] = state if state >= 2**32 else state << 32 | self.words.pop()
        return symbol

    def _push(self, lane: int, symbol: int, distribution: Distribution) -> None:
        state, precision = self.states[lane], distribution.precision
        start, freq = distribution.interval(symbol)
        assert freq
        if state >> 64 - precision >= freq:
            self.words.append(state & 0xFFFFFFFF)
            state >>= 32
        self.states[lane] = (state // freq << precision) + start + state % freq

    def finish(self) -> None:
        assert self.states == [2**32]
        assert self.words[::-1] == [supply(number) for number in range(len(self.words))]


def supply(number: int) -> int:
    z = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) >> 32


def batches_and_lanes(header: bytes, images: int, largest: int = 1024) -> tuple[list[int], list[int]]:
    most, clean, growth = header
    sizes, lanes, done, now = [], [], 0, 1
    while done < images:
        sizes.append(min(max(1, done * growth // 16), largest, images - done) if sizes else min(clean, images))
        now = max(now, min(2**most, 2 ** (max(1, sizes[-1] // 2).bit_length() - 1)))
        lanes.append(now)
        done += sizes[-1]
    return sizes, lanes


class BitsBack(ABC):
    """The decoder of the payloads of one model."""

    largest = 1024

    def __init__(self, config: dict, w: Tensors) -> None:
        self.config, self.size, self.w = config, config["image_size"], w
        self.binary, self.levels = config["likelihood"] == "bernoulli", range(len(config["latents"]))

    def decode(self, payload: bytes, images: int) -> np.ndarray:
        """Pixels uint8 [N, S, S]."""
        sizes, lanes = batches_and_lanes(payload[:3], images, self.largest)
        stack, found = Stack(payload[3:], lanes[-1]), []
        for number in reversed(range(len(sizes))):
            stack.narrow(lanes[number])
            inverted = np.array(stack.pop([bit(2**15)] * sizes[number]))
            pixels = self.batch(stack, sizes[number], number > 0)
            found.append(np.where(inverted[:, None, None] == 1, 255 - pixels, pixels))
        stack.narrow(1)
        stack.finish()
        return np.concatenate(found[::-1])

    @abstractmethod
    def batch(self, stack: Stack, images: int, give_back: bool) -> np.ndarray:
        """Pixels uint8 [N, S, S] as they were coded."""

    def seen(self, values: np.ndarray) -> np.ndarray:
        """What the posterior's network sees of values."""
        return 512 * values if self.binary else (1024 * values + 255) // 510


class Gaussian(BitsBack):
    """Gaussian latents, pixels in raster order."""

    def __init__(self, config: dict, w: Tensors) -> None:
        assert (config["form"], config["skip"], set(config["grids"])) == ("mlp", False, {1})
        assert (config["inference"], config["top_down"], config["posterior"]) == ("ladder", "shared", "gaussian")
        super().__init__(
            config, {name: t.reshape(t.shape[:2]) if t.shape[2:] == (1, 1) else t for name, t in w.items()}
        )
        self.radius = config["context"]

    def rect(self, x: np.ndarray) -> np.ndarray:
        leak = self.config["leak"]
        return np.maximum(x, x >> leak if leak else 0)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return linear(self.w, name, x)

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.rect(self.linear(f"{name}.2", self.rect(self.linear(f"{name}.0", x))))

    def batch(self, stack: Stack, images: int, give_back: bool) -> np.ndarray:
        priors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        symbols: dict[int, list[int]] = {}
        h = np.zeros((images, 0), np.int64)
        for level in reversed(self.levels):
            priors[level] = self.prior(level, h)
            symbols[level] = stack.pop(self.on_grid(level, *priors[level], 1))
            z = np.reshape(symbols[level], (images, -1)) * 2 ** self.w[f"archive.steps{level}"] - 16384
            h = self.dense(f"generative.nets.{level}", z)
        values = self.pixels(stack, h)
        if give_back:
            posteriors = self.posteriors(values.reshape(images, -1), priors)
            for level in self.levels:
                stack.push(symbols[level], self.on_grid(level, *posteriors[level], 0))
        return (values * (255 if self.binary else 1)).astype(np.uint8)

    def prior(self, level: int, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and log scales [N, C]; h of the level above."""
        if level == self.levels[-1]:
            log_scale = np.tile(self.w["generative.top.table"][0], (len(h), 1))
            return np.zeros_like(log_scale), log_scale
        mean, log_scale = np.split(self.linear(f"generative.heads.{level}.0", h), 2, 1)
        return mean, log_scale

    def posteriors(
        self, values: np.ndarray, priors: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Means and log scales [N, C] of every level, given the values [N, S * S]."""
        d, found = self.seen(values), []
        for level in self.levels:
            d = self.dense(f"inference.nets.{level}", d)
            mean, log_scale = np.split(self.linear(f"inference.heads.{level}.0", d), 2, 1)
            prior_mean, prior_log_scale = priors[level]
            log_scale = np.clip(log_scale, -2048, 2048)
            i = np.clip(prior_log_scale, -2048, 2048) - log_scale + 4096
            mean = ((mean - prior_mean) * self.w["archive.weight"][i] + 2**15 >> 16) + prior_mean
            found.append((mean, log_scale + self.w["archive.narrowing"][i]))
        return found

    def on_grid(self, level: int, mean: np.ndarray, log_scale: np.ndarray, e: int) -> list[Distribution]:
        log_scale = np.clip(log_scale, -2048, 2048) if e else log_scale
        r = self.w["archive.inverse"][np.clip((64 * log_scale + 256 >> 9) + 320, 0, 576)]
        steps = np.broadcast_to(2 ** self.w[f"archive.steps{level}"], mean.shape)
        rows = zip(*(array.flatten().tolist() for array in (mean, r, steps)), strict=True)
        return [self.normal(*row, e) for row in rows]

    def normal(self, mean: int, r: int, t: int, e: int) -> Distribution:
        count, table = 32768 // t + 1, self.w["archive.normal"]

        def below(j: int) -> int:
            if j in (0, count):
                return j and 2**24
            u = min(2**18 - 1, max(-(2**18), ((2 * j - 1) * t - 32768 - 2 * mean) * r >> 12)) + 2**18
            a, b = int(table[u >> 8]), int(table[(u >> 8) + 1])
            return ((a + ((b - a) * (u % 256) >> 8)) * (2**24 - e * count) >> 30) + e * j

        return Distribution(24, count, below)

    def pixels(self, stack: Stack, h: np.ndarray) -> np.ndarray:
        """Values [N, S, S]."""
        size, radius, images = self.size, self.radius, len(h)
        features = self.linear("generative.pixels.features.0", h).reshape(images, -1, size, size)
        canvas = np.zeros((images, size + radius, size + 2 * radius), np.int64)
        near = [place for place in product(range(-radius, 1), range(-radius, radius + 1)) if place < (0, 0)]
        for wave in range(size + (radius + 1) * (size - 1)):
            rows = np.array([row for row in range(size) if 0 <= wave - (radius + 1) * row < size])
            columns = wave - (radius + 1) * rows
            seen = [canvas[:, rows + radius + up, columns + radius + left] for up, left in near]
            parts = [self.w["generative.pixels.seen.table"][value] for value in seen]
            x = np.concatenate([*parts, features[:, :, rows, columns].transpose(0, 2, 1)], 2)
            values = self.values(stack, self.hidden(x.reshape(-1, x.shape[2])))
            canvas[:, rows + radius, columns + radius] = values.reshape(images, -1)
        return canvas[:, radius:, radius : radius + size]

    def hidden(self, x: np.ndarray) -> np.ndarray:
        y = self.rect(self.linear("generative.pixels.net.0", x))
        for k in range(2, self.config["stages"][0]["blocks"] + 2):
            y = y + self.rect(self.linear(f"generative.pixels.net.{k}.body.0", y))
        return y

    def values(self, stack: Stack, y: np.ndarray) -> np.ndarray:
        """Values [n] of the pixels of a wave."""
        name = "generative.pixels"
        odds = self.w["archive.odds"][np.clip(self.linear(f"{name}.whole", y)[:, 0] + 8192, 0, 16384)]
        values = np.array(stack.pop([bit(int(ones)) for ones in odds]))
        if not self.binary:
            some = y[values == 1]
            high = self.halves(stack, self.linear(f"{name}.high", some))
            low = self.linear(f"{name}.low", self.rect(some + self.w[f"{name}.high_embedding.table"][high]))
            values[values == 1] = 16 * high + self.halves(stack, low)
        return values

    def halves(self, stack: Stack, logits: np.ndarray) -> np.ndarray:
        weights = self.w["exp"][np.minimum(logits.max(1, initial=-(2**31), keepdims=True) - logits, 8192)]
        tables = [cdf_from_frequencies(quantise_weights(row)) for row in weights]
        return np.array(stack.pop([of_table(table) for table in tables]), np.int64)


class Rounded(BitsBack):
    """A ladder of single images: all images of a batch walk in step."""

    largest = 256

    def batch(self, stack: Stack, images: int, give_back: bool) -> np.ndarray:
        walks = [Listening(self.config, self.w, 0) for _ in range(images)]
        pixels = np.stack(in_step([walk.walk() for walk in walks], stack))
        if give_back:
            seen = [self.seen(own // (255 if self.binary else 1)) for own in pixels.astype(np.int64)]
            features = [self.features(walk, x[None]) for walk, x in zip(walks, seen, strict=True)]
            for level in self.levels:
                symbols = [symbol for walk in walks for symbol in walk.latent_symbols[level]]
                distributions = [
                    distribution
                    for walk, own in zip(walks, features, strict=True)
                    for distribution in self.posterior(level, own[level], walk)
                ]
                stack.push(symbols, distributions)
        return pixels

    def features(self, walk: Ladder, d: np.ndarray) -> list[np.ndarray]:
        """d_l of every level; x [1, S, S]."""
        found = []
        for level in self.levels:
            d = walk.stack(
                f"inference.nets.{level}",
                self.config["blocks"],
                unshuffle(d, d.shape[1] // self.config["grids"][level]),
            )
            found.append(d)
        return found

    def posterior(self, level: int, d: np.ndarray, walk: "Listening") -> list[Distribution]:
        mean, log_scale = np.split(conv(self.w, f"inference.heads.{level}.0", d), 2)
        prior_mean, prior_log_scale = walk.priors[level]
        log_scale, prior_log_scale = (np.clip(scale, -1152, 1408) for scale in (log_scale, prior_log_scale))
        v = (mean - prior_mean) * self.w["sigmoid"][prior_log_scale - log_scale + 2560]
        reach, found = walk.reach[0][level], []
        for distance, table in zip(v.flatten().tolist(), walk.latent_tables[level], strict=True):
            k = min(reach - 1, max(-reach, distance >> 25))
            e = 8 * (min(512, max(0, distance - (k << 25) >> 16)) - 256)
            p, q = np.diff(table)[k + reach : k + reach + 2].tolist()
            a = isqrt(p << 8) * int(self.w["exp"][max(0, e)])
            b = isqrt(q << 8) * int(self.w["exp"][max(0, -e)])
            found.append(neighbours(k + reach, (b << 24) // (a + b)))
        return found


class Listening(Ladder):
    """Keeps what the posterior is computed from: tables, priors and symbols of every level's latents."""

    def __init__(self, config: dict, w: Tensors, setting: int) -> None:
        super().__init__(config, w, setting)
        self.latent_tables: dict[int, list[np.ndarray]] = {}
        self.latent_symbols: dict[int, list[int]] = {}

    def walk(self, preview: bool = False) -> Walk:
        walk, levels = super().walk(preview), reversed(range(len(self.config["latents"])))
        try:
            tables = next(walk)
            while True:
                symbols = yield tables
                level = next(levels, None)
                if level is not None:
                    self.latent_tables[level], self.latent_symbols[level] = tables, symbols.tolist()
                tables = walk.send(symbols)
        except StopIteration as stop:
            return stop.value


def in_step(walks: list[Walk], stack: Stack) -> list[np.ndarray]:
    """What the walks return, all of which take as many steps."""
    lists = [next(walk) for walk in walks]
    while True:
        symbols = np.array(stack.pop([of_table(table) for tables in lists for table in tables])).reshape(len(walks), -1)
        pixels = []
        for number, (walk, own) in enumerate(zip(walks, symbols, strict=True)):
            try:
                lists[number] = walk.send(own)
            except StopIteration as stop:
                pixels.append(stop.value)
        if pixels:
            return pixels


def unshuffle(x: np.ndarray, r: int) -> np.ndarray:
    return np.concatenate([x[c, i::r, j::r][None] for c, i, j in product(range(len(x)), range(r), range(r))])


def neighbours(symbol: int, ones: int) -> Distribution:
    """Of a symbol and the next, which owns the last counts."""
    return Distribution(24, symbol + 2, lambda j: 0 if j <= symbol else 2**24 - ones if j == symbol + 1 else 2**24)
