"""The exact VQ codec end to end: equal to the int64 oracle, and independent of how it is run."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vqcodec.codec.exact import oracle
from vqcodec.codec.vq.codec import _LENGTH_UNITS, FRAC_BITS, VQCodec, _length_table
from vqcodec.codec.vq.config import Level, VQConfig
from vqcodec.codec.vq.model import VQModel

# mkldnn.flags sets every flag again, and PyTorch then tells of one that is for other processors.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

CONFIG = VQConfig(
    width=16, latent_dim=8, prior_width=32, prior_embed=8, prior_head=16,
    levels=(Level(32, 2, (8, 64)), Level(20, 1, (16, 64))),
)  # fmt: skip
RD_WEIGHTS = (0.005, 0.01)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [256, 28, 28]: half smooth, half noise."""
    random = np.random.default_rng(3)
    noise = random.integers(0, 256, (128, 28, 28), np.uint8)
    return np.concatenate([np.repeat(np.repeat(noise[:, :7, :7], 4, 1), 4, 2), noise])


@pytest.fixture(scope="module")
def codec(images: np.ndarray) -> VQCodec:
    """Untrained, but every code is used: the scale of z is measured, the prior is random, pixels are in range."""
    torch.manual_seed(5)
    model = VQModel(CONFIG)
    *_, norm = model.encoder
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 1.0
    model.encoder.train()(torch.from_numpy(images[:, None]) / 256)
    for offset in model.prior.offsets:
        nn.init.normal_(offset.table)
    closing = model.decoder[-2]
    assert isinstance(closing, nn.Conv2d)
    nn.init.constant_(closing.bias, 0.5)
    return VQCodec(model, RD_WEIGHTS).eval()


@pytest.fixture(scope="module")
def reference(codec: VQCodec, images: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Payloads and pixels in one batch, one thread, oneDNN off: float64."""
    with torch.backends.mkldnn.flags(enabled=False):
        payloads, indices = codec.encode(images, 2)
        return payloads, codec.reconstruct(indices, 2)


@pytest.fixture
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VQCODEC_THREADS", "host")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("batch", [1, 7, 256])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("onednn", [True, False])
def test_payloads_and_pixels_do_not_depend_on_the_setting(
    batch: int,
    threads: int,
    onednn: bool,
    codec: VQCodec,
    images: np.ndarray,
    reference: tuple[list[bytes], np.ndarray],
) -> None:
    torch.set_num_threads(threads)
    payloads, pixels = reference
    count = {1: 2, 7: 14, 256: 256}[batch]
    with torch.backends.mkldnn.flags(enabled=onednn):
        for start in range(128 - count // 2, 128 + count - count // 2, batch):  # around the middle: some of each half
            part = slice(start, start + batch)
            assert codec.encode(images[part], 2)[0] == payloads[part]
            assert np.array_equal(codec.decode(payloads[part], 2), pixels[part])


def test_the_subject_is_not_trivial(
    reference: tuple[list[bytes], np.ndarray], codec: VQCodec, images: np.ndarray
) -> None:
    payloads, pixels = reference
    assert len(set(payloads)) > 200
    assert len(np.unique(pixels)) > 100
    assert [len(index.unique()) > 8 for index in codec.encode(images, 2)[1]] == [True, True]


def test_networks_equal_the_oracle(codec: VQCodec, images: np.ndarray) -> None:
    x = images[::32, None].astype(np.int64) * 2 ** (FRAC_BITS - 8)
    with torch.inference_mode():
        z = codec.encoder(torch.from_numpy(x).double())
    np.testing.assert_array_equal(z.numpy(), oracle.run(codec.encoder, x))
    _, indices = codec.encode(images[::32], 2)
    z_q = sum(oracle.embed(codec.quantiser, level, index.numpy()) for level, index in enumerate(indices))
    step = 2 ** (FRAC_BITS - 8)
    pixels = ((oracle.run(codec.decoder, z_q)[:, 0] + step // 2) // step).clip(0, 255)
    np.testing.assert_array_equal(codec.reconstruct(indices, 2), pixels)


def test_prior_equals_the_oracle_at_every_step(codec: VQCodec) -> None:
    generator = torch.Generator().manual_seed(0)
    indices = [
        torch.randint(0, spec.codes, (6, CONFIG.level_grid(level) ** 2), generator=generator)
        for level, spec in enumerate(CONFIG.levels)
    ]
    for step in codec.prior.steps:
        with torch.inference_mode():
            ours = codec.prior(step, indices).numpy()
        np.testing.assert_array_equal(ours, oracle.prior_frequencies(codec.prior, step, indices))


def test_embedding_on_a_coarse_grid_equals_the_oracle(codec: VQCodec) -> None:
    index = torch.arange(32).view(2, 16)
    np.testing.assert_array_equal(
        codec.quantiser.embed(0, index).numpy(), oracle.embed(codec.quantiser, 0, index.numpy())
    )


def test_a_skeleton_with_the_stored_integers_is_the_codec(
    codec: VQCodec, images: np.ndarray, reference: tuple[list[bytes], np.ndarray]
) -> None:
    torch.manual_seed(99)
    skeleton = VQCodec(VQModel(CONFIG))
    skeleton.load_state_dict({name: tensor.clone() for name, tensor in codec.state_dict().items()}, assign=True)
    assert skeleton.encode(images[:9], 2)[0] == reference[0][:9]
    assert np.array_equal(skeleton.decode(reference[0][:9], 2), reference[1][:9])


def exact_costs(codec: VQCodec, level: int, vectors: Tensor, freq: Tensor) -> list[list[tuple[int, int]]]:
    """(Squared distance - |v|^2 + weight * length, index) of every code for every vector, in Python integers."""
    book = codec.quantiser.codebooks[level].table.tolist()
    weight = int(codec.quantiser.rd_weights[level])
    lengths = _length_table().long().tolist()
    return [
        [
            (sum(c * c - 2 * c * v for c, v in zip(code, vector, strict=True)) + weight * lengths[f], index)
            for index, (code, f) in enumerate(zip(book, row, strict=True))
        ]
        for vector, row in zip(vectors.long().tolist(), freq.tolist(), strict=True)
    ]


@pytest.mark.parametrize("limit", [0, 3000, 2**17])
def test_costs_order_the_codes_by_exact_cost_then_index(limit: int, codec: VQCodec) -> None:
    generator = torch.Generator().manual_seed(limit)
    vectors = torch.randint(-limit, limit + 1, (1, 40, 8), generator=generator).double()
    freq = torch.randint(1, 65537, (1, 40, 20), generator=generator, dtype=torch.int32)
    cost = codec.quantiser.cost(1, vectors, freq, float(codec.quantiser.rd_weights[1]))
    assert cost.abs().max() < 2**53
    for keys, exact in zip(cost[0].tolist(), exact_costs(codec, 1, vectors[0], freq[0]), strict=True):
        assert len(set(keys)) == len(keys)
        assert sorted(range(20), key=keys.__getitem__) == sorted(range(20), key=exact.__getitem__)


def test_equal_codes_are_ordered_by_index(codec: VQCodec) -> None:
    vectors, freq = torch.zeros(1, 1, 8, dtype=torch.float64), torch.ones(1, 1, 20, dtype=torch.int32)
    book = codec.quantiser.codebooks[1].table
    before = book.clone()
    book.zero_()
    cost = codec.quantiser.cost(1, vectors, freq, 1.0)
    book.copy_(before)
    assert cost.flatten().diff().tolist() == [1.0] * 19


def test_length_table_is_the_length_rounded_up_to_a_sixteenth_of_a_bit() -> None:
    """L = ceil(16 (16 - log2 f)) means 2**(256 - L) <= f**16 < 2**(257 - L)."""
    lengths = _length_table().long().tolist()
    assert len(lengths) == 65537
    assert (lengths[1], lengths[32768], lengths[65536]) == (16 * _LENGTH_UNITS, _LENGTH_UNITS, 0)
    for f in (*range(1, 300), *range(300, 65537, 97), 65535):
        assert 2 ** (256 - lengths[f]) <= f**16 < 2 ** (257 - lengths[f])
