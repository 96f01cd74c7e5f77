"""The Ladder VAE as a codec: exact round trips, one walk, tables, and what is refused. Models: tests/conftest.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import norm
from torch import Tensor, nn

import vqcodec
from vqcodec.bitstream.cdf import cdf_from_frequencies, code_length_bits, widen
from vqcodec.bitstream.errors import BitstreamError, Corrupt, ModelMismatch, UnsupportedImage
from vqcodec.codec import models
from vqcodec.codec.family import LOSSLESS, Meaning, compact_parameter, meaning
from vqcodec.codec.ladder import codec as codec_module
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.exact import FRAC_BITS, REACHES, sigmoid_table
from vqcodec.codec.ladder.model import LadderModel, LatentStep, Step
from vqcodec.codec.ladder.network import Dense, Unshuffle, conv, unshuffled
from vqcodec.codec.ladder.pixels import PixelStep, StagedPixels, patch_order
from vqcodec.codec.ladder.scales import LOG_SCALE_MAX, LOG_SCALE_MIN, SCALES, STEPS, scale_tables

Images = NDArray[np.uint8]
PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"


def codec_of(path: Path) -> LadderCodec:
    codec = models.load(str(path)).codec
    assert isinstance(codec, LadderCodec)
    return codec


@pytest.fixture(scope="module")
def grey(tiny_ladder: Path) -> LadderCodec:
    return codec_of(tiny_ladder)


@pytest.fixture(scope="module")
def binary(tiny_binary: Path) -> LadderCodec:
    return codec_of(tiny_binary)


@pytest.fixture(scope="module")
def known_and_unknown(digits: Images, characters: Images) -> Images:
    """Digits, and images unlike anything the models were trained on, uint8 [N, 28, 28]."""
    with Image.open(PHOTO) as image:
        photo = np.asarray(image.convert("L"))
    crops = [photo[y : y + 28, x : x + 28] for y, x in ((0, 0), (50, 80), (100, 160))]
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    flat = [np.full((28, 28), value, np.uint8) for value in (0, 1, 127, 128, 254, 255)]
    row, column = np.indices((28, 28))
    board = [
        ((row + column) % 2 * 255).astype(np.uint8),
        (row * 9).astype(np.uint8),
        (255 - column * 9).astype(np.uint8),
    ]
    dot = np.zeros((28, 28), np.uint8)
    dot[27, 27] = 1
    return np.concatenate(
        [digits, 255 - digits, characters, digits.transpose(0, 2, 1), crops, noise, flat, board, [dot]]
    )


def in_black_and_white(images: Images) -> Images:
    return np.where(images > 100, np.uint8(255), np.uint8(0))


def payloads_of(codec: LadderCodec, images: Images, setting: int) -> list[bytes]:
    return [coded.payload for coded in codec.encode_images(images, setting)]


# Round trips


def test_every_image_comes_back_exactly(grey: LadderCodec, binary: LadderCodec, known_and_unknown: Images) -> None:
    for codec, images in ((grey, known_and_unknown), (binary, in_black_and_white(known_and_unknown))):
        coded = codec.encode_images(images, LOSSLESS)
        assert np.array_equal(np.stack([one.x_hat for one in coded]), images)
        assert {one.parameter for one in coded} == {LOSSLESS}
        assert np.array_equal(codec.decode_images([one.payload for one in coded], LOSSLESS), images)


@pytest.mark.parametrize("setting", [1, 2])
def test_lossy_images_decode_to_what_the_encoder_saw(
    setting: int, grey: LadderCodec, known_and_unknown: Images
) -> None:
    coded = grey.encode_images(known_and_unknown, setting)
    assert {one.parameter for one in coded} == {setting}
    decoded = grey.decode_images([one.payload for one in coded], setting)
    assert np.array_equal(decoded, np.stack([one.x_hat for one in coded]))
    assert not np.array_equal(decoded, known_and_unknown)


def test_latents_carry_the_image(grey: LadderCodec, binary: LadderCodec, digits: Images, binary_digits: Images) -> None:
    """What is rendered from the latents alone is nearer than black, and than the digits' mean, at every setting."""
    for codec, images in ((grey, digits), (binary, binary_digits)):
        for setting in range(codec.config.qualities):
            shown = codec.preview_images(payloads_of(codec, images, setting), setting).astype(float)
            error = ((shown - images) ** 2).mean()
            assert error < ((images.mean(0) - images) ** 2).mean()
            assert error < (images.astype(float) ** 2).mean()


def test_settings_and_names(grey: LadderCodec, binary: LadderCodec) -> None:
    assert (grey.image_size, grey.lossy_settings, grey.has_lossless) == (28, 2, True)
    assert (binary.image_size, binary.lossy_settings, binary.has_lossless) == (28, 0, True)
    assert grey.takes == "grey images of 28 x 28 pixels"
    assert binary.takes == "black and white (pixels 0 and 255 only) images of 28 x 28 pixels"
    assert grey.floor(LOSSLESS) == binary.floor(LOSSLESS) == float("-inf")
    assert 0 < grey.floor(1) < grey.floor(2)


def test_a_binary_model_fits_black_and_white_only(grey: LadderCodec, binary: LadderCodec, digits: Images) -> None:
    assert binary.fits(in_black_and_white(digits[0]))
    for image in (digits[0], np.full((28, 28), 1, np.uint8), np.full((28, 28), 254, np.uint8)):
        assert not binary.fits(image)
        assert grey.fits(image)


def test_batches_give_the_bytes_of_single_images(grey: LadderCodec, known_and_unknown: Images) -> None:
    some = known_and_unknown[::5]
    for setting in range(3):
        batch = payloads_of(grey, some, setting)
        assert batch == [payloads_of(grey, image[None], setting)[0] for image in some]
        singly = np.concatenate([grey.decode_images([payload], setting) for payload in batch])
        assert np.array_equal(singly, grey.decode_images(batch, setting))
    assert payloads_of(grey, some[::-1], LOSSLESS) == payloads_of(grey, some, LOSSLESS)[::-1]


def test_bright_images_are_coded_inverted(grey: LadderCodec, digits: Images) -> None:
    """The first symbol is the flag; all else is the same, so nearly the same bytes."""
    for setting in range(3):
        dark, bright = grey.encode_images(digits, setting), grey.encode_images(255 - digits, setting)
        for one, other in zip(dark, bright, strict=True):
            assert np.array_equal(one.x_hat, 255 - other.x_hat)
        more = sum(len(coded.payload) for coded in bright) - sum(len(coded.payload) for coded in dark)
        assert 9 - 8 < 8 * more / len(digits) < 9 + 8  # a flag of 9 bits each; payloads end on whole bytes


def test_half_bright_images_are_not_inverted(grey: LadderCodec) -> None:
    """127.5 is not bright, above it is: the limit that FORMAT.md leaves to the encoder."""
    half = np.zeros((2, 28, 28), np.uint8)
    half[:, :14] = 255
    half[1, 27, 27] = 1
    flags: list[Tensor] = []
    push = codec_module.BatchEncoder.push

    def record(self: object, symbols: Tensor, cdf: Tensor) -> None:
        flags.append(symbols)
        push(self, symbols, cdf)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_module.BatchEncoder, "push", record)
        grey.encode_images(half, LOSSLESS)
    assert flags[0].tolist() == [[0], [1]]


# The walk and the rate


def test_encoder_and_decoder_walk_through_the_same_tables(
    grey: LadderCodec, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[NDArray[np.int32]] = []
    popped: list[NDArray[np.int32]] = []
    push, pop = codec_module.BatchEncoder.push, codec_module.BatchDecoder.pop

    def recording_push(self: object, symbols: Tensor, cdf: NDArray[np.int32]) -> None:
        pushed.append(np.array(cdf))
        push(self, symbols, cdf)  # type: ignore[arg-type]

    def recording_pop(self: object, cdf: NDArray[np.int32]) -> object:
        popped.append(np.array(cdf))
        return pop(self, cdf)  # type: ignore[arg-type]

    monkeypatch.setattr(codec_module.BatchEncoder, "push", recording_push)
    monkeypatch.setattr(codec_module.BatchDecoder, "pop", recording_pop)
    for setting in range(3):
        pushed.clear()
        popped.clear()
        grey.decode_images(payloads_of(grey, digits, setting), setting)
        # flag, three levels, and two halves of the pixels of two stages
        assert len(pushed) == len(popped) == (8 if setting == LOSSLESS else 4)
        assert all(np.array_equal(a, b) for a, b in zip(pushed, popped, strict=True))


def ideal_bits(codec: LadderCodec, images: Images, setting: int) -> NDArray[np.float64]:
    """Code length of every image in bits, the flag included, of tables as the coder widens them."""
    lengths = np.zeros(len(images))

    def add(symbols: NDArray[np.int64], cdf: NDArray[np.int64]) -> None:
        wide = widen(cdf, min(cdf.shape[-1], codec.alphabet))[..., : cdf.shape[-1]]
        lengths[:] += code_length_bits(symbols, wide).sum(1)

    def count(step: Step, symbols: Tensor, freq: Tensor) -> None:
        add(symbols.numpy(), cdf_from_frequencies(freq.numpy()))

    with torch.inference_mode():
        codec.drive(codec.values(images), setting, count)
    add(np.zeros((len(images), 1), np.int64), np.broadcast_to([0, 65408, 65536], (len(images), 1, 3)))
    return lengths


def test_payloads_are_as_long_as_the_code_length(
    grey: LadderCodec, binary: LadderCodec, digits: Images, binary_digits: Images
) -> None:
    """An interval of width 2^-b holds a multiple of 2^-8n for n >= b / 8: less than a byte over. It may hold one of a
    shorter n by luck, once in 256 files."""
    for codec, images in ((grey, digits), (binary, binary_digits)):
        for setting in range(codec.config.qualities):
            lengths = np.array([len(payload) for payload in payloads_of(codec, images, setting)])
            over = lengths - ideal_bits(codec, images, setting) / 8
            assert (over < 1.01).all()
            assert (over > -1).all()


def test_lossless_files_begin_with_their_latents(grey: LadderCodec, digits: Images) -> None:
    kinds: list[str] = []
    with torch.inference_mode():
        grey.drive(grey.values(digits), LOSSLESS, lambda step, *_: kinds.append(type(step).__name__))
    assert kinds == ["LatentStep"] * 3 + ["PixelStep"] * 4


def test_latents_beyond_the_reach_still_decode(grey: LadderCodec, known_and_unknown: Images) -> None:
    """Clipped latents are a worse description of the image, of which nothing is lost losslessly."""
    short, wide = copy.deepcopy(grey), copy.deepcopy(grey)
    short.reach, wide.reach = torch.full_like(grey.reach, 0), torch.full_like(grey.reach, len(REACHES) - 1)
    for setting in range(3):
        assert max(int(k.abs().max()) for k in wide.latents(known_and_unknown, setting)) > REACHES[0]
        assert max(int(k.abs().max()) for k in short.latents(known_and_unknown, setting)) == REACHES[0]
    assert np.array_equal(short.decode_images(payloads_of(short, known_and_unknown, 0), 0), known_and_unknown)
    for setting in (1, 2):
        coded = short.encode_images(known_and_unknown, setting)
        decoded = short.decode_images([one.payload for one in coded], setting)
        assert np.array_equal(decoded, np.stack([one.x_hat for one in coded]))


def test_the_alphabet_is_that_of_the_widest_table(grey: LadderCodec, binary: LadderCodec) -> None:
    for codec, least in ((grey, 16), (binary, 2)):
        for index, reach in enumerate(REACHES):
            other = copy.deepcopy(codec)
            other.reach = torch.full_like(codec.reach, index)
            assert other.alphabet == max(least, 2 * reach + 1)
        assert codec.alphabet == max(least, *(2 * REACHES[int(i)] + 1 for i in codec.reach.flatten()))


def test_damage_under_a_right_checksum_gives_an_image_or_an_error(grey: LadderCodec, binary: LadderCodec) -> None:
    generator = np.random.default_rng(0)
    for codec in (grey, binary):
        for setting in range(codec.config.qualities):
            for length in (0, 1, 3, 30, 300):
                try:
                    pixels = codec.decode_images([generator.bytes(length)], setting)
                except Corrupt:
                    continue
                assert pixels.shape == (1, 28, 28)
                assert codec.fits(pixels[0])


# Integer tables


@pytest.mark.parametrize("reach", REACHES)
def test_scale_tables(reach: int) -> None:
    tables = scale_tables(reach).numpy()
    assert tables.shape == (SCALES, 2 * reach + 1)
    assert (tables >= 1).all()
    assert (tables.sum(1) == 65536).all()
    for index, table in enumerate(tables):
        # What the division leaves over, less than a count per symbol, goes to one symbol: that one may differ.
        unequal = np.flatnonzero(table != table[::-1])
        assert len(unequal) in (0, 2)
        assert np.abs(table - table[::-1]).max() < len(table)
        scale = np.exp(LOG_SCALE_MIN + index / STEPS)
        edges = np.concatenate([[-np.inf], np.arange(-reach, reach) + 0.5, [np.inf]])
        assert np.abs(table / 65536 - np.diff(norm.cdf(edges / scale))).max() < len(table) / 65536
        inner = table[reach : 2 * reach]  # the outermost also has what is beyond
        assert (np.diff(inner) <= 0).all()
    assert (np.diff(tables[:, reach]) <= 0).all()  # the wider, the less in the middle


def test_sigmoid_table() -> None:
    table = sigmoid_table().numpy()
    width = round((LOG_SCALE_MAX - LOG_SCALE_MIN) * 2**FRAC_BITS)
    assert len(table) == 2 * width + 1
    assert table[width] == 2**15
    assert (np.diff(table) >= 0).all()
    assert (table + table[::-1] == 2**16).all()
    d = np.arange(-width, width + 1) / 2**FRAC_BITS
    assert np.abs(table - 2**16 / (1 + np.exp(-2 * d))).max() <= 0.5 + 1e-9  # rounding


def test_stored_tables_are_those_of_this_build(grey: LadderCodec) -> None:
    for index, reach in enumerate(REACHES):
        assert torch.equal(getattr(grey, f"tables{index}"), scale_tables(reach))
    assert torch.equal(grey.sigmoid, sigmoid_table())


def test_rounding_of_latents_to_the_posterior(grey: LadderCodec, digits: Images) -> None:
    """k is the precision-weighted mean less the prior's, rounded: within 1/2, and 2^-9 of log scale, of the formula."""
    seen: list[tuple[LatentStep, Tensor]] = []

    def keep(step: Step, symbols: Tensor, freq: Tensor) -> None:
        if isinstance(step, LatentStep):
            seen.append((step, (symbols - grey.reach_of(step, 1)).view(step.mean.shape).double()))

    with torch.inference_mode():
        values = grey.values(digits)
        features = grey.features(grey.pixels_in(values))
        grey.drive(values, 1, keep)
        for step, k in seen:
            mean, log_scale = (part / 2**FRAC_BITS for part in grey.inference.head(step.level, features[step.level], 1))
            prior = (step.log_scale / 2**FRAC_BITS).clamp(LOG_SCALE_MIN, LOG_SCALE_MAX)
            weight = torch.sigmoid(2 * (prior - log_scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX)))
            exact = weight * (mean - step.mean / 2**FRAC_BITS)
            reach = grey.reach_of(step, 1)
            # The weight is rounded to 2^-17, and |mean| < 64.
            assert float((k - exact.clamp(-reach, reach)).abs().max()) <= 0.5 + 128 * 2**-17


# Pixels


@pytest.mark.parametrize("patch", [1, 2, 4, 7, 8, 14, 28])
def test_patch_order_is_a_permutation_by_rank(patch: int) -> None:
    order = patch_order(patch).tolist()
    assert sorted(order) == list(range(patch**2))

    def rank(place: int) -> int:
        """The Bayer matrix by its bits: of row and column, interleaved from the lowest."""
        row, column, value = place // patch % 8, place % patch % 8, 0
        for bit in range(3):
            a, b = row >> bit & 1, column >> bit & 1
            value = 4 * value + 2 * (a ^ b) + a
        return value

    assert order == sorted(range(patch**2), key=rank)


@pytest.mark.parametrize("untils", [(16,), (1, 16), (1, 2, 4, 8, 16), (5, 11, 16)])
def test_stages_cover_every_pixel_once(untils: tuple[int, ...]) -> None:
    config = LadderConfig(stages=tuple(Stage(until, 8, 1) for until in untils))
    places = [place.tolist() for place in StagedPixels(config).places]
    assert sorted(place for own in places for place in own) == list(range(16))
    assert [len(place) for place in places] == np.diff([0, *untils]).tolist()
    assert all(place == sorted(place) for place in places)


def test_patches_and_their_inverse() -> None:
    pixels = StagedPixels(LadderConfig(likelihood="categorical"))
    x = torch.arange(2 * 28 * 28).view(2, 28, 28)
    patches = pixels.to_patches(x)
    assert patches.shape == (2, 16, 7, 7)
    assert torch.equal(pixels.from_patches(patches), x)
    assert int(patches[1, 6, 2, 3]) == 28 * 28 + (4 * 2 + 6 // 4) * 28 + 4 * 3 + 6 % 4


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_a_stage_knows_only_the_stages_before(likelihood: str) -> None:
    torch.manual_seed(0)
    config = LadderConfig(
        widths=(8, 8, 8), likelihood=likelihood, stages=(Stage(1, 8, 1), Stage(4, 8, 1), Stage(16, 8, 1)),
        pixel_features=8,
    )  # fmt: skip
    pixels = StagedPixels(config)
    context = torch.randn(1, 8, 7, 7)
    values = torch.randint(config.values, (1, 28, 28))

    def logits(x: Tensor) -> list[Tensor]:
        patches, found, walk = pixels.to_patches(x), [], pixels.walk(context)
        with suppress(StopIteration):
            step = next(walk)
            while True:
                assert isinstance(step, PixelStep)
                found.append(step.logits)
                step = walk.send(pixels.symbols(patches, step))
        return found

    parts = 1 if config.values == 2 else 2
    before = logits(values)
    for stage, places in enumerate(pixels.places):
        place = int(places[0])
        other = values.clone()
        other[0, 12 + place // 4, 12 + place % 4] = config.values - 1 - other[0, 12 + place // 4, 12 + place % 4]
        same = [torch.equal(a, b) for a, b in zip(before, logits(other), strict=True)]
        assert all(same[: parts * stage + 1])  # all before it, and its own high half
        assert not any(same[parts * (stage + 1) :])  # all later ones see it


# What is refused


def test_meanings_of_parameters() -> None:
    config = {"qualities": 3, "likelihood": "categorical"}
    assert [meaning("ladder", config, parameter) for parameter in range(3)] == [Meaning(n, 2, "L") for n in range(3)]
    assert meaning("ladder", config, 0).lossless
    assert not meaning("ladder", config, 1).lossless
    for parameter in (3, 4, 7, 255):
        with pytest.raises(Corrupt, match=f"parameter {parameter}: the model has settings up to 2"):
            meaning("ladder", config, parameter)
    for binary in ({}, {"likelihood": "bernoulli", "qualities": 1}):
        assert meaning("ladder", binary, 0) == Meaning(LOSSLESS, 0, "1")
        assert meaning("ladder", binary, 1) == Meaning(LOSSLESS, 0, "L")
        for parameter in (2, 3, 7, 255):
            with pytest.raises(Corrupt, match=f"parameter {parameter}: the model has settings up to 0"):
                meaning("ladder", binary, parameter)
        assert [compact_parameter("ladder", binary, mode, 0) for mode in ("1", "L", "RGB")] == [0, 1, None]
    assert [compact_parameter("ladder", config, mode, 2) for mode in ("1", "L", "RGB")] == [None, 2, None]
    assert [compact_parameter("vq", {}, mode, 6) for mode in ("1", "L", "RGB")] == [None, 6, None]
    vq = {"levels": [{}, {}]}
    assert [meaning("vq", vq, parameter) for parameter in (0, 1, 4, 5)] == [Meaning(n, 2) for n in (1, 2, 1, 2)]
    for parameter in (2, 3, 6, 8, 128):
        with pytest.raises(Corrupt, match="settings up to 2"):
            meaning("vq", vq, parameter)
    with pytest.raises(Corrupt, match="family 'gan'"):
        meaning("gan", {}, 0)


def test_models_refuse_images_of_the_wrong_kind(tiny_ladder: Path, tiny_binary: Path, digits: Images) -> None:
    photo = Image.open(PHOTO)
    with pytest.raises(
        UnsupportedImage, match=r"takes grey images of 28 x 28 pixels, found 192 x 128 pixels, mode RGB"
    ):
        vqcodec.encode(photo, str(tiny_ladder))
    with pytest.raises(
        UnsupportedImage, match=r"takes black and white .* found 28 x 28 pixels, mode L with shades of gr"
    ):
        vqcodec.encode(digits[0], str(tiny_binary))
    colours = np.zeros((28, 28, 3), np.uint8)
    colours[0, 0, 0] = 1
    with pytest.raises(UnsupportedImage, match=r"found 28 x 28 pixels, mode RGB$"):
        vqcodec.encode(colours, str(tiny_ladder), lossless=True)


def test_lossless_of_a_vq_model_is_refused(tiny_model: Path, digits: Images) -> None:
    with pytest.raises(UnsupportedImage, match="is lossy; use model auto for a lossless file"):
        vqcodec.encode(digits[0], str(tiny_model), lossless=True)


def test_a_gaussian_model_cannot_code(
    tmp_path: Path, tiny_binary: Path, digits: Images, edited: Callable[..., Path]
) -> None:
    for values in ({"posterior": "gaussian"}, {"posterior": "gaussian", "inference": "bottom-up"}):
        with pytest.raises(ModelMismatch, match="posterior 'gaussian' and inference .* cannot code images"):
            vqcodec.encode(digits[0], str(edited(tiny_binary, tmp_path / "g.safetensors", **values)))


def test_weights_of_another_family_or_shape_are_refused(
    tmp_path: Path, tiny_ladder: Path, edited: Callable[..., Path]
) -> None:
    with pytest.raises(ModelMismatch, match="the weights do not match their configuration"):
        models.load(str(edited(tiny_ladder, tmp_path / "a.safetensors", widths=[8, 8, 8])))
    with pytest.raises(ModelMismatch, match="unknown family 'gan'; this build knows vq, ladder, photo"):
        models.load(str(edited(tiny_ladder, tmp_path / "b.safetensors", family="gan")))
    with pytest.raises(vqcodec.VqcodecError, match="unknown key 'colour'"):
        models.load(str(edited(tiny_ladder, tmp_path / "c.safetensors", colour=1)))


@pytest.mark.parametrize("setting", [0, 1, 2])
def test_every_cut_and_every_flip_of_a_file_is_an_error(
    setting: int, tiny_ladder: Path, digits: Images, file_of: Callable[..., bytes]
) -> None:
    blob = file_of(tiny_ladder, digits[0], setting)
    assert vqcodec.info(blob, model=str(tiny_ladder)).setting == setting
    for at in range(len(blob)):
        with pytest.raises(BitstreamError):
            vqcodec.decode(blob[:at], model=str(tiny_ladder))
        for flip in (1, 0x41, 0x80):
            with pytest.raises(BitstreamError):
                vqcodec.decode(blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :], model=str(tiny_ladder))


# Other architectures


def round_trips(config: LadderConfig, images: Images) -> LadderCodec:
    """A new model of the configuration, with random weights, codes the images exactly."""
    torch.manual_seed(0)
    model = LadderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    codec = LadderCodec(model).eval()
    for setting in range(config.qualities):
        coded = codec.encode_images(images, setting)
        expected = images if setting == LOSSLESS else np.stack([one.x_hat for one in coded])
        assert np.array_equal(codec.decode_images([one.payload for one in coded], setting), expected)
    return codec


SMALL = {"latents": (2, 3, 4), "widths": (8, 12, 16), "grids": (7, 7, 1), "blocks": 1, "pixel_features": 4}
PAPER = {
    "form": "mlp", "latents": (64, 32, 16, 8, 4), "widths": (512, 256, 128, 64, 64), "grids": (1, 1, 1, 1, 1),
    "leak": 3, "stages": (Stage(784, 0, 0),), "pixel_features": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        PAPER,
        PAPER | {"skip": False, "batch_norm": True},
        SMALL | {"latents": (4,), "widths": (8,), "grids": (7,)},
        SMALL | {"latents": (2, 2, 2, 2, 2), "widths": (8,) * 5, "grids": (14, 7, 7, 1, 1),
                 "stages": (Stage(1, 4, 0), Stage(4, 0))},
        SMALL | {"likelihood": "categorical", "qualities": 2, "leak": 2, "stages": (Stage(5, 0), Stage(16, 8, 2))},
        SMALL | {"skip": False},
        SMALL | {"batch_norm": True},
        SMALL | {"image_size": 32, "grids": (8, 4, 2)},
        SMALL | {"image_size": 12, "grids": (3, 3, 1), "pixel_embed": 5, "likelihood": "categorical"},
    ],
    ids=["paper", "paper without skip", "one level", "five levels", "categorical", "no skip", "batch norm", "32", "12"],
)  # fmt: skip
def test_architectures_round_trip(values: dict, digits: Images) -> None:
    config = LadderConfig(**values)
    large = np.pad(digits[:3], ((0, 0), (2, 2), (2, 2)))
    images = np.ascontiguousarray(large[:, : config.image_size, : config.image_size])
    round_trips(config, in_black_and_white(images) if config.values == 2 else images)


def test_without_skip_a_level_sees_only_the_one_above() -> None:
    for skip in (False, True):
        torch.manual_seed(0)
        generative = LadderModel(LadderConfig(**PAPER | {"skip": skip})).eval().generative
        priors = []
        for top in (0.0, 1.0):
            walk = generative.walk(1, pixels=False)
            step = next(walk)
            while step.level > 2:
                z = torch.zeros_like(step.mean)
                step = walk.send(z + top if step.level == 4 else z)
            priors.append(step.mean)
        assert torch.equal(*priors) == (not skip)


def test_the_papers_layers_have_the_papers_sizes() -> None:
    model = LadderModel(LadderConfig(**PAPER | {"skip": False}))
    up = [[layer.out_channels for layer in net if hasattr(layer, "out_channels")] for net in model.inference.nets]
    down = [[layer.out_channels for layer in net if hasattr(layer, "out_channels")] for net in model.generative.nets]
    assert up == down == [[width, width] for width in (512, 256, 128, 64, 64)]
    assert [heads[0].out_channels for heads in model.inference.heads] == [128, 64, 32, 16, 8]
    assert [heads[0].out_channels for heads in model.generative.heads] == [128, 64, 32, 16]
    assert [net[0].in_channels for net in model.generative.nets] == [64, 32, 16, 8, 4]
    assert not model.generative.expand.state_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"form": "rnn"}, "form must be one of conv, mlp, found 'rnn'"),
        ({"inference": "up"}, "inference must be one of ladder, bottom-up, found 'up'"),
        ({"posterior": "laplace"}, "posterior must be one of gaussian, uniform, found 'laplace'"),
        ({"top_down": "none"}, "top_down must be one of shared, separate, found 'none'"),
        ({"likelihood": "normal"}, "likelihood must be one of bernoulli, categorical, found 'normal'"),
        ({"latents": (), "widths": (), "grids": ()}, "levels must be in 1..16, found 0"),
        ({"latents": (8, 4)}, "one entry per level"),
        ({"widths": (8,)}, "one entry per level"),
        ({"grids": (7, 1)}, "one entry per level"),
        ({"latents": (8, 0, 1)}, "latents must be in 1..8192, found 0"),
        ({"widths": (8, 0, 1)}, "widths must be in 1..8192, found 0"),
        ({"grids": (7, 7, 0)}, "grids must be in 1..512, found 0"),
        ({"qualities": 0}, "qualities must be in 1..255, found 0"),
        ({"pixel_features": 0}, "at least 1"),
        ({"image_size": 0}, "image_size must be in 1..512, found 0"),
        ({"blocks": -1}, "blocks must be in 0..64, found -1"),
        ({"leak": -1}, "leak must be in 0..15, found -1"),
        ({"pixel_embed": -1}, "pixel_embed must be in 0..4096, found -1"),
        ({"qualities": 2}, "several qualities need likelihood 'categorical'"),
        ({"qualities": 2, "likelihood": "categorical", "posterior": "gaussian"}, "several qualities need posterior"),
        ({"grids": (7, 2, 1)}, "must be a multiple of the next, found"),
        ({"image_size": 30}, "must be a multiple of the next, found"),
        ({"form": "mlp"}, "form 'mlp' has grids of 1"),
        ({"qualities": 2, "skip": False, "likelihood": "categorical"}, "several qualities need skip"),
        ({"stages": ()}, "stages must be in 1..1024, found 0"),
        ({"stages": (Stage(8),)}, "stages must increase and end with 16"),
        ({"stages": (Stage(8), Stage(8), Stage(16))}, "stages must increase and end with 16"),
        ({"stages": (Stage(8), Stage(4), Stage(16))}, "stages must increase and end with 16"),
        ({"inference": "bottom-up"}, "rounded latents need the ladder's inference"),
        ({"top_down": "separate", "grids": (7, 7, 7), "skip": False}, "a separate top-down pass needs the ladder's"),
        ({"top_down": "separate", "grids": (7, 7, 7), "posterior": "gaussian"}, "a separate top-down pass needs"),
        ({"top_down": "separate", "skip": False, "posterior": "gaussian"}, "Gaussian, without skip, on one grid"),
        (
            {
                "top_down": "separate",
                "grids": (7, 7, 7),
                "skip": False,
                "posterior": "gaussian",
                "inference": "bottom-up",
            },
            "a separate top-down pass needs the ladder's inference",
        ),
    ],
)
def test_impossible_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LadderConfig(**values)


@pytest.mark.parametrize("values", [{"until": 0}, {"width": -1}, {"blocks": -1}])
def test_impossible_stages_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="a stage needs until >= 1, width >= 0 and blocks >= 0|must be in 0"):
        Stage(**{"until": 1} | values)


# Layers


@pytest.mark.parametrize("side", [1, 7])
def test_a_dense_layer_is_a_convolution(side: int) -> None:
    torch.manual_seed(0)
    dense, other = Dense(5, 3, 1).double(), nn.Conv2d(5, 3, 1).double()
    other.load_state_dict(dense.state_dict())
    gradients = []
    for layer in (dense, other):
        x = torch.linspace(-1, 1, 4 * 5 * side**2, dtype=torch.float64).view(4, 5, side, side).requires_grad_()
        y = layer(x)
        assert y.shape == (4, 3, side, side)
        (y**3).sum().backward()
        gradients.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for one, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(one, expected)  # of float64, 1e-7


def test_layers_on_one_position_are_dense() -> None:
    assert isinstance(conv(2, 3), Dense)
    wide = conv(2, 3, 7)
    assert not isinstance(wide, Dense)
    assert (wide.kernel_size, wide.padding) == ((3, 3), (1, 1))


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 1, 8, 8), (3, 2, 4, 4), (1, 1, 4, 4), (3, 2, 8, 8)])
def test_unshuffled_is_pixel_unshuffle(shape: tuple[int, ...]) -> None:
    for x in (torch.randn(shape), torch.randint(0, 9, shape), torch.randn(shape).to(memory_format=torch.channels_last)):
        assert torch.equal(unshuffled(x, 4), nn.functional.pixel_unshuffle(x, 4))
        assert torch.equal(Unshuffle(4)(x), nn.functional.pixel_unshuffle(x, 4))


def test_normalised_heads_start_with_quiet_log_scales() -> None:
    values = PAPER | {"skip": False, "posterior": "gaussian", "top_down": "separate"}
    model = LadderModel(LadderConfig(**values | {"batch_norm": True}))
    heads = [*model.inference.heads, *model.generative.heads]
    for head, latents in [
        *zip((one[0] for one in heads), (64, 32, 16, 8, 4, 64, 32, 16, 8), strict=True),
        *zip(model.inference.down_heads, (64, 32, 16, 8), strict=True),
    ]:
        _, norm = head
        assert norm.weight.tolist() == pytest.approx([1.0] * latents + [0.1] * latents)
        assert not norm.bias.any()
    plain = LadderModel(LadderConfig(**values))
    assert all(isinstance(one[0], Dense) for one in [*plain.inference.heads, *plain.generative.heads])
    assert all(isinstance(one, Dense) for one in plain.inference.down_heads)


def test_a_layer_and_its_batch_norm_are_stored_as_one_of_its_name() -> None:
    values = PAPER | {"skip": False, "posterior": "gaussian", "top_down": "separate"}
    plain, normalised = (
        LadderCodec(LadderModel(LadderConfig(**values | {"batch_norm": batch_norm}))) for batch_norm in (False, True)
    )
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {"inference.heads.0.0.weight", "inference.down_heads.3.bias"} < shapes.keys()
    assert {name: tensor.shape for name, tensor in normalised.state_dict().items()} == shapes
