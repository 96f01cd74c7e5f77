"""Lossless photographs: every pixel comes back, from tables that are the same everywhere."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import vqcodec
from vqcodec.bitstream import container
from vqcodec.bitstream.ans import bits, supply
from vqcodec.bitstream.errors import BitstreamError, Corrupt, Truncated, UnsupportedImage
from vqcodec.codec import models, photographs, weights_file
from vqcodec.codec.config import ConfigError, from_dict
from vqcodec.codec.exact import backend, oracle
from vqcodec.codec.family import COLOUR, GREY, METADATA
from vqcodec.codec.photographs import Wish
from vqcodec.codec.pixels import codec as coding
from vqcodec.codec.pixels import waves as walks
from vqcodec.codec.pixels.codec import PhotoLosslessCodec, lanes
from vqcodec.codec.pixels.config import CHANNELS, ORDER, PhotoLosslessConfig
from vqcodec.codec.pixels.exact import FARTHEST, FRACTIONS, SCALES, Samples, check_tables, from_levels
from vqcodec.codec.pixels.model import NEIGHBOURS, RADIUS, UNIT, PhotoLosslessModel, canvas
from vqcodec.codec.pixels.waves import Waves, laid_out, taken_back
from vqcodec.tests.reference import pixels as reference
from vqcodec.tests.reference.photo import Bytes, Front, read_weights

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
SIZES = [(1, 1), (1, 70), (70, 1), (2, 1), (1, 2), (7, 5), (33, 17), (64, 48), (95, 127)]


def random_model(config: PhotoLosslessConfig) -> PhotoLosslessModel:
    """All layers of which do something, also those that start at 0; its scales and errors are of all sizes."""
    torch.manual_seed(0)
    model = PhotoLosslessModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.any() else 0.1))
        for head in model.perceptron.heads:
            assert isinstance(head, nn.Linear)
            head.weight[0].mul_(10)
            head.weight[1].mul_(40)
            head.bias[1].add_(1.0)
    return model


@pytest.fixture(scope="module")
def model() -> PhotoLosslessModel:
    return random_model(PhotoLosslessConfig(width=36, blocks=2, hidden=5))


@pytest.fixture(scope="module")
def codec(model: PhotoLosslessModel) -> PhotoLosslessCodec:
    return PhotoLosslessCodec(model)


def stored(codec: PhotoLosslessCodec, path: Path) -> Path:
    """Weights file of a model."""
    told = weights_file.describe(models.find("vq-photo"))
    told = dataclasses.replace(told, name="random", family="photo-lossless", config=dataclasses.asdict(codec.config))
    weights_file.write(path, told, codec.stored())
    return path


@pytest.fixture(scope="module")
def weights(codec: PhotoLosslessCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(codec, tmp_path_factory.mktemp("lossless") / "random.safetensors")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 x 16 pixels, in groups of three."""
    for module in (walks, reference):
        monkeypatch.setattr(module, "TILE", 16)
        monkeypatch.setattr(module, "TOGETHER", 3)


def check(codec: PhotoLosslessCodec, pixels: Pixels, parameter: int = COLOUR) -> bytes:
    """The law: an image comes back. Its payload."""
    coded = codec.encode_photo(pixels)
    assert coded.parameter == parameter
    assert np.array_equal(coded.x_hat, pixels)
    decoded = codec.decode_photo(coded.payload, parameter, *pixels.shape[:2])
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)
    return coded.payload


def grey_of(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, 1:2], CHANNELS, 2)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back(codec: PhotoLosslessCodec, photo: Pixels, size: tuple[int, int]) -> None:
    check(codec, photo[: size[0], : size[1]])


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (5, 40), (64, 48)])
def test_grey_images_have_a_setting(codec: PhotoLosslessCodec, photo: Pixels, size: tuple[int, int]) -> None:
    grey = grey_of(photo[: size[0], : size[1]])
    payload = check(codec, grey, GREY)
    almost = grey.copy()
    almost[-1, -1, 2] ^= 1
    assert len(check(codec, almost)) >= len(payload)


def test_any_pixels_come_back(codec: PhotoLosslessCodec) -> None:
    """Also those that are as far from the mean as can be."""
    rng = np.random.default_rng(0)
    check(codec, rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    check(codec, rng.integers(0, 2, (20, 30, 3), dtype=np.uint8) * 255)
    check(codec, np.full((9, 9, 3), 255, np.uint8), GREY)


def test_large_images_are_tiles(codec: PhotoLosslessCodec, photo: Pixels) -> None:
    pixels = np.tile(photo, (4, 3, 1))[:300, :270]
    assert [[(rows.stop, columns.stop) for rows, columns in group] for group in walks.groups(300, 270)] == [
        [(256, 256), (256, 270), (300, 256), (300, 270)]
    ]
    check(codec, pixels)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("size", [(16, 48), (16, 49), (17, 16), (40, 50), (33, 1), (1, 65)])
def test_groups_of_tiles(codec: PhotoLosslessCodec, photo: Pixels, size: tuple[int, int]) -> None:
    pixels = photo[: size[0], : size[1]]
    count = -(-size[0] // 16) * -(-size[1] // 16)
    assert [len(group) for group in walks.groups(*size)] == [3] * (count // 3) + [count % 3] * (count % 3 > 0)
    check(codec, pixels)
    check(codec, grey_of(pixels), GREY)


@pytest.mark.usefixtures("small_tiles")
def test_tiles_cover_the_image() -> None:
    times = np.zeros((40, 50), int)
    for box in (box for group in walks.groups(40, 50) for box in group):
        times[box] += 1
        assert times[box].shape in {(16, 16), (16, 2), (8, 16), (8, 2)}
    assert (times == 1).all()


def test_it_does_not_matter_how_many_pixels_are_computed_together(
    codec: PhotoLosslessCodec, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photo[:30, :40]
    usual = codec.encode_photo(pixels).payload
    monkeypatch.setattr(coding, "_AT_ONCE", 97)
    assert codec.encode_photo(pixels).payload == usual


def test_lanes() -> None:
    assert [lanes(n) for n in (1, 1023, 1024, 2047, 2048, 4095, 65536, 2**18 - 1, 2**18, 2**22)] == [
        1, 1, 1, 1, 2, 2, 64, 128, 256, 256,
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["int8", "two threads", "no oneDNN"])
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_every_setting_gives_the_same_bytes(
    codec: PhotoLosslessCodec, photo: Pixels, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photo[:48, :64]
    monkeypatch.setenv("VQCODEC_EXACT", "float64")
    usual = codec.encode_photo(pixels).payload
    if how == "int8" and not backend.int8_usable():
        pytest.skip("no exact int8 products here")
    monkeypatch.setenv("VQCODEC_EXACT", "int8" if how == "int8" else "float64")
    if how == "two threads":
        monkeypatch.setenv("VQCODEC_THREADS", "host")
        torch.set_num_threads(2)
    try:
        with torch.backends.mkldnn.flags(enabled=how != "no oneDNN"):
            assert check(codec, pixels) == usual
    finally:
        torch.set_num_threads(1)


@dataclasses.dataclass
class Placed:
    """What an encoder does with the pixels of one tile, in its order: per sample c, whole parts and rows [3, n]."""

    waves: Waves
    whole: Integers
    rows: Integers


Placing = Callable[[Pixels], Placed]


@pytest.fixture
def placed(codec: PhotoLosslessCodec, monkeypatch: pytest.MonkeyPatch) -> Placing:
    """placed(image uint8 [H, W, 3]): what the encoder does with it."""
    found: list[tuple[Integers, Integers]] = []
    place = coding.place
    monkeypatch.setattr(coding, "place", lambda *x: (found.append(place(*x)), found[-1])[1])
    monkeypatch.setattr(coding, "_AT_ONCE", 1 << 20)

    def run(pixels: Pixels) -> Placed:
        found.clear()
        codec.encode_photo(pixels)
        whole, rows = (np.stack(part) for part in zip(*found, strict=True))
        return Placed(Waves([pixels.shape[:2]]), whole, rows)

    return run


def by_oracle(codec: PhotoLosslessCodec, pixels: Pixels) -> tuple[Integers, Integers]:
    """Whole parts and rows [3, n] of one tile, in NumPy int64."""
    exact, waves = codec.perceptron, Waves([pixels.shape[:2]])
    x = laid_out(waves, [pixels])[:, ORDER].astype(np.int64) * 32 - 4096
    flat = np.zeros((waves.size, CHANNELS), np.int64)
    flat[waves.places] = x
    for wave in waves:
        flat[wave.echoes] = x[wave.pixels][wave.of]
    near = flat[waves.places[:, None] + waves.offsets]
    reference = (near[:, NEIGHBOURS.index((0, -1))] + near[:, NEIGHBOURS.index((-1, 0))]) >> 1
    differences = (near - reference[:, None]).reshape(len(near), -1)
    hidden = oracle.run(exact.entry, np.concatenate([differences, reference], 1))
    features = np.split(oracle.run(exact.project, oracle.run(exact.blocks, hidden)), CHANNELS, 1)
    means = reference + oracle.run(exact.linear, differences)
    errors = np.zeros((len(x), 0), np.int64)
    found = []
    for channel in range(CHANNELS):
        mean, own = means[:, channel], features[channel]
        if channel:
            own = own + oracle.run(exact.known[channel - 1], errors)
            mean = mean + oracle.run(exact.direct[channel - 1], errors)[:, 0]
        more, log_scale = oracle.run(exact.heads[channel], np.maximum(own, 0)).T
        mean = np.clip(mean + more, -4096, 4064)
        errors = np.concatenate([errors, (x[:, channel] - mean)[:, None]], 1)
        scale = np.clip((8 * log_scale + 256 >> 9) + 24, 0, 56)
        found.append(((mean + 4096) // 32, 8 * scale + (mean + 4096) % 32 // 4))
    whole, rows = zip(*found, strict=True)
    return np.stack(whole), np.stack(rows)


def test_tables_are_those_of_the_oracle(codec: PhotoLosslessCodec, photo: Pixels, placed: Placing) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    for pixels in (photo[:48, :64], noise):
        found, (whole, rows) = placed(pixels), by_oracle(codec, pixels)
        assert np.array_equal(found.whole, whole)
        assert np.array_equal(found.rows, rows)
        assert len(np.unique(rows // FRACTIONS)) > 50
        assert all(len(np.unique(row % FRACTIONS)) == FRACTIONS for row in rows)
    assert {0, 255} <= set(whole.ravel())  # means at both ends


@pytest.mark.parametrize("place", [(0, 0), (3, 0), (4, 6), (2, 10), (8, 10)])
@pytest.mark.parametrize("sample", range(CHANNELS))
def test_tables_do_not_depend_on_what_comes_later(
    photo: Pixels, placed: Placing, place: tuple[int, int], sample: int
) -> None:
    """A sample changes no table of its pixel's earlier ones or its own, and of no pixel that is not in a later wave."""
    pixels = photo[:9, :11]
    changed = pixels.copy()
    changed[(*place, ORDER[sample])] ^= 255
    before, after = placed(pixels), placed(changed)
    waves = before.waves
    row, column = np.divmod(waves.places, waves.width)
    wave = column - RADIUS + 2 * (row - RADIUS)
    own = (row - RADIUS == place[0]) & (column - RADIUS == place[1])
    assert own.sum() == 1
    differ = (before.whole != after.whole) | (before.rows != after.rows)
    assert not differ[:, (wave <= wave[own]) & ~own].any()
    assert not differ[: sample + 1, own].any()
    assert differ[sample + 1 :, own].all()
    if place != (8, 10):
        assert differ[:, wave > wave[own]].any()


@pytest.mark.parametrize("sizes", [[(1, 1)], [(5, 1)], [(1, 9)], [(6, 7)], [(8, 8), (8, 3), (2, 8), (2, 3)]])
def test_waves_have_every_pixel_once_after_its_neighbours(sizes: list[tuple[int, int]]) -> None:
    waves = Waves(sizes)
    assert len(waves) == sum(height * width for height, width in sizes)
    assert [wave.pixels.start for wave in waves][1:] == [wave.pixels.stop for wave in waves][:-1]
    number = np.full(waves.size, -1)
    for index, wave in enumerate(waves):
        places = waves.places[wave.pixels]
        assert (number[places] == -1).all()
        number[places] = index
    inside = np.zeros((waves.tiles, waves.height, waves.width), bool)
    for tile, (height, width) in zip(inside, sizes, strict=True):
        tile[RADIUS : RADIUS + height, RADIUS : RADIUS + width] = True
    assert np.array_equal(number.reshape(inside.shape) >= 0, inside)
    assert (number[waves.places[:, None] + waves.offsets] < number[waves.places, None]).all()


def test_neighbours_are_the_nearest_that_are_known() -> None:
    assert len(NEIGHBOURS) == len(set(NEIGHBOURS)) == 22
    assert sorted(NEIGHBOURS) == NEIGHBOURS
    assert {(0, -1), (-1, -3), (-1, 1), (-2, 3), (-3, 3)} <= set(NEIGHBOURS)
    assert not {(0, 0), (-1, 2)} & set(NEIGHBOURS)


@pytest.mark.parametrize("sizes", [[(1, 1)], [(5, 1)], [(1, 9)], [(6, 7)], [(8, 8), (8, 3), (2, 8), (2, 3)]])
def test_the_decoder_sees_what_the_trainer_sees(codec: PhotoLosslessCodec, sizes: list[tuple[int, int]]) -> None:
    """Neighbours from a canvas that is filled wave by wave are those of `canvas` over whole tiles."""
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (*size, CHANNELS), dtype=np.uint8) for size in sizes]
    waves = Waves(sizes)
    own = from_levels(torch.from_numpy(laid_out(waves, tiles)))
    known = codec._canvas(waves)
    near = []
    for wave in waves:
        near.append(codec._near(known, waves, wave.pixels))
        codec._put(known, waves, wave, own[wave.pixels])
    expected = torch.zeros(waves.tiles, waves.height, waves.width, CHANNELS, dtype=torch.float64)
    for target, tile in zip(expected, tiles, strict=True):
        surrounded = canvas(from_levels(torch.from_numpy(tile))[None])[0]
        target[: surrounded.shape[0], : surrounded.shape[1]] = surrounded
    assert torch.equal(torch.cat(near), codec._near(expected.flatten(0, 2), waves, slice(None)))
    assert torch.equal(known.view_as(expected), expected)


def test_the_canvas_of_a_small_image() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    assert canvas(x)[0, :, :, 0].tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2, 2, 2, 2],
        [1, 1, 1, 3, 4, 4, 4, 4],
    ]


def test_pixels_that_are_laid_out_can_be_taken_back() -> None:
    rng, sizes = np.random.default_rng(0), [(4, 5), (4, 2), (1, 5)]
    tiles = [rng.integers(0, 256, (*size, CHANNELS), dtype=np.uint8) for size in sizes]
    waves = Waves(sizes)
    back = taken_back(waves, laid_out(waves, tiles), sizes)
    assert all(np.array_equal(a, b) for a, b in zip(back, tiles, strict=True))


def test_tables_are_those_of_the_shape(model: PhotoLosslessModel, codec: PhotoLosslessCodec) -> None:
    """Valid, and as likely as the float model says, whatever the scale."""
    found = codec.tables.numpy()
    check_tables(found)
    codec.check()
    freq = np.diff(found, axis=1).reshape(len(SCALES), FRACTIONS, -1)
    for scale, own in zip(SCALES, freq, strict=True):
        distance = torch.arange(-255, 256) - (torch.arange(FRACTIONS) + 0.5)[:, None] / FRACTIONS
        told = torch.full((FRACTIONS, 1), math.log(scale), dtype=torch.float64)
        mass = copy.deepcopy(model.shape).double().mass(distance.double(), told)
        mass = mass / mass.sum(1, keepdim=True)
        # One count of 511 symbols each is given away, and what rounding takes goes to the likeliest symbol.
        assert np.abs(own / 2**24 - mass.detach().numpy()).max() < 2 * 511 / 2**24
    assert freq[0, 0].max() > 0.9 * 2**24
    assert freq[-1].max() < 0.1 * 2**24


def damaged(tables: NDArray[np.int32], how: str) -> NDArray[np.int32]:
    tables = tables.copy()
    if how == "equal":
        tables[5, 100] = tables[5, 99]
    elif how == "begin":
        tables[3, 0] = 1
    elif how == "end":
        tables[-1, -1] -= 1
    return tables[1:] if how == "rows" else tables[:, :-1] if how == "columns" else tables


@pytest.mark.parametrize("how", ["equal", "begin", "end", "rows", "columns"])
def test_bad_tables_are_refused(codec: PhotoLosslessCodec, how: str) -> None:
    wrong = copy.deepcopy(codec)
    wrong.tables = torch.from_numpy(damaged(codec.tables.numpy(), how))
    with pytest.raises(ValueError, match="tables"):
        wrong.check()


def test_search_finds_the_interval(codec: PhotoLosslessCodec) -> None:
    """Of first and last counts of all symbols of some tables."""
    rows = np.array([0, 7, 100, 455])
    for row in rows:
        table = codec.tables[row].numpy().astype(np.int64)
        for values in (table[:-1], table[1:] - 1):
            samples = Samples(codec._flat, np.full(len(values), row))
            symbols, start, freq = samples.find(values, slice(None))
            assert np.array_equal(symbols, np.arange(511))
            assert np.array_equal(start, table[:-1])
            assert np.array_equal(freq, np.diff(table))
            assert all(map(np.array_equal, samples.intervals(symbols), (start, freq)))


def test_files_are_as_long_as_the_tables_say(codec: PhotoLosslessCodec, photo: Pixels, placed: Placing) -> None:
    """Within the heads, and the low half and the state that a lane begins with; a symbol takes up to 24 of the 32 bits
    that a state has at least, which costs much less than 0.1 %."""
    pixels = photo[:80, :120]
    found = placed(pixels)
    symbols = laid_out(found.waves, [pixels])[:, ORDER].T - found.whole + FARTHEST
    expected = sum(
        bits(Samples(codec._flat, *each[:1]), each[1]).sum() for each in zip(found.rows, symbols, strict=True)
    )
    length = len(codec.encode_photo(pixels).payload)
    assert lanes(80 * 120) == 8
    assert expected / 8 < length < 1.001 * expected / 8 + 8 * 9


def test_files_are_as_long_as_the_model_says(photo: Pixels) -> None:
    """Within what scales and means on grids cost, if its scales are about right."""
    model = random_model(PhotoLosslessConfig(width=36, blocks=2, hidden=5))
    with torch.no_grad():
        for head in model.perceptron.heads:
            assert isinstance(head, nn.Linear)
            head.weight.mul_(torch.tensor([[0.1], [0.25]]))
            head.bias[1] = 1.5
    x = torch.from_numpy(photo[:, :, ORDER].copy()).float().sub(128).div(UNIT)[None]
    surrounded, (height, width) = canvas(x)[0], photo.shape[:2]
    near = [surrounded[RADIUS + a :, RADIUS + b :][:height, :width].flatten(0, 1) for a, b in NEIGHBOURS]
    with torch.no_grad():
        expected = float(model.nats(torch.stack(near, 1), x[0].flatten(0, 1)).sum()) / math.log(2) / 8
    assert len(PhotoLosslessCodec(model).encode_photo(photo).payload) == pytest.approx(expected, rel=0.01)


def of_reference(codec: PhotoLosslessCodec, weights: Path, pixels: Pixels) -> Pixels:
    """What the second decoder sees in an image's payload."""
    coded = codec.encode_photo(pixels)
    data = Front(5, coded.parameter, pixels.shape[:2], (b"", b""), None, Bytes(coded.payload))
    return reference.decode_payload(data, *read_weights(weights, "photo-lossless"))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (31, 24), (50, 90)])
def test_a_second_decoder_sees_the_same(
    codec: PhotoLosslessCodec, weights: Path, photo: Pixels, size: tuple[int, int]
) -> None:
    pixels = photo[: size[0], : size[1]]
    assert np.array_equal(of_reference(codec, weights, pixels), pixels)
    grey = grey_of(pixels)[:20]
    assert np.array_equal(of_reference(codec, weights, grey), grey)


@pytest.mark.usefixtures("small_tiles")
def test_a_second_decoder_sees_the_same_tiles(codec: PhotoLosslessCodec, weights: Path, photo: Pixels) -> None:
    pixels = photo[:37, :34]
    assert np.array_equal(of_reference(codec, weights, pixels), pixels)


def test_a_second_decoder_sees_the_same_of_tiles_as_they_are(
    codec: PhotoLosslessCodec, weights: Path, photo: Pixels
) -> None:
    pixels = np.tile(photo, (1, 3, 1))[:6, :261]
    assert np.array_equal(of_reference(codec, weights, pixels), pixels)


@pytest.mark.parametrize("config", [PhotoLosslessConfig(1, 0, 1), PhotoLosslessConfig(5, 6, 3)])
def test_other_architectures(photo: Pixels, tmp_path: Path, config: PhotoLosslessConfig) -> None:
    codec = PhotoLosslessCodec(random_model(config))
    weights = stored(codec, tmp_path / "other.safetensors")
    pixels = photo[40:57, 30:49]
    check(models.load(str(weights)).codec, pixels)
    assert np.array_equal(of_reference(codec, weights, pixels), pixels)


@pytest.fixture(scope="module")
def payload(codec: PhotoLosslessCodec, photo: Pixels) -> bytes:
    """Of 12 x 15 pixels."""
    return codec.encode_photo(photo[:12, :15]).payload


def test_changed_bytes_are_an_error_or_an_image(codec: PhotoLosslessCodec, payload: bytes) -> None:
    rng, errors = np.random.default_rng(0), 0
    for place in [0, 1, 2, 3, *rng.integers(0, len(payload), 16), len(payload) - 1]:
        changed = bytearray(payload)
        changed[place] ^= int(rng.integers(1, 256))
        try:
            assert codec.decode_photo(bytes(changed), COLOUR, 12, 15).shape == (12, 15, 3)
        except BitstreamError:
            errors += 1
    assert errors > 15


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 50])
def test_random_bytes_are_an_error_or_an_image(codec: PhotoLosslessCodec, length: int) -> None:
    rng = np.random.default_rng(length)
    for parameter in (COLOUR, GREY):
        with pytest.raises((Corrupt, Truncated)):
            codec.decode_photo(rng.bytes(length), parameter, 6, 5)


def test_cut_and_continued_payloads_are_an_error(codec: PhotoLosslessCodec, payload: bytes) -> None:
    for length in (0, 1, 4, 5, 8, *range(9, len(payload), 61), len(payload) - 4, len(payload) - 1):
        with pytest.raises((Corrupt, Truncated)):
            codec.decode_photo(payload[:length], COLOUR, 12, 15)
    for more in (b"\0", bytes(4), b"\1\2\3\4", payload):
        with pytest.raises(Corrupt):
            codec.decode_photo(payload + more, COLOUR, 12, 15)


def test_no_word_may_be_left(codec: PhotoLosslessCodec, payload: bytes) -> None:
    """Not even those that lie under the stack of bits-back coding."""
    heads = (5 + (payload[0] >> 3) + 7) // 8
    for word in (bytes(4), supply(0, 1).astype("<u4").tobytes()):
        with pytest.raises(Corrupt):
            codec.decode_photo(payload[:heads] + word + payload[heads:], COLOUR, 12, 15)


def test_an_empty_stack_is_an_error(codec: PhotoLosslessCodec, placed: Placing) -> None:
    """Where the word that is not there would be the one that bits-back coding finds under its stack.

    Of two pixels, the second, pushed first, makes a state whose low half is that word, and the first moves it away."""
    (word,) = supply(0, 1).tolist()
    freq = 2**32 // (2**16 + (word >> 24))
    start = word % 2**24 - 2**32 % freq
    crafted, pixels = copy.deepcopy(codec), np.array([[[9, 9, 9], [90, 90, 90]]], np.uint8)
    first, second = pixels[0, :, 0] - placed(pixels).whole[0] + FARTHEST
    assert first != second
    freqs = np.full(511, 1)
    freqs[second] = freq
    before, after = (0, 510) if first not in (0, 510) else (1, 509)
    freqs[before] += start - second
    freqs[after] += 2**24 - freqs.sum()
    sums = np.pad(freqs.cumsum(), (1, 0))
    assert (sums[second], freqs[first]) == (start, 1)
    crafted.tables = torch.from_numpy(np.tile(sums, (len(SCALES) * FRACTIONS, 1)).astype(np.int32))
    crafted.check()
    payload = check(crafted, pixels, GREY)
    assert payload[-8:-4] == word.to_bytes(4, "little")
    with pytest.raises((Corrupt, Truncated)):
        crafted.decode_photo(payload[:-8] + payload[-4:], GREY, 1, 2)


@pytest.mark.usefixtures("small_tiles")
def test_damaged_groups_are_an_error(codec: PhotoLosslessCodec, photo: Pixels) -> None:
    size = (17, 40)
    payload = codec.encode_photo(photo[: size[0], : size[1]]).payload
    assert payload[0] >= 128  # two bytes of length
    wrong = {
        "empty": b"",
        "length cut": payload[:1],
        "group cut": payload[:40],
        "last cut": payload[:-5],
        "continued": payload + b"\0",
        "too long": b"\xff\xff\x03" + payload[2:],
        "endless length": b"\xff" * 20,
        "shorter": bytes([payload[0] - 4]) + payload[1:],
    }
    for changed in wrong.values():
        with pytest.raises((Corrupt, Truncated)):
            codec.decode_photo(changed, COLOUR, *size)


@pytest.mark.parametrize("size", [(11, 15), (13, 15), (12, 16), (1, 1), (64, 48), (300, 2)])
def test_another_size_is_an_error(codec: PhotoLosslessCodec, payload: bytes, size: tuple[int, int]) -> None:
    with pytest.raises((Corrupt, Truncated)):
        codec.decode_photo(payload, COLOUR, *size)


@pytest.mark.parametrize("parameter", [0, 3, 100, 127, METADATA])
def test_another_setting_is_an_error(codec: PhotoLosslessCodec, weights: Path, payload: bytes, parameter: int) -> None:
    with pytest.raises(Corrupt):
        codec.decode_photo(payload, parameter, 12, 15)
    model = models.load(str(weights))
    header = container.ModelHeader(parameter, "RGB", 15, 12, 0, model.sha256[:8], model.name)
    with pytest.raises(BitstreamError):
        vqcodec.decode(container.write(header, payload), model=str(weights))


def test_a_setting_of_other_images_is_an_error(codec: PhotoLosslessCodec, photo: Pixels, payload: bytes) -> None:
    with pytest.raises((Corrupt, Truncated)):
        codec.decode_photo(payload, GREY, 12, 15)
    with pytest.raises((Corrupt, Truncated)):
        codec.decode_photo(codec.encode_photo(grey_of(photo[:12, :15])).payload, COLOUR, 12, 15)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize("metadata", [False, True])
def test_files(weights: Path, photo: Pixels, mode: str, metadata: bool) -> None:
    """Of all kinds of images, metadata and transparency in front; also as the second decoder reads them."""
    image = Image.fromarray(photo[:26, :21]).convert(mode[: -1 if mode.endswith("A") else None])
    image = with_alpha(image) if mode.endswith("A") else image
    image.info = {"icc_profile": b"no real profile" * 5, "exif": b"some EXIF"}
    model = models.load(str(weights))
    blob, known = photographs.encode(image, model, Wish(100, metadata=metadata))
    assert known
    header, payload = container.read(blob)
    assert isinstance(header, container.ModelHeader)
    decoded = photographs.decode(header, payload, model)
    assert (decoded.mode, decoded.size, decoded.tobytes()) == (mode, image.size, image.tobytes())
    assert decoded.info == (image.info if metadata else {})
    assert header.parameter == (GREY if mode.startswith("L") else COLOUR) + metadata * METADATA
    told = vqcodec.info(blob, model=str(weights))
    assert (told.mode, told.lossless, told.width, told.height) == (mode, True, 21, 26)
    pixels, *metadata_of = reference.decode_file(blob, weights)
    assert np.array_equal(pixels, np.asarray(image))
    assert metadata_of == ([image.info["icc_profile"], image.info["exif"]] if metadata else [b"", b""])


def test_the_model_is_named_as_others_are(weights: Path, photo: Pixels) -> None:
    """`encode` with it; lossless need not be said, and may be."""
    model, image = str(weights), Image.fromarray(photo[:26, :21])
    blobs = [vqcodec.encode(image, model), vqcodec.encode(image, model, lossless=True)]
    assert blobs[0] == blobs[1]
    assert vqcodec.info(blobs[0], model=model).lossless
    assert vqcodec.decode(blobs[0], model=model).tobytes() == image.tobytes()
    for wish in ({"quality": 50}, {"bpp": 3.0}):
        with pytest.raises(UnsupportedImage, match="keeps every pixel"):
            vqcodec.encode(image, model, **wish)
    with pytest.raises(UnsupportedImage, match="8 bits"):
        vqcodec.encode(image.convert("P"), model)


def test_drawings_are_stored_plain(weights: Path) -> None:
    image = Image.new("RGB", (60, 40), "white")
    blob = vqcodec.encode(image, str(weights))
    assert vqcodec.info(blob).model is None
    assert vqcodec.decode(blob).tobytes() == image.tobytes()


def test_changed_files_are_an_error(weights: Path, photo: Pixels) -> None:
    """Each has a checksum."""
    model = models.load(str(weights))
    blob, _ = photographs.encode(Image.fromarray(photo[:9, :9]), model, Wish(100))
    for place in range(0, len(blob), 7):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises(BitstreamError):
            vqcodec.decode(bytes(changed), model=str(weights))


def test_no_preview(weights: Path, photo: Pixels) -> None:
    blob, _ = photographs.encode(Image.fromarray(photo[:9, :9]), models.load(str(weights)), Wish(100))
    with pytest.raises(UnsupportedImage, match="whole"):
        vqcodec.preview(blob, model=str(weights))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"hidden": 0}, {"blocks": -1}, {"blocks": 7}, {"depth": 1}])
def test_bad_configurations(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        from_dict(PhotoLosslessConfig, wrong, "config")


def test_sums_stay_within_what_layers_may_be_fed() -> None:
    """The bound that the exact layers' export relies on: residual sums, features with errors, differences of levels."""
    from vqcodec.codec.exact.layers import INPUT_BOUND
    from vqcodec.codec.exact.requantise import ACTIVATION_LIMIT

    with pytest.raises(ValueError, match="blocks"):
        PhotoLosslessConfig(blocks=7)
    assert (6 + 1) * ACTIVATION_LIMIT < INPUT_BOUND
    assert 2 * ACTIVATION_LIMIT < INPUT_BOUND
    assert INPUT_BOUND > 2 * 255 * 32
