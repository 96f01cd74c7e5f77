"""Rounded ladders in archives: neighbouring integers, round trips, sizes, damage. Models: untrained ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vqcodec.bitstream.errors import Corrupt, Truncated
from vqcodec.codec.family import LOSSLESS
from vqcodec.codec.ladder.bitsback import Posterior
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.exact import PULL
from vqcodec.codec.ladder.model import LadderModel, LatentStep
from vqcodec.codec.ladder.rounded import Neighbours, RoundedCodec

Images = NDArray[np.uint8]
SIZE, TOTAL = 8, 1 << 24
LIKELIHOODS = ("bernoulli", "categorical")


def new_codec(likelihood: str, **changes: object) -> RoundedCodec:
    """An untrained model of 8 x 8 pixels, on latents of which many lie between two integers."""
    values = {
        "latents": (2, 3), "widths": (8, 6), "grids": (4, 1), "image_size": SIZE, "blocks": 1, "pixel_embed": 2,
        "pixel_features": 3, "stages": (Stage(1, 4, 1), Stage(4, 4, 0)), "likelihood": likelihood,
    }  # fmt: skip
    torch.manual_seed(0)
    model = LadderModel(LadderConfig(**values | changes)).eval()
    with torch.no_grad():
        for head in model.inference.heads.parameters():
            head.mul_(4)
    return RoundedCodec(model).eval()


@pytest.fixture(scope="module", params=LIKELIHOODS)
def codec(request: pytest.FixtureRequest) -> RoundedCodec:
    return new_codec(request.param)


@pytest.fixture(scope="module")
def crops(digits: Images) -> Images:
    """60 different pieces of real images, uint8 [60, 8, 8]; every fifth is inverted, the first is black."""
    places = np.random.default_rng(0).integers(0, [len(digits), 21, 21], (60, 3))
    found = np.stack([digits[n, y : y + SIZE, x : x + SIZE] for n, y, x in places])
    found[::5] = 255 - found[::5]
    found[0] = 0
    return found


def suiting(codec: RoundedCodec, images: Images) -> Images:
    return images if codec.config.values == 256 else np.where(images > 100, np.uint8(255), np.uint8(0))


# Neighbours


def test_neighbours_own_everything_and_find_what_they_own() -> None:
    some = Neighbours(np.array([3, 0, 7]), np.array([1, 1, 5]), np.array([1, 3, 1]))
    ones = [TOTAL // 2, 3 * TOTAL // 4, TOTAL // 6]
    assert len(some) == 3
    assert some.nearest().tolist() == [3, 1, 7]  # the lower one, if neither is likelier
    lower, upper = some.intervals(some.low), some.intervals(some.low + 1)
    assert (lower[0].tolist(), lower[1].tolist()) == ([0, 0, 0], [TOTAL - own for own in ones])
    assert (upper[0].tolist(), upper[1].tolist()) == (lower[1].tolist(), ones)
    for distance in (-7, -2, -1, 2, 3, 50):
        assert not some.intervals(some.low + distance)[1].any()
    for values, expected in ((lower[1] - 1, some.low), (lower[1], some.low + 1)):
        symbols, start, freq = some.find(values, slice(None))
        assert np.array_equal(symbols, expected)
        assert np.array_equal((start, freq), some.intervals(expected))
    assert some.find(np.array([0]), slice(2, 3))[0].tolist() == [7]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("low", [-9, -8, -3, 0, 2, 7, 8, 11])
def test_the_odds_are_those_of_the_equation(low: int, fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the reach (8 here), the nearest integers that can be coded. Fractions are cut to 1 / 512, which moves the
    logit by 8 / 512 at most; a root errs by less than 1 / 16 at frequencies of 1, less at others."""
    codec = new_codec("categorical")
    codec.reach.fill_(3)
    step = LatentStep(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    pull = torch.tensor((low + fraction) * PULL, dtype=torch.float64).round().view(1, 1, 1, 1)
    monkeypatch.setattr(codec, "pull", lambda *_: pull)
    posterior = codec.posterior(step, torch.zeros(()))
    mean = float(pull) / PULL
    k = min(7, max(-8, math.floor(mean)))
    f = min(1, max(0, mean - k))
    freq = codec.latent_frequencies(step, LOSSLESS)[0, 0].tolist()
    logit = 0.5 * math.log(freq[k + 9] / freq[k + 8]) + 8 * (f - 0.5)
    assert posterior.low.tolist() == [k + 8]
    ones = int(posterior.intervals(posterior.low + 1)[1][0])
    assert math.log(ones / (TOTAL - ones)) == pytest.approx(logit, abs=8 / 512 + 1 / 16)


# Round trips


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_every_image_comes_back(count: int, codec: RoundedCodec, crops: Images) -> None:
    images = suiting(codec, crops[:count])
    payload = codec.pack_images(images)
    found = codec.unpack_images(payload, count)
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)
    assert codec.pack_images(images) == payload


@pytest.mark.parametrize("changes", [
    {"latents": (3,), "widths": (6,), "grids": (8,), "stages": (Stage(1, 4, 1),)},
    {"latents": (1, 1, 2), "widths": (6, 5, 4), "grids": (4, 4, 2), "leak": 2, "batch_norm": True},
    {"form": "mlp", "grids": (1, 1), "stages": (Stage(SIZE**2, 4, 0),)},
])  # fmt: skip
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_architectures(likelihood: str, changes: dict, crops: Images) -> None:
    codec = new_codec(likelihood, **changes)
    images = suiting(codec, crops[:7])
    assert np.array_equal(codec.unpack_images(codec.pack_images(images), 7), images)


def test_the_size_is_the_estimate(codec: RoundedCodec, crops: Images) -> None:
    """`cost_bits` has other draws, which vary by less than a bit a latent; clean images get no bits back; header, last
    end, lanes and bytes as in test_bitsback.py; and nothing is borrowed, or it shows."""
    images = suiting(codec, crops)
    costs, popped = codec._costs(images)
    noise = 4 * np.sqrt(2 * len(images) * (2 * 16 + 3))
    extra = popped[:2].sum() + 37 + 24 + 7 + 6 * codec._schedule(images).lanes()[-1]
    size = 8 * len(codec.pack_images(images))
    assert abs(size - costs.sum() - extra) <= 0.005 * costs.sum() + noise
    assert popped.sum() > 0.1 * len(images)  # something was there to be chosen


def test_drawing_takes_less_than_rounding(codec: RoundedCodec, crops: Images) -> None:
    """The bits of choices come back: less than the encoder of single images takes, whose choice is the rounded one."""
    images = suiting(codec, crops)

    def rounded(posterior: Posterior) -> NDArray[np.int64]:
        return posterior.nearest()

    with torch.inference_mode():
        bits = sum(push.bits(len(images)) for push in codec._pushes(images, rounded))
    assert codec.cost_bits(images).mean() < np.mean(bits)


def test_batches_end_at_the_most(codec: RoundedCodec, crops: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "most", 4)
    images = suiting(codec, crops[:20])
    assert max(codec._schedule(images).batches()) <= 4
    assert np.array_equal(codec.unpack_images(codec.pack_images(images), 20), images)


def test_it_codes_single_images_too(codec: RoundedCodec, crops: Images) -> None:
    images = suiting(codec, crops[:5])
    payloads = [coded.payload for coded in codec.encode_images(images, LOSSLESS)]
    assert np.array_equal(codec.decode_images(payloads, 0), images)


# Damage


def outcome(codec: RoundedCodec, payload: bytes, count: int) -> str:
    """An error's name, or "images". Nothing else is raised."""
    try:
        codec.unpack_images(payload, count)
    except (Corrupt, Truncated) as error:
        return type(error).__name__ if str(error).startswith("bits-back payload: ") else str(error)
    return "images"


def test_damaged_payloads_are_refused(codec: RoundedCodec, crops: Images) -> None:
    images = suiting(codec, crops[1:5])
    payload = codec.pack_images(images)
    rng = np.random.default_rng(1)
    assert {outcome(codec, payload[:at], 4) for at in (0, 2, 3, 6, len(payload) // 2, -4, -1)} == {
        "Truncated",
        "Corrupt",
    }
    for at in [0, 1, 2, 3, 4, 5, len(payload) - 1, *rng.integers(6, len(payload), 8)]:
        flipped = bytearray(payload)
        flipped[at] ^= 1 << int(rng.integers(8))
        # The header's growth and lanes may be others that mean the same for so few images; all else is noticed.
        if outcome(codec, bytes(flipped), 4) == "images":
            assert at < 3
            assert np.array_equal(codec.unpack_images(bytes(flipped), 4), images)
    assert outcome(codec, payload + bytes(4), 4) == "Corrupt"
    for count in (1, 3, 5):
        assert outcome(codec, payload, count) in ("Corrupt", "Truncated")


def test_latents_that_no_encoder_draws_are_refused(
    codec: RoundedCodec, crops: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, pushes = suiting(codec, crops[:4]), codec._pushes
    with monkeypatch.context() as patch:
        patch.setattr(codec, "_pushes", lambda some, draw: pushes(some, lambda own: (own.nearest() + 3) % 5))
        payload = codec.pack_images(images)
    with pytest.raises(Corrupt, match="it holds latents that no encoder draws"):
        codec.unpack_images(payload, 4)
