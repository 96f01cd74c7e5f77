"""Images of up to 2^28 pixels go through, whatever the host program tells Pillow of limits, cut files and warnings."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features

import vqcodec
from vqcodec.bitstream.container import PlainHeader, write
from vqcodec.bitstream.errors import TooLarge, UnsupportedImage
from vqcodec.codec import files, opening, plain
from vqcodec.codec.archive.io.sources import open_sources
from vqcodec.codec.png import PlainImage
from vqcodec.codec.strict_pillow import strict_pillow

RNG = np.random.default_rng(12)
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("good-*.png"))
SMOOTH = np.add.outer(np.arange(50), np.arange(60)).astype(np.uint8)


def image_of(mode: str) -> Image.Image:
    """60 x 50 pixels: noise for methods of deflate, a ramp for WebP."""
    colours = Image.fromarray(np.dstack([SMOOTH, SMOOTH[::-1], SMOOTH // 2, 255 - SMOOTH]))
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (50, 60)).astype(np.uint16))
    return colours.convert("RGB").quantize(9) if mode == "P" else colours.convert(mode)


@pytest.fixture(params=[1000, None])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """What the host set."""
    found: int | None = request.param
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", found)
    return found


@pytest.mark.parametrize("mode", plain.PILLOW_MODES)
def test_plain_images_go_there_and_back(mode: str, limit: int | None) -> None:
    image = image_of(mode)
    blob = vqcodec.encode(image, "plain")
    back = vqcodec.decode(blob)
    assert (back.mode, back.tobytes()) == (image.mode, image.tobytes())
    assert np.array_equal(np.asarray(back), np.asarray(image))
    assert PlainImage.from_png(vqcodec.decode_to_png(blob)).same_image(plain.from_pil(image))
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("method", plain.METHODS)
@pytest.mark.usefixtures("limit")
def test_every_plain_method_is_decoded(method: int) -> None:
    image = plain.from_pil(image_of("RGB"))
    form = next(form for form in plain._candidates(image) if form.method == method)
    blob = write(PlainHeader(method, "RGB", image.width, image.height, form.extra), form.payload)
    assert np.array_equal(vqcodec.decode(blob, "numpy"), image.pixels)


LOSSLESS = {
    "PNG": {}, "BMP": {}, "TIFF": {}, "TIFF deflate": {"compression": "tiff_adobe_deflate"}, "GIF": {}, "PPM": {},
    "WEBP": {"lossless": True}, "TGA": {}, "QOI": {}, "SGI": {}, "PCX": {}, "ICO": {}, "DDS": {}, "JPEG": {},
    "JPEG2000": {}, "AVIF": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.usefixtures("limit")
def test_files_of_every_format_are_read(kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = image_of("RGB")
    if kind == "GIF":
        image = image.quantize(200)
    image.save(tmp_path / "x", kind.split()[0], **LOSSLESS[kind])
    blob, _ = files.compress("x", (tmp_path / "x").read_bytes(), "plain")
    assert min(vqcodec.decode(blob).size) == (40 if kind == "ICO" else 50)
    assert vqcodec.encode(tmp_path / "x", "plain") == blob
    (item,) = open_sources([tmp_path / "x"])
    assert item.file == (tmp_path / "x").read_bytes()


def large_png(width: int, height: int) -> bytes:
    """A PNG file that states a size, and has one byte of pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"\0"), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def large_file(kind: str) -> bytes:
    """An image file whose header states 20000 x 20000 pixels."""
    buffer = io.BytesIO()
    if kind == "PNG":
        return large_png(20000, 20000)
    if kind == "PPM":
        return b"P5 20000 20000 255\n" + bytes(100)
    Image.new("RGB" if kind == "QOI" else "L", (257, 255)).save(buffer, kind)
    data = buffer.getvalue()
    old = {"BMP": ("<ii", 257, 255), "GIF": ("<HH", 257, 255), "JPEG": (">HH", 255, 257), "QOI": (">II", 257, 255)}[
        kind
    ]
    start = data.index(struct.pack(*old))
    return data[:start] + struct.pack(old[0], 20000, 20000) + data[start + struct.calcsize(old[0]) :]


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "JPEG", "QOI"])
@pytest.mark.usefixtures("limit")
def test_beyond_the_limit_files_are_too_large_before_they_are_decoded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(large_file(kind))
    for read in (lambda: vqcodec.encode(tmp_path / "x"), lambda: files.read_image(tmp_path / "x")):
        with pytest.raises(TooLarge, match="20000 x 20000 pixels, limit 268435456"):
            read()
    with pytest.raises(UnsupportedImage, match="20000 x 20000 pixels, limit 268435456"):
        list(open_sources([tmp_path / "x"]))


def test_plug_ins_allocate_nothing_beyond_the_limit() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2000)).save(buffer, "WEBP", lossless=True)
    with pytest.raises(TooLarge, match="3000 x 2000 pixels"):
        opening.image_of("x", buffer.getvalue(), 1000)


def test_other_threads_go_by_the_limit_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    buffer = io.BytesIO()
    image_of("RGB").save(buffer, "PNG")
    raised: list[str] = []

    def open_elsewhere() -> None:
        try:
            Image.open(io.BytesIO(buffer.getvalue()))
        except Image.DecompressionBombError as error:
            raised.append(str(error))

    check = Image._decompression_bomb_check
    with strict_pillow():
        assert Image.open(io.BytesIO(buffer.getvalue())).size == (60, 50)
        thread = threading.Thread(target=open_elsewhere)
        thread.start()
        thread.join()
    assert len(raised) == 1
    assert Image._decompression_bomb_check is check
    open_elsewhere()
    assert len(raised) == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PPM"])
def test_cut_files_are_refused_whatever_the_host_allows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    with pytest.raises(UnsupportedImage):
        vqcodec.encode(cut)
    if kind not in ("WEBP", "TIFF"):  # these cannot even be opened
        with pytest.raises(UnsupportedImage):
            vqcodec.encode(Image.open(io.BytesIO(cut)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.fixture
def odd_tiff() -> bytes:
    """A TIFF file of which Pillow warns: a tag lies beyond its end."""
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "TIFF", software="x" * 30)
    data = buffer.getvalue()
    at = data.index(struct.pack("<HHI", 305, 2, 31)) + 8
    data = data[:at] + struct.pack("<I", 1 << 30) + data[at + 4 :]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).load()
    assert told
    return data


def test_warnings_of_pillow_neither_leak_nor_refuse_an_image(odd_tiff: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(odd_tiff)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert np.array_equal(vqcodec.decode(vqcodec.encode(odd_tiff, "plain"), "numpy"), SMOOTH)
        assert len(list(open_sources([tmp_path]))) == 1
        assert warnings.filters == before


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_pictures_are_those_that_pillow_opens(path: Path) -> None:
    same_as_pillow(path.read_bytes())


@pytest.mark.parametrize("mode", plain.PILLOW_MODES)
@pytest.mark.parametrize("transparency", [None, 0, 3, b"\xff\x00\xff", b"\x01\x02", b"\0\n"])
def test_pictures_keep_their_transparency(mode: str, transparency: object) -> None:
    if mode in ("LA", "RGBA") or (mode != "P" and isinstance(transparency, bytes)):
        pytest.skip("there is no such transparency")
    value = (1, 2, 3) if mode == "RGB" and transparency is not None else transparency
    buffer = io.BytesIO()
    image_of(mode).save(buffer, "PNG", **({} if value is None else {"transparency": value}))
    if transparency == b"\0\n":  # Pillow takes it for one transparent entry and forgets the second
        assert plain.to_pil(PlainImage.from_png(buffer.getvalue())).info["transparency"].startswith(b"\0\n")
    else:
        same_as_pillow(buffer.getvalue())


@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 16), (2, 16), (6, 16), (3, 2)])
def test_pictures_of_every_depth_are_those_that_pillow_opens(colour: int, depth: int) -> None:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * max(1, depth // 8)
    pixels = RNG.integers(0, 1 << min(depth, 8), (5, 7, samples)).astype(np.uint8)
    transparency = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\1\2"}.get(colour, b"")
    same_as_pillow(PlainImage(pixels, depth, colour, bytes(range(12)) if colour == 3 else b"", transparency).to_png())


def same_as_pillow(png: bytes) -> None:
    """The picture of a PNG file has all that Pillow's has."""
    found = plain.to_pil(PlainImage.from_png(png))
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert (found.mode, found.size, found.tobytes()) == (image.mode, image.size, image.tobytes())
        assert found.info.get("transparency") == image.info.get("transparency")
        assert found.getpalette() == image.getpalette()
        if image.mode in ("P", "L", "RGB", "1"):
            assert found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
