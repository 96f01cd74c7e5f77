"""Training of VQ-VAEs of photographs, on crops of a real one: the loss, the codebooks, several processes, export."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vqcodec.bitstream.errors import ModelMismatch
from vqcodec.codec import models, weights_file
from vqcodec.codec.config import ConfigError
from vqcodec.codec.photo_vq.codec import PhotoVQCodec
from vqcodec.codec.photo_vq.config import Codebook, PhotoVQConfig
from vqcodec.codec.photo_vq.prior import Stage, Walk
from vqcodec.codec.photo_vq.quantiser import Told
from vqcodec.training.config import PhotoVQRecipe, PhotoVQTrain, read_recipe
from vqcodec.training.data.photos import Photos
from vqcodec.training.export import export
from vqcodec.training.loop import build_task, load_task, train
from vqcodec.training.photo_vq import PhotoVQTask, _Averages
from vqcodec.training.soft import SoftChooser

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"
MODEL = PhotoVQConfig(
    codebooks=(Codebook(16, 16, 6), Codebook(8, 16, 8)),
    width=16, analysis_blocks=1, synthesis_blocks=1, fine_width=8, fine_blocks=1,
    prior_width=8, prior_embed=4, prior_hidden=8,
)  # fmt: skip
RECIPE = PhotoVQRecipe(
    "tiny", "photos", "for tests", MODEL,
    PhotoVQTrain(epochs=60, batch_size=4, learning_rate=3e-3, warmup_steps=5, crop=64, precision="float32"),
)  # fmt: skip


@pytest.fixture(scope="module")
def photos() -> Photos:
    """Four parts of the photograph, 64 x 96 pixels each."""
    with Image.open(PHOTO) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return Photos([part for half in pixels.split(64, 1) for part in half.split(96, 2)], 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Photos) -> Path:
    """Of a finished run of 60 steps."""
    folder = tmp_path_factory.mktemp("photo-vq")
    assert train(RECIPE, photos, folder) is not None
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path, photos: Photos) -> Path:
    """Exported from that run."""
    return export(load_task(RECIPE, folder)[0], RECIPE, photos, folder, steps=60)


def test_packaged_recipe() -> None:
    recipe = read_recipe("vq-photo")
    assert isinstance(recipe, PhotoVQRecipe)
    assert (recipe.name, recipe.family, recipe.data) == ("vq-photo", "photo-vq", "photos")


@pytest.mark.parametrize("values", [{"price_warmup": 1.1}, {"split_until": -0.1}, {"split_below": 2.0}, {"epochs": 0}])
def test_impossible_training_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PhotoVQTrain(**values)  # type: ignore[arg-type]


def test_crops_fit_the_levels() -> None:
    with pytest.raises(ValueError, match=r"train\.crop must be a multiple of 32, found 48"):
        dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, crop=48))


def test_only_photographs_will_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only models of photographs train on photographs"):
        train(RECIPE, torch.zeros(4, 28, 28, dtype=torch.uint8), tmp_path)


def test_training_makes_all_levels_better_and_their_indices_shorter(folder: Path, photos: Photos) -> None:
    torch.manual_seed(0)
    new, trained = build_task(RECIPE).eval(), load_task(RECIPE, folder)[0]
    before, after = (task.evaluate(photos.centres()) for task in (new, trained))
    assert after["psnr_db1"] > before["psnr_db1"] + 2
    assert after["psnr_db2"] > before["psnr_db2"] + 4
    assert after["psnr_db2"] > after["psnr_db1"] + 1
    nominal = 4 / 16**2 + 4 / 8**2
    assert before["bpp2"] == pytest.approx(nominal, rel=0.05)
    assert after["bpp2"] < 0.95 * nominal
    assert after["bpp1"] < after["bpp2"]


def test_loss_has_gradients_of_all_that_is_trained(photos: Photos) -> None:
    torch.manual_seed(0)
    task = build_task(RECIPE)
    for parameter in task.parameters():
        if not parameter.any():  # what starts at zero would hide what comes before it
            torch.nn.init.normal_(parameter, std=0.1)
    loss, metrics = task.loss(photos[torch.arange(8) % 4], 0, 0.5)  # so many that some have one level
    loss.backward()
    trained = {id(parameter) for group in task.parameter_groups() for parameter in group.parameters}
    assert trained == {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    still = [
        name
        for name, each in task.named_parameters()
        if each.requires_grad and (each.grad is None or not each.grad.any())
    ]
    assert still == ["model.autoencoder.synthesis.absent.0"]  # the first level is never absent
    assert set(metrics) == {"rmse", "bpp1", "bpp2"}


def two_codes(bits: float) -> Walk:
    """A walk over the four indices of one level; the second of its two codes takes so many bits more."""
    for phase in range(4):
        yield Stage(0, phase), torch.tensor([[[0.0, bits]]])
    return []


@pytest.mark.parametrize("v", [-0.7, -0.05, 0.4])
def test_chosen_vectors_move_as_a_soft_choice_does(v: float) -> None:
    temperature, bits, rd_price = 2.0, 0.3, 1.0
    chooser = SoftChooser(two_codes(bits), lambda *_: None, rd_price, [temperature])
    residual = torch.full((1, 1, 2, 2), v, requires_grad=True)
    index, q = chooser.pick(0, residual, torch.tensor([[1.0], [-1.0]]))
    # squared distances are (v - 1)^2 and (v + 1)^2
    chosen = 1 if 4 * v + rd_price * bits < 0 else 0
    assert index.tolist() == [[[chosen] * 2] * 2]
    assert q.detach().tolist() == [[[[1.0 - 2 * chosen] * 2] * 2]]
    share = 1 / (1 + np.exp(4 * v / temperature + bits * np.log(2)))  # of the second code
    assert float(chooser.expected[0].detach()) == pytest.approx(4 * share * bits, rel=1e-5)
    q.sum().backward()
    assert residual.grad is not None
    assert residual.grad.flatten().tolist() == pytest.approx([8 / temperature * share * (1 - share)] * 4, rel=1e-5)


def averages(vectors: Tensor, index: Tensor, codebook: Tensor, steps: int) -> _Averages:
    found, every = _Averages(*codebook.shape), torch.ones(1, dtype=torch.bool)
    for _ in range(steps):
        found.update(found.sums(Told(index, vectors), every, codebook), codebook)
    return found


def test_code_vectors_are_means_of_what_they_stand_for() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 8.0]]).T.reshape(1, 2, 1, 3)
    codebook = torch.full((3, 2), -1.0)
    averages(vectors, torch.tensor([[[1, 1, 2]]]), codebook, 3)
    assert torch.allclose(codebook, torch.tensor([[-1.0, -1.0], [2.0, 3.0], [9.0, 8.0]]))


def test_unused_codes_become_halves_of_the_most_used_but_the_very_first() -> None:
    vectors = torch.zeros(1, 1, 1, 9)
    vectors[..., 6:] = torch.tensor([4.0, 5.0, 6.0])
    codebook = torch.zeros(4, 1)
    found = averages(vectors, torch.tensor([[[0, 0, 0, 0, 0, 1, 2, 2, 2]]]), codebook, 400)
    unused, parents = found.split(codebook, below=0.1, seed=0)
    assert (unused.tolist(), parents.tolist()) == ([3], [2])
    assert codebook[0] == 0
    assert float(codebook[2] + codebook[3]) / 2 == pytest.approx(5.0)
    assert codebook[2] != codebook[3]
    assert found.count[2] == found.count[3] == pytest.approx(1.5, rel=0.02)  # 0.99^400 of the way is left
    assert torch.allclose(found.total[2:], codebook[2:] * found.count[2:, None])


def test_halves_are_as_likely_together_as_the_whole_was(photos: Photos) -> None:
    torch.manual_seed(0)
    task = build_task(RECIPE)
    assert isinstance(task, PhotoVQTask)
    head, x = task.model.prior.heads[0], torch.randn(1, 8, 1, 1)
    before = head(x).detach().exp().flatten()
    before[5] = 0  # as an unused code's is
    with torch.no_grad():
        task._halve(0, torch.tensor([5]), torch.tensor([3]))
    after = head(x).detach().exp().flatten()
    assert float(after[5]) == pytest.approx(float(after[3]), rel=1e-5)
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=1e-5)


@pytest.mark.slow
def test_processes_that_train_together_hold_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import dataclasses, torch\n"
        "from torch import distributed\n"
        "import test_photo_vq as tests\n"
        "torch.set_num_threads(1)\n"
        "tests.training_of_two(Path(sys.argv[1]))\n"
        "distributed.destroy_process_group()\n"
        "import os; os._exit(0)\n"  # see training/__main__.py
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    links = str(Path(__file__).parents[2] / ".links")
    subprocess.run([*command, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": links}, check=True)
    assert sorted(path.name for path in tmp_path.glob("same*")) == ["same0", "same1"]


def training_of_two(folder: Path) -> None:
    """Run in each of two processes: writes a file same<rank> if both hold the same weights in the end."""
    with Image.open(PHOTO) as image:
        photos = Photos([torch.from_numpy(np.array(image)).permute(2, 0, 1)] * 4, 64)
    short = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, epochs=52, split_until=1.0))
    task = train(short, photos, folder / "run")  # the codebooks are split after 50 steps
    assert task is not None
    state = torch.cat([tensor.flatten().float() for tensor in task.state_dict().values()])
    both = [torch.empty_like(state) for _ in range(2)]
    torch.distributed.all_gather(both, state)
    if torch.equal(*both):
        (folder / f"same{torch.distributed.get_rank()}").touch()


def test_exported_models_code_real_crops(weights: Path, folder: Path, photos: Photos) -> None:
    model = models.load(str(weights))
    codec = model.codec
    assert isinstance(codec, PhotoVQCodec)
    assert model.photographs
    assert (model.description.family, codec.qualities) == ("photo-vq", 2)
    assert codec.check() is None
    for crop in photos.centres().permute(0, 2, 3, 1).numpy():
        for quality in (1, 2):
            coded = codec.encode_photo(crop, quality)
            shown = codec.decode_photo(coded.payload, coded.parameter, 64, 64)
            assert np.array_equal(shown, coded.x_hat)
            assert np.array_equal(codec.preview_photo(coded.payload, quality, 64, 64), shown)
            mse = np.square(shown.astype(float) - crop).mean()
            assert 10 * np.log10(255**2 / mse) > codec.floor(quality)
    card = weights.with_suffix(".md").read_text()
    assert "VQ-VAE, 2 levels of code vectors (16 at 1/16, 16 at 1/8)" in card


def test_files_are_as_good_and_as_small_as_training_measured(weights: Path, folder: Path, photos: Photos) -> None:
    codec = models.load(str(weights)).codec
    measured = load_task(RECIPE, folder)[0].evaluate(photos.centres())
    assert isinstance(codec, PhotoVQCodec)
    crops = photos.centres().permute(0, 2, 3, 1).numpy()
    for quality in (1, 2):
        coded = [codec.encode_photo(crop, quality) for crop in crops]
        psnrs = []
        for crop, each in zip(crops, coded, strict=True):
            assert each.x_hat is not None
            psnrs.append(10 * np.log10(255**2 / np.square(each.x_hat.astype(float) - crop).mean()))
        assert np.mean(psnrs) == pytest.approx(measured[f"psnr_db{quality}"], abs=0.1)  # weights are float16
        size = np.mean([len(each.payload) for each in coded])
        # a length byte and at most two bytes for the end of every level's stream; tables in fixed point cost about 1 %
        expected = measured[f"bpp{quality}"] * 64 * 64 / 8
        assert 0.97 * expected < size < 1.03 * expected + 3 * quality


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    told = weights_file.describe(weights)
    path = tmp_path / "other.safetensors"
    tensors = weights_file.read_tensors(weights)
    weights_file.write(path, dataclasses.replace(told, config=told.config | {"width": 24}), tensors)
    with pytest.raises(ModelMismatch, match="do not match"):
        models.load(str(path))
    tensors["model.codebooks.0"][0] = float("inf")
    weights_file.write(path, told, tensors)
    with pytest.raises(ModelMismatch, match="finite"):
        models.load(str(path))
