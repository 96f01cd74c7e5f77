"""Photographs of phones are turned the same in every form; still images are taken, animated ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

import vqcodec
from vqcodec.bitstream.errors import UnsupportedImage
from vqcodec.codec import files, images
from vqcodec.codec.png import PlainImage

PIXELS = np.random.default_rng(4).integers(0, 256, (9, 6, 3), np.uint8)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "MPO")


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return exif


def file_of(kind: str, orientation: int) -> bytes:
    buffer, image = io.BytesIO(), Image.fromarray(PIXELS)
    if kind == "MPO":
        second = Image.fromarray(PIXELS[::3, ::3])
        image.save(buffer, kind, save_all=True, append_images=[second], exif=exif_of(orientation))
    else:
        options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
        image.save(buffer, kind, exif=exif_of(orientation), **options)
    return buffer.getvalue()


def turned_by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def pixels_of(blob: bytes) -> NDArray[np.uint8]:
    return np.asarray(vqcodec.decode(blob))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_way_in_turns_the_image_the_same(kind: str, tmp_path: Path) -> None:
    right = {}
    for orientation in range(1, 9):
        data = file_of(kind, orientation)
        right[orientation] = turned_by_pillow(data)
        assert right[orientation].shape[:2] == ((9, 6) if orientation < 5 else (6, 9))
        path = tmp_path / str(orientation)
        path.write_bytes(data)
        with Image.open(path) as lazy:
            copy = lazy.copy()
            for form in (lazy, path, str(path), data, io.BytesIO(data), *([copy] if kind != "TIFF" else [])):
                assert np.array_equal(pixels_of(vqcodec.encode(form, "plain")), right[orientation]), type(form)
        assert np.array_equal(pixels_of(files.compress(str(path), path.read_bytes(), "plain")[0]), right[orientation])
    vqcodec.pack([tmp_path], tmp_path / "x.vqa", model="plain")
    with vqcodec.Archive(tmp_path / "x.vqa") as archive:
        assert all(np.array_equal(np.asarray(archive[str(number)]), image) for number, image in right.items())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("form", [bytes, lambda data: Image.open(io.BytesIO(data))], ids=["file", "Pillow"])
def test_kept_metadata_does_not_turn_the_image_again(kind: str, form: Any, photo: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo[:16, :24]).save(buffer, kind, exif=exif_of(6))
    image = vqcodec.decode(vqcodec.encode(form(buffer.getvalue()), "lossless-photo", metadata=True))
    assert image.size == (16, 24)
    assert image.getexif().get(0x0112, 1) == 1
    assert image.getexif()[0x010E] == "a description"
    assert images.orientation(image) == 1


def png_of(exact: PlainImage, *chunks: tuple[bytes, bytes]) -> bytes:
    """The PNG file of an image, with further chunks after its header."""
    data = exact.to_png()
    more = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + more + data[33:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("colour", "depth"), [(0, 16), (2, 16), (6, 16), (4, 16), (0, 2), (0, 1), (3, 4), (2, 8)])
def test_png_files_of_every_depth_are_turned_losslessly(orientation: int, colour: int, depth: int) -> None:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * max(1, depth // 8)
    pixels = np.random.default_rng(1).integers(0, 1 << min(depth, 8), (5, 3, samples)).astype(np.uint8)
    palette = bytes(range(48)) if colour == 3 else b""
    exif = exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
    blob = vqcodec.encode(png_of(PlainImage(pixels, depth, colour, palette), (b"eXIf", exif)), lossless=True)
    found = PlainImage.from_png(vqcodec.decode_to_png(blob))
    numbers = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(5, 3))  # Pillow turns the places of the pixels
    numbers.getexif()[0x0112] = orientation
    places = np.asarray(ImageOps.exif_transpose(numbers))
    assert (found.depth, found.colour) == (depth, colour)
    assert np.array_equal(found.pixels, pixels.reshape(15, -1)[places])


def test_exif_that_says_nonsense_loses_no_image() -> None:
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        image = Image.fromarray(PIXELS)
        image.info["exif"] = exif
        assert images.upright_exif(exif) == exif
        assert np.array_equal(pixels_of(vqcodec.encode(image, "plain")), PIXELS)
    image.info["exif"] = exif_of(99).tobytes()
    assert np.array_equal(pixels_of(vqcodec.encode(image, "plain")), PIXELS)


def test_a_damaged_description_of_a_png_file_takes_nothing_else_with_it() -> None:
    exif = exif_of(3).tobytes().removeprefix(b"Exif\0\0")
    data = png_of(PlainImage(PIXELS, 8, 2), (b"iCCP", b"x\0\0no zlib"), (b"eXIf", exif))
    assert np.array_equal(pixels_of(vqcodec.encode(data, "plain")), PIXELS[::-1, ::-1])


def still_png(frames: int, control: bool) -> bytes:
    """A PNG file whose acTL tells so many frames; control: with fcTL before its pixels."""
    fctl = struct.pack(">IIIIIHHBB", 0, 6, 9, 0, 0, 1, 10, 0, 0)
    return png_of(PlainImage(PIXELS, 8, 2), (b"acTL", struct.pack(">II", frames, 0)), *[(b"fcTL", fctl)] * control)


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("frames", [0, 1])
def test_an_animated_png_of_one_frame_is_a_still_image(frames: int, control: bool, tmp_path: Path) -> None:
    data = still_png(frames, control)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.warns(UserWarning, match="Invalid APNG") if not frames else pytest.MonkeyPatch.context():
        opened = Image.open(io.BytesIO(data))
    for form in (data, opened, tmp_path / "x.png"):
        assert np.array_equal(pixels_of(vqcodec.encode(form, "plain")), PIXELS)


def several(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1]), Image.fromarray(255 - PIXELS)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_several_frames_are_refused_in_every_form(kind: str, tmp_path: Path) -> None:
    data = several(kind)
    (tmp_path / "x").write_bytes(data)
    at_last = Image.open(io.BytesIO(data))
    at_last.seek(2)
    for form in (data, tmp_path / "x", io.BytesIO(data), Image.open(io.BytesIO(data)), at_last):
        with pytest.raises(UnsupportedImage, match="frames"):
            vqcodec.encode(form)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedImage, match="frames"):
        files.compress("x", (tmp_path / "x").read_bytes())
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    with pytest.raises(UnsupportedImage, match="frames"):  # whose file is closed
        vqcodec.encode(image, "plain")
    for frame in (Image.open(io.BytesIO(data)).convert("RGB"), at_last.copy().convert("RGB")):
        assert vqcodec.decode(vqcodec.encode(frame, "plain")).size == (6, 9)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "BMP", "JPEG"])
@pytest.mark.parametrize("closed", [False, True])
def test_files_of_one_frame_are_still_images(kind: str, closed: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    image = Image.open(buffer)
    image.load()
    if closed:
        image.__exit__(None, None, None)
    assert vqcodec.decode(vqcodec.encode(image, "plain")).size == (6, 9)


@pytest.mark.parametrize(("kind", "options"), [("ICO", {"sizes": [(16, 16), (32, 32)]}), ("DDS", {})])
def test_files_of_one_image_in_several_sizes_are_still_images(kind: str, options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.kron(PIXELS[:6], np.ones((8, 8, 1), np.uint8))).save(buffer, kind, **options)
    for form in (buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue()))):
        assert vqcodec.decode(vqcodec.encode(form, "plain")).size in ((32, 32), (48, 48))


def test_the_further_picture_of_a_phone_is_not_taken_for_the_first() -> None:
    image = Image.open(io.BytesIO(file_of("MPO", 1)))
    image.seek(1)
    with pytest.raises(UnsupportedImage, match="picture 2 of an MPO file"):
        vqcodec.encode(image)
