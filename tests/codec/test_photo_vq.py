"""VQ-VAE of photographs: configuration, prior, choice of indices, and the codec's law, on models of random weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqcodec.bitstream.errors import BitstreamError, Corrupt, Truncated
from vqcodec.bitstream.latents import read_leb128
from vqcodec.codec.exact import oracle
from vqcodec.codec.photo import tiles
from vqcodec.codec.photo.model import SIGNAL, transform
from vqcodec.codec.photo_vq.codec import PhotoVQCodec
from vqcodec.codec.photo_vq.config import PHASES, Codebook, PhotoVQConfig
from vqcodec.codec.photo_vq.exact import ExactPrior, code_lengths
from vqcodec.codec.photo_vq.model import PhotoVQModel
from vqcodec.codec.photo_vq.prior import FloatPrior, at_phase, walk
from vqcodec.codec.photo_vq.quantiser import Chooser, costs, draw, price, tell

CPU = torch.device("cpu")
SMALL = PhotoVQConfig(
    codebooks=(Codebook(16, 16, 6), Codebook(8, 12, 8), Codebook(8, 8, 8)),
    width=16, analysis_blocks=1, synthesis_blocks=1, fine_width=8, fine_blocks=1,
    prior_width=8, prior_embed=4, prior_hidden=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> PhotoVQModel:
    """Random weights everywhere (also where training starts from zeros), code vectors as large as coefficients."""
    torch.manual_seed(0)
    model = PhotoVQModel(SMALL)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    for parameter in model.prior.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for number, codebook in enumerate(model.autoencoder.codebooks):
        codebook.data *= 400 / (number + 1)
    return model


@pytest.fixture(scope="module")
def codec(model: PhotoVQModel) -> PhotoVQCodec:
    return PhotoVQCodec(copy.deepcopy(model))


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """A real photograph, uint8 [128, 192, 3]."""
    with Image.open(Path(__file__).parents[2] / "codec" / "examples" / "photo.png") as image:
        return np.asarray(image)


def pixels(photo: NDArray[np.uint8], batch: int = 2, side: int = 64) -> Tensor:
    """Crops of the photograph, -0.5..0.5, [batch, 3, side, side]."""
    crops = [photo[8 * n : 8 * n + side, 16 * n : 16 * n + side] for n in range(batch)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255 - 0.5


# Configuration


@pytest.mark.parametrize(
    "values",
    [
        {"codebooks": ()}, {"codebooks": (Codebook(16, 4, 4), Codebook(4, 4, 4))},
        {"codebooks": (Codebook(8, 4, 4), Codebook(16, 4, 4))}, {"codebooks": (Codebook(2, 4, 4),)},
        {"codebooks": (Codebook(12, 4, 4),)}, {"width": 1}, {"fine_width": 0}, {"fine_blocks": -1}, {"weight": 0.0},
        {"codebooks": (Codebook(8, 4, 4),) * 4},
    ],
)  # fmt: skip
def test_impossible_configurations_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"must|codebooks"):
        PhotoVQConfig(**values)


@pytest.mark.parametrize("values", [(0, 4, 4), (8, 1, 4), (8, 40000, 4), (8, 4, 0), (8, 4, 193), (8, 4, 4, -1)])
def test_impossible_codebooks_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="found"):
        Codebook(*values)


# Transforms


def test_untrained_levels_predict_what_the_pixels_of_those_above_say(photo: NDArray[np.uint8]) -> None:
    """The carried coefficients are those that the level's own transform finds in the picture told so far."""
    torch.manual_seed(0)
    synthesis = PhotoVQModel(SMALL).autoencoder.synthesis
    z = torch.randn(1, 6, 2, 3)
    rows = transform(16)[:6] / SIGNAL
    shown = torch.nn.functional.pixel_shuffle(torch.einsum("dp,bdhw->bphw", rows, z), 16)
    blocks = torch.nn.functional.pixel_unshuffle(shown, 8)
    expected = torch.einsum("dp,bphw->bdhw", SIGNAL * transform(8)[:8], blocks)
    assert torch.allclose(synthesis.carry[0](z), expected, atol=1e-5)  # sums of 768 float32 products of about 1


def test_an_untrained_model_shows_the_code_vectors_transformed_back() -> None:
    torch.manual_seed(0)
    model = PhotoVQModel(SMALL).autoencoder
    index = torch.randint(16, (1, 2, 2))
    z = model.synthesis.carry[0](model.codebooks[0][index].permute(0, 3, 1, 2))
    rows = transform(8)[:8] / SIGNAL
    expected = torch.nn.functional.pixel_shuffle(torch.einsum("dp,bdhw->bphw", rows, z), 8)
    assert torch.allclose(draw(model, [index], 32, 32), expected, atol=1e-5)


# The prior


def test_phases_cover_the_grid_once() -> None:
    grid = torch.zeros(4, 6)
    for phase in range(len(PHASES)):
        at_phase(grid, phase).add_(1)
    assert torch.equal(grid, torch.ones(4, 6))


def walked(prior: FloatPrior | ExactPrior, indices: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """What the prior says at every stage of a walk in which these indices are told."""
    steps = walk(prior, len(indices[0]), *size, len(indices), CPU)
    tables = []
    try:
        stage, table = next(steps)
        while True:
            tables.append(table)
            stage, table = steps.send(at_phase(indices[stage.level], stage.phase).flatten(1))
    except StopIteration as stop:
        found = stop.value
    assert all(torch.equal(a, b) for a, b in zip(found, indices, strict=True))
    return tables


def random_indices(batch: int, size: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(book.size, (batch, *SMALL.grid(level, *size)), generator=generator)
        for level, book in enumerate(SMALL.codebooks)
    ]


def test_tables_hang_on_earlier_stages_alone(model: PhotoVQModel) -> None:
    prior, size = FloatPrior(model.prior), (32, 64)
    indices = random_indices(1, size)
    before = walked(prior, indices, size)
    for changed in range(3 * len(PHASES)):
        level, phase = divmod(changed, len(PHASES))
        other = [index.clone() for index in indices]
        positions = at_phase(other[level], phase)
        positions.copy_((positions + 1) % SMALL.codebooks[level].size)
        after = walked(prior, other, size)
        assert all(torch.equal(a, b) for a, b in zip(before[: changed + 1], after[: changed + 1], strict=True))
        if changed + 1 < len(before):
            assert not torch.equal(before[changed + 1], after[changed + 1]) or phase == 3
            assert any(not torch.equal(a, b) for a, b in zip(before[changed + 1 :], after[changed + 1 :], strict=True))


def test_float_tables_are_code_lengths(model: PhotoVQModel) -> None:
    for table in walked(FloatPrior(model.prior), random_indices(2, (32, 32)), (32, 32)):
        assert torch.allclose((-table * math.log(2)).exp().sum(-1), torch.ones(table.shape[:2]), atol=1e-5)


def oracle_tables(prior: ExactPrior, indices: Sequence[Tensor], size: tuple[int, int]) -> list[NDArray[np.int64]]:
    """The walk once more, in NumPy int64."""
    net = prior.net

    def embedded(level: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return oracle.run(net.embeddings[level], index).transpose(0, 3, 1, 2)

    tables = []
    told = [index.numpy() for index in indices]
    features = oracle.run(net.start, np.zeros(told[0].shape, np.int64)).transpose(0, 3, 1, 2)
    for level, index in enumerate(told):
        if level:
            features = features + oracle.run(net.entries[level - 1], embedded(level - 1, told[level - 1]))
            features = oracle.run(net.blocks[level - 1], oracle.run(net.expand[level - 1], features))
        for phase, (row, column) in enumerate(PHASES):
            stage = net.stages[4 * level + phase]
            x = oracle.run(stage.own, features[..., row::2, column::2])
            if phase:
                parts = [embedded(level, index[..., a::2, b::2]) for a, b in PHASES[:phase]]
                x = x + oracle.run(stage.known, np.concatenate(parts, 1))
            logits = oracle.run(net.heads[level], oracle.run(stage.mix, x))
            logits = logits.reshape(*logits.shape[:2], -1).transpose(0, 2, 1)
            tables.append(oracle.softmax_frequencies(logits, prior.exp))
    return tables


@pytest.mark.parametrize("backend", ["float64", "int8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_frequencies_equal_the_oracle_s(
    codec: PhotoVQCodec, backend: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqcodec.codec.exact.backend import int8_usable

    if backend == "int8" and not int8_usable():
        pytest.skip("no exact int8 products here")
    monkeypatch.setenv("VQCODEC_EXACT", backend)
    size = (64, 96)
    indices = random_indices(2, size)
    expected = oracle_tables(codec.prior, indices, size)
    torch.set_num_threads(threads)
    try:
        found = walked(codec.prior, indices, size)
    finally:
        torch.set_num_threads(1)
    assert len(found) == len(expected) == 12
    for table, wanted in zip(found, expected, strict=True):
        assert np.array_equal(table.numpy(), wanted)
        assert int(table.min()) >= 1


def test_exact_tables_say_what_the_float_prior_says(model: PhotoVQModel, codec: PhotoVQCodec) -> None:
    size = (64, 64)
    indices = random_indices(1, size)
    for told, table in zip(
        walked(FloatPrior(model.prior), indices, size), walked(codec.prior, indices, size), strict=True
    ):
        likely = told < 8  # an unlikely code is lifted to a frequency of 1 at least
        # logits in steps of 1/256, after a few layers rounded alike: 0.05 nats; frequencies from 256 up: 1/256
        assert torch.allclose(code_lengths(table)[likely], told[likely], atol=0.1)


# Choice


def test_the_nearest_code_is_chosen_where_bits_are_free_and_a_short_one_where_they_are_dear() -> None:
    torch.manual_seed(0)
    vectors, codebook = torch.randn(3, 50, 4), torch.randn(10, 4)
    bits = torch.rand(3, 50, 10) * 8
    nearest = torch.cdist(vectors, codebook.expand(3, -1, -1)).argmin(-1)
    chosen = {rd_price: costs(vectors, codebook, bits, rd_price).argmin(-1) for rd_price in (0.0, 0.3, 3.0, 1e9)}
    assert torch.equal(chosen[0.0], nearest)
    assert torch.equal(chosen[1e9], bits.argmin(-1))
    spent = [float(bits.gather(-1, symbols[..., None]).sum()) for symbols in chosen.values()]
    assert spent[0] > spent[1] > spent[2]


def test_the_price_of_a_bit_is_that_of_the_weight() -> None:
    """A squared distance of `price` in one coefficient of one block costs as much as one bit."""
    weight, stride = 0.002, 16
    mse = price(weight) / SIGNAL**2 / (3 * stride**2) * 255**2
    assert weight * mse == pytest.approx(1 / stride**2, rel=1e-9)


def told(model: PhotoVQModel, x: Tensor, present: Tensor, weight: float = 0.0012) -> list[Tensor]:
    steps = walk(FloatPrior(model.prior), len(x), *x.shape[2:], 3, CPU)
    chooser = Chooser(steps, lambda lengths: lengths, lambda *_: None, price(weight))
    with torch.no_grad():
        levels, drawn = tell(model.autoencoder, x, present, chooser)
        shown = model.autoencoder.synthesis.render(drawn)
    for n in range(len(x)):
        own = [level.index[n : n + 1] for level, here in zip(levels, present[:, n], strict=False) if here]
        # one image or several at a time: float32 sums in another order
        assert torch.allclose(draw(model.autoencoder, own, *x.shape[2:]), shown[n : n + 1], atol=1e-3)
    return [level.index for level in levels]


def test_what_is_drawn_from_indices_is_what_the_encoder_saw(model: PhotoVQModel, photo: NDArray[np.uint8]) -> None:
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    indices = told(model, pixels(photo, 3), present)
    assert [tuple(index.shape) for index in indices] == [(3, 4, 4), (3, 8, 8), (3, 8, 8)]


def test_coarse_levels_do_not_hang_on_how_many_follow(model: PhotoVQModel, photo: NDArray[np.uint8]) -> None:
    x = pixels(photo, 2)
    every = told(model, x, torch.ones(3, 2, dtype=torch.bool))
    first = told(model, x, torch.tensor([[True] * 2, [True] * 2, [False] * 2]))
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, every, strict=False))


# The codec


SIZES = [(1, 1), (1, 70), (37, 41), (90, 33), (64, 64), (128, 192)]


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_come_back_as_the_encoder_said(
    codec: PhotoVQCodec, photo: NDArray[np.uint8], size: tuple[int, int]
) -> None:
    image = photo[: size[0], : size[1]]
    sizes = []
    for quality in range(1, codec.qualities + 1):
        coded = codec.encode_photo(image, quality)
        assert coded.parameter == quality
        assert coded.x_hat is not None
        assert coded.x_hat.shape == image.shape
        assert coded.x_hat.dtype == np.uint8
        assert np.array_equal(codec.decode_photo(coded.payload, quality, *size), coded.x_hat)
        assert codec.encode_photo(image, quality, render=False).payload == coded.payload
        sizes.append(len(coded.payload))
    assert sizes == sorted(sizes)


def test_every_prefix_of_levels_is_the_file_of_that_quality(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    files = [codec.encode_photo(photo, quality) for quality in (1, 2, 3)]
    whole = files[-1].payload
    for coded in files:
        assert whole.startswith(coded.payload)
        for cut in (len(coded.payload), len(coded.payload) + 1):
            if coded is not files[-1]:
                assert np.array_equal(codec.preview_photo(whole[:cut], 3, 128, 192), coded.x_hat)
    assert np.array_equal(codec.preview_photo(whole, 3, 128, 192), files[-1].x_hat)
    assert np.array_equal(codec.preview_photo(whole, 1, 128, 192), files[0].x_hat)


def test_streams_are_as_long_as_their_code_lengths(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    payload = codec.encode_photo(photo, 3).payload
    indices = codec._indices(streams_of(payload, 3), 128, 192)
    bits = [0.0, 0.0, 0.0]
    for number, table in enumerate(walked(codec.prior, indices, (128, 192))):
        symbols = at_phase(indices[number // 4], number % 4).flatten(1)
        bits[number // 4] += float(code_lengths(table).gather(-1, symbols[..., None]).sum())
    for stream, level in zip(streams_of(payload, 3), bits, strict=True):
        # the coder's 32-bit state loses less than 2^-14 bits a symbol; the end is rounded up to whole bytes
        assert level / 8 - 1 < len(stream) < level / 8 + 2


def streams_of(payload: bytes, levels: int) -> list[bytes]:
    """Streams of the levels of an image of one tile."""
    streams, place = [], 0
    for _ in range(levels):
        length, place = read_leb128(payload, place)
        streams.append(payload[place : place + length])
        place += length
    assert place == len(payload)
    return streams


def test_large_images_are_tiles(codec: PhotoVQCodec, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "OVERLAP", 32)
    coded = codec.encode_photo(photo[:100], 2)
    assert np.array_equal(codec.decode_photo(coded.payload, 2, 100, 192), coded.x_hat)
    first = codec.encode_photo(photo[:100], 1)
    assert coded.payload.startswith(first.payload)
    assert np.array_equal(codec.preview_photo(coded.payload[:-1], 2, 100, 192), first.x_hat)


def test_cut_payloads_are_errors_and_show_what_is_whole(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    image = photo[:40, :50]
    payload, first = codec.encode_photo(image, 3).payload, codec.encode_photo(image, 1)
    for cut in range(len(payload)):
        with pytest.raises(Truncated):
            codec.decode_photo(payload[:cut], 3, 40, 50)
    for cut in range(len(first.payload)):
        with pytest.raises(Truncated, match="within the first level"):
            codec.preview_photo(payload[:cut], 3, 40, 50)
    assert np.array_equal(codec.preview_photo(payload[: len(first.payload)], 3, 40, 50), first.x_hat)


def test_altered_payloads_are_errors_or_images(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    payload = codec.encode_photo(photo[:40, :50], 3).payload
    generator = np.random.default_rng(0)
    for _ in range(40):
        altered = bytearray(payload)
        altered[generator.integers(len(payload))] ^= 1 << int(generator.integers(8))
        try:
            shown = codec.decode_photo(bytes(altered), 3, 40, 50)
        except BitstreamError:
            continue
        assert shown.shape == (40, 50, 3)


def test_impossible_requests_are_refused(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    payload = codec.encode_photo(photo[:8, :8], 3).payload
    with pytest.raises(Corrupt, match=rf"expected {len(payload)} bytes, found {len(payload) + 1}"):
        codec.decode_photo(payload + b"\0", 3, 8, 8)
    with pytest.raises(Corrupt, match="expected 1..3, found 4"):
        codec.decode_photo(payload, 4, 8, 8)
    with pytest.raises(Corrupt, match="expected 1..3, found 0"):
        codec.preview_photo(payload, 0, 8, 8)
    with pytest.raises(ValueError, match="found 8 x 0"):
        codec.decode_photo(payload, 3, 0, 8)
    with pytest.raises(ValueError, match="quality"):
        codec.encode_photo(photo[:8, :8], 4)
    with pytest.raises(Corrupt, match="more than 5 bytes"):
        codec.decode_photo(b"\xff" * 9, 1, 8, 8)


def test_stored_weights_give_the_same_files(codec: PhotoVQCodec, photo: NDArray[np.uint8]) -> None:
    torch.manual_seed(9)
    loaded = PhotoVQCodec(PhotoVQModel(SMALL))
    loaded.load_state_dict(codec.stored(), assign=True)
    again = PhotoVQCodec(PhotoVQModel(SMALL))
    again.load_state_dict(loaded.stored(), assign=True)
    coded = loaded.encode_photo(photo[:64, :64], 3)
    assert again.encode_photo(photo[:64, :64], 3).payload == coded.payload
    assert np.array_equal(again.decode_photo(coded.payload, 3, 64, 64), coded.x_hat)
    assert {tensor.dtype for name, tensor in codec.stored().items() if name.startswith("model.")} == {torch.float16}
    exact = {tensor.dtype for name, tensor in codec.stored().items() if name.startswith("prior.")}
    assert exact <= {torch.int16, torch.int32, torch.int64}


def test_weights_must_be_numbers(codec: PhotoVQCodec) -> None:
    codec.check()
    for name, value in (("codebooks", "nan"), ("parameters", "inf")):
        broken = copy.deepcopy(codec)
        held = broken.model.codebooks[1] if name == "codebooks" else list(broken.parameters())[-1].data
        held.view(-1)[0] = float(value)
        with pytest.raises(ValueError, match="finite"):
            broken.check()
