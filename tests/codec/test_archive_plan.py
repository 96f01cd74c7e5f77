"""Which images go into a block together."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.codec.archive.blocks import MAX_BITS_BACK, MAX_FILES, MAX_FILES_BYTES
from vqcodec.codec.archive.io.sources import Item
from vqcodec.codec.archive.library import Candidate
from vqcodec.codec.archive.plan import plan
from vqcodec.codec.archive.tasks import Files, Group

GREY, BINARY = Candidate("grey", 28, False), Candidate("binary", 28, True)
Images = NDArray[np.uint8]


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def group_of(item: Item, *candidates: Candidate) -> Group | None:
    """The group that a single item makes, None if it goes to the files."""
    (task,) = plan([item], candidates or (GREY, BINARY))
    assert task.numbers == (0,)
    return task if isinstance(task, Group) else None


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_grey_images_of_a_models_size_form_groups_by_mode(mode: str, digits: Images) -> None:
    image = Image.fromarray(digits[0]).convert(mode)
    group = group_of(Item("a.png", file=file_of(image)))
    assert group is not None
    assert (group.mode, group.models) == (mode, ("grey", "binary") if mode == "1" else ("grey",))
    assert np.array_equal(group.pixels, np.array(image.convert("L"))[None])


def test_arrays_form_groups(digits: Images) -> None:
    binary = (digits[0] > 127) * np.uint8(255)
    kinds = [digits[0], binary, binary > 0, np.repeat(digits[0][:, :, None], 3, axis=2), digits[0][:, :, None]]
    found = [group_of(Item("a", array=array)) for array in kinds]
    assert [group and (group.mode, group.models) for group in found] == [
        ("L", ("grey",)),
        ("L", ("grey", "binary")),
        ("1", ("grey", "binary")),
        ("RGB", ("grey",)),
        ("L", ("grey",)),
    ]


def test_arrays_may_be_filled_anew_when_they_were_planned(digits: Images) -> None:
    array = digits[0].copy()

    def items() -> Iterator[Item]:
        for number, digit in enumerate(digits[:3]):
            array[:] = digit
            yield Item(str(number), array=array)

    (group,) = plan(items(), (GREY,))
    assert isinstance(group, Group)
    assert np.array_equal(group.pixels, digits[:3])


def test_what_no_model_takes_goes_to_the_files(digits: Images) -> None:
    image = Image.fromarray(digits[0])
    colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    sixteen = digits[0].astype(np.uint16) * 100
    others = [
        Item("other size", array=digits[0][:27]),
        Item("colours", array=colours),
        Item("16 bits", array=sixteen),
        Item("palette", file=file_of(image.convert("P"))),
        Item("transparent", file=file_of(image, transparency=3)),
        Item("16-bit file", file=file_of(Image.fromarray(sixteen))),
        Item("cut", file=file_of(image)[:100]),
        Item("several frames", file=file_of(image, "GIF", save_all=True, append_images=[Image.fromarray(digits[1])])),
        Item("no image", file=b"hello"),
    ]
    for item in others:
        assert group_of(item) is None, item.name
    assert group_of(Item("shades", array=digits[0]), BINARY) is None
    (files,) = plan(others, (GREY,))
    assert isinstance(files, Files)
    assert files.items == tuple(others)


def test_grey_2_bit_png_goes_to_the_files(digits: Images) -> None:
    assert group_of(Item("a.png", file=file_of(Image.fromarray(digits[0]), bits=2))) is None


def test_without_models_all_go_to_the_files(digits: Images) -> None:
    items = [Item(str(n), array=digit) for n, digit in enumerate(digits)]
    (task,) = plan(items, ())
    assert isinstance(task, Files)
    assert task.numbers == tuple(range(len(digits)))


def test_full_blocks_come_at_once_and_are_the_only_images_held(digits: Images) -> None:
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for taken in range(1, 2 * MAX_BITS_BACK + 3):
            yield Item(str(taken), array=digits[taken % 8])

    tasks = plan(items(), (GREY,))
    first = next(tasks)
    assert isinstance(first, Group)
    assert (len(first.numbers), taken) == (MAX_BITS_BACK, MAX_BITS_BACK)
    assert [len(task.numbers) for task in tasks] == [MAX_BITS_BACK, 2]


def test_files_are_limited_in_number_and_size() -> None:
    pixel = np.zeros((1, 1), np.uint8)
    tasks = list(plan([Item(str(n), array=pixel) for n in range(2 * MAX_FILES + 1)], ()))
    assert [len(task.numbers) for task in tasks] == [MAX_FILES, MAX_FILES, 1]
    half = np.zeros((MAX_FILES_BYTES // 2048, 1024), np.uint8)
    larger = np.zeros((MAX_FILES_BYTES // 1024 + 1, 1024), np.uint8)
    arrays = [half, half, pixel, larger, pixel, half]
    tasks = list(plan([Item(str(n), array=array) for n, array in enumerate(arrays)], ()))
    assert [task.numbers for task in tasks] == [(0, 1), (2,), (3,), (4, 5)]


def test_interleaved_kinds_keep_their_numbers(digits: Images) -> None:
    items = [Item(str(n), array=digits[0] if n % 3 else digits[0][:20]) for n in range(9)]
    tasks = {type(task): task.numbers for task in plan(items, (GREY,))}
    assert tasks == {Group: (1, 2, 4, 5, 7, 8), Files: (0, 3, 6)}
