"""FORMAT.md's worked example."""

import re
from importlib.resources import files

import numpy as np
import pytest

from vqcodec.bitstream import (
    CompactHeader,
    ModelHeader,
    StreamDecoder,
    StreamEncoder,
    cdf_from_frequencies,
    quantise_weights,
    read,
    write,
)

FORMAT = (files("vqcodec.bitstream") / "FORMAT.md").read_text(encoding="utf-8")
HEADERS = {
    "compact": CompactHeader(2, 7, b"\x5e"),
    "general": ModelHeader(2, "L", 28, 28, 7, bytes.fromhex("5e884898da280471"), "digits"),
}
LEVELS = [([2, 1], [1, 2, 5]), ([0, 1], [3, 1])]


def example(name: str) -> bytes:
    block = re.search(rf"```hex {name}\n(.*?)```", FORMAT, re.DOTALL)
    assert block
    return bytes.fromhex(block[1])


def table(weights: list[int]) -> np.ndarray:
    return cdf_from_frequencies(quantise_weights([weights, weights]))


@pytest.mark.parametrize("choice", ["torchac", "python"])
@pytest.mark.parametrize("name", HEADERS)
def test_the_worked_example_is_written(name: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCODEC_CODER", choice)
    encoder = StreamEncoder(3)
    for symbols, weights in LEVELS:
        encoder.push(symbols, table(weights))
    assert write(HEADERS[name], encoder.finish()) == example(name)


@pytest.mark.parametrize("name", HEADERS)
def test_the_worked_example_is_read(name: str) -> None:
    header, payload = read(example(name))
    decoder = StreamDecoder(payload, 3, 4)
    assert header == HEADERS[name]
    assert [decoder.pop(table(weights)).tolist() for _, weights in LEVELS] == [symbols for symbols, _ in LEVELS]
