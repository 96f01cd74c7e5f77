"""Integer CDF tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import (
    MAX_ALPHABET,
    TOTAL,
    cdf_from_frequencies,
    check_cdf,
    code_length_bits,
    quantise_weights,
    widen,
)

laws = settings(deadline=None, derandomize=True, max_examples=100)
weight_rows = st.lists(st.integers(0, (1 << 47) // 300), min_size=1, max_size=300).filter(any)


def quantised_by_python(weights: list[int]) -> list[int]:
    """The definition in FORMAT.md with unbounded integers."""
    k, total = len(weights), sum(weights)
    freq = [1 + w * (65536 - k) // total for w in weights]
    freq[weights.index(max(weights))] += 65536 - sum(freq)
    return freq


@laws
@given(weight_rows)
def test_quantised_weights_follow_the_definition(weights: list[int]) -> None:
    freq = quantise_weights(weights)
    assert freq.dtype == np.int64
    assert freq.tolist() == quantised_by_python(weights)
    assert freq.min() >= 1
    assert freq.sum() == TOTAL


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([5], [65536]),
        ([1, 1], [32768, 32768]),
        ([0, 0, 7], [1, 1, 65534]),
        ([1, 1, 1], [21846, 21845, 21845]),  # one left over, to the lowest index
        ([1, 2, 5], [8192, 16384, 40960]),  # one left over, to the largest weight
        ([0, (1 << 47) - 1], [1, 65535]),
    ],
)
def test_quantised_weights_of_known_rows(weights: list[int], expected: list[int]) -> None:
    assert quantise_weights(weights).tolist() == expected


def test_quantised_weights_work_row_by_row_on_any_shape() -> None:
    weights = np.random.default_rng(0).integers(0, 1000, (4, 3, 17))
    expected = [[quantised_by_python(row.tolist()) for row in plane] for plane in weights]
    assert quantise_weights(weights).tolist() == expected
    assert quantise_weights(np.zeros((0, 5), np.int64)).shape == (0, 5)


def test_the_largest_alphabet_can_be_quantised() -> None:
    assert quantise_weights(np.ones(MAX_ALPHABET, np.int64)).tolist() == [2] * MAX_ALPHABET


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (3, "shape"),
        (np.zeros((2, 0), np.int64), "shape"),
        (np.ones(MAX_ALPHABET + 1, np.int64), "shape"),
        ([1, -1], "values"),
        ([1 << 47, 0], "values"),
        ([0, 0], "row sums"),
        ([1 << 46, 1 << 46], "row sums"),
        ([0.5, 0.5], "integers"),
    ],
)
def test_wrong_weights_are_refused(weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantise_weights(weights)


def test_cdf_from_frequencies_is_the_running_sum() -> None:
    cdf = cdf_from_frequencies(np.array([[1, 65535], [32768, 32768]], np.int32))
    assert cdf.dtype == np.int64
    assert cdf.tolist() == [[0, 1, 65536], [0, 32768, 65536]]


@pytest.mark.parametrize(
    ("cdf", "message"),
    [
        (5, "shape"),
        ([0], "shape"),
        (np.arange(MAX_ALPHABET + 2), "shape"),
        ([1, 65536], "first"),
        ([[0, 65536], [0, 65535]], "last"),
        ([0, 7, 7, 65536], "increasing"),
        ([0, 9, 7, 65536], "increasing"),
        ([0.0, 65536.0], "integers"),
    ],
)
def test_wrong_tables_are_refused(cdf: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cdf(cdf)


def test_frequencies_that_make_no_table_are_refused() -> None:
    with pytest.raises(ValueError, match="last"):
        cdf_from_frequencies([1, 2])


def test_unsigned_tables_are_compared_without_wrapping() -> None:
    with pytest.raises(ValueError, match="increasing"):
        check_cdf(np.array([0, 9, 7, 65536], np.uint32))


@pytest.mark.parametrize(
    ("alphabet", "expected"),
    [
        (2, [0, 49152, 65536]),
        (3, [0, 49151, 65535, 65536]),
        (5, [0, 49151, 65535, 65535, 65535, 65536]),
    ],
)
def test_widening_takes_one_count_from_the_likeliest(alphabet: int, expected: list[int]) -> None:
    assert widen([0, 49152, 65536], alphabet).tolist() == expected


def test_widening_takes_it_from_the_lowest_index_on_ties() -> None:
    assert widen([[0, 32768, 65536], [0, 1, 65536]], 3).tolist() == [[0, 32767, 65535, 65536], [0, 1, 65535, 65536]]


@pytest.mark.parametrize("alphabet", [1, MAX_ALPHABET + 1])
def test_widening_to_an_impossible_alphabet_is_refused(alphabet: int) -> None:
    with pytest.raises(ValueError, match="alphabet"):
        widen([0, 3, 65536], alphabet)


def test_code_length_of_powers_of_two_is_exact() -> None:
    cdf = [[0, 65536, 65536], [0, 32768, 65536], [0, 1, 65536]]
    assert code_length_bits([0, 1, 0], cdf).tolist() == [0.0, 1.0, 16.0]


@pytest.mark.parametrize(
    ("symbols", "message"), [([0, 0], "shape"), ([2], "0..1"), ([-1], "0..1"), ([0.0], "integers")]
)
def test_code_length_of_impossible_symbols_is_refused(symbols: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        code_length_bits(symbols, [[0, 1, 65536]])
