"""The public functions on real images, with the models of the package."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vqcodec
from vqcodec.bitstream import CompactHeader, ModelHeader, read, write
from vqcodec.bitstream.errors import BitstreamError, Corrupt, ModelMismatch, TooLarge, UnsupportedImage
from vqcodec.codec import models
from vqcodec.codec.choice import DEFAULT_QUALITY, target_psnr_db
from vqcodec.codec.images import psnr_db

IMAGES = Path(__file__).parents[1] / "images"
EXAMPLES = Path(__file__).parents[2] / "codec" / "examples"


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.load(IMAGES / "mnist_test_8.npy")


@pytest.fixture(scope="module")
def characters() -> np.ndarray:
    return np.load(IMAGES / "omniglot28_test_8.npy")


def psnr(a: object, b: object) -> float:
    error = np.asarray(a).astype(np.int64) - np.asarray(b)
    return psnr_db(int((error**2).sum()), error.size)


def test_digits_and_characters_pick_a_model_made_for_them(digits: np.ndarray, characters: np.ndarray) -> None:
    for images, kind in ((digits, "mnist"), (characters, "omniglot28")):
        for blob in vqcodec.encode_batch(images, quality=15):
            assert (vqcodec.info(blob).model or "").split("-")[1:] == [kind]


def test_auto_reaches_the_asked_fidelity_or_is_lossless(digits: np.ndarray, characters: np.ndarray) -> None:
    images = np.concatenate([digits[:4], characters[:4]])
    plain = vqcodec.encode_batch(images, "plain")
    sizes = {}
    for quality in (1, 20, 40, DEFAULT_QUALITY, 80, 100):
        blobs = vqcodec.encode_batch(images, quality=quality)
        for image, blob, stored in zip(images, blobs, plain, strict=True):
            told, fidelity = vqcodec.info(blob), psnr(vqcodec.decode(blob), image)
            assert told.lossless == (fidelity == 99)
            assert fidelity >= target_psnr_db(quality)
            assert len(blob) <= len(stored)
        sizes[quality] = np.mean([len(blob) for blob in blobs])
    assert list(sizes.values()) == sorted(sizes.values())
    assert 2 * sizes[1] < sizes[100]
    assert vqcodec.encode_batch(images) == vqcodec.encode_batch(images, quality=DEFAULT_QUALITY)


@pytest.mark.parametrize("name", ["vq-mnist", "vq-omniglot28"])
def test_quality_buys_fidelity_with_bytes(name: str, digits: np.ndarray, characters: np.ndarray) -> None:
    images = digits if name == "vq-mnist" else characters
    sizes, fidelities = [], []
    for quality in (1, 50, 100):
        blobs = vqcodec.encode_batch(images, model=name, quality=quality)
        sizes.append(np.mean([len(blob) for blob in blobs]))
        fidelities.append(
            np.mean([psnr(x_hat, x) for x_hat, x in zip(vqcodec.decode_batch(blobs), images, strict=True)])
        )
    assert sizes == sorted(sizes)
    assert fidelities == sorted(fidelities)
    told = [vqcodec.info(vqcodec.encode(images[0], name, quality=q)) for q in (1, 34, 67, 100)]
    assert [(found.setting, found.settings) for found in told] == [(1, 3), (2, 3), (3, 3), (3, 3)]


def test_overhead_of_a_digit_is_five_bytes(digits: np.ndarray) -> None:
    told = vqcodec.info(vqcodec.encode(digits[0], "vq-mnist"))
    assert told.bytes_total - told.bytes_payload == 5
    assert (told.mode, told.width, told.height, told.lossless) == ("L", 28, 28, False)


def test_batches_give_the_bytes_of_single_images(digits: np.ndarray) -> None:
    blobs = vqcodec.encode_batch(digits)
    assert blobs == [vqcodec.encode(image) for image in digits]
    for blob, image in zip(blobs, vqcodec.decode_batch(blobs, "numpy"), strict=True):
        assert np.array_equal(vqcodec.decode(blob, "numpy"), image)
    assert torch.equal(vqcodec.decode(blobs[0], "torch"), torch.from_numpy(vqcodec.decode(blobs[0], "numpy")))


def test_mixed_batches_keep_their_order(digits: np.ndarray) -> None:
    photo = Image.open(EXAMPLES / "photo.png")
    images = [digits[0], photo, digits[1] > 99, np.full((28, 28), 77, np.uint8), digits[2]]
    done: list[int] = []
    blobs = vqcodec.encode_batch(images, progress=done.append)
    assert sum(done) == len(images)
    decoded = vqcodec.decode_batch(blobs)
    assert [image.mode for image in decoded] == ["L", "RGB", "1", "L", "L"]
    assert decoded[1].size == photo.size
    assert psnr(np.asarray(decoded[1]), np.asarray(photo)) > 28  # of a photograph model
    assert vqcodec.info(blobs[3]).lossless  # nothing that a model knows
    assert np.array_equal(np.asarray(decoded[3]), images[3])


def test_empty_batches() -> None:
    assert vqcodec.encode_batch([]) == []
    assert vqcodec.decode_batch([]) == []


def test_inverted_and_rgb_digits(digits: np.ndarray) -> None:
    x_hat = vqcodec.decode(vqcodec.encode(digits[0], "vq-mnist"), "numpy")
    assert np.array_equal(vqcodec.decode(vqcodec.encode(255 - digits[0], "vq-mnist"), "numpy"), 255 - x_hat)
    rgb = Image.fromarray(digits[0]).convert("RGB")
    decoded = vqcodec.decode(vqcodec.encode(rgb, "vq-mnist"))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded)[:, :, 1], x_hat)


def test_lossless_keeps_every_pixel(digits: np.ndarray) -> None:
    for image in digits:
        blob = vqcodec.encode(image, lossless=True)
        assert vqcodec.info(blob).lossless
        assert np.array_equal(vqcodec.decode(blob, "numpy"), image)


def test_what_a_model_does_not_know_is_stored_losslessly() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    for model in ("auto", "vq-mnist"):
        blob = vqcodec.encode(noise, model)
        assert vqcodec.info(blob).kind == "plain"
        assert np.array_equal(vqcodec.decode(blob, "numpy"), noise)


def test_a_named_model_refuses_the_wrong_kind() -> None:
    with pytest.raises(
        UnsupportedImage, match=r"vq-mnist takes grey images of 28 x 28 pixels, found 192 x 128 pixels, mode RGB"
    ):
        vqcodec.encode(Image.open(EXAMPLES / "photo.png"), "vq-mnist")


def test_unknown_models_and_qualities(digits: np.ndarray) -> None:
    with pytest.raises(ModelMismatch, match="no model 'nix'; this build has vq-mnist"):
        vqcodec.encode(digits[0], "nix")
    for quality in (0, 101):
        with pytest.raises(ValueError, match=r"1\.\.100"):
            vqcodec.encode(digits[0], quality=quality)


def test_a_file_for_other_weights_is_refused_by_name(digits: np.ndarray) -> None:
    header, payload = read(vqcodec.encode(digits[0], "vq-mnist"))
    assert isinstance(header, CompactHeader)
    other = CompactHeader(header.parameter, 1, bytes([header.weights_prefix[0] ^ 1]))
    with pytest.raises(ModelMismatch, match="this build has"):
        vqcodec.decode(write(other, payload))
    with pytest.raises(ModelMismatch, match="the file needs model 200, which this build lacks"):
        vqcodec.decode(write(CompactHeader(0, 200, b"\0"), payload))
    named = ModelHeader(0, "L", 28, 28, 0, bytes(8), "vq-elsewhere")
    with pytest.raises(ModelMismatch, match="no model 'vq-elsewhere'"):
        vqcodec.decode(write(named, payload))
    assert vqcodec.info(write(named, payload)).model == "vq-elsewhere"
    assert vqcodec.info(write(CompactHeader(0, 200, b"\0"), payload)).model == "unknown"


def test_headers_that_do_not_fit_the_model_are_refused(digits: np.ndarray) -> None:
    model = models.load("vq-mnist")
    _, payload = read(vqcodec.encode(digits[0], "vq-mnist"))
    for parameter, mode, side, message in (
        (3, "L", 28, "parameter 3: the model has settings up to 3"),
        (8, "L", 28, "parameter 8"),
        (0, "RGBA", 28, "mode RGBA, 28 x 28 pixels: vq-mnist takes grey images"),
        (0, "L", 29, "29 x 29 pixels: vq-mnist takes grey images"),
    ):
        blob = write(ModelHeader(parameter, mode, side, side, 1, model.sha256[:8], model.name), payload)
        for read_file in (vqcodec.decode, vqcodec.decode_to_png, vqcodec.preview):
            with pytest.raises(Corrupt, match=message):
                read_file(blob)
    compact = write(CompactHeader(3, 1, model.sha256[:1]), payload)
    for read_file in (vqcodec.decode, vqcodec.info):
        with pytest.raises(Corrupt, match="parameter 3"):
            read_file(compact)


def test_limits_are_checked(digits: np.ndarray) -> None:
    blob = vqcodec.encode(Image.open(EXAMPLES / "photo.png"))
    with pytest.raises(TooLarge):
        vqcodec.decode(blob, max_pixels=100)


def test_sixteen_bit_colour_is_refused_by_decode_and_kept_by_decode_to_png() -> None:
    from vqcodec.codec.api import encode_plain
    from vqcodec.codec.png import PlainImage

    image = PlainImage(np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8), 16, 2)
    blob = encode_plain(image)
    with pytest.raises(UnsupportedImage, match="16-bit colour"):
        vqcodec.decode(blob)
    assert PlainImage.from_png(vqcodec.decode_to_png(blob)).same_image(image)


@pytest.mark.parametrize("name", ["digit.png", "character.png", "photo.png"])
def test_every_cut_and_every_flip_is_an_error(name: str) -> None:
    blob = vqcodec.encode(Image.open(EXAMPLES / name), quality=1)
    lengths = range(len(blob)) if len(blob) < 500 else np.random.default_rng(0).integers(0, len(blob), 200).tolist()
    for length in lengths:
        with pytest.raises(BitstreamError):
            vqcodec.decode(blob[:length])
    for at in lengths:
        with pytest.raises((BitstreamError, ModelMismatch)):
            vqcodec.decode(blob[:at] + bytes([blob[at] ^ 0x41]) + blob[at + 1 :])


def test_damage_under_a_right_checksum_gives_an_image_or_an_error(digits: np.ndarray) -> None:
    header, _ = read(vqcodec.encode(digits[0], "vq-mnist"))
    generator = np.random.default_rng(0)
    for length in (0, 1, 5, 40, 400):
        forged = write(header, generator.bytes(length))
        image = vqcodec.decode(forged, "numpy")
        assert image.shape == (28, 28)


def test_importing_the_package_loads_neither_torch_nor_pillow() -> None:
    code = "import sys, vqcodec; assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sys.modules.keys()"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(__file__).parents[2] / ".links")}
    )


def test_unknown_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nix'"):
        vqcodec.nix  # noqa: B018
    assert "encode" in dir(vqcodec)


def test_pillow_files_can_be_given_as_they_are_opened() -> None:
    buffer = io.BytesIO((EXAMPLES / "digit.png").read_bytes())
    assert vqcodec.decode(vqcodec.encode(Image.open(buffer))).size == (28, 28)
