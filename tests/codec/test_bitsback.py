"""Many images in one stack: exact round trips, sizes, schedules, and what is refused. Models: tests/conftest.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vqcodec.bitstream.ans import Bits, Distribution, Integers, Stack, Tables, bits
from vqcodec.bitstream.errors import Corrupt, ModelMismatch, Truncated
from vqcodec.codec import models, weights_file
from vqcodec.codec.ladder import bitsback
from vqcodec.codec.ladder.bitsback import MAX_BATCH, ArchiveCodec, Push, Schedule
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.gaussian import MAX_STEP_LOG2, Normal
from vqcodec.codec.ladder.model import LadderModel

Images = NDArray[np.uint8]
SIZE = 12
LIKELIHOODS = ("bernoulli", "categorical")


def codec_of(path: Path) -> ArchiveCodec:
    codec = models.load(str(path), archive=True).codec
    assert isinstance(codec, ArchiveCodec)
    return codec


@pytest.fixture(scope="module")
def grey(tiny_archive: Path) -> ArchiveCodec:
    return codec_of(tiny_archive)


@pytest.fixture(scope="module")
def binary(tiny_archive_binary: Path) -> ArchiveCodec:
    return codec_of(tiny_archive_binary)


def new_codec(likelihood: str, **changes: object) -> ArchiveCodec:
    """An untrained model of 12 x 12 pixels, on grids of several steps."""
    values = {
        "form": "mlp", "latents": (4, 2), "widths": (8, 6), "grids": (1, 1), "image_size": SIZE, "leak": 2,
        "posterior": "gaussian", "skip": False, "batch_norm": True, "stages": (Stage(SIZE**2, 8, 1),),
        "pixel_features": 2, "context": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    codec = ArchiveCodec(LadderModel(LadderConfig(**values | {"likelihood": likelihood} | changes)).eval()).eval()
    for level in range(codec.config.levels):
        steps = codec.archive.steps(level)
        steps.copy_(torch.arange(len(steps)) * 3 % (MAX_STEP_LOG2 + 1))
    return codec


@pytest.fixture(scope="module")
def untrained_grey() -> ArchiveCodec:
    return new_codec("categorical")


@pytest.fixture(scope="module")
def untrained_binary() -> ArchiveCodec:
    return new_codec("bernoulli")


@pytest.fixture(scope="module")
def crops(digits: Images, characters: Images) -> Images:
    """300 different pieces of real images, uint8 [300, 12, 12]; every fifth is inverted, the first is black."""
    rng = np.random.default_rng(0)
    images = np.concatenate([digits, characters])
    places = rng.integers(0, [len(images), 17, 17], (300, 3))
    found = np.stack([images[n, y : y + SIZE, x : x + SIZE] for n, y, x in places])
    found[::5] = 255 - found[::5]
    found[0] = 0
    return found


def in_black_and_white(images: Images) -> Images:
    return np.where(images > 100, np.uint8(255), np.uint8(0))


def suiting(codec: ArchiveCodec, images: Images) -> Images:
    return images if codec.config.values == 256 else in_black_and_white(images)


# Round trips


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_every_image_comes_back(
    count: int, untrained_grey: ArchiveCodec, untrained_binary: ArchiveCodec, crops: Images
) -> None:
    for codec in (untrained_grey, untrained_binary):
        images = suiting(codec, crops[:count])
        payload = codec.pack_images(images)
        found = codec.unpack_images(payload, count)
        assert found.dtype == np.uint8
        assert np.array_equal(found, images)
        assert codec.pack_images(images) == payload


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_many_images_come_back_in_the_size_that_was_estimated(likelihood: str, crops: Images) -> None:
    """`cost_bits` is what bits-back coding takes with other draws from the posterior: over n images the two differ by
    the noise of both, and 0.5 %. Besides: clean images get no bits back; the last end (37 bits), the header and a byte;
    5 bits and a bit of 33 for every lane; and what was borrowed from the supply."""
    codec = new_codec(likelihood)
    images = suiting(codec, crops)
    payload = codec.pack_images(images)
    found, borrowed = unpacked(codec, payload, len(images))
    assert np.array_equal(found, images)
    costs = codec.cost_bits(images)
    assert costs.shape == (300,)
    popped = codec._costs(images[:2])[1].sum()
    # Each draw of a cost is off its mean by log q(z) - log p(x, z), which varies by less than a bit for every latent.
    noise = 4 * np.sqrt(2 * len(images) * sum(codec.config.latents))
    extra = popped + 37 + 24 + 7 + 6 * codec._schedule(images).lanes()[-1]
    assert abs(8 * len(payload) - costs.sum() - extra) <= 0.005 * costs.sum() + noise + 32 * borrowed
    assert 32 * borrowed < 0.01 * costs.sum()


def test_trained_models_of_whole_digits(
    grey: ArchiveCodec, binary: ArchiveCodec, digits: Images, characters: Images
) -> None:
    """What they know, what they do not, and the extremes."""
    flat = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 1, 127, 128, 255)])
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    for codec in (grey, binary):
        images = suiting(codec, np.concatenate([digits[:2], characters[:2], 255 - digits[:2], flat, noise]))
        assert np.array_equal(codec.unpack_images(codec.pack_images(images), len(images)), images)


@pytest.mark.parametrize("changes", [
    {"latents": (3,), "widths": (6,), "grids": (1,)},
    {"latents": (2, 2, 2), "widths": (6, 5, 4), "grids": (1, 1, 1), "skip": True},
    {"form": "conv", "latents": (2, 2), "widths": (6, 5), "grids": (3, 1), "stages": (Stage(16, 4, 0),), "blocks": 1},
    {"context": 5, "batch_norm": False, "leak": 0},
    {"context": 1, "image_size": 2, "stages": (Stage(4, 4, 0),)},
])  # fmt: skip
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_architectures(likelihood: str, changes: dict, crops: Images) -> None:
    codec = new_codec(likelihood, **changes)
    images = suiting(codec, crops[:7, 4 : 4 + codec.image_size, 4 : 4 + codec.image_size])
    images = images if codec.image_size == 2 else suiting(codec, crops[:7])
    assert np.array_equal(codec.unpack_images(codec.pack_images(images), 7), images)


def test_pixels_in_stages_are_packed_too(crops: Images) -> None:
    """The bits-back part does not hang on the raster order."""
    for likelihood in LIKELIHOODS:
        stages = (Stage(40, 4, 0), Stage(SIZE**2, 4, 0))
        codec = new_codec(likelihood, context=0, stages=stages)
        images = suiting(codec, crops[:5])
        assert np.array_equal(codec.unpack_images(codec.pack_images(images), 5), images)


def test_more_images_than_are_computed_at_once(
    untrained_grey: ArchiveCodec, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = untrained_grey.pack_images(crops[:20])
    for at_once in (1, 7, 100):
        monkeypatch.setattr(bitsback, "_AT_ONCE", at_once)
        assert untrained_grey.pack_images(crops[:20]) == payload


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_bytes_do_not_hang_on_threads_or_back_ends(
    likelihood: str, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = new_codec(likelihood, widths=(40, 36))  # wide enough for int8
    images, payloads, before = suiting(codec, crops[:5]), [], torch.get_num_threads()
    monkeypatch.setenv("VQCODEC_THREADS", "host")
    try:
        for exact, threads in (("auto", 1), ("auto", 2), ("float64", 2), ("float64", 1)):
            monkeypatch.setenv("VQCODEC_EXACT", exact)
            torch.set_num_threads(threads)
            payloads.append(codec.pack_images(images))
        assert np.array_equal(codec.unpack_images(payloads[0], len(images)), images)
    finally:
        torch.set_num_threads(before)
    assert len(set(payloads)) == 1


def test_bright_images_are_packed_inverted(grey: ArchiveCodec, digits: Images) -> None:
    """But for 9 bits that say so, the same; half bright is not bright."""
    dark, bright = grey.cost_bits(digits), grey.cost_bits(255 - digits)
    assert np.abs(bright - dark - 9).max() < 0.01  # log2 (2^24 - 2^15) / 2^15
    half = np.zeros((2, 28, 28), np.uint8)
    half[:, :14] = 255
    half[1, 27, 27] = 1
    with torch.inference_mode():
        flags = grey._pushes(half, Normal.nearest)[0]
    dark, bright = (1 << 24) - (1 << 15), 1 << 15
    assert (flags.starts.tolist(), flags.freqs.tolist()) == ([0, dark], [dark, bright])


# Sizes


class Recording(Stack):
    """Counts the bits that are pushed and popped, and the symbols."""

    pushed = popped = 0.0
    symbols = 0

    def push_intervals(self, starts: NDArray[Any], freqs: NDArray[Any], bits: int) -> None:
        Recording.pushed += float((bits - np.log2(freqs.astype(np.float64))).sum())
        Recording.symbols += len(freqs)
        super().push_intervals(starts, freqs, bits)

    def pop(self, distribution: Distribution) -> Integers:
        found = super().pop(distribution)
        Recording.popped += float(bits(distribution, found).sum())
        Recording.symbols += len(found)
        return found


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recording]]:
    monkeypatch.setattr(bitsback, "Stack", Recording)
    Recording.pushed = Recording.popped = 0.0
    Recording.symbols = 0
    return Recording


@pytest.mark.parametrize("count", [1, 3, 60])
def test_payloads_take_what_was_pushed_less_what_was_popped(
    count: int, untrained_grey: ArchiveCodec, untrained_binary: ArchiveCodec, crops: Images, recording: type[Recording]
) -> None:
    """And what was borrowed. A push errs by 2 * 2^-7.4 bits (test_ans.py), a pop is the inverse of one. A lane costs 4
    to 5 bits besides those that it holds, which are 32 at first; a header has 3 bytes; up to 7 bits make a byte whole.
    """
    for codec in (untrained_grey, untrained_binary):
        images = suiting(codec, crops[:count])
        recording.pushed = recording.popped = 0.0
        recording.symbols = 0
        payload = codec.pack_images(images)
        lanes = codec._schedule(images).lanes()[-1]
        ideal = recording.pushed - recording.popped + 24 + 32
        error = 2 * 2**-7.4 * recording.symbols
        borrowed = 32 * unpacked(codec, payload, count)[1]
        assert ideal + borrowed + 4 * lanes - error <= 8 * len(payload)
        assert 8 * len(payload) <= ideal + borrowed + 5 * lanes + 7 + error


def unpacked(codec: ArchiveCodec, payload: bytes, count: int) -> tuple[Images, int]:
    """The images, and how many words of the supply the stack holds when everything is popped."""
    left: list[int] = []

    class Counting(Stack):
        def finish(self) -> None:
            left.append(len(self))
            super().finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitsback, "Stack", Counting)
        return codec.unpack_images(payload, count), left[0]


def test_costs_are_of_every_image(grey: ArchiveCodec, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training has told the model about these: fewer bits than about others. Batches of a cost do not mix."""
    costs = grey.cost_bits(digits)
    assert costs.mean() < 0.6 * grey.cost_bits(digits.transpose(0, 2, 1)).mean()
    monkeypatch.setattr(grey, "most", 3)
    assert grey.cost_bits(digits)[:3].tolist() == grey.cost_bits(digits[:3]).tolist()
    assert len(grey.cost_bits(digits)) == 8
    assert grey.cost_bits(digits).tolist() != costs.tolist()  # of other draws
    monkeypatch.undo()
    assert grey.cost_bits(digits).tolist() == costs.tolist()


def test_a_model_takes_less_than_the_images(grey: ArchiveCodec, binary: ArchiveCodec, digits: Images) -> None:
    for codec, most in ((grey, 8 * 784 / 3), (binary, 784 / 2)):
        images = np.tile(suiting(codec, digits), (5, 1, 1))
        assert 8 * len(codec.pack_images(images)) / len(images) < most


def test_posterior_scales_are_measured_by_channel(grey: ArchiveCodec, digits: Images) -> None:
    found = grey.posterior_log_scales(digits)
    assert [scale.shape for scale in found] == [(6,), (4,)]
    for level, scale in enumerate(found):
        assert bool((scale > -5).all())
        assert bool((scale <= 4).all())
        # Export chose the grids by them: steps are a standard deviation, rounded to a power of two.
        log2_step = grey.archive.steps(level) - 9
        assert float((log2_step - scale / np.log(2)).abs().max()) < 0.7  # on another grid: the nearest latents move


# Schedules


@pytest.mark.parametrize("count", [1, 2, 3, 17, 300, 5000])
@pytest.mark.parametrize("growth", [1, 4, 16, 255])
@pytest.mark.parametrize("clean", [1, 2, 255])
@pytest.mark.parametrize("lanes_log2", [0, 3, 8])
def test_schedules(count: int, growth: int, clean: int, lanes_log2: int) -> None:
    schedule = Schedule(count, lanes_log2, clean, growth)
    sizes, lanes = schedule.batches(), schedule.lanes()
    assert sum(sizes) == count
    assert sizes[0] == min(clean, count)
    done = sizes[0]
    for size in sizes[1:-1]:
        assert size == min(max(1, done * growth // 16), MAX_BATCH)
        done += size
    assert 1 <= sizes[-1] <= MAX_BATCH
    assert len(lanes) == len(sizes)
    assert lanes == sorted(lanes)
    for number, (size, own) in enumerate(zip(sizes, lanes, strict=True)):
        assert own & (own - 1) == 0
        assert 1 <= own <= 1 << lanes_log2
        most = max(sizes[: number + 1])
        assert own == 1 or own <= most / 2
        assert own == 1 << lanes_log2 or 2 * own > size // 2
    assert Schedule.from_bytes(schedule.to_bytes() + b"rest", count) == schedule


def test_golden_schedule() -> None:
    schedule = Schedule(40, 2, 2, 24)
    assert schedule.batches() == [2, 3, 7, 18, 10]
    assert schedule.lanes() == [1, 1, 2, 4, 4]
    assert schedule.to_bytes() == b"\x02\x02\x18"


@pytest.mark.parametrize("clean", [1, 4, 30, 255])
@pytest.mark.parametrize("lanes_log2", [0, 3])
def test_any_schedule_is_unpacked(
    clean: int, lanes_log2: int, untrained_binary: ArchiveCodec, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that other encoders may choose."""
    images = in_black_and_white(crops[:40])
    schedule = Schedule(40, lanes_log2, clean, 16)
    monkeypatch.setattr(ArchiveCodec, "_schedule", lambda *_: schedule)
    payload = untrained_binary.pack_images(images)
    assert payload[:3] == bytes([lanes_log2, clean, 16])
    assert np.array_equal(untrained_binary.unpack_images(payload, 40), images)


@pytest.mark.parametrize(("taken", "popped", "growth"), [
    (100.0, 20.0, 72), (100.0, 0.0, 255), (1e6, 1.0, 255), (1.0, 1e6, 1), (-5.0, 10.0, 1),
])  # fmt: skip
def test_batches_grow_with_what_lies_on_the_stack(
    taken: float, popped: float, growth: int, untrained_grey: ArchiveCodec, crops: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """16 * 0.9 * taken / popped, so that a batch's latents need 0.9 of all bits before."""
    seen: list[int] = []

    def costs(_: ArchiveCodec, pixels: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        seen.append(len(pixels))
        return np.full(len(pixels), taken), np.full(len(pixels), popped)

    monkeypatch.setattr(ArchiveCodec, "_costs", costs)
    schedule = untrained_grey._schedule(crops)
    assert (schedule.count, schedule.clean, schedule.growth) == (300, 2, growth)
    lanes = 0.0006 * taken * 300 / 8
    assert schedule.lanes_log2 == (min(8, int(np.log2(lanes))) if lanes > 1 else 0)
    assert seen == [64]


# Pushes


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pixels_known_at_once_are_pushed_as_they_are_popped(
    likelihood: str, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lists, of the same intervals, in the inverse order."""
    codec = new_codec(likelihood)
    images = suiting(codec, crops[:21])
    pushed: list[tuple[Integers, ...]] = []
    popped: list[tuple[Integers, ...]] = []

    class Listening(Stack):
        def push_intervals(self, starts: NDArray[Any], freqs: NDArray[Any], bits: int) -> None:
            pushed.append((starts, freqs))
            super().push_intervals(starts, freqs, bits)

        def pop(self, distribution: Distribution) -> Integers:
            found = super().pop(distribution)
            popped.append(distribution.intervals(found))
            return found

    monkeypatch.setattr(bitsback, "Stack", Listening)
    payload = codec.pack_images(images)
    packing = pushed.copy(), popped.copy()
    pushed.clear()
    popped.clear()
    codec.unpack_images(payload, len(images))
    for forth, back in zip(packing, (popped, pushed), strict=True):
        assert len(forth) == len(back)
        for one, other in zip(forth, reversed(back), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pushes_can_be_taken_apart() -> None:
    push = Push.of(np.array([0, 1, 1]), Bits(np.array([5, 6, 7]), 8), np.array([0, 0, 1]))
    assert push.bits(3).tolist() == pytest.approx([8 - np.log2(251) + 8 - np.log2(6), 8 - np.log2(7), 0])
    some = push.take(np.array([2, 0]))
    assert (some.starts.tolist(), some.freqs.tolist(), some.images.tolist()) == ([249, 0], [7, 251], [1, 0])
    none = Push.of(np.array([0]), Tables(np.array([[0, 3, 256]]), 8), np.array([4])).take(slice(0, 0))
    assert len(none.starts) == len(none.freqs) == len(none.images) == 0
    assert (some.precision, none.precision) == (8, 8)


# Damage


def small_codec(likelihood: str) -> ArchiveCodec:
    """Of 6 x 6 pixels."""
    return new_codec(likelihood, image_size=6, stages=(Stage(36, 8, 1),))


def outcome(codec: ArchiveCodec, payload: bytes, count: int) -> str:
    """An error's name, or "images". Nothing else is raised."""
    try:
        codec.unpack_images(payload, count)
    except (Corrupt, Truncated) as error:
        return type(error).__name__ if str(error).startswith("bits-back payload: ") else str(error)
    return "images"


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_damaged_payloads_are_refused(likelihood: str, crops: Images) -> None:
    codec = small_codec(likelihood)
    images = suiting(codec, crops[1:4, 3:9, 3:9])
    payload = codec.pack_images(images)
    rng = np.random.default_rng(1)
    found = {outcome(codec, payload[:at], 3) for at in (2, 3, 6, len(payload) // 2, -4, -1)}
    assert found == {"Truncated", "Corrupt"}
    places = [0, 1, 2, 3, 4, 5, len(payload) - 1, *rng.integers(6, len(payload), 4)]
    for at in places:
        flipped = bytearray(payload)
        flipped[at] ^= 1 << int(rng.integers(8))
        result = outcome(codec, bytes(flipped), 3)
        # The header's growth and lanes may be others that mean the same for so few images; all else is noticed.
        assert result != "images" or (at < 3 and np.array_equal(codec.unpack_images(bytes(flipped), 3), images))
    assert outcome(codec, payload + bytes(4), 3) == "Corrupt"
    assert outcome(codec, bytes(4) + payload, 3) in ("Corrupt", "Truncated")
    for count in (1, 2, 4):
        assert outcome(codec, payload, count) in ("Corrupt", "Truncated")


def test_random_payloads_are_refused() -> None:
    rng = np.random.default_rng(2)
    found = set()
    for codec in map(small_codec, LIKELIHOODS):
        for length in (0, 2, 3, 9, 40, 200):
            header = bytes([0, 2, 16]) if length > 3 else b""
            found.add(outcome(codec, header + b"\0" * (length > 3) + rng.bytes(length // 4 * 4), 6))
            found.add(outcome(codec, header + rng.bytes(length), 6))
    assert found == {"Corrupt", "Truncated"}


@pytest.mark.parametrize(("payload", "error", "message"), [
    (b"", Truncated, "expected at least 3 bytes, found 0"),
    (b"\0\2", Truncated, "expected at least 3 bytes, found 2"),
    (b"\x09\2\x10" + bytes(9), Corrupt, "impossible header 090210"),
    (b"\0\0\x10" + bytes(9), Corrupt, "impossible header 000010"),
    (b"\0\2\0" + bytes(9), Corrupt, "impossible header 000200"),
    (b"\0\2\x10", Truncated, "it ends inside the states"),
    (b"\0\2\x10\0" + bytes(3), Corrupt, "no whole number of words"),
    (b"\0\2\x10\0" + bytes(8), Corrupt, "bits-back payload"),
])  # fmt: skip
def test_what_no_payload_begins_with(
    payload: bytes, error: type[Exception], message: str, untrained_grey: ArchiveCodec
) -> None:
    with pytest.raises(error, match=message):
        untrained_grey.unpack_images(payload, 3)


def test_latents_that_no_encoder_draws_are_refused(
    untrained_grey: ArchiveCodec, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload whose latents lie where the posterior has no mass."""
    lowest: Callable[[Normal], Integers] = lambda posterior: np.zeros(len(posterior), np.int64)  # noqa: E731
    pushes = untrained_grey._pushes
    with monkeypatch.context() as patch:
        patch.setattr(untrained_grey, "_pushes", lambda pixels, draw: pushes(pixels, lowest))
        payload = untrained_grey.pack_images(crops[:4])
    with pytest.raises(Corrupt, match="it holds latents that no encoder draws"):
        untrained_grey.unpack_images(payload, 4)


# Loading


@pytest.fixture(scope="module")
def single(untrained: Callable[..., Path]) -> Path:
    """Weights file of a model of single images, "random"."""
    return untrained([[16, 0, 0]])


def test_models_of_archives_are_told_from_others(
    tiny_archive: Path, single: Path, tiny_model: Path, grey: ArchiveCodec, edited: Callable[..., Path], tmp_path: Path
) -> None:
    assert grey.archives
    assert grey.takes == "grey images of 28 x 28 pixels"
    found = models.load(str(tiny_archive), archive=True)
    assert (found.name, found.number, found.size) == ("tiny-archive", 0, (28, 28))
    assert models.packs(found.description)
    with pytest.raises(ModelMismatch, match="tiny-archive packs archives only; `vqcodec pack` uses it"):
        models.load(str(tiny_archive))
    both = models.load(str(single))
    assert models.load(str(single), archive=True) is both
    assert (models.packs(both.description), models.packs_too(both.description)) == (False, True)
    with pytest.raises(ModelMismatch, match="tiny codes single images; name a model that packs archives"):
        models.load(str(tiny_model), archive=True)
    measured_only = edited(tiny_archive, tmp_path / "a.safetensors", context=0)
    for archive in (False, True):
        with pytest.raises(ModelMismatch, match=r"cannot code images; .* and those for archives"):
            models.load(str(measured_only), archive=archive)
    vq = dataclasses.replace(found.description, family="vq", config={"context": 1})
    assert not models.packs(vq)
    assert not models.packs_too(vq)
    assert not models.packs_too(found.description)
    assert not models.packs_too(weights_file.describe(measured_only))


def test_numbers_of_archives(
    monkeypatch: pytest.MonkeyPatch, tiny_archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert not models.ARCHIVE.keys() & models.BUILT_IN.keys()
    for weights in (tiny_archive, tiny_model):
        (tmp_path / weights.name).write_bytes(weights.read_bytes())
    monkeypatch.setattr(models, "_FOLDER", tmp_path)
    monkeypatch.setattr(models, "BUILT_IN", {3: "tiny"})
    monkeypatch.setattr(models, "ARCHIVE", {7: "tiny-archive", 8: "missing"})
    assert {number: found.name for number, found in models.available().items()} == {3: "tiny"}
    assert {number: found.name for number, found in models.for_archives().items()} == {7: "tiny-archive"}
    assert models.for_measuring() == []
    sha = models.sha256(tmp_path / "tiny-archive.safetensors")
    assert models.load_number(7, sha[:4], archive=True).number == 7
    assert models.load_named("tiny-archive", sha[:8], None, archive=True).number == 7
    with pytest.raises(ModelMismatch, match="packs archives only"):
        models.load_number(7, sha[:4])
    with pytest.raises(ModelMismatch, match="packs archives only"):
        models.load_named("tiny-archive", sha[:8], None)
    with pytest.raises(ModelMismatch, match="tiny codes single images"):
        models.load_number(3, b"", archive=True)
    with pytest.raises(ModelMismatch, match="the file needs weights 00000000"):
        models.load_number(7, bytes(4), archive=True)
    for number in (8, 9):
        with pytest.raises(ModelMismatch, match=rf"the file needs model {number}, .*\(it has 3 tiny, 7 tiny-archive"):
            models.load_number(number, b"", archive=True)
    with pytest.raises(ModelMismatch, match="no model 'other'; this build has tiny, tiny-archive, missing"):
        models.find("other")


@pytest.mark.parametrize("values", [{"inference": "bottom-up"}, {"top_down": "separate"}])
def test_archives_need_the_ladders_inference(
    values: dict, tiny_archive: Path, tmp_path: Path, edited: Callable[..., Path]
) -> None:
    path = edited(tiny_archive, tmp_path / "a.safetensors", **values)
    with pytest.raises(ModelMismatch, match="context needs the ladder's inference and its shared top-down pass"):
        models.load(str(path), archive=True)


@pytest.mark.parametrize("step", [-1, MAX_STEP_LOG2 + 1])
def test_grids_that_no_export_makes_are_refused(step: int, tiny_archive: Path, tmp_path: Path) -> None:
    tensors, told = weights_file.read_tensors(tiny_archive), weights_file.describe(tiny_archive)
    tensors["archive.steps1"][2] = step
    weights_file.write(tmp_path / "a.safetensors", told, tensors)
    with pytest.raises(ModelMismatch, match=rf"archive\.steps1': expected 0\.\.12, found .*{step}"):
        models.load(str(tmp_path / "a.safetensors"), archive=True)


def test_stored_models_are_those_that_were_converted(grey: ArchiveCodec, tiny_archive: Path, digits: Images) -> None:
    """Loading gives every integer, the grids among them."""
    again = codec_of(tiny_archive)
    assert any(bool(again.archive.steps(level).any()) for level in range(2))
    moved = ArchiveCodec(LadderModel(dataclasses.replace(grey.config)))
    moved.load_state_dict(grey.state_dict())
    assert moved.eval().pack_images(digits) == grey.pack_images(digits)
