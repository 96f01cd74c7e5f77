"""Classical codecs on whole sets: that nothing is lost, that sizes are those of the files, and the geometry."""

from __future__ import annotations

import lzma
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.eval import peers, set_peers
from vqcodec.eval.set_peers import ALONE, layouts, measure, mosaic, tiles


def test_everything_comes_back(digits: NDArray[np.uint8], binary_digits: NDArray[np.uint8]) -> None:
    for images, binary in ((digits, False), (digits[:7], False), (binary_digits, True), (binary_digits[:1], True)):
        rows, _ = measure(images, binary)
        assert all(row.exact for row in rows)
        assert {row.codec for row in rows} >= {"xz -9e", "bzip2 -9", "gzip -9", *ALONE}
        for row in rows:
            assert row.bytes_per_image == row.bytes_total / len(images)
            assert row.bpd == pytest.approx(8 * row.bytes_total / images.size)


def test_sizes(digits: NDArray[np.uint8]) -> None:
    rows = {(row.codec, row.how): row.bytes_total for row in measure(digits, False)[0]}
    assert rows["xz -9e", "raw bytes"] == len(lzma.compress(digits.tobytes(), preset=9 | lzma.PRESET_EXTREME))
    for peer in peers.lossless_peers(binary=False):
        assert rows[peer.name, "one mosaic image"] == len(peer.encode(mosaic(digits), None))
        if peer.name in ALONE:
            assert rows[peer.name, "a file an image"] == sum(len(peer.encode(image, None)) for image in digits)


def test_the_smaller_layout_of_bits_is_taken(binary_digits: NDArray[np.uint8]) -> None:
    row = next(row for row in measure(binary_digits, True)[0] if row.codec == "xz -9e")
    sizes = {
        layout.how: len(lzma.compress(layout.to_bytes(binary_digits), preset=9 | lzma.PRESET_EXTREME))
        for layout in layouts(binary=True)
    }
    assert len(sizes) == 2
    assert (row.how, row.bytes_total) == min(sizes.items(), key=lambda one: one[1])


def test_layouts(binary_digits: NDArray[np.uint8]) -> None:
    packed, spread = layouts(binary=True)
    assert len(packed.to_bytes(binary_digits)) == binary_digits.size // 8
    assert len(spread.to_bytes(binary_digits)) == binary_digits.size
    odd = binary_digits[:3, :5, :5]  # 75 bits
    for layout in (packed, spread):
        assert np.array_equal(layout.from_bytes(layout.to_bytes(odd), odd.shape), odd)


def test_mosaic(digits: NDArray[np.uint8]) -> None:
    large = mosaic(digits)
    assert large.shape == (84, 84)
    assert np.array_equal(large[28:56, 56:], digits[5])
    assert not large[56:, 56:].any()
    assert mosaic(digits[:1]).shape == (28, 28)
    assert mosaic(digits[:2]).shape == (28, 56)
    for count in range(1, 9):
        assert np.array_equal(tiles(mosaic(digits[:count]), digits[:count].shape), digits[:count])
    wide = digits[:, :20]
    assert np.array_equal(tiles(mosaic(wide), wide.shape), wide)
    assert mosaic(np.zeros((10_000, 2, 2), np.uint8)).shape == (200, 200)


def test_missing_codecs_are_told(digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    rows, missing = measure(digits, False)
    assert "brotli, zstd, JPEG XL" in missing
    assert not {row.codec for row in rows} & {"brotli 11, window 16 MiB", "zstd 22, long", "JPEG XL lossless"}
    lacking = SimpleNamespace(available=False)
    poor = SimpleNamespace(BROTLI=lacking, ZSTD=lacking, JPEGXL=lacking)
    monkeypatch.setitem(sys.modules, "imagecodecs", poor)
    assert set_peers._packers()[1].endswith("lacks them: BROTLI, ZSTD, JPEGXL.")


def test_strong_codecs(digits: NDArray[np.uint8]) -> None:
    pytest.importorskip("imagecodecs")
    rows, missing = measure(digits, False)
    assert missing == ""
    assert {row.codec for row in rows} >= {"brotli 11, window 16 MiB", "zstd 22, long"}
