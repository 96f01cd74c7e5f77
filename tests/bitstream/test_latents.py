"""Latents of many scales to bytes and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqcodec.bitstream import latents, numbers
from vqcodec.bitstream.cdf import TOTAL
from vqcodec.bitstream.errors import BitstreamError, Corrupt, Truncated
from vqcodec.bitstream.latents import ESCAPE_LIMIT, LatentReader, LatentWriter, ScaleClass, scale_tables

SCALES = [math.exp(-2 + index / 4) for index in range(20)]
CLASSES = (ScaleClass(6, 2), ScaleClass(12, 6), ScaleClass(20, 8, low=2))
TABLES = scale_tables(SCALES, CLASSES)


def written(parts: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    writer = LatentWriter(CLASSES, TABLES)
    for values, scale in parts:
        writer.push(values, scale)
    return writer.finish()


def reader(data: bytes, most: int) -> LatentReader:
    return LatentReader(CLASSES, TABLES, data, most)


def some(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values as their scales make them likely, now and then far outside; 0 at scale 0."""
    rng = np.random.default_rng(seed)
    scale = rng.integers(0, len(SCALES), n)
    values = np.round(rng.normal(0, 1, n) * np.array(SCALES)[scale]).astype(np.int64)
    far = rng.random(n) < 0.02
    values[far] = rng.integers(-ESCAPE_LIMIT, ESCAPE_LIMIT + 1, int(far.sum()))
    return np.where(scale == 0, 0, values), scale


@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 300)), max_size=4))
def test_parts_come_back(parts: list[tuple[int, int]]) -> None:
    given_parts = [some(*part) for part in parts]
    read = reader(written(given_parts), sum(n for _, n in parts))
    for values, scale in given_parts:
        assert np.array_equal(read.pop(scale), values)
    read.finish()


def test_the_size_is_about_the_entropy() -> None:
    rng = np.random.default_rng(1)
    scale = np.full(20_000, 10)
    values = np.round(rng.normal(0, SCALES[10], len(scale))).astype(np.int64)
    _, counts = np.unique(values, return_counts=True)
    entropy = -(counts * np.log2(counts / len(scale))).sum() / 8
    assert len(written([(values, scale)])) < 1.01 * entropy + 16


def test_low_bits_cost_little_where_scales_are_wide() -> None:
    rng = np.random.default_rng(2)
    sigma = SCALES[16]
    values = np.round(rng.normal(0, sigma, 20_000)).astype(np.int64)
    ideal = 20_000 * math.log2(sigma * math.sqrt(2 * math.pi * math.e)) / 8
    assert len(written([(values, np.full(20_000, 16))])) < 1.02 * ideal


def test_what_has_the_first_scale_costs_nothing() -> None:
    nothing = np.zeros(10_000, np.int64)
    assert len(written([(nothing, nothing)])) == len(written([])) == 2 * len(CLASSES) + 2


def test_tables_are_whole() -> None:
    for each, table in zip(CLASSES, TABLES, strict=True):
        assert table.shape[1] == each.symbols + 1
        assert (np.diff(table) > 0).all()
        assert (table[:, -1] == TOTAL).all()


def test_more_symbols_than_a_segment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqcodec.bitstream.coder.SEGMENT", 50)
    monkeypatch.setattr(latents, "SEGMENT", 50)
    values, scale = some(3, 1000)
    read = reader(written([(values, scale), (values[::-1], scale[::-1])]), 2000)
    assert np.array_equal(read.pop(scale), values)
    assert np.array_equal(read.pop(scale[::-1]), values[::-1])


@pytest.mark.parametrize("at", range(0, 48, 3))
def test_cut_data_are_an_error(at: int) -> None:
    values, scale = some(4, 100)
    data = written([(values, scale)])
    assert at < len(data)
    with pytest.raises((Truncated, Corrupt)):
        reader(data[:at], 100).pop(scale)


def test_altered_data_are_an_error_or_other_values() -> None:
    values, scale = some(5, 200)
    data = written([(values, scale)])
    errors = 0
    for place in range(len(data)):
        changed = bytes([*data[:place], data[place] ^ 0xFF, *data[place + 1 :]])
        try:
            read = reader(changed, 200)
            assert read.pop(scale).shape == values.shape
            read.finish()
        except BitstreamError:
            errors += 1
    assert errors > 0


def test_left_over_bytes_are_an_error() -> None:
    values, scale = some(6, 50)
    read = reader(written([(values, scale), (np.array([ESCAPE_LIMIT]), np.array([1]))]), 51)
    read.pop(scale)
    with pytest.raises(Corrupt, match="left over"):
        read.finish()
    with pytest.raises(Corrupt, match="expected"):
        reader(written([]) + b"\0", 0)


def test_too_many_segments_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(Corrupt, match="segments"):
        reader(numbers.leb128(2**30) + written([])[1:], 100)


@given(st.integers(0, 2**35 - 1))
def test_numbers_come_back(value: int) -> None:
    data = numbers.leb128(value)
    assert numbers.read_leb128(b"x" + data + b"y", 1) == (value, 1 + len(data))


def test_bad_numbers() -> None:
    with pytest.raises(Truncated):
        numbers.read_leb128(b"\x80", 0)
    with pytest.raises(Corrupt):
        numbers.read_leb128(b"\x80" * 6, 0)
