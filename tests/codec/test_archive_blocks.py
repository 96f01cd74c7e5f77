"""Payloads of blocks: files among themselves, labels of models, and what is no payload."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.archive import BITS_BACK, FILES, Block
from vqcodec.bitstream.errors import Corrupt, Truncated, UnsupportedImage
from vqcodec.codec.archive.blocks import (
    CODED,
    MAX_BITS_BACK,
    MAX_FILES,
    ORIGINAL,
    Form,
    Label,
    Options,
    Stored,
    decode_together,
    files_block,
    join_files,
    kind_of,
    open_block,
    split_files,
)
from vqcodec.codec.png import RGB, PlainImage

LABEL = Label("L", 7, bytes(range(8)), "archive-mnist")
FORMS = st.builds(Form, st.sampled_from([CODED, ORIGINAL]), st.binary(max_size=300))


def png_16_bit() -> bytes:
    """A PNG file of 16-bit colour, which Pillow cannot hold."""
    samples = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    return PlainImage(samples, 16, RGB).to_png()


@given(st.lists(FORMS, max_size=20))
def test_files_come_back(forms: list[Form]) -> None:
    assert split_files(join_files(forms), len(forms)) == forms


def test_the_layout_of_files_is_that_of_the_format() -> None:
    assert join_files([Form(CODED, b"ab"), Form(ORIGINAL, b"x" * 200)]) == b"\x02\x00ab\xc8\x01\x01" + b"x" * 200


@given(st.lists(FORMS, min_size=1, max_size=5), st.data())
def test_cut_files_are_truncated(forms: list[Form], data: st.DataObject) -> None:
    payload = join_files(forms)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(Truncated, match="block"):
        split_files(payload[:cut], len(forms))


@pytest.mark.parametrize(
    ("payload", "count", "message"),
    [
        (b"\x01\x02a", 1, "tag at offset 1 of the block: expected 0 or 1, found 2"),
        (b"\x01\x00ab", 1, "expected 3 bytes, found 4"),
        (b"\x80" * 6 + b"\x00", 1, "block: a number at offset 0 has more than 6 bytes"),
        (b"", MAX_FILES + 1, "expected at most 1000 images, found 1001"),
    ],
)
def test_impossible_files_are_corrupt(payload: bytes, count: int, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        split_files(payload, count)


def test_labels_come_back() -> None:
    assert LABEL.to_bytes() == b"\x02\x07\x00\x01\x02\x03\x04\x05\x06\x07\x0darchive-mnist"
    assert Label.from_bytes(LABEL.to_bytes()) == LABEL
    assert kind_of(BITS_BACK, LABEL.to_bytes()) == ("bits-back", "archive-mnist", "L")
    assert kind_of(FILES, b"") == ("files", None, None)


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        LABEL.to_bytes()[:-1],
        LABEL.to_bytes() + b"x",
        LABEL.to_bytes()[:10] + b"\0",
        LABEL.to_bytes()[:10] + b"\1\xe9",
    ],
)
def test_labels_of_other_lengths_are_corrupt(extra: bytes) -> None:
    with pytest.raises(Corrupt, match="extra: expected 11 bytes and a name"):
        Label.from_bytes(extra)


@pytest.mark.parametrize("code", [0, 4, 6, 99])
def test_labels_of_modes_that_are_not_grey_are_corrupt(code: int) -> None:
    with pytest.raises(Corrupt, match=f"expected the code of mode 1, L, RGB, found {code}"):
        Label.from_bytes(bytes([code]) + LABEL.to_bytes()[1:])


def test_there_is_no_bits_back_block_of_too_many_images() -> None:
    with pytest.raises(ValueError, match="expected at most 5000 images, found 5001"):
        Block(BITS_BACK, LABEL.to_bytes(), b"x", range(MAX_BITS_BACK + 1))


def test_stored_forms_show_the_image_and_the_original(digits: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(digits[0]).save(buffer, "PNG")
    block = files_block([0, 1], [Form(ORIGINAL, buffer.getvalue()), Form(CODED, vqcodec.encode(digits[1], "plain"))])
    opened = open_block(block, Options())
    assert [opened[n].original for n in range(2)] == [buffer.getvalue(), None]
    for n in range(2):
        assert np.array_equal(opened[n].pil(), digits[n])
        assert np.array_equal(Image.open(io.BytesIO(opened[n].png())), digits[n])
    assert opened.nbytes == len(block.payload)


def test_pictures_are_stored_forms_too(digits: NDArray[np.uint8]) -> None:
    stored = Stored(picture=Image.fromarray(digits[0]))
    assert np.array_equal(stored.pil(), digits[0])
    assert np.array_equal(Image.open(io.BytesIO(stored.png())), digits[0])


def test_16_bit_colour_is_kept_as_png_only() -> None:
    stored = Stored(original=png_16_bit())
    with pytest.raises(UnsupportedImage, match="16-bit colour"):
        stored.pil()
    assert PlainImage.from_png(stored.png()).same_image(PlainImage.from_png(png_16_bit()))


def test_images_of_models_are_decoded_together(digits: NDArray[np.uint8]) -> None:
    blobs = [vqcodec.encode(digits[0], "plain"), vqcodec.encode(digits[1], "ladder-mnist", lossless=True)]
    stored = [Stored(coded=blob) for blob in blobs]
    assert [one.by_model for one in stored] == [False, True]
    together = decode_together(stored)
    assert together[0] is stored[0]
    assert together[1].coded is None
    for one, digit in zip(together, digits, strict=False):
        assert np.array_equal(one.pil(), digit)
