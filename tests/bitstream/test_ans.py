"""The law of the stack: popping returns what was pushed, and leaves the stack as it was."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream.ans import Bits, Distribution, Stack, Tables, bits, supply
from vqcodec.bitstream.errors import BitstreamError, Corrupt, Truncated

Level = tuple[np.ndarray, Bits | Tables]
LANES = (1, 2, 7, 64)
PRECISION = 24
MASK = (1 << 64) - 1
laws = settings(deadline=None, derandomize=True, max_examples=20)

# Stated here, derived twice: by `split_mix` below, and as the published outputs of SplitMix64 from seed 0
# (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B).
GOLDEN_SUPPLY = [0xE220A839, 0x6E789E6A, 0x06C45D18, 0xF88BB8A8, 0x1B39896A]


def table(rng: np.random.Generator, k: int, precision: int, kind: str) -> list[int]:
    """From 0 to 2^precision: uneven, or one symbol with all but K - 1."""
    if kind == "uneven":
        inner = 1 + rng.choice((1 << precision) - 1, k - 1, replace=False) if precision <= 16 else _inner(rng, k)
    else:
        before = int(rng.integers(0, k))
        inner = np.concatenate([np.arange(1, before + 1), (1 << precision) - np.arange(k - 1 - before, 0, -1)])
    return [0, *np.sort(inner).tolist(), 1 << precision]


def _inner(rng: np.random.Generator, k: int) -> np.ndarray:
    found = np.unique(rng.integers(1, 1 << PRECISION, 4 * k))
    return rng.permutation(found)[: k - 1]


def some_bits(rng: np.random.Generator, n: int, kind: str) -> Bits:
    extreme = rng.choice([1, (1 << PRECISION) - 1], n)
    return Bits(extreme if kind == "peaked" else rng.integers(1, 1 << PRECISION, n), PRECISION)


def some_tables(rng: np.random.Generator, n: int, k: int, precision: int, kind: str) -> Tables:
    rows = [table(rng, k, precision, kind) for _ in range(n)]
    return Tables(np.array(rows, np.int64).reshape(n, k + 1), precision)


def drawn(rng: np.random.Generator, distribution: Distribution) -> np.ndarray:
    """Symbols as likely as the distribution says."""
    values = rng.integers(0, 1 << distribution.precision, len(distribution))
    return distribution.find(values, slice(None))[0]


@st.composite
def levels(draw: st.DrawFn) -> list[Level]:
    """Symbols with their distributions: likely ones, or any."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result: list[Level] = []
    for _ in range(draw(st.integers(1, 4))):
        n, kind = draw(st.integers(0, 150)), draw(st.sampled_from(["uneven", "peaked"]))
        k = draw(st.integers(1, 20))
        precision = draw(st.sampled_from([8, 16, PRECISION]))
        binary = draw(st.booleans())
        own = some_bits(rng, n, kind) if binary else some_tables(rng, n, k, precision, kind)
        symbols = drawn(rng, own) if draw(st.booleans()) else rng.integers(0, 2 if binary else k, n)
        result.append((symbols, own))
    return result


def content(stack: Stack) -> tuple[list[int], bytes]:
    return stack.states.tolist(), stack.to_bytes()


def held_bits(stack: Stack) -> float:
    return 32.0 * len(stack) + float(np.log2(stack.states.astype(np.float64)).sum())


def push_all(stack: Stack, data: list[Level]) -> None:
    for symbols, distribution in data:
        stack.push(symbols, distribution)


def pop_all(stack: Stack, data: list[Level]) -> list[np.ndarray]:
    return [stack.pop(distribution) for _, distribution in reversed(data)][::-1]


def check_stack(stack: Stack, data: list[Level]) -> None:
    """Popping after pushing, and pushing after popping, leave everything as it was."""
    before = content(stack)
    push_all(stack, data)
    for found, (symbols, _) in zip(pop_all(stack, data), data, strict=True):
        assert found.dtype == np.int64
        assert np.array_equal(found, symbols)
    assert content(stack) == before


def filled(lanes: int, rng: np.random.Generator, words: int = 200) -> Stack:
    """A stack with something in it."""
    stack = Stack()
    stack.push(rng.integers(0, 1 << 16, 2 * words), Uniform(2 * words, 16))
    stack.widen(lanes)
    return stack


class Uniform:
    """All of 2^precision symbols alike."""

    def __init__(self, count: int, precision: int) -> None:
        self.count, self.precision = count, precision

    def __len__(self) -> int:
        return self.count

    def intervals(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return symbols, np.ones_like(symbols)

    def find(self, values: np.ndarray, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return values, values, np.ones_like(values)


# Pushing and popping


@laws
@given(levels(), st.sampled_from(LANES))
def test_popping_returns_what_was_pushed(data: list[Level], lanes: int) -> None:
    check_stack(Stack(lanes), data)
    check_stack(filled(lanes, np.random.default_rng(0)), data)


@laws
@given(levels(), st.sampled_from(LANES), st.integers(0, 12))
def test_pushing_what_was_popped_restores_the_stack(data: list[Level], lanes: int, words: int) -> None:
    """Also where popping has gone below the bottom: then only the supply lies deeper than before."""
    stack = filled(lanes, np.random.default_rng(1), words)
    states, kept = stack.states.tolist(), stack._words[: len(stack)].copy()
    popped = pop_all(stack, data)
    push_all(stack, [(symbols, own) for symbols, (_, own) in zip(popped, data, strict=True)])
    assert stack.states.tolist() == states
    found = stack._words[: len(stack)]
    assert np.array_equal(found[len(found) - len(kept) :], kept)
    more = len(found) - len(kept)
    borrowed = stack._borrowed - more  # by `filled`, when it widened a stack of few words
    assert np.array_equal(found[:more], supply(borrowed, more)[::-1])


@laws
@given(levels(), st.sampled_from(LANES))
def test_states_stay_in_their_interval(data: list[Level], lanes: int) -> None:
    stack = Stack(lanes)
    for symbols, distribution in data:
        stack.push(symbols, distribution)
        assert int(stack.states.min()) >= 1 << 32
    pop_all(stack, data + data)
    assert int(stack.states.min()) >= 1 << 32


@pytest.mark.parametrize("lanes", LANES)
def test_it_is_the_plain_coder(lanes: int) -> None:
    """Lane by lane as in the docstring, in Python integers: symbol i belongs to lane i mod lanes."""
    rng = np.random.default_rng(2)
    distribution = some_tables(rng, 20 * lanes + lanes // 2, 9, 16, "uneven")
    symbols = drawn(rng, distribution)
    stack, states, words = Stack(lanes), [1 << 32] * lanes, []
    for _ in range(4):
        stack.push(symbols, distribution)
        intervals = np.stack(distribution.intervals(symbols), 1).tolist()
        for first in reversed(range(0, len(symbols), lanes)):
            for lane, (start, freq) in enumerate(intervals[first : first + lanes]):
                if states[lane] // freq << 16 >= 1 << 64:
                    words.append(states[lane] & 0xFFFFFFFF)
                    states[lane] >>= 32
                quotient, remainder = divmod(states[lane], freq)
                states[lane] = (quotient << 16) + start + remainder
    assert stack.states.tolist() == states
    assert stack._words[: len(stack)].tolist() == words
    assert len(words) > 3 * lanes


@pytest.mark.parametrize("lanes", LANES)
def test_certain_symbols_change_nothing(lanes: int) -> None:
    certain = Tables(np.tile(np.array([0, 1 << PRECISION]), (1000, 1)), PRECISION)
    stack = filled(lanes, np.random.default_rng(3))
    before = content(stack)
    stack.push(np.zeros(1000, np.int64), certain)
    assert content(stack) == before
    assert not stack.pop(certain).any()
    assert content(stack) == before


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("make", [lambda: Bits(np.empty(0, np.int64), PRECISION),
                                  lambda: Tables(np.empty((0, 4), np.int64), 16)])  # fmt: skip
def test_nothing_can_be_pushed_and_popped(lanes: int, make: type) -> None:
    stack = filled(lanes, np.random.default_rng(4))
    before = content(stack)
    stack.push(np.empty(0, np.int64), make())
    assert stack.pop(make()).tolist() == []
    assert content(stack) == before


@pytest.mark.parametrize("one", [0, 1])
@pytest.mark.parametrize("ones", [1, (1 << PRECISION) - 1, 1 << 23])
@pytest.mark.parametrize("lanes", LANES)
def test_extreme_bits(one: int, ones: int, lanes: int) -> None:
    distribution = Bits(np.full(300, ones), PRECISION)
    check_stack(Stack(lanes), [(np.full(300, one), distribution)])


def test_symbols_without_an_interval_are_refused() -> None:
    stack = Stack()
    with pytest.raises(Corrupt, match="it holds latents that no encoder draws"):
        stack.push(np.array([0, 1]), Tables(np.array([[0, 5, 65536], [0, 65536, 65536]]), 16))
    assert content(stack) == content(Stack())


def test_a_large_stack_keeps_its_words() -> None:
    stack, rng = Stack(3), np.random.default_rng(5)
    parts = [rng.integers(0, 1 << 16, 7000) for _ in range(4)]
    for part in parts:
        stack.push(part, Uniform(7000, 16))
    assert len(stack) > 3 * (1 << 12)
    for part in reversed(parts):
        assert np.array_equal(stack.pop(Uniform(7000, 16)), part)
    stack.narrow(1)
    with pytest.raises(Corrupt):
        stack.finish()  # two lanes that were never widened lie on it


# Distributions


@pytest.mark.parametrize("seed", range(3))
def test_bits_find_what_they_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distribution = Bits(np.concatenate([[1, 255, 128], rng.integers(1, 256, 5)]), 8)
    check_intervals(distribution, 2)


@pytest.mark.parametrize("k", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("kind", ["uneven", "peaked"])
def test_tables_find_what_they_own(k: int, kind: str) -> None:
    check_intervals(some_tables(np.random.default_rng(k), 4, k, 8, kind), k)


def taken(distribution: Bits | Tables, part: slice) -> Bits | Tables:
    """Of some of the symbols."""
    if isinstance(distribution, Bits):
        return Bits(distribution.ones[part], distribution.precision)
    return Tables(distribution.cdf[part], distribution.precision)


def check_intervals(distribution: Bits | Tables, k: int) -> None:
    """Sweeps every value of every symbol: intervals fill [0, 2^precision) in order, and `find` inverts them."""
    for number in range(len(distribution)):
        part = slice(number, number + 1)
        own = taken(distribution, part)
        assert len(own) == 1
        edges = [own.intervals(np.array([symbol])) for symbol in range(k)]
        starts, freqs = (np.concatenate(column) for column in zip(*edges, strict=True))
        assert np.array_equal(np.cumsum([0, *freqs])[:-1], starts)
        assert freqs.min() >= 1
        assert freqs.sum() == 1 << distribution.precision
        for value in range(1 << distribution.precision):
            symbol, start, freq = (int(x[0]) for x in distribution.find(np.array([value]), part))
            assert (start, freq) == (starts[symbol], freqs[symbol])
            assert start <= value < start + freq


def test_code_lengths() -> None:
    distribution = Bits(np.array([1 << 23, 1 << 20, 1, 1]), PRECISION)
    expected = [1.0, 4.0, 24.0, 24 - math.log2((1 << 24) - 1)]
    assert bits(distribution, np.array([0, 1, 1, 0])).tolist() == pytest.approx(expected, rel=1e-12)


# The supply


def split_mix(count: int) -> list[int]:
    """Upper halves of SplitMix64's outputs from seed 0, as in the reference implementation (Vigna, splitmix64.c)."""
    found, x = [], 0
    for _ in range(count):
        x = (x + 0x9E3779B97F4A7C15) & MASK
        z = x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append((z ^ (z >> 31)) >> 32)
    return found


def test_the_supply_is_split_mix() -> None:
    assert split_mix(5) == GOLDEN_SUPPLY == supply(0, 5).tolist()
    words = split_mix(300)
    assert supply(0, 300).tolist() == words
    assert supply(130, 170).tolist() == words[130:]
    assert supply(7, 0).tolist() == []


def test_an_empty_stack_gives_the_supply() -> None:
    stack = Stack()
    stack.widen(6)
    assert stack.states[1:].tolist() == [(1 << 32) | word for word in reversed(GOLDEN_SUPPLY)]
    stack.widen(8)  # and goes on where it ended
    assert stack.states[6:].tolist() == [(1 << 32) | word for word in reversed(split_mix(7)[5:])]
    stack.narrow(6)
    stack.narrow(1)
    assert stack._words[: len(stack)].tolist() == split_mix(7)[::-1]
    stack.finish()


# Lanes


@laws
@given(levels(), st.sampled_from(LANES), st.sampled_from(LANES), st.integers(0, 40))
def test_narrowing_undoes_widening(data: list[Level], lanes: int, more: int, words: int) -> None:
    lanes, more = sorted((lanes, more))
    stack = filled(lanes, np.random.default_rng(7), words)
    states, length = stack.states.tolist(), held_bits(stack)
    stack.widen(more)
    assert stack.states[:lanes].tolist() == states
    assert len(stack.states) == more
    check_stack(stack, data)
    stack.narrow(lanes)
    assert stack.states.tolist() == states
    assert held_bits(stack) >= length  # with what was borrowed


def test_lanes_with_more_than_a_word_are_not_narrowed() -> None:
    stack = filled(2, np.random.default_rng(8))
    stack.narrow(2)  # which is nothing
    stack.push(np.array([0, 0]), Bits(np.full(2, 1 << 23), PRECISION))
    with pytest.raises(Corrupt, match="a lane does not end where it began"):
        stack.narrow(1)


@pytest.mark.parametrize("change", ["state", "word", "lanes", "rest"])
def test_what_is_left_over_is_refused(change: str) -> None:
    stack = Stack()
    stack.widen(5)
    stack.narrow(1)
    stack.finish()
    if change == "state":
        stack.states[0] += np.uint64(1)
    elif change == "word":
        stack._words[2] ^= 1
    elif change == "lanes":
        stack.widen(2)
    else:
        stack.push(np.zeros(3, np.int64), Uniform(3, 16))
    with pytest.raises(Corrupt, match="it does not end where it began"):
        stack.finish()


# Bytes


@laws
@given(levels(), st.sampled_from(LANES), st.integers(0, 20))
def test_bytes_hold_the_whole_stack(data: list[Level], lanes: int, words: int) -> None:
    stack = filled(lanes, np.random.default_rng(9), words)
    push_all(stack, data)
    again = Stack.from_bytes(stack.to_bytes(), lanes)
    assert content(again) == content(stack)
    for found, (symbols, _) in zip(pop_all(again, data), data, strict=True):
        assert np.array_equal(found, symbols)


def test_golden_bytes() -> None:
    """Heads 1 and 5 are 00000 and 00010 01; then the words, then the lower halves."""
    stack = Stack(2)
    stack.states[:] = [(1 << 32) | 0x01020304, (5 << 32) | 0xA0B0C0D0]
    stack._put(np.array([0x11223344, 0x55667788], np.uint32))
    expected = bytes([0b00000_000, 0b10_01_0000]) + bytes.fromhex("44332211 88776655 04030201 d0c0b0a0")
    assert stack.to_bytes() == expected
    assert content(Stack.from_bytes(expected, 2)) == content(stack)


@laws
@given(levels(), st.sampled_from(LANES))
def test_the_length_is_the_code_length(data: list[Level], lanes: int) -> None:
    """Let a stack hold 32 bits a word and log2 s a lane. A symbol of frequency f adds P - log2 f to it, and errs twice
    by a factor of at most 1 + 2^-8 in either direction, log2 of which is below 2^-7.4: moving 32 bits rounds s >> 32,
    which is at least f 2^(32 - P) >= 2^8, and s / f >= 2^(32 - P) is rounded. In bytes every lane takes 5 bits more,
    and up to one less, as its head's length is a whole number; and the heads end on a whole byte."""
    ideal = sum(float(bits(own, symbols).sum()) for symbols, own in data)
    count = sum(len(symbols) for symbols, _ in data)
    stack = Stack(lanes)
    push_all(stack, data)
    error = 2 * 2**-7.4 * count + 1e-6
    assert abs(held_bits(stack) - 32 * lanes - ideal) <= error
    length = 8 * len(stack.to_bytes())
    assert ideal + (32 + 4) * lanes - error <= length <= ideal + (32 + 5) * lanes + 7 + error


def test_long_messages_take_hardly_more_than_their_ideal() -> None:
    """s / f is rarely near its least: what is lost is far below 0.001 %, which the 37 bits of the end are not."""
    rng = np.random.default_rng(10)
    distribution = some_bits(rng, 60_000, "uneven")
    symbols = drawn(rng, distribution)
    stack = Stack(16)
    stack.push(symbols, distribution)
    ideal = float(bits(distribution, symbols).sum())
    assert abs(held_bits(stack) - 32 * 16 - ideal) < 1e-5 * ideal + 1


def test_popping_below_the_bottom_costs_what_it_gives() -> None:
    """Bits-back: drawing from the supply and pushing what was drawn leaves the supply and nothing else."""
    rng = np.random.default_rng(11)
    stack, distribution = Stack(), some_tables(rng, 500, 9, 16, "uneven")
    symbols = stack.pop(distribution)
    counts = np.bincount(symbols, minlength=9)
    assert counts.sum() == 500
    stack.push(symbols, distribution)
    assert len(stack) > 10
    stack.finish()


def blob(lanes: int) -> tuple[bytes, list[Level]]:
    rng = np.random.default_rng(12)
    data: list[Level] = []
    for own in (some_bits(rng, 90, "uneven"), some_tables(rng, 70, 9, 16, "uneven")):
        data.append((drawn(rng, own), own))
    stack = Stack()
    stack.widen(lanes)
    push_all(stack, data)
    return stack.to_bytes(), data


def unpacked(data: bytes, lanes: int, levels: list[Level]) -> list[np.ndarray]:
    stack = Stack.from_bytes(data, lanes)
    found = pop_all(stack, levels)
    stack.narrow(1)
    stack.finish()
    return found


@pytest.mark.parametrize("lanes", LANES)
def test_damage_never_goes_unseen(lanes: int) -> None:
    """What is pushed is a bijection of what is popped, and only one stack is empty: no other bytes end there, but
    those with as many words as they lack or have too many from the supply."""
    whole, data = blob(lanes)
    for found, (symbols, _) in zip(unpacked(whole, lanes, data), data, strict=True):
        assert np.array_equal(found, symbols)
    for at in range(len(whole)):
        for flip in (1, 0x80):
            with pytest.raises((Corrupt, Truncated)):
                unpacked(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :], lanes, data)
        with pytest.raises((Corrupt, Truncated)):
            unpacked(whole[:at], lanes, data)
        with pytest.raises((Corrupt, Truncated)):
            unpacked(whole[at + 1 :], lanes, data)


@pytest.mark.parametrize("lanes", LANES)
def test_random_bytes_give_symbols_or_a_bitstream_error(lanes: int) -> None:
    rng = np.random.default_rng(13)
    _, data = blob(lanes)
    outcomes = set()
    for length in [*range(0, 60, 3), *range(8 * lanes, 8 * lanes + 40)]:
        try:
            found = pop_all(Stack.from_bytes(rng.bytes(length), lanes), data)
            assert all(int(symbols.max()) < 9 for symbols in found)
            outcomes.add("symbols")
        except BitstreamError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"symbols", "Corrupt", "Truncated"}


@pytest.mark.parametrize(("data", "lanes", "error", "message"), [
    (b"", 1, Truncated, "it ends inside the states of its 1 lanes"),
    (b"\xf8" + bytes(3), 1, Truncated, "it ends inside the states of its 1 lanes"),
    (b"\0", 2, Truncated, "it ends inside the states of its 2 lanes"),
    (b"\0" + bytes(3), 1, Corrupt, "4 bytes are no whole number of words"),
    (b"\0\0" + bytes(4), 2, Truncated, "expected at least 2 words, found 1"),
    (b"\0", 1, Truncated, "expected at least 1 words, found 0"),
    (b"\1" + bytes(4), 1, Corrupt, "bits after the states are not zero"),
])  # fmt: skip
def test_bytes_that_are_no_stack(data: bytes, lanes: int, error: type[BitstreamError], message: str) -> None:
    with pytest.raises(error, match=message):
        Stack.from_bytes(data, lanes)


def test_it_needs_numpy_alone() -> None:
    code = (
        "import sys\nfor name in ('torch', 'torchac', 'PIL'): sys.modules[name] = None\n"
        "import numpy as np\nfrom vqcodec.bitstream.ans import Bits, Stack\n"
        "stack, own = Stack(2), Bits(np.full(5, 9), 24)\nstack.push(np.array([0, 1, 1, 0, 1]), own)\n"
        "print(*stack.pop(own), end='')"
    )
    links = str(Path(__file__).parents[2] / ".links")
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": links}, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr, run.returncode) == ("0 1 1 0 1", "", 0)
