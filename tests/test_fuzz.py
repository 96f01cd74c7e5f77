"""Twenty seconds of `fuzz.py`, and what it promises: cases that depend on their number only."""

from __future__ import annotations

import random

import pytest

from vqcodec.tests import fuzz


@pytest.mark.slow
def test_damaged_files_end_as_images_or_as_errors_of_ours() -> None:
    notes: list[str] = []
    report = fuzz.run(20, seed=1, note=notes.append)
    assert not report.foreign, "\n".join(notes)
    assert report.cases > 0


def test_a_case_is_the_same_each_time_and_another_for_each_number() -> None:
    plain = list(fuzz.plain_seeds())
    first, again = (fuzz.mutated(plain[0], plain, random.Random("0 5")) for _ in range(2))
    assert first == again != plain[0].blob
    assert first != fuzz.mutated(plain[0], plain, random.Random("0 6"))
    assert plain[0].blob == next(fuzz.plain_seeds()).blob


def test_checksums_are_repaired() -> None:
    """Most cases of a plain image get past its checksum: some decode, and the others are told by their fields."""
    plain = list(fuzz.plain_seeds())
    endings = [_ending(fuzz.mutated(plain[n % len(plain)], plain, random.Random(n))) for n in range(200)]
    assert sum("checksum" in text for text in endings) < 20
    assert sum(text == "decoded" for text in endings) > 20


def _ending(blob: bytes) -> str:
    try:
        fuzz.decode(blob)
    except fuzz.vqcodec.VqcodecError as error:
        return str(error)
    return "decoded"
