"""The law of the coder: popping returns what was pushed, with the same bytes from torchac and from plain Python."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import (
    MAX_ALPHABET,
    TOTAL,
    BatchDecoder,
    BatchEncoder,
    BitstreamError,
    Corrupt,
    StreamDecoder,
    StreamEncoder,
    Truncated,
    cdf_from_frequencies,
    code_length_bits,
    coder,
    decode,
    encode,
    quantise_weights,
    widen,
)

CODERS = ("torchac", "python")
Level = tuple[np.ndarray, np.ndarray]
laws = settings(deadline=None, derandomize=True, max_examples=60)


def tables(rng: np.random.Generator, shape: tuple[int, ...], k: int, kind: str) -> np.ndarray:
    """Tables of K symbols: flat, uneven, or all but K - 1 counts on one symbol."""
    if kind == "flat":
        weights = np.ones((*shape, k), np.int64)
    elif kind == "uneven":
        weights = 1 + rng.integers(0, 1000, (*shape, k)) ** 3
    else:
        weights = (np.arange(k) == rng.integers(0, k, (*shape, 1))).astype(np.int64)
    return cdf_from_frequencies(quantise_weights(weights))


@st.composite
def levels(draw: st.DrawFn) -> list[Level]:
    """Levels (symbols [n], cdf [n, K + 1]) with K of its own each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = []
    for _ in range(draw(st.integers(1, 4))):
        n, k = draw(st.integers(0, 25)), draw(st.one_of(st.integers(1, 4), st.integers(5, 300)))
        kind, lowest = draw(st.sampled_from(["flat", "uneven", "peaked"])), draw(st.sampled_from([0, k - 1]))
        result.append((rng.integers(lowest, k, n), tables(rng, (n,), k, kind)))
    return result


@contextmanager
def using(name: str, segment: int = coder.SEGMENT) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQCODEC_CODER", name)
        patch.setattr(coder, "SEGMENT", segment)
        yield


def alphabet_of(data: list[Level]) -> int:
    return max(cdf.shape[1] - 1 for _, cdf in data)


def count_of(data: list[Level]) -> int:
    return sum(len(symbols) for symbols, _ in data)


def push_all(data: list[Level], alphabet: int) -> bytes:
    encoder = StreamEncoder(alphabet)
    for symbols, cdf in data:
        encoder.push(symbols, cdf)
    return encoder.finish()


def pops_to(stream: bytes, data: list[Level], alphabet: int) -> bool:
    decoder = StreamDecoder(stream, alphabet, count_of(data))
    try:
        return all([np.array_equal(decoder.pop(cdf), symbols) for symbols, cdf in data])
    except Corrupt:
        return False


def check_coder(data: list[Level], alphabet: int, segment: int = coder.SEGMENT) -> bytes:
    """Both coders write the same bytes, and each reads them back, staged."""
    streams = []
    for name in CODERS:
        with using(name, segment):
            streams.append(push_all(data, alphabet))
    for name in CODERS:
        with using(name, segment):
            assert pops_to(streams[0], data, alphabet)
    assert streams[0] == streams[1]
    return streams[0]


def ideal_bits(data: list[Level], alphabet: int) -> float:
    """Code length of the tables as they are coded: with one count less where they are widened."""
    return sum(
        code_length_bits(symbols, widen(cdf, min(cdf.shape[1], alphabet))[:, : cdf.shape[1]]).sum()
        for symbols, cdf in data
    )


@laws
@given(levels())
def test_popping_returns_what_was_pushed_in_the_ideal_size(data: list[Level]) -> None:
    stream = check_coder(data, alphabet_of(data))
    # Rounding an interval of at least 2^14 down by less than one costs below 2^-13 bits for each symbol and the ending;
    # an interval of 2^-8k contains a string of k bytes.
    bits = ideal_bits(data, alphabet_of(data)) + (count_of(data) + 1) * 2**-13
    assert len(stream) <= math.ceil(bits / 8)


@laws
@given(levels(), st.integers(0, 50))
def test_any_wider_alphabet_pops_to_the_same_symbols(data: list[Level], more: int) -> None:
    check_coder(data, alphabet_of(data) + more)


@laws
@given(levels(), st.integers(1, 9))
def test_streams_of_many_segments_pop_to_the_same_symbols(data: list[Level], segment: int) -> None:
    check_coder(data, alphabet_of(data), segment)


@laws
@given(levels())
def test_no_shorter_stream_would_do(data: list[Level]) -> None:
    """Of the shorter strings only the two neighbours can lie in the final interval, and zeros are implied."""
    alphabet = alphabet_of(data)
    stream = push_all(data, alphabet)
    assert not stream.endswith(b"\0")
    assert pops_to(stream + b"\0\0", data, alphabet)
    if stream:
        below = int.from_bytes(stream[:-1], "big")
        for value in {below, min(below + 1, 256 ** (len(stream) - 1) - 1)}:
            assert not pops_to(value.to_bytes(len(stream) - 1, "big"), data, alphabet)


@laws
@given(levels(), st.integers(1, 60))
def test_staged_and_whole_streams_are_equal(data: list[Level], cut: int) -> None:
    symbols, cdf = data[0]
    halves = [(symbols[:cut], cdf[:cut]), (symbols[cut:], cdf[cut:])]
    assert push_all(halves, cdf.shape[1] - 1) == encode(symbols, cdf)
    assert np.array_equal(decode(encode(symbols, cdf), cdf), symbols)


@pytest.mark.parametrize("name", CODERS)
def test_a_batch_is_its_streams_one_by_one(name: str) -> None:
    rng = np.random.default_rng(1)
    data = []
    for k, n in [(9, 4), (3, 5), (1, 2)]:
        data.append((rng.integers(0, k, (6, n)), tables(rng, (6, n), k, "uneven")))
    with using(name, 4):
        encoder = BatchEncoder(9)
        for symbols, cdf in data:
            encoder.push(symbols, cdf)
        streams = encoder.finish()
        assert streams == [push_all([(symbols[b], cdf[b]) for symbols, cdf in data], 9) for b in range(6)]
        decoder = BatchDecoder(streams, 9, 11)
        for symbols, cdf in data:
            assert np.array_equal(decoder.pop(cdf), symbols)


@pytest.mark.parametrize("name", CODERS)
def test_no_symbols_make_no_bytes(name: str) -> None:
    empty = np.zeros((0, 4), np.int64)
    with using(name):
        assert encode([], empty) == b""
        assert decode(b"", empty).tolist() == []
        assert StreamEncoder(5).finish() == b""
        assert BatchEncoder(5).finish() == []


def test_certain_symbols_make_no_bytes() -> None:
    cdf = np.broadcast_to([0, TOTAL], (1000, 2))
    assert check_coder([(np.zeros(1000, int), cdf)], 1) == b""


@pytest.mark.parametrize("symbol", [0, 1, MAX_ALPHABET - 2, MAX_ALPHABET - 1])
def test_the_largest_alphabet_is_coded(symbol: int) -> None:
    cdf = np.broadcast_to(np.arange(MAX_ALPHABET + 1) * 2, (3, MAX_ALPHABET + 1))
    stream = check_coder([(np.full(3, symbol), cdf)], MAX_ALPHABET)
    assert len(stream) <= 6


def test_intervals_of_one_count_at_both_ends_are_coded() -> None:
    cdf = np.broadcast_to([0, 1, TOTAL - 1, TOTAL], (200, 4))
    for pattern in ([0], [2], [0, 2], [1, 0, 1, 2]):
        check_coder([(np.resize(pattern, 200), cdf)], 3)


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize(("k", "alphabet"), [(4, 4), (4, 5), (4, 6), (1, 3), (4, 40)])
def test_every_count_finds_its_symbol(name: str, k: int, alphabet: int) -> None:
    """Sweeps the inverse of a table: a stream of two bytes is the count of its first symbol, most significant first."""
    cdf = {1: [0, TOTAL], 4: [0, 1, 30000, TOTAL - 1, TOTAL]}[k]
    counts = np.arange(TOTAL - (alphabet > k))
    with using(name):
        decoder = BatchDecoder([int(c).to_bytes(2, "big") for c in counts], alphabet, 1)
        symbols = decoder.pop(np.broadcast_to(cdf, (len(counts), 1, k + 1)))[:, 0]
        assert np.array_equal(symbols, np.searchsorted(widen(cdf, alphabet)[: k + 1], counts, side="right") - 1)


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("alphabet", [5, 6, 40, 300])
def test_the_count_of_no_symbol_is_corrupt(name: str, alphabet: int) -> None:
    with using(name), pytest.raises(Corrupt, match="below 4"):
        StreamDecoder(b"\xff\xff\xff", alphabet, 9).pop(np.broadcast_to([0, 1, 2, 3, TOTAL], (9, 5)))


@pytest.mark.parametrize("name", CODERS)
def test_random_bytes_give_symbols_or_a_bitstream_error(name: str) -> None:
    rng = np.random.default_rng(3)
    cdfs = [tables(rng, (7,), k, kind) for k, kind in [(5, "uneven"), (9, "peaked"), (2, "flat"), (1, "flat")]]
    outcomes = set()
    with using(name, 10):
        for length in list(range(12)) * 20:
            try:
                decoder = StreamDecoder(rng.bytes(length), 9, 28)
                symbols = [decoder.pop(cdf) for cdf in cdfs]
                assert all(s.max() < cdf.shape[1] - 1 for s, cdf in zip(symbols, cdfs, strict=True))
                outcomes.add("symbols")
            except BitstreamError as error:
                outcomes.add(type(error).__name__)
    assert outcomes >= {"Truncated"}


def test_segments_cut_short_are_truncated() -> None:
    rng = np.random.default_rng(4)
    cdf = tables(rng, (10,), 7, "uneven")
    with using("python", 4):
        stream = encode(rng.integers(0, 7, 10), cdf)
        first = int.from_bytes(stream[:4], "little")
        second = int.from_bytes(stream[4 + first : 8 + first], "little")
        for cut in range(8 + first + second):
            with pytest.raises(Truncated, match="segment"):
                decode(stream[:cut], cdf)
        assert len(decode(stream[: 8 + first + second], cdf)) == 10


def test_segments_shrink_for_wide_tables() -> None:
    assert coder.segment_symbols(256) == 1 << 18
    # torchac computes offsets as int: a whole segment of tables stays below 2^31 values.
    assert all(coder.segment_symbols(a) * (a + 1) < 1 << 31 for a in (1, 1022, 1023, 1024, MAX_ALPHABET))


TWO = [[0, 5, TOTAL], [0, 7, TOTAL]]


@pytest.mark.parametrize(
    ("symbols", "cdf", "message"),
    [
        ([0, 2], TWO, "symbols: expected values in 0..1"),
        ([-1, 0], TWO, "symbols: expected values in 0..1"),
        ([0], TWO, "symbols: expected shape"),
        ([0.0, 1.0], TWO, "symbols: expected integers"),
        ([0, 0], [[0, 5, 9], [0, 7, TOTAL]], "last"),
        ([0, 0], [[0, 0, TOTAL], [0, 7, TOTAL]], "increasing"),
        ([0], [0, 5, TOTAL], "dimensions"),
        ([0, 0], np.broadcast_to([0, 1, 2, 3, TOTAL], (2, 5)), "at most 3 symbols"),
    ],
)
def test_wrong_pushes_are_refused(symbols: list[float], cdf: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamEncoder(3).push(symbols, cdf)


def test_the_symbol_of_a_spare_count_is_refused() -> None:
    """A table of 2 symbols in a stream of 3: symbol 2 has a count there, but no right to be coded."""
    with pytest.raises(ValueError, match=r"0\.\.1"):
        StreamEncoder(3).push([2], [[0, 5, TOTAL]])


@pytest.mark.parametrize("alphabet", [0, MAX_ALPHABET + 1])
def test_impossible_alphabets_are_refused(alphabet: int) -> None:
    with pytest.raises(ValueError, match="alphabet"):
        BatchEncoder(alphabet)
    with pytest.raises(ValueError, match="alphabet"):
        BatchDecoder([], alphabet, 1)


def test_a_changing_batch_is_refused() -> None:
    encoder = BatchEncoder(2)
    encoder.push([[0], [1]], [[[0, 5, TOTAL]]] * 2)
    with pytest.raises(ValueError, match="2 streams"):
        encoder.push([[0]], [[[0, 5, TOTAL]]])
    with pytest.raises(ValueError, match="1 streams"):
        BatchDecoder([b""], 2, 3).pop([[[0, 5, TOTAL]]] * 2)


def test_more_symbols_than_declared_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        StreamDecoder(b"", 2, -1)
    decoder = StreamDecoder(b"", 2, 3)
    decoder.pop(TWO)
    with pytest.raises(ValueError, match="at most 1 more"):
        decoder.pop(TWO)
