"""Names and numbers of an archive's images, kept as runs."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import archive_names, archive_numbers
from vqcodec.bitstream.archive import checked_name
from vqcodec.bitstream.archive_names import Names, Run
from vqcodec.bitstream.archive_numbers import Numbers, Places

laws = settings(deadline=None, derandomize=True, max_examples=200)
counting = st.from_regex(r"[ab]?[0-9]{1,3}[ab]?(\.jp2|\.7)?", fullmatch=True)


def runs(names: list[str]) -> list[Run]:
    return list(archive_names.runs_of(names))


@pytest.mark.parametrize(
    "name",
    [
        *("a", "0", "a/b/c.png", "...", ".a", "a..", "ab:c", "é/ü.png", "日本.png", " ", "x" * 4096),
        *("C:", "c:x", "C:/x", "\\x", "\\\\x", "C:\\x", "a\\b", "a\nb", "a\x1f", "\x7f", "a\x85b", "a\udcff/b"),
        *("\n" * 4096, "/".join("\\" * 2048)),
    ],
)
def test_good_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/x", "//x", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/.", "a\0b", "\0"),
    ],
)
def test_names_that_are_no_safe_relative_paths(name: str) -> None:
    with pytest.raises(ValueError, match="expected a relative path") as caught:
        checked_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["\ud800", "a\udfff/b", "\udcc3\udca9"])
def test_names_that_stand_for_no_bytes(name: str) -> None:
    with pytest.raises(ValueError, match="expected no surrogate") as caught:
        checked_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 4097, "é" * 2049, "/".join("x" * 2049)])
def test_names_that_are_too_long(name: str) -> None:
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        checked_name(name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("0", "1"),
        ("09", "10"),
        ("a/099.png", "a/100.png"),
        ("1.jp2", "2.jp2"),
        ("a2/x.7", "a2/x.8"),
        ("7.", "8."),
        ("2.tar.gz", "3.tar.gz"),
        ("a8.b/c", "a9.b/c"),
        ("9" * 20 + "0" * 18, "9" * 20 + "0" * 17 + "1"),
    ],
)
def test_names_that_count(first: str, second: str) -> None:
    assert runs([first, second]) == [(first, 2)]
    assert list(Names([Run(first, 2)])) == [first, second]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("9", "10"), ("a", "b"), ("1", "3"), ("2", "1"), ("1", "02"), ("a1", "b2"), ("1a", "2b"), ("x.jp2", "x.jp3")),
        *(("a1/x", "a2/y"), ("1.2", "2.2"), ("٣", "٤"), ("0" + "9" * 18, "1" + "0" * 18)),
    ],
)
def test_names_that_do_not_count(first: str, second: str) -> None:
    assert runs([first, second]) == [(first, 1), (second, 1)]


@laws
@given(st.lists(counting, unique=True, max_size=60))
def test_names_come_back_in_order_and_are_found(given_names: list[str]) -> None:
    names = Names(runs(given_names))
    assert list(names) == given_names == names[:]
    assert [names.number(name) for name in given_names] == list(range(len(given_names)))
    assert [names[index] for index in range(len(names))] == given_names
    assert names[::-2] == given_names[::-2]
    assert list(names.runs()) == runs(given_names)


@laws
@given(st.lists(counting, max_size=30), st.lists(st.integers(1, 3), min_size=30, max_size=30))
def test_names_that_occur_twice_are_always_noticed(firsts: list[str], lengths: list[int]) -> None:
    given_runs, expected = [], []
    for first, length in zip(firsts, lengths, strict=False):
        try:
            expected += list(Names([Run(first, length)]))
        except ValueError:
            continue
        given_runs.append(Run(first, length))
    if len(set(expected)) == len(expected):
        assert list(Names(given_runs)) == expected
    else:
        with pytest.raises(ValueError, match="there twice"):
            Names(given_runs)


def test_sorted_names_are_few_runs() -> None:
    assert len(runs(sorted(f"{number}.png" for number in range(10_000)))) < 2000
    assert len(runs([f"{number}.png" for number in range(10_000)])) == 4


def test_names_that_are_not_there() -> None:
    names = Names([Run("a3", 4)])
    assert [name for name in ("a2", "a3", "a6", "a7", "a03", "b3", "a", "") if name in names] == ["a3", "a6"]
    assert 3 not in names
    with pytest.raises(KeyError, match="a7"):
        names.number("a7")
    with pytest.raises(IndexError):
        names[4]
    assert names[-1] == "a6"


@pytest.mark.parametrize(
    ("given_runs", "message"),
    [
        ([Run("a", 1), Run("a", 1)], "'a': there twice"),
        ([Run("a1", 3), Run("a3", 1)], "'a3': there twice"),
        ([Run("a3", 1), Run("a1", 3)], "'a3': there twice"),
        ([Run("a3", 2), Run("a1", 3)], "'a3': there twice"),
        ([Run("a", 2)], "'a': its digits do not count on to 2 names"),
        ([Run("8", 3)], "'8': its digits do not count on to 3 names"),
        ([Run("a/../b", 1)], "relative path"),
        ([Run("x" * 5000, 1)], "'x{80}...': expected at most 4096"),
    ],
)
def test_runs_that_are_refused(given_runs: list[Run], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Names(given_runs)


@laws
@given(st.lists(st.integers(0, 50), max_size=40))
def test_numbers_come_back_in_order(given_numbers: list[int]) -> None:
    numbers = Numbers(archive_numbers.runs_of(given_numbers))
    assert list(numbers) == given_numbers == numbers[:]
    assert [numbers[index] for index in range(len(numbers))] == given_numbers
    with pytest.raises(IndexError):
        numbers[len(numbers)]


@laws
@given(st.permutations(range(30)), st.sets(st.integers(1, 29), max_size=5))
def test_places_of_all_images(order: list[int], cuts: set[int]) -> None:
    ends = sorted(cuts)
    blocks = [order[begin:end] for begin, end in zip([0, *ends], [*ends, 30], strict=True)]
    places = Places([Numbers(archive_numbers.runs_of(block)) for block in blocks])
    assert len(places) == 30
    for number in range(30):
        block, position = places.find(number)
        assert blocks[block][position] == number


def test_names_and_numbers_travel_to_other_processes() -> None:
    names, numbers = pickle.loads(pickle.dumps((Names([Run("a1", 3)]), Numbers([(4, 2)]))))
    assert (list(names), list(numbers)) == (["a1", "a2", "a3"], [4, 5])
