"""Integer softmax: the oracle's frequencies for any logits, and how many bits they may cost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqcodec.bitstream.cdf import TOTAL, check_cdf
from vqcodec.codec.exact import exp_table, frequencies, oracle
from vqcodec.codec.exact.softmax import cdf_from_frequencies

BITS = 10
TABLE = exp_table(BITS)


def check(logits: Tensor) -> Tensor:
    """The frequencies of int64 logits [..., K], found equal to the oracle's and valid."""
    freq = frequencies(logits.double(), TABLE.double())
    np.testing.assert_array_equal(freq.numpy(), oracle.softmax_frequencies(logits.numpy(), TABLE))
    assert (freq >= 1).all()
    assert (freq.sum(-1) == TOTAL).all()
    return freq


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), codes=st.integers(1, 300), rows=st.integers(0, 5),
    spread=st.sampled_from([0, 1, 2, 50, 3000, 2**14, 2**17, 2**29]), middle=st.integers(-(2**29), 2**29),
)  # fmt: skip
def test_frequencies_are_the_oracles(seed: int, codes: int, rows: int, spread: int, middle: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    check(middle + torch.randint(-spread, spread + 1, (rows, 2, codes), generator=generator))


def test_the_left_over_goes_to_the_lowest_index_of_the_largest() -> None:
    assert check(torch.zeros(1, 3, dtype=torch.int64)).tolist() == [[21846, 21845, 21845]]
    assert check(torch.tensor([[-(2**29), 5, 5, 4 - 2**20]])).tolist() == [[1, 32767, 32767, 1]]
    assert check(torch.tensor([[7], [-(2**29)]])).tolist() == [[65536], [65536]]


def test_the_largest_alphabet() -> None:
    logits = torch.zeros(3, 32768, dtype=torch.int64)
    logits[1] = torch.randint(-8000, 8000, (32768,), generator=torch.Generator().manual_seed(0))
    logits[2, 12345] = 2**20
    freq = check(logits)
    assert (freq[0] == 2).all()
    assert freq[2, 12345] == TOTAL - 32767


def test_more_rows_than_fit_one_chunk() -> None:
    check(torch.randint(-8000, 8000, (5, 300, 256), generator=torch.Generator().manual_seed(1)))


def test_frequencies_of_an_expanded_tensor() -> None:
    logits = torch.randint(-8000, 8000, (1, 4, 16), generator=torch.Generator().manual_seed(2)).expand(3, -1, -1)
    check(logits)


def test_cdf_runs_from_0_to_65536() -> None:
    freq = check(torch.randint(-8000, 8000, (3, 4, 16), generator=torch.Generator().manual_seed(3)))
    cdf = cdf_from_frequencies(freq)
    assert cdf.dtype == torch.int32
    check_cdf(cdf.numpy())
    assert torch.equal(cdf.diff(dim=-1), freq)


@pytest.mark.parametrize("bits", [1, 8, 10])
def test_exp_table_starts_at_one_falls_and_ends_in_zero(bits: int) -> None:
    table = exp_table(bits)
    assert table.dtype == torch.int32
    assert len(table) == 16 * 2**bits + 1
    assert (int(table[0]), int(table[-1])) == (2**24, 0)
    assert (table.diff() < 0)[: 8 * 2**bits].all()  # the largest logit alone has the largest weight
    assert (table.diff() <= 0).all()
    assert all(abs(int(v) - 2**24 * math.exp(-d / 2**bits)) <= 0.5 + 1e-6 for d, v in enumerate(table[:-1].tolist()))


@pytest.mark.parametrize("codes", [2, 16, 256, 4096])
@pytest.mark.parametrize("spread_nats", [0.5, 3.0, 12.0])
def test_no_symbol_costs_much_more_than_in_float(codes: int, spread_nats: float) -> None:
    """f > w (T - K) / S with w >= 2**24 e**-d - 1/2 and S <= 2**24 sum e**-d + K / 2, where the sum is at least 1; so

    bits - float bits <= log2(T / (T - K)) + log2(1 + K / 2**25) - log2(1 - e**d / 2**25), d nats below the largest.
    Symbols 16 nats below and more have frequency >= 1: never above 16 bits."""
    generator = torch.Generator().manual_seed(codes)
    logits = (torch.randn(50, codes, generator=generator) * spread_nats * 2**BITS).round().long()
    bits = 16 - check(logits).double().log2()
    float_bits = torch.log_softmax(logits.double() / 2**BITS, -1) * (-1 / math.log(2))
    distance = (logits.amax(-1, keepdim=True) - logits).double() / 2**BITS
    near = distance < 16
    rounding = math.log2(1 + codes / 2**25) - torch.log2(1 - distance[near].exp() / 2**25)
    bound = math.log2(TOTAL / (TOTAL - codes)) + rounding + 1e-9  # float64 error of the comparison itself
    assert (bits[near] - float_bits[near] <= bound).all()
    assert bits.max() <= 16
