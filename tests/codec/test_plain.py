"""The lossless fallback: every image survives, no file is larger than PNG's, and damage is an error."""

import io
import lzma
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqcodec.bitstream.errors import Corrupt, TooLarge, UnsupportedImage
from vqcodec.codec import plain, png
from vqcodec.codec.png import PlainImage

EXAMPLES = Path(plain.__file__).parent / "examples"
HEADER_AND_CRC = 30 + 4  # the container's general kind
RNG = np.random.default_rng(7)
KINDS = [(colour, depth) for colour, depths in png.DEPTHS.items() for depth in depths]
SIZES = [(1, 1), (1, 40), (300, 1), (9, 7), (28, 28), (65, 33)]


def smooth(height: int, width: int, colour: int, depth: int) -> PlainImage:
    """Waves and a little noise in any colour type and depth."""
    rows, columns, channels = np.mgrid[:height, :width, : png.CHANNELS[colour]]
    waves = 0.5 + 0.45 * np.sin(rows / 9 + channels) * np.cos(columns / 7)
    values = (waves * (2**depth - 1) + RNG.integers(0, 2, waves.shape)).clip(0, 2**depth - 1)
    samples = values.astype(">u2").view(np.uint8) if depth == 16 else values.astype(np.uint8)
    palette = RNG.bytes(3 * 2**depth) if colour == png.PALETTE else b""
    return PlainImage(np.ascontiguousarray(samples), depth, colour, palette)


def stored_size(form: plain.Stored) -> int:
    return HEADER_AND_CRC + len(form.extra) + len(form.payload)


def decoded(form: plain.Stored, image: PlainImage) -> PlainImage:
    return plain.decode(*form, image.width, image.height, plain.mode_of(image))


def optimised_size(image: PlainImage) -> int:
    """The smaller of our own PNG and Pillow's optimised one. Pillow would cut 16-bit colour down to 8 bits."""
    own = image.to_png()
    if image.depth == 16 and image.colour != png.GREY:
        return len(own)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(own)) as copy:
        copy.save(buffer, "PNG", optimize=True)
    return min(len(own), len(buffer.getvalue()))


def check_survives(image: PlainImage) -> plain.Stored:
    """The law: what is stored decodes to the same image, at most 16 bytes larger than an optimised PNG of it."""
    form = plain.encode(image)
    back = decoded(form, image)
    assert back.same_image(image)
    assert PlainImage.from_png(back.to_png()).same_image(image)
    assert stored_size(form) <= optimised_size(image) + 16
    return form


@pytest.mark.parametrize(("colour", "depth"), KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_kind_of_png_survives(colour: int, depth: int, height: int, width: int) -> None:
    check_survives(smooth(height, width, colour, depth))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), height=st.integers(1, 12), width=st.integers(1, 20), data=st.binary(min_size=16))
def test_any_samples_survive(kind: tuple[int, int], height: int, width: int, data: bytes) -> None:
    colour, depth = kind
    samples = np.resize(np.frombuffer(data, np.uint8), (height, width, png.CHANNELS[colour] * max(1, depth // 8)))
    palette = bytes(range(256)) * 3 if colour == png.PALETTE else b""
    check_survives(PlainImage(samples & np.uint8(2 ** min(depth, 8) - 1), depth, colour, palette[: 3 * 2**depth]))


@pytest.mark.parametrize("name", ["digit", "character", "photo"])
def test_examples_survive(name: str) -> None:
    data = (EXAMPLES / f"{name}.png").read_bytes()
    image = PlainImage.from_png(data)
    assert stored_size(check_survives(image)) < len(data)
    with Image.open(io.BytesIO(data)) as original, Image.open(io.BytesIO(image.to_png())) as copy:
        assert copy.mode == original.mode
        assert copy.tobytes() == original.tobytes()


def pillow_images() -> dict[str, Image.Image]:
    noise = RNG.integers(0, 256, (21, 34, 4)).astype(np.uint8)
    rgba = Image.fromarray(noise)
    palette = rgba.convert("RGB").quantize(13)
    transparent = palette.copy()
    transparent.info["transparency"] = bytes([0, 128, 255])
    rgba_palette = Image.frombytes("P", (5, 4), bytes([0, 1, 2, 3] * 5))
    rgba_palette.putpalette(bytes(range(16)), "RGBA")
    keyed = rgba.convert("RGB")
    keyed.info["transparency"] = (1, 2, 3)
    return {
        "1": rgba.convert("1"), "L": rgba.convert("L"), "LA": rgba.convert("LA"), "RGB": rgba.convert("RGB"),
        "RGBA": rgba, "I;16": Image.fromarray(RNG.integers(0, 65536, (5, 9)).astype(np.uint16)), "P": palette,
        "P transparent": transparent, "P RGBA": rgba_palette, "RGB keyed": keyed, "1x1": Image.new("RGB", (1, 1)),
    }  # fmt: skip


@pytest.mark.parametrize("name", pillow_images())
def test_pillow_images_survive(name: str) -> None:
    image = pillow_images()[name]
    form = plain.encode(stored := plain.from_pil(image))
    with Image.open(io.BytesIO(decoded(form, stored).to_png())) as back:
        assert back.mode == image.mode
        assert back.size == image.size
        assert back.tobytes() == image.tobytes()
        assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    assert stored_size(form) <= len(buffer.getvalue()) + 16


def test_each_method_is_chosen_for_some_image() -> None:
    chosen = {
        check_survives(PlainImage.from_png((EXAMPLES / "photo.png").read_bytes())).method,
        check_survives(smooth(64, 64, png.RGB, 16)).method,
        check_survives(PlainImage(np.zeros((1, 1, 1), np.uint8), 1, png.GREY)).method,
    }
    assert chosen == set(plain.METHODS)


def test_extra_is_empty_where_the_mode_says_it_all() -> None:
    assert check_survives(PlainImage.from_png((EXAMPLES / "photo.png").read_bytes())).extra == b""


def test_colour_under_full_transparency_survives() -> None:
    pixels = RNG.integers(0, 256, (16, 16, 4)).astype(np.uint8)
    pixels[..., 3] = 0
    form = plain.Stored(plain.WEBP, b"", plain._to_webp(pixels, 75, 6))
    assert np.array_equal(decoded(form, PlainImage(pixels, 8, png.RGBA)).pixels, pixels)
    check_survives(PlainImage(pixels, 8, png.RGBA))


def test_transparency_of_grey_and_rgb_survives() -> None:
    check_survives(PlainImage(np.zeros((3, 3, 1), np.uint8), 8, png.GREY, transparency=b"\0\7"))
    check_survives(PlainImage(np.zeros((3, 3, 3), np.uint8), 8, png.RGB, transparency=b"\0\1\0\2\0\3"))


def test_palette_of_depth_8_with_few_colours_keeps_its_depth() -> None:
    image = PlainImage(RNG.integers(0, 3, (40, 40, 1)).astype(np.uint8), 8, png.PALETTE, bytes(range(9)))
    check_survives(image)


def test_palette_index_beyond_the_palette_survives() -> None:
    check_survives(PlainImage(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 8, png.PALETTE, bytes(9)))


def test_the_stream_of_the_source_is_used_where_it_is_smaller() -> None:
    image = smooth(1, 3000, png.RGB, 16)
    periodic = PlainImage(np.tile(image.pixels[:, :1500], (1, 2, 1)), 16, png.RGB)
    rows = b"\2" + png.unfiltered_rows(periodic.pixels, 16)[1:]  # filter 2 (up) of the first row changes nothing
    source = PlainImage(periodic.pixels, 16, png.RGB, stream=png.deflate(rows, 9))
    forms = list(plain._candidates(source))
    assert forms[0] == plain.Stored(plain.DEFLATE, b"", source.stream)
    assert PlainImage.from_png(source.to_png()).stream == source.stream
    check_survives(source)


def test_large_image_beyond_webp_survives_without_a_pillow_warning() -> None:
    # 90 million pixels are more than Pillow's own warning limit of 89; wider than WebP can be
    image = PlainImage(np.zeros((900, 100_000, 1), np.uint8), 1, png.GREY)
    form = plain.encode(image)
    assert decoded(form, image).same_image(image)


# What a file may hold wrongly


def test_result_of_another_length_is_corrupt() -> None:
    image = smooth(8, 8, png.GREY, 8)
    rows = png.filtered(image)
    for wrong in (rows[:-1], rows + b"\0", b""):
        with pytest.raises(Corrupt, match="exactly"):
            decoded(plain.Stored(plain.DEFLATE, b"", png.deflate(wrong, 9)), image)
        lzma_stream = lzma.compress(wrong, lzma.FORMAT_RAW, filters=plain.LZMA_FILTERS)
        with pytest.raises(Corrupt, match="exactly"):
            decoded(plain.Stored(plain.LZMA, b"", lzma_stream), image)


@pytest.mark.parametrize(("method", "payload", "message"), [
    (plain.DEFLATE, b"\xff\xff", "deflate stream"),
    (plain.LZMA, b"\xff\xff", "LZMA stream"),
    (plain.WEBP, b"\x2f", "WebP data"),
    (plain.WEBP, b"", "WebP data"),
    (plain.WEBP, b"\x2f\x07\xc0\x01\x00" + b"\xff" * 4, "WebP data"),  # header of 8x8 right, the rest nonsense
    (plain.DEFLATE, png.deflate(b"\5" * 72, 9), "row filter 5"),
    (9, b"", "method 9"),
])  # fmt: skip
def test_damaged_payload_is_corrupt(method: int, payload: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        plain.decode(method, b"", payload, 8, 8, "L")


def test_webp_of_another_size_is_corrupt() -> None:
    payload = plain._to_webp(smooth(8, 9, png.GREY, 8).pixels, 75, 6)
    with pytest.raises(Corrupt, match="8 x 8"):
        plain.decode(plain.WEBP, b"", payload, 8, 8, "L")


def test_webp_of_16_bits_is_corrupt() -> None:
    payload = plain._to_webp(smooth(8, 8, png.GREY, 8).pixels, 75, 6)
    with pytest.raises(Corrupt, match="WebP data"):
        plain.decode(plain.WEBP, b"", payload, 8, 8, "I;16")


def test_webp_sample_beyond_the_depth_is_corrupt() -> None:
    payload = plain._to_webp(np.full((4, 4, 1), 2, np.uint8), 75, 6)
    with pytest.raises(Corrupt, match="sample 2 in an image of 1 bits"):
        plain.decode(plain.WEBP, b"", payload, 4, 4, "1")


@pytest.mark.parametrize(("extra", "mode"), [
    (b"", "P"),  # a palette is missing
    (b"\x33", "P"),
    (b"\x33\0\1\2", "P"),  # two bytes of a colour
    (b"\x33\0\1\2\3\4\5", "P"),  # more transparency than colours
    (b"\x34", "L"),  # 16 bits are mode I;16
    (b"\x54", "I;16"),
    (b"\x34", "I;16"),  # 16 bits coded with 8
    (b"\x03", "RGB"),  # RGB coded with 1
    (b"\xff", "L"),
    (b"\x33\0", "L"),  # half a transparent level
    (b"\x33\0", "RGBA"),
    (b"", "CMYK"),
])  # fmt: skip
def test_damaged_extra_is_corrupt(extra: bytes, mode: str) -> None:
    with pytest.raises(Corrupt):
        plain.decode(plain.DEFLATE, extra, b"", 8, 8, mode)


def test_coded_samples_that_do_not_fit_are_corrupt() -> None:
    rows = png.deflate(png.unfiltered_rows(np.full((2, 2, 1), 5, np.uint8), 8), 9)
    with pytest.raises(Corrupt, match="do not fit"):
        plain.decode(plain.DEFLATE, b"\x30", rows, 2, 2, "1")


@pytest.mark.parametrize("mode", ["L", "RGBA;16"])
def test_limits_come_first(mode: str) -> None:
    with pytest.raises(TooLarge, match="limit 64"):
        plain.decode(plain.DEFLATE, b"", b"", 13, 5, mode, max_pixels=64)
    with pytest.raises(Corrupt, match="0 x 5"):
        plain.decode(plain.DEFLATE, b"", b"", 0, 5, mode)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(plain.METHODS)), st.binary(max_size=12), st.binary(max_size=60),
       st.sampled_from(sorted(plain.KIND_OF)))  # fmt: skip
def test_random_bytes_are_an_image_or_corrupt(method: int, extra: bytes, payload: bytes, mode: str) -> None:
    with suppress(Corrupt):
        assert plain.decode(method, extra, payload, 3, 2, mode).pixels.shape[:2] == (2, 3)


# What Pillow may hold that PNG cannot


@pytest.mark.parametrize("mode", ["CMYK", "F", "I", "YCbCr", "HSV", "LAB", "RGBX", "PA", "I;16B"])
def test_modes_without_a_png_form_are_unsupported(mode: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"mode {mode} .*convert"):
        plain.from_pil(Image.new(mode, (2, 2)))


def test_empty_image_is_unsupported() -> None:
    with pytest.raises(UnsupportedImage, match="0 x 3"):
        plain.from_pil(Image.new("L", (0, 3)))


def test_pillow_image_beyond_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge, match="limit"):
        plain.from_pil(Image.new("1", (2**14 + 1, 2**14)))


def test_palette_too_short_for_its_pixels_is_unsupported() -> None:
    image = Image.frombytes("P", (2, 2), b"\0\1\2\3")
    image.putpalette(bytes(6))
    with pytest.raises(UnsupportedImage, match="palette"):
        plain.from_pil(image)


def test_truncated_jpeg_is_unsupported() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(buffer, "JPEG")
    with (
        Image.open(io.BytesIO(buffer.getvalue()[:-500])) as image,
        pytest.raises(UnsupportedImage, match="cannot read"),
    ):
        plain.from_pil(image)
