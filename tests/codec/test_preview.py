"""Previews: of whole files, and of every possible start of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec.bitstream import CompactHeader, read, write
from vqcodec.bitstream.errors import BitstreamError, Corrupt, ModelMismatch, Truncated, UnsupportedImage
from vqcodec.codec import models
from vqcodec.codec.family import still_there

Images = NDArray[np.uint8]
FileOf = Callable[..., bytes]


def outcome(blob: bytes, model: str | None = None) -> Images | None:
    """The preview of a file that was cut, None if it is Truncated."""
    try:
        image, whole = vqcodec.preview(blob, "numpy", model)
    except Truncated:
        return None
    assert not whole
    return image


def check_every_cut(blob: bytes, payload_end: int, model: str | None = None) -> int:
    """Every start of a file gives the preview of the whole file, or is Truncated; returns where previews begin.

    Once a preview can be seen, every longer start shows it."""
    expected, whole = vqcodec.preview(blob, "numpy", model)
    assert whole
    shown = [outcome(blob[:length], model) for length in range(len(blob))]
    for image in shown:
        assert image is None or np.array_equal(image, expected)
    there = [image is not None for image in shown]
    assert there == sorted(there)
    assert there[payload_end - 1] or payload_end == len(blob)
    return there.index(True) if any(there) else len(blob)


def test_a_preview_is_the_latents_alone(tiny_ladder: Path, digits: Images, file_of: FileOf) -> None:
    model = models.load(str(tiny_ladder))
    for setting in range(3):
        blob = file_of(tiny_ladder, digits[0], setting)
        image, whole = vqcodec.preview(blob, "numpy", str(tiny_ladder))
        assert whole
        assert np.array_equal(image, model.codec.preview_images([read(blob)[1]], setting)[0])
        same = np.array_equal(image, vqcodec.decode(blob, "numpy", str(tiny_ladder)))
        assert same == (setting != 0)
        # Nearer to the image than black is: 6 times for the tiny model.
        assert ((image.astype(float) - digits[0]) ** 2).mean() < (digits[0].astype(float) ** 2).mean() / 6
        black_on_white = file_of(tiny_ladder, 255 - digits[0], setting)
        assert np.array_equal(vqcodec.preview(black_on_white, "numpy", str(tiny_ladder))[0], 255 - image)


def test_every_cut_of_lossless_files(
    tiny_ladder: Path, tiny_binary: Path, digits: Images, binary_digits: Images, file_of: FileOf
) -> None:
    for weights, images in ((tiny_ladder, digits), (tiny_binary, binary_digits)):
        for image in (images[0], 255 - images[1]):
            blob = file_of(weights, image, 0)
            begin, payload = len(blob) - 4 - len(read(blob)[1]), len(read(blob)[1])
            first = check_every_cut(blob, len(blob) - 4, str(weights))
            assert begin < first < begin + payload  # not before the payload, and without the last pixels


@pytest.mark.parametrize("setting", [1, 2])
def test_every_cut_of_lossy_files(setting: int, tiny_ladder: Path, digits: Images, file_of: FileOf) -> None:
    for image in digits[:3]:
        blob = file_of(tiny_ladder, image, setting)
        expected, _ = vqcodec.preview(blob, "numpy", str(tiny_ladder))
        for length in range(len(blob)):
            shown = outcome(blob[:length], str(tiny_ladder))
            assert shown is None or np.array_equal(shown, expected)


@pytest.mark.usefixtures("built_in")
def test_every_cut_of_compact_files(digits: Images, binary_digits: Images) -> None:
    """Their length is not stored: the checksum's first byte must not be taken for payload."""
    cases = [("tiny-ladder", image, setting) for image in digits for setting in (1, 2)]
    cases += [("tiny-ladder", digits[2], 0), ("tiny-binary", binary_digits[0], 0)]
    for name, image, setting in cases:
        model = models.load(name)
        (coded,) = model.codec.encode_images(image[None], setting)
        blob = write(CompactHeader(setting, model.number, model.sha256[:1]), coded.payload)
        assert vqcodec.decode(blob).mode == ("1" if name == "tiny-binary" else "L")
        expected, _ = vqcodec.preview(blob, "numpy")
        shown = [outcome(blob[:length]) for length in range(len(blob))]
        assert all(image is None or np.array_equal(image, expected) for image in shown)
        if setting == 0:
            assert shown[-1] is not None
        assert all(image is None for image in shown[:4])


@pytest.mark.usefixtures("built_in")
def test_a_damaged_compact_file_is_shown_unchecked(digits: Images) -> None:
    model = models.load("tiny-ladder")
    (coded,) = model.codec.encode_images(digits[:1], 0)
    blob = write(CompactHeader(0, 3, model.sha256[:1]), coded.payload)
    expected, _ = vqcodec.preview(blob, "numpy")
    with pytest.raises(Corrupt, match="checksum"):
        vqcodec.decode(blob[:-1] + bytes([blob[-1] ^ 1]))
    shown, whole = vqcodec.preview(blob[:-1] + bytes([blob[-1] ^ 1]), "numpy")
    assert not whole
    assert np.array_equal(shown, expected)
    with pytest.raises(Corrupt, match="parameter 7: the model has settings up to 2"):
        vqcodec.preview(bytes([blob[0] | 7]) + blob[1:20])
    with pytest.raises(ModelMismatch, match="the file needs model 9"):
        vqcodec.preview(blob[:1] + b"\x09" + blob[2:20])
    with pytest.raises(ModelMismatch, match="the file needs weights"):
        vqcodec.preview(blob[:2] + bytes([blob[2] ^ 1]) + blob[3:20])
    with pytest.raises(Corrupt, match="model id"):
        vqcodec.preview(blob[:1] + b"\0" + blob[2:20])


def test_vq_files(digits: Images) -> None:
    """A VQ-VAE's preview is its first level: files of one level show themselves."""
    model = models.load("vq-mnist")
    for quality in (33, 66, 100):
        for image in (digits[0], 255 - digits[1]):
            blob = vqcodec.encode(image, "vq-mnist", quality=quality)
            expected, whole = vqcodec.preview(blob, "numpy")
            assert whole
            parameter = read(blob)[0].parameter  # type: ignore[union-attr]
            first = model.codec.decode_images([read(blob)[1]], parameter & 4)[0]
            assert np.array_equal(expected, first)
            if quality == 33:
                assert np.array_equal(expected, vqcodec.decode(blob, "numpy"))
            for length in range(0, len(blob), 3):
                shown = outcome(blob[:length])
                assert shown is None or np.array_equal(shown, expected)
            assert (outcome(blob[:-2]) is not None) or quality == 33


def test_files_without_a_preview(digits: Images) -> None:
    plain = vqcodec.encode(digits[0], "plain")
    for length in range(len(plain) + 1):
        with pytest.raises((UnsupportedImage, Truncated), match="no preview" if length >= 26 else None):
            vqcodec.preview(plain[:length])
    with pytest.raises(vqcodec.NotAVqcodecFile):
        vqcodec.preview(b"\x89PNG and more")


def test_damaged_general_files_have_no_preview(tiny_ladder: Path, digits: Images, file_of: FileOf) -> None:
    """But for a payload that is declared longer: such a file looks cut, and its latents are there."""
    blob = file_of(tiny_ladder, digits[0], 0)
    expected, _ = vqcodec.preview(blob, "numpy", str(tiny_ladder))
    lengthened = []
    for at in range(len(blob)):
        try:
            shown, whole = vqcodec.preview(
                blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], "numpy", str(tiny_ladder)
            )
        except BitstreamError:
            continue
        assert not whole
        assert np.array_equal(shown, expected)
        lengthened.append(at)
    assert set(lengthened) <= set(range(18, 26))


def test_still_there_compares_symbols_not_images() -> None:
    """Two images may look alike where symbols between theirs would not."""
    black = np.zeros((1, 2, 2), np.uint8)

    def decode(payloads: list[bytes]) -> tuple[NDArray[np.int64], Images]:
        return np.array([[hashlib.sha256(payload).digest()[0] for payload in payloads]]), black

    assert np.array_equal(still_there([b"a"], True, decode), black)  # type: ignore[arg-type]
    with pytest.raises(Truncated, match="ends before the preview does"):
        still_there([b"a"], False, decode)  # type: ignore[arg-type]
    assert np.array_equal(still_there([b"a"], False, lambda _: (np.zeros((1, 1), np.int64), black)), black)

    def refuse(payloads: list[bytes]) -> tuple[NDArray[np.int64], Images]:
        raise Corrupt("a symbol that no encoder writes")

    with pytest.raises(Corrupt):
        still_there([b"a"], True, refuse)  # type: ignore[arg-type]
    with pytest.raises(Truncated):
        still_there([b"a"], False, refuse)  # type: ignore[arg-type]
