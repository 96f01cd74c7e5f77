"""Throws damaged files at the decoders: every one has to end as an image or as a VqcodecError.

Files of every family and archives of every kind are changed at random places, and then their checksums are repaired, so
that the changes reach the code behind them. By hand, for as long as you like:

    PYTHONPATH=.links python tests/fuzz.py --seconds 600 --seed 7

Prints how many cases ended in which way. A case that ends in any other way is written to a file and named; the exit
code is 1 then. `--case FILE` decodes such a file again. Cases depend on the seed and their number only."""

from __future__ import annotations

import argparse
import binascii
import io
import random
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import vqcodec
from vqcodec.bitstream import archive
from vqcodec.bitstream.archive import Block, Reader, Writer
from vqcodec.codec.archive.io.sources import Item

MAX_PIXELS = 1 << 18
"""Of the images that are decoded: larger ones are refused, as a careful server would do."""
_GOLDEN = Path(__file__).parent / "golden"
_IMAGES = Path(__file__).parent / "images"
_GENERAL = struct.Struct(
    "<4sBBBBIIHQ"
)  # magic, version, kind, mode, parameter, width, height, lengths of extra, payload
_COMPACT = 0xA8
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


@dataclass(frozen=True)
class Seed:
    """A sound file that cases are made from."""

    name: str
    blob: bytes

    @property
    def is_archive(self) -> bool:
        """Whether it is an archive, and not one image."""
        return self.blob.startswith(archive.MAGIC)


@dataclass
class Report:
    """What became of the cases. outcomes: by family and way of ending; foreign: cases that ended in a wrong way."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    foreign: list[Path] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "-")

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.outcomes.total()

    def text(self) -> str:
        """A line for every outcome, and the slowest case."""
        lines = [f"{count:7} {name:10} {outcome}" for (name, outcome), count in sorted(self.outcomes.items())]
        return "\n".join(
            [*lines, f"{self.cases:7} in all; the slowest took {self.slowest[0]:.2f} s: {self.slowest[1]}"]
        )


def seeds() -> list[Seed]:
    """Golden files that are sound, and fresh ones: plain images of every mode, and archives of every kind of block."""
    golden = [Seed(path.name, path.read_bytes()) for path in sorted(_GOLDEN.glob("good-*.vq[ac]"))]
    readable = [seed for seed in golden if _ends_well(seed.blob)]
    return [*readable, *plain_seeds(), *_archive_seeds()]


def _ends_well(blob: bytes) -> bool:
    """Whether a file decodes; some golden files have made-up payloads."""
    with suppress(vqcodec.VqcodecError):
        decode(blob)
        return True
    return False


def _pictures() -> Iterator[tuple[str, Image.Image]]:
    """Small images of every mode."""
    y, x = np.mgrid[:12, :17]
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 4), np.uint8)
    smooth = Image.fromarray((x * 9 + y * 5).astype(np.uint8))
    yield "1", smooth.convert("1")
    yield "L", smooth
    yield "LA", Image.merge("LA", [smooth, Image.fromarray(noise[:, :, 0])])
    yield "P", Image.fromarray(noise[:, :, :3]).quantize(7)
    yield "RGB", Image.fromarray(noise[:, :, :3])
    yield "RGBA", Image.fromarray(noise)
    yield "I;16", Image.fromarray((x * 3000 + y * 77).astype(np.uint16))


def plain_seeds() -> Iterator[Seed]:
    """Plain images of every mode, small and larger."""
    for mode, picture in _pictures():
        for times in (1, 6):
            image = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
            yield Seed(f"plain {mode} x{times}", vqcodec.encode(image, model="plain"))


def _archive_seeds() -> Iterator[Seed]:
    digits = np.load(_IMAGES / "mnist_test_8.npy")
    binary = np.where(digits > 127, 255, 0).astype(np.uint8)
    mixed = [Item(f"{mode}.png", file=_png(picture)) for mode, picture in _pictures()]
    many = [Item(f"{number:03}", array=digits[number % 8]) for number in range(16)]
    yield Seed("archive digits", _packed(many, "ladder-mnist"))
    yield Seed("archive binary", _packed([Item(str(n), array=plane) for n, plane in enumerate(binary)], "auto"))
    yield Seed("archive mixed", _packed(mixed, "auto"))
    flat = [Item(f"{number:03}", array=np.full((9, 11, 3), number, np.uint8)) for number in range(40)]
    yield Seed("archive flat", _packed(flat, "auto"))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _packed(items: Sequence[Item], model: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "a.vqa")
        vqcodec.pack(items, target, model=model)
        return target.read_bytes()


def mutated(seed: Seed, others: Sequence[Seed], chance: random.Random) -> bytes:
    """A case: the seed with some bytes changed, and its checksums right (mostly)."""
    if seed.is_archive:
        return _mutated_archive(seed.blob, chance)
    return _mutated_file(seed.blob, chance.choice(others).blob, chance)


def _changed(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, set, put in, taken out, doubled, or taken from another file."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(changed) + 1) if chance.random() < 0.6 else min(chance.randrange(12), len(changed))
        match chance.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice(_EXTREMES)
            case 2 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 3:
                changed[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 4:
                del changed[at : at + chance.choice((1, 2, 4, 50))]
            case 5:
                begin = chance.randrange(len(other) + 1)
                changed[at : at + 16] = other[begin : begin + chance.randrange(32)]
            case _:
                del changed[at:]
    return bytes(changed)


def _mutated_file(blob: bytes, other: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.03:
        return _changed(blob, other, chance)  # with a wrong checksum
    if blob[0] & 0xF8 == _COMPACT:
        body = _changed(blob[:-2], other, chance)
        return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little")
    fields = list(_GENERAL.unpack_from(blob))
    begin = _GENERAL.size + fields[7]
    extra, payload = blob[_GENERAL.size : begin], blob[begin:-4]
    where = chance.random()
    if where < 0.6:
        payload = _changed(payload, other, chance)
    elif where < 0.8:
        extra = _changed(extra, other, chance)[:0xFFFF]
    else:
        place = chance.choice((2, 3, 4, 5, 6))
        most = 255 if place < 5 else 2**32 - 1
        fields[place] = chance.choice((*_EXTREMES, fields[place] + 1, fields[place] * 2, chance.randrange(400))) & most
    body = _GENERAL.pack(*fields[:7], len(extra), len(payload)) + extra + payload
    return body + struct.pack("<I", zlib.crc32(body))


def _mutated_archive(blob: bytes, chance: random.Random) -> bytes:
    """A block, or the index, changed under right checksums."""
    reader = Reader(io.BytesIO(blob))
    if not reader.blocks or chance.random() < 0.4:
        return _with_index(blob, chance)
    stream = io.BytesIO()
    writer = Writer(stream)
    chosen = chance.randrange(len(reader.blocks))
    for number in range(len(reader.blocks)):
        block = reader.block(number)
        extra, payload = block.extra, block.payload
        if number == chosen and chance.random() < 0.25:
            extra = _changed(extra, payload, chance)[:0xFFFF]
        elif number == chosen:
            payload = _changed(payload, blob, chance) or b"\0"
        writer.add(Block(block.kind, extra, payload, block.numbers))
    writer.finish(reader.names)
    return stream.getvalue()


def _with_index(blob: bytes, chance: random.Random) -> bytes:
    """The archive with a changed index, stored as it is."""
    footer = struct.Struct("<II4s")
    length = footer.unpack(blob[-footer.size :])[0]
    front, stored = blob[: -footer.size - length], blob[-footer.size - length : -footer.size]
    changed = _changed(stored, blob, chance)
    return front + changed + footer.pack(len(changed), zlib.crc32(changed), archive.MAGIC)


def decode(blob: bytes) -> None:
    """Decode a file or a whole archive. Raises whatever that raises."""
    if not blob.startswith(archive.MAGIC):
        vqcodec.info(blob, MAX_PIXELS)
        vqcodec.decode(blob, max_pixels=MAX_PIXELS)
        return
    with vqcodec.Archive(io.BytesIO(blob), max_pixels=MAX_PIXELS) as images:
        images.info()
        list(images.names[:1000])
        for damage in images.verify()[:1]:
            raise vqcodec.Corrupt(damage.reason)
        for image in images[:50]:
            image.load()


def outcome(blob: bytes) -> str:
    """In which way a case ends: "decoded", or the name of an error of ours. Raises any other exception."""
    try:
        decode(blob)
    except vqcodec.VqcodecError as error:
        return type(error).__name__
    return "decoded"


def run(seconds: float, seed: int = 0, note: Callable[[str], None] = lambda text: None) -> Report:
    """Cases for so many seconds. note: told of every foreign exception."""
    sound, report = seeds(), Report()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        chance = random.Random(f"{seed} {number}")
        chosen = sound[number % len(sound)]
        blob = mutated(chosen, sound, chance)
        name = f"seed {seed}, case {number}, from {chosen.name}"
        begin = time.monotonic()
        try:
            ending = outcome(blob)
        except Exception as error:
            ending = f"{type(error).__name__}, which is not ours"
            with tempfile.NamedTemporaryFile(prefix="vqcodec-fuzz-", suffix=".bin", delete=False) as kept:
                kept.write(blob)
            report.foreign.append(Path(kept.name))
            note(f"{name}, kept as {kept.name}:\n{traceback.format_exc()}")
        report.slowest = max(report.slowest, (time.monotonic() - begin, name))
        report.outcomes["archive" if chosen.is_archive else "file", ending] += 1
        number += 1
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=Path, help="decode this file only")
    chosen = parser.parse_args()
    if chosen.case:
        print(outcome(chosen.case.read_bytes()))
        return 0
    report = run(chosen.seconds, chosen.seed, lambda text: print(text, file=sys.stderr))
    print(report.text())
    return bool(report.foreign)


if __name__ == "__main__":
    sys.exit(main())
