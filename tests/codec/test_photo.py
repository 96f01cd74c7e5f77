"""Photographs: files of any size and kind, at any quality, the same on every machine."""

from __future__ import annotations

import copy
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import vqcodec
from vqcodec.bitstream import container
from vqcodec.bitstream.container import ModelHeader
from vqcodec.bitstream.errors import BitstreamError, Corrupt, ModelMismatch, TooLarge, UnsupportedImage
from vqcodec.codec import models, photographs
from vqcodec.codec.config import ConfigError, from_dict
from vqcodec.codec.exact import backend
from vqcodec.codec.files import FileError, saved
from vqcodec.codec.images import psnr_db
from vqcodec.codec.photo import oracle, tiles
from vqcodec.codec.photo.codec import PhotoCodec
from vqcodec.codec.photo.config import Level, PhotoConfig
from vqcodec.codec.photo.exact import CLASSES, SCALES, ExactPrior
from vqcodec.codec.photo.model import PhotoModel, transform
from vqcodec.codec.photographs import METADATA_LIMIT, Wish

# mkldnn.flags sets every flag again, and PyTorch then tells of one that is for other processors.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def codec(tiny_photo: Path) -> PhotoCodec:
    return cast(PhotoCodec, models.load(str(tiny_photo)).codec)


def psnr(a: Pixels, b: Pixels) -> float:
    return psnr_db(int(((a.astype(int) - b) ** 2).sum()), a.size)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (7, 5), (33, 17), (64, 48), (90, 31)])
def test_any_size_comes_back_as_the_encoder_said(codec: PhotoCodec, photo: Pixels, size: tuple[int, int]) -> None:
    pixels = photo[: size[0], : size[1]]
    coded = codec.encode_photo(pixels, 60)
    decoded = codec.decode_photo(coded.payload, coded.parameter, *size)
    assert decoded.shape == pixels.shape
    assert np.array_equal(decoded, coded.x_hat)


def test_quality_buys_fidelity_with_bytes(codec: PhotoCodec, photo: Pixels) -> None:
    found = [codec.encode_photo(photo, quality) for quality in (1, 25, 50, 75, 100)]
    sizes = [len(coded.payload) for coded in found]
    assert sizes == sorted(set(sizes))
    assert psnr(found[0].x_hat, photo) < psnr(found[2].x_hat, photo) < psnr(found[4].x_hat, photo)


def test_an_untrained_model_is_a_transform_codec(photo: Pixels) -> None:
    """At the best quality the DCT that it starts as is fine already; without it pixels would be noise."""
    torch.manual_seed(0)
    fresh = PhotoCodec(PhotoModel(PhotoConfig()))
    assert psnr(fresh.encode_photo(photo[:64, :64], 100).x_hat, photo[:64, :64]) > 33


def test_the_transform_is_orthonormal_and_begins_with_the_means() -> None:
    rows = transform(8)
    assert torch.allclose(rows @ rows.T, torch.eye(192), atol=1e-5)
    grey = torch.full((192,), 0.25)
    assert torch.allclose((rows @ grey)[1:], torch.zeros(191), atol=1e-5)


@pytest.mark.parametrize("how", ["float64", "int8", "two threads", "no oneDNN"])
def test_every_setting_gives_the_same_file_and_pixels(
    codec: PhotoCodec, photo: Pixels, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photo[:96, :80]
    monkeypatch.setenv("VQCODEC_EXACT", "float64")
    usual = codec.encode_photo(pixels, 70)
    if how == "int8" and not backend.int8_usable():
        pytest.skip("no exact int8 products here")
    monkeypatch.setenv("VQCODEC_EXACT", "int8" if how == "int8" else "float64")
    if how == "two threads":
        monkeypatch.setenv("VQCODEC_THREADS", "host")
        torch.set_num_threads(2)
    try:
        with torch.backends.mkldnn.flags(enabled=how != "no oneDNN"):
            decoded = codec.decode_photo(usual.payload, 70, *pixels.shape[:2])
    finally:
        torch.set_num_threads(1)
    assert np.abs(decoded.astype(int) - usual.x_hat).max() <= 1


@pytest.mark.parametrize("quality", [5, 90])
def test_scales_are_those_of_the_oracle(
    codec: PhotoCodec, photo: Pixels, quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    push = vqcodec.bitstream.latents.LatentWriter.push
    monkeypatch.setattr(
        vqcodec.bitstream.latents.LatentWriter,
        "push",
        lambda self, values, scale: (pushed.append((values, scale)), push(self, values, scale))[1],
    )
    codec.encode_photo(photo[:64, :96], quality)
    grids = [(level.latents, 64 // level.stride, 96 // level.stride) for level in codec.config.levels]
    latents = [values.reshape(grid) for (values, _), grid in zip(pushed, grids, strict=True)]
    for (_, scale), expected in zip(pushed, oracle.scales(codec.prior, latents, quality), strict=True):
        assert np.array_equal(scale, expected.ravel())


def test_tiles_of_large_images(codec: PhotoCodec, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = codec.encode_photo(photo, 90)
    monkeypatch.setattr(tiles, "TILE", 48)
    monkeypatch.setattr(tiles, "OVERLAP", 16)
    coded = codec.encode_photo(photo, 90)
    assert coded.payload != whole.payload
    decoded = codec.decode_photo(coded.payload, 90, *photo.shape[:2])
    assert np.array_equal(decoded, coded.x_hat)
    assert psnr(decoded, photo) > psnr(whole.x_hat, photo) - 0.5


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (200, 129), (2112, 2113)])
def test_tiles_cover_the_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    if max(size) < 1000:
        monkeypatch.setattr(tiles, "TILE", 48)
        monkeypatch.setattr(tiles, "OVERLAP", 16)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    boxes = tiles.boxes(*size)
    assert np.array_equal(tiles.joined(*size, (image[box] for box in boxes)), image)
    assert max(rows.stop - rows.start for rows, _ in boxes) <= tiles.TILE + tiles.OVERLAP


def with_alpha(photo: Pixels) -> Image.Image:
    image = Image.fromarray(photo).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


KINDS: dict[str, Callable[[Pixels], Image.Image]] = {
    "RGB": Image.fromarray,
    "L": lambda photo: Image.fromarray(photo).convert("L"),
    "RGBA": with_alpha,
    "LA": lambda photo: with_alpha(photo).convert("LA"),
}


@pytest.mark.parametrize("mode", KINDS)
def test_kinds_of_images(tiny_photo: Path, photo: Pixels, mode: str) -> None:
    image = KINDS[mode](photo)
    blob = vqcodec.encode(image, str(tiny_photo), quality=90)
    told = vqcodec.info(blob, model=str(tiny_photo))
    assert (told.mode, told.lossless, told.setting, told.settings) == (mode, False, 90, 100)
    decoded = vqcodec.decode(blob, model=str(tiny_photo))
    assert (decoded.mode, decoded.size) == (mode, image.size)
    assert psnr(np.asarray(decoded.convert("RGB")), np.asarray(image.convert("RGB"))) > 25
    if mode.endswith("A"):
        assert decoded.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("mode", ["P", "1", "I;16", "CMYK"])
def test_other_kinds_are_refused_by_a_named_model(tiny_photo: Path, photo: Pixels, mode: str) -> None:
    image = Image.fromarray(photo)
    other = Image.fromarray(photo[..., 0].astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    with pytest.raises(UnsupportedImage, match="8 bits"):
        vqcodec.encode(other, str(tiny_photo))


def test_metadata_are_kept_on_request(tiny_photo: Path, photo: Pixels, tmp_path: Path) -> None:
    image, exif = Image.fromarray(photo), Image.Exif()
    exif[0x010E] = "a description"
    image.save(tmp_path / "a.png", icc_profile=b"not a real profile" * 9, exif=exif)
    with Image.open(tmp_path / "a.png") as source:
        source.load()
        without = vqcodec.encode(source, str(tiny_photo))
        blob = vqcodec.encode(source, str(tiny_photo), metadata=True)
    assert len(without) < len(blob)
    assert not vqcodec.decode(without, model=str(tiny_photo)).info
    assert vqcodec.info(blob, model=str(tiny_photo)).setting == 60
    with Image.open(io.BytesIO(vqcodec.decode_to_png(blob, model=str(tiny_photo)))) as decoded:
        assert decoded.info["icc_profile"] == b"not a real profile" * 9
        assert decoded.getexif()[0x010E] == "a description"


def test_metadata_that_no_decoder_would_read_are_refused(tiny_photo: Path, photo: Pixels) -> None:
    """They used to be written, into files that could not be decoded."""
    image = Image.fromarray(photo[:40, :40])
    image.info["icc_profile"] = bytes(METADATA_LIMIT)
    blob, _ = photographs.encode(image, models.load(str(tiny_photo)), Wish(50, metadata=True))
    header, payload = container.read(blob)
    assert isinstance(header, ModelHeader)
    assert photographs._read_front(header, payload)[0].icc_profile == bytes(METADATA_LIMIT)
    for name in ("icc_profile", "exif"):
        image.info = {name: bytes(METADATA_LIMIT + 1)}
        with pytest.raises(TooLarge, match=rf"{name} of {METADATA_LIMIT + 1} bytes"):
            vqcodec.encode(image, str(tiny_photo), metadata=True)
        vqcodec.encode(image, str(tiny_photo))


@pytest.mark.parametrize("bpp", [0.5, 2.0])
def test_a_size_can_be_asked_for(tiny_photo: Path, photo: Pixels, bpp: float) -> None:
    most = bpp * photo.shape[0] * photo.shape[1] / 8
    blob = vqcodec.encode(photo, str(tiny_photo), bpp=bpp)
    setting = vqcodec.info(blob, model=str(tiny_photo)).setting
    assert setting is not None
    better = vqcodec.encode(photo, str(tiny_photo), quality=min(100, setting + 1))
    assert len(blob) <= most or setting == 1
    assert len(better) > most or setting == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"bpp": 0.0},
        {"bpp": float("nan")},
        {"bpp": float("inf")},
        {"bpp": "1"},
        {"bpp": 1.0, "quality": 5},
        {"bpp": 1.0, "lossless": True},
        {"quality": 50.5},
        {"quality": "50"},
        {"quality": True},
    ],
)
def test_wrong_wishes(tiny_photo: Path, photo: Pixels, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="bpp|quality"):
        vqcodec.encode(photo, str(tiny_photo), **wrong)


def test_a_size_can_be_asked_of_photographs_only(photo: Pixels) -> None:
    with pytest.raises(UnsupportedImage, match="found mode P"):
        vqcodec.encode(Image.fromarray(photo).convert("P"), bpp=0.5)
    with pytest.raises(UnsupportedImage, match="fixed rates; only models of photographs take bpp"):
        vqcodec.encode(photo, "vq-mnist", bpp=0.5)


@pytest.mark.parametrize("suffix", ["bmp", "ppm"])
def test_formats_without_transparency(photo: Pixels, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot hold transparency"):
        saved(with_alpha(photo), tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(("bpp", "model"), [(0.1, "vq-photo"), (0.6, "ladder-photo")])
def test_auto_takes_the_model_that_reaches_a_size(photo: Pixels, bpp: float, model: str) -> None:
    image = np.tile(photo, (2, 2, 1))
    blob = vqcodec.encode(image, bpp=bpp)
    assert vqcodec.info(blob).model == model
    assert len(blob) <= bpp * image.shape[0] * image.shape[1] / 8


def test_lossless_is_refused_by_name(tiny_photo: Path, photo: Pixels) -> None:
    with pytest.raises(UnsupportedImage, match="lossless"):
        vqcodec.encode(photo, str(tiny_photo), lossless=True)


def test_drawings_are_stored_plain_where_that_is_smaller(tiny_photo: Path) -> None:
    image = Image.new("RGB", (200, 150), "white")
    ImageDraw.Draw(image).rectangle((20, 20, 120, 90), "navy")
    blob = vqcodec.encode(image, str(tiny_photo), quality=100)
    assert vqcodec.info(blob).lossless
    assert vqcodec.decode(blob).tobytes() == image.tobytes()


def test_what_the_model_renders_badly_is_stored_losslessly(tiny_photo: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (64, 64, 3), dtype=np.uint8) * 255
    blob = vqcodec.encode(noise, str(tiny_photo), quality=30)
    assert vqcodec.info(blob).lossless
    assert np.array_equal(vqcodec.decode(blob, "numpy"), noise)


def rewritten(blob: bytes, payload: bytes | None = None, **header: object) -> bytes:
    """A file with another payload or header, and a checksum that is right."""
    found, before = container.read(blob)
    assert isinstance(found, ModelHeader)
    return container.write(ModelHeader(**{**vars(found), **header}), before if payload is None else payload)


@pytest.fixture(scope="module")
def file(tiny_photo: Path, photo: Pixels) -> bytes:
    return vqcodec.encode(with_alpha(photo[:40, :40]), str(tiny_photo), quality=80, metadata=True)


def test_damage_behind_a_right_checksum_is_an_error_or_an_image(tiny_photo: Path, file: bytes) -> None:
    payload, errors = container.read(file)[1], 0
    rng = np.random.default_rng(0)
    for place in rng.choice(len(payload), 60, replace=False):
        changed = bytearray(payload)
        changed[place] ^= int(rng.integers(1, 256))
        try:
            assert vqcodec.decode(rewritten(file, bytes(changed)), model=str(tiny_photo)).size == (40, 40)
        except BitstreamError:
            errors += 1
    assert errors > 0


def test_cut_payloads_are_an_error(tiny_photo: Path, file: bytes) -> None:
    payload = container.read(file)[1]
    for length in range(0, len(payload), 37):
        with pytest.raises(BitstreamError):
            vqcodec.decode(rewritten(file, payload[:length]), model=str(tiny_photo))
    with pytest.raises(BitstreamError):
        vqcodec.decode(rewritten(file, payload + b"\0"), model=str(tiny_photo))


def test_bytes_after_metadata_are_an_error(tiny_photo: Path, photo: Pixels) -> None:
    blob = vqcodec.encode(Image.fromarray(photo[:40, :40]), str(tiny_photo), metadata=True)
    payload = container.read(blob)[1]
    profile, rest = payload[1 : 1 + payload[0]], payload[1 + payload[0] :]
    assert zlib.decompress(profile) == b""
    for wrong, match in ((profile + b"\0", "1 bytes follow"), (profile[:-1], "cut"), (b"", "cut")):
        changed = bytes([len(wrong)]) + wrong + rest
        with pytest.raises(Corrupt, match=match):
            vqcodec.decode(rewritten(blob, changed), model=str(tiny_photo))


@pytest.mark.parametrize("wrong", [{"parameter": 0}, {"parameter": 101}, {"parameter": 128}, {"mode": "P"}])
def test_impossible_headers(tiny_photo: Path, file: bytes, wrong: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        vqcodec.decode(rewritten(file, **wrong), model=str(tiny_photo))


def test_other_weights_are_refused(tiny_photo: Path, file: bytes) -> None:
    with pytest.raises(ModelMismatch):
        vqcodec.decode(rewritten(file, weights_prefix=bytes(8)), model=str(tiny_photo))
    with pytest.raises(ModelMismatch):
        vqcodec.decode(file)


def test_no_preview(tiny_photo: Path, file: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="whole"):
        vqcodec.preview(file, model=str(tiny_photo))


def test_weights_must_be_numbers(tiny_photo: Path) -> None:
    codec = copy.deepcopy(models.load(str(tiny_photo)).codec)
    codec.check()
    codec.synthesis.linear.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        codec.check()


def test_the_weights_file_holds_half_floats_and_integers(tiny_photo: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(tiny_photo)
    assert {tensor.dtype for name, tensor in stored.items() if name.startswith(("analysis", "synthesis"))} == {
        torch.float16
    }
    assert not any(t.is_floating_point() for name, t in stored.items() if name.startswith(("prior", "tables")))


def test_classes_cover_the_scales() -> None:
    untils = [each.until for each in CLASSES]
    assert untils == sorted(set(untils))
    assert untils[-1] == len(SCALES)


def level(stride: int, latents: int = 4, blocks: int = 1) -> dict[str, int]:
    return {"stride": stride, "latents": latents, "width": 8, "blocks": blocks}


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": [level(32), level(8)]},
        {"levels": [level(2)]},
        {"levels": [level(8, latents=193)]},
        {"levels": [level(8, blocks=6)]},
        {"levels": []},
        {"weight_low": 0.2},
        {"width": 1},
        {"fine_width": 0},
        {"fine_blocks": -1},
    ],
)
def test_bad_configurations(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        from_dict(PhotoConfig, wrong, "config")


def test_sums_stay_within_what_layers_may_be_fed() -> None:
    """The bound that the exact layers' export relies on, for the most residual blocks that a level may have."""
    from vqcodec.codec.exact.layers import INPUT_BOUND
    from vqcodec.codec.exact.requantise import ACTIVATION_LIMIT
    from vqcodec.codec.photo.config import MAX_BLOCKS

    Level(8, 4, 8, MAX_BLOCKS)
    assert (MAX_BLOCKS + 3) * ACTIVATION_LIMIT < INPUT_BOUND
    assert issubclass(ExactPrior, torch.nn.Module)
