"""Exact layers equal the int64 oracle integer for integer, whatever computes their sums."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vqcodec.codec.exact import ExactConv2d, ExactEmbedding, ExactLinear, ExactOffset, Residual, oracle
from vqcodec.codec.exact.backend import int8_usable, selected
from vqcodec.codec.exact.export import to_exact
from vqcodec.codec.exact.layers import INPUT_BOUND, ExactLeaky, Leaky
from vqcodec.codec.exact.requantise import ACTIVATION_LIMIT

# mkldnn.flags sets every flag again, and PyTorch then tells of one that is for other processors.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

needs_int8 = pytest.mark.skipif(not int8_usable(), reason="this processor has no exact int8 products")
LIMITS = (0, 1, 127, 128, 32639, 32640, 32767, 32896, 32897, INPUT_BOUND)  # where one more digit is needed, and around


@pytest.fixture(autouse=True)
def _restore_back_end() -> Iterator[None]:
    before = os.environ.get("VQCODEC_EXACT")
    yield
    os.environ.pop("VQCODEC_EXACT", None)
    if before is not None:
        os.environ["VQCODEC_EXACT"] = before


def integers(shape: tuple[int, ...], limit: int, seed: int, *, extreme: bool = False) -> Tensor:
    """int64 in -limit..limit, or only these two values."""
    generator = torch.Generator().manual_seed(seed)
    if extreme:
        return torch.randint(0, 2, shape, generator=generator) * 2 * limit - limit
    return torch.randint(-limit, limit + 1, shape, generator=generator)


def weighted(
    shape: tuple[int, ...], seed: int, shift: int, *, limit: int = 32767, extreme: bool = False, bias: int = 2**40
) -> list[Tensor]:
    weight = integers(shape, limit, seed, extreme=extreme).to(torch.int16)
    return [weight, integers(shape[:1], bias, seed + 1, extreme=extreme), torch.tensor(shift)]


def check(module: nn.Module, x: Tensor) -> None:
    """Every back end gives the oracle's integers, in any memory format, and leaves its input alone."""
    expected = oracle.run(module, x.numpy())
    inputs = [x.double()]
    if x.ndim == 4:
        inputs.append(x.double().to(memory_format=torch.channels_last))
    int8 = int8_usable() and torch.backends.mkldnn.enabled
    for exact in ("float64", "auto", "int8") if int8 else ("float64", "auto"):
        os.environ["VQCODEC_EXACT"] = exact
        for given_x in inputs:
            y = module(given_x)
            assert y.dtype == torch.float64
            assert torch.equal(given_x, x.double())
            np.testing.assert_array_equal(y.numpy(), expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), fan_in=st.integers(1, 200), width=st.integers(1, 40), rows=st.integers(0, 9),
    limit=st.sampled_from(LIMITS), shift=st.integers(1, 24), extreme=st.booleans(),
)  # fmt: skip
def test_linear(seed: int, fan_in: int, width: int, rows: int, limit: int, shift: int, extreme: bool) -> None:
    layer = ExactLinear(*weighted((width, fan_in), seed, shift, extreme=extreme))
    check(layer, integers((rows, fan_in), limit, seed + 2, extreme=extreme))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), channels=st.integers(1, 20), width=st.integers(1, 12), batch=st.integers(0, 5),
    height=st.integers(4, 9), side=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 3),
    limit=st.sampled_from(LIMITS), shift=st.integers(1, 24), extreme=st.booleans(),
)  # fmt: skip
def test_conv2d(
    seed: int, channels: int, width: int, batch: int, height: int, side: int, stride: int, padding: int,
    limit: int, shift: int, extreme: bool,
) -> None:  # fmt: skip
    operands = weighted((width, channels, side, side), seed, shift, extreme=extreme)
    layer = ExactConv2d(*operands, stride, padding)
    check(layer, integers((batch, channels, height, 7), limit, seed + 2, extreme=extreme))


@needs_int8
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), fan_in=st.integers(32, 200), limit=st.sampled_from(LIMITS[1:]),
    weight=st.sampled_from((100, 127, 128, 32767)), shift=st.integers(1, 33), extreme=st.booleans(),
    bias=st.sampled_from((0, 2**14, 2**29 - 1, 2**29, 2**40)),
)  # fmt: skip
def test_digits_are_joined_in_whichever_integers_hold_them(
    seed: int, fan_in: int, limit: int, weight: int, shift: int, extreme: bool, bias: int
) -> None:
    """One to three digits of x, one or two of the weight, and shifts that end within any of them."""
    layer = ExactLinear(*weighted((9, fan_in), seed, shift, limit=weight, extreme=extreme, bias=bias))
    check(layer, integers((8, fan_in), limit, seed + 2, extreme=extreme))


@needs_int8
@pytest.mark.parametrize("shift", [13, 14, 15, 16, 21, 22, 23, 30])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("x", [-INPUT_BOUND, -32768, 32639, INPUT_BOUND])
def test_the_largest_sums_of_digits(x: int, sign: int, shift: int) -> None:
    """Of the most digits and the largest biases that are joined in int32."""
    weight = torch.full((1, 2**14), sign * 32639, dtype=torch.int16)
    layer = ExactLinear(weight, torch.tensor([sign * (2**29 - 1)]), torch.tensor(shift))
    check(layer, torch.full((2, 2**14), x))


@pytest.mark.parametrize("weight", [-32767, 32767])
@pytest.mark.parametrize("x", [-INPUT_BOUND, INPUT_BOUND])
def test_the_largest_sums(weight: int, x: int) -> None:
    fan_in = 2**14 + 64  # one more than int8 takes, and just as many
    for columns in (fan_in, 2**14):
        layer = ExactLinear(torch.full((1, columns), weight, dtype=torch.int16), torch.tensor([0]), torch.tensor(33))
        check(layer, torch.full((2, columns), x))


def test_results_are_clamped_after_rounding_down() -> None:
    layer = ExactLinear(torch.ones(1, 1, dtype=torch.int16), torch.zeros(1, dtype=torch.int64), torch.tensor(1))
    y = layer(torch.tensor([[-3.0], [-1.0], [1.0], [2.0**17], [-(2.0**17)]], dtype=torch.float64))
    assert y.flatten().tolist() == [-2, -1, 0, ACTIVATION_LIMIT, -ACTIVATION_LIMIT]


def test_uneven_kernel() -> None:
    check(ExactConv2d(*weighted((3, 20, 1, 3), 0, 12), 1, 0), integers((2, 20, 5, 6), 32767, 1))


@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"), [(0, 3, 2, 2), (1, 40, 1, 1), (5, 40, 1, 1), (3, 3, 5, 6)]
)
def test_convolutions_of_one_position_are_products(batch: int, channels: int, height: int, width: int) -> None:
    for stride, padding in ((1, 0), (2, 0), (1, 1)):
        layer = ExactConv2d(*weighted((7, channels, 1, 1), 0, 14), stride, padding)
        check(layer, integers((batch, channels, height, width), 32767, 1))


def test_more_images_than_fit_one_chunk() -> None:
    check(ExactConv2d(*weighted((16, 16, 3, 3), 0, 14), 1, 1), integers((70, 16, 14, 14), 5000, 1))


def test_look_ups_and_moves() -> None:
    table = integers((6, 5), 32767, 0).to(torch.int16)
    index = torch.tensor([[0, 5, 3], [3, 3, 1]])
    assert np.array_equal(ExactEmbedding(table)(index).numpy(), oracle.run(ExactEmbedding(table), index.numpy()))
    check(ExactOffset(integers((4, 5), 2**17, 1).to(torch.int32)), integers((3, 4, 5), 32767, 2))
    x = integers((2, 8, 4, 6), 32767, 3)
    body = nn.Sequential(nn.ReLU(), ExactConv2d(*weighted((8, 8, 3, 3), 4, 14), 1, 1))
    for module in (nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.Identity(), nn.ReLU(), Residual(body)):
        check(module, x)


def test_the_oracle_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="does not know Tanh"):
        oracle.run(nn.Sequential(nn.Tanh()), np.zeros(1, np.int64))


def test_loading_replaces_what_was_derived_from_the_old_integers() -> None:
    first, second = (ExactConv2d(*weighted((4, 8, 3, 3), seed, shift), 1, 1) for seed, shift in ((0, 12), (7, 14)))
    x = integers((2, 8, 5, 5), 32767, 1).double()
    for assign in (False, True):
        layer = ExactConv2d(*(tensor.clone() for tensor in first.state_dict().values()), 1, 1)
        assert torch.equal(layer(x), first(x))
        layer.load_state_dict(second.state_dict(), assign=assign)
        assert torch.equal(layer(x), second(x))
        assert not torch.equal(layer(x), first(x))


def test_a_replaced_buffer_is_used() -> None:
    x = integers((5, 40), 32767, 1).double()
    layer, other = (ExactLinear(*weighted((3, 40), seed, shift)) for seed, shift in ((0, 28), (9, 26)))
    layer(x)
    for name in ("weight", "bias", "shift"):
        before = layer(x)
        setattr(layer, name, getattr(other, name))
        assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("onednn", [True, False])
def test_threads_and_onednn_do_not_matter(threads: int, onednn: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=onednn):
            check(ExactConv2d(*weighted((24, 16, 3, 3), 0, 14), 1, 1), integers((33, 16, 7, 7), 32767, 1))
            check(ExactLinear(*weighted((48, 300), 2, 14)), integers((300, 300), 32767, 3))
    finally:
        torch.set_num_threads(before)


def test_the_environment_selects_the_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_EXACT", "float64")
    assert selected() == "float64"
    monkeypatch.setenv("VQCODEC_EXACT", "auto")
    assert selected() == ("int8" if int8_usable() else "float64")
    with torch.backends.mkldnn.flags(enabled=False):
        assert selected() == "float64"
        monkeypatch.setenv("VQCODEC_EXACT", "int8")
        with pytest.raises(RuntimeError, match="VQCODEC_EXACT=int8"):
            selected()
    monkeypatch.setenv("VQCODEC_EXACT", "fast")
    with pytest.raises(ValueError, match="found 'fast'"):
        selected()


@needs_int8
def test_int8_can_be_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_EXACT", "int8")
    assert selected() == "int8"


_EXTREME = """
import torch
from vqcodec.codec.exact import ExactLinear, backend, oracle
layer = ExactLinear(torch.full((8, 512), 32639, dtype=torch.int16), torch.zeros(8, dtype=torch.int64), torch.tensor(20))
x = torch.full((200, 512), 32639)
x[::2] = -32767
assert (layer(x.double()).numpy() == oracle.run(layer, x.numpy())).all()
print(backend.selected(), end="")
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="for x86 processors")
def test_a_processor_whose_int8_products_saturate_gets_float64() -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "VQCODEC_EXACT": "auto"}
    run = subprocess.run(
        [sys.executable, "-c", _EXTREME], env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.stdout, run.returncode) == ("float64", 0), run.stderr


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_leaky_rectifiers_round_down(shift: int) -> None:
    exact = to_exact(Leaky(shift), 9)
    assert isinstance(exact, ExactLeaky)
    x = torch.cat([torch.arange(-70, 71), torch.tensor([-INPUT_BOUND, -ACTIVATION_LIMIT, INPUT_BOUND])])
    expected = [max(value, value // 2**shift) for value in x.tolist()]
    assert exact(x.double()).tolist() == expected
    assert oracle.run(exact, x.numpy()).tolist() == expected
    assert Leaky(shift)(x.double()).tolist() == [max(value, value / 2**shift) for value in x.tolist()]
