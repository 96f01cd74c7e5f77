"""Weights files and recipes of strangers: whatever is in them, only ModelMismatch and ConfigError are raised."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from vqcodec.bitstream import ModelMismatch
from vqcodec.cli import main
from vqcodec.codec import models, weights_file
from vqcodec.codec.config import ConfigError
from vqcodec.codec.weights_file import Description
from vqcodec.training.config import read_recipe

PHOTO_LEVEL = {"stride": 8, "latents": 4, "width": 8, "blocks": 1}
BOOK = {"stride": 4, "size": 4, "length": 3, "blocks": 1}
LEVEL = {"codes": 4, "stride": 1, "stages": [8, 64]}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vq": ("vq", {
        "image_size": 8, "width": 4, "latent_dim": 2, "prior_width": 4, "prior_embed": 2, "prior_head": 2,
        "prior_dropout": 0.1, "codebook": "ema", "levels": [LEVEL, LEVEL],
    }),
    "ladder": ("ladder", {
        "image_size": 8, "form": "conv", "latents": [2, 2], "widths": [4, 4], "grids": [4, 1], "blocks": 1,
        "inference": "ladder", "top_down": "shared", "posterior": "uniform", "skip": True, "batch_norm": False,
        "leak": 0, "qualities": 2, "likelihood": "categorical", "pixel_embed": 2, "pixel_features": 2, "context": 0,
        "stages": [{"until": 1, "width": 4, "blocks": 1}, {"until": 4, "width": 4, "blocks": 0}],
    }),
    "archive": ("ladder", {
        "image_size": 8, "form": "mlp", "latents": [3, 2], "widths": [4, 4], "grids": [1, 1], "posterior": "gaussian",
        "skip": False, "leak": 3, "context": 2, "pixel_features": 2, "stages": [{"until": 64, "width": 4, "blocks": 1}],
    }),
    "photo": ("photo", {
        "levels": [PHOTO_LEVEL | {"stride": 16}, PHOTO_LEVEL],
        "width": 4, "analysis_blocks": 1, "synthesis_blocks": 1, "fine_width": 4, "fine_blocks": 1,
        "weight_low": 0.001, "weight_high": 0.1,
    }),
    "photo-vq": ("photo-vq", {
        "codebooks": [BOOK | {"stride": 8}, BOOK],
        "width": 4, "analysis_blocks": 1, "synthesis_blocks": 1, "fine_width": 4, "fine_blocks": 1, "prior_width": 4,
        "prior_embed": 2, "prior_hidden": 4, "weight": 0.001,
    }),
    "photo-lossless": ("photo-lossless", {"width": 4, "blocks": 1, "hidden": 3}),
}  # fmt: skip
DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    None, True, -1, 0, 3, 10**9, 1 << 62, 10**40, -(10**40), 1.5, 1e300, math.nan, math.inf, "", "x" * 100_000, [], [0],
    [1 << 40], [[1]], [1] * 5000, DEEP, {}, {"codes": 10**9}, [{"stride": 10**9}], [{}], [None],
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small weights file of every family, with random weights."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    for name, (family, config) in CONFIGS.items():
        torch.manual_seed(0)
        codec = models._BUILD[family](config)
        tensors = codec.stored() if hasattr(codec, "stored") else codec.state_dict()
        made[name] = folder / f"{name}.safetensors"
        weights_file.write(made[name], Description(name, family, config, {}, {}), tensors)
    return made


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a weights file."""
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    return json.loads(blob[8 : 8 + size]), blob[8 + size :]


def written(path: Path, header: dict[str, Any] | str, data: bytes) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def described(header: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The header with a changed description."""
    told = json.loads(header["__metadata__"]["vqcodec"])
    change(told)
    return header | {"__metadata__": {"vqcodec": json.dumps(told)}}


def load(path: Path) -> None:
    models.read(path, weights_file.describe(path))


@pytest.mark.parametrize("name", CONFIGS)
def test_sound_files_load(name: str, sound: dict[str, Path]) -> None:
    load(sound[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_raise_nothing_but_model_mismatch(name: str, sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound[name])
    for key in [*CONFIGS[name][1], "nothing"]:
        for value in HOSTILE:
            changed = described(header, lambda told, key=key, value=value: told["config"].update({key: value}))  # type: ignore[misc]
            try:
                load(written(tmp_path / "w.safetensors", changed, data))
            except ModelMismatch:
                continue
            if key not in ("prior_dropout", "weight", "weight_low", "weight_high", "codebook", "leak", "batch_norm"):
                assert value == CONFIGS[name][1].get(key, value), (key, value)


@pytest.mark.parametrize("name", ["vq", "ladder", "archive", "photo", "photo-vq"])
def test_nested_values_raise_nothing_but_model_mismatch(name: str, sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound[name])
    outer = next(key for key in ("levels", "stages", "codebooks") if key in CONFIGS[name][1])
    for key in [*CONFIGS[name][1][outer][0], "nothing"]:
        for value in HOSTILE:

            def change(told: dict[str, Any], key: str = key, value: Any = value) -> None:
                told["config"][outer][0][key] = value

            try:
                load(written(tmp_path / "w.safetensors", described(header, change), data))
            except ModelMismatch:
                continue
            # `blocks` of the first codebook mean nothing, other stages of a prior may have the same networks.
            assert key in ("blocks", "stages") or value == CONFIGS[name][1][outer][0][key], (key, value)


@pytest.mark.parametrize("key", ["name", "family", "config", "recipe", "results", "format"])
def test_descriptions_raise_nothing_but_model_mismatch(key: str, sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound["photo-lossless"])
    for value in [v for v in HOSTILE if v != {} or key == "name"] + [{"a": 1}]:
        path = written(tmp_path / "w.safetensors", described(header, lambda told, v=value: told.update({key: v})), data)  # type: ignore[misc]
        if key in ("recipe", "results") and isinstance(value, dict):
            continue
        if (key, value) == ("format", 1) or key == "nothing":
            continue
        with pytest.raises(ModelMismatch):
            load(path)


def test_headers_that_are_no_headers(sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound["photo-lossless"])
    path, nested = tmp_path / "w.safetensors", "[" * 100_000
    first = next(iter(header))
    for text in (
        nested, "{}", "[]", "null", "1", "{", '{"__metadata__": 1}', '{"__metadata__": {"vqcodec": 1}}',
        *(json.dumps(header | {"__metadata__": {"vqcodec": text}}) for text in (nested, "1")),
        json.dumps(header)[:-1] + f', "{first}": {json.dumps(header[first])}}}',
        *(json.dumps(header | {first: told}) for told in (None, 1, [], {}, {"dtype": "I16"}, {"dtype": 1})),
        *(json.dumps(header | {first: header[first] | {"shape": [size]}}) for size in (-1, 1 << 62, True)),
    ):  # fmt: skip
        with pytest.raises(ModelMismatch):
            load(written(path, text, data))
    whole = sound["photo-lossless"].read_bytes()
    cut = [whole[:length] for length in (0, 4, 12, 600, len(whole) - 1)]
    for blob in (*cut, whole + b"\0", bytes(8), b"\xff" * 100, struct.pack("<Q", 1 << 40) + whole[8:]):
        path.write_bytes(blob)
        with pytest.raises(ModelMismatch):
            load(path)


def test_a_file_is_no_larger_than_64_mib(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with path.open("wb") as stream:
        stream.truncate(weights_file.MAX_FILE + 1)
    with pytest.raises(ModelMismatch, match="more than 67108864 bytes"):
        load(path)


def kinds_of(header: dict[str, Any]) -> dict[tuple[str, str], str]:
    """A tensor of every kind: by type, and by name without its numbers."""
    names = {name: told for name, told in header.items() if name != "__metadata__"}
    return {(told["dtype"], re.sub(r"\d+", "", name).split(".")[-1]): name for name, told in names.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_other_tensors_are_refused(name: str, sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound[name])
    for number, tensor in enumerate(kinds_of(header).values()):
        told = header[tensor]
        same_size = {"I16": "F16", "F16": "I16", "I32": "F32", "I64": "F64", "F64": "I64", "F32": "I32"}
        missing = {key: value for key, value in header.items() if key != tensor}
        others = (
            header | {tensor: told | {"dtype": same_size[told["dtype"]]}},
            header | {tensor: told | {"shape": [1, *told["shape"]]}},
            header | {tensor: told | {"shape": [math.prod(told["shape"]), 1, 1, 1, 1]}},
            missing,
            missing | {f"{tensor}.more": told},
            header | {"more": {"dtype": "I16", "shape": [0], "data_offsets": [len(data), len(data)]}},
        )
        for changed in (others[number % 6], others[(number + 3) % 6]):
            with pytest.raises(ModelMismatch):
                load(written(tmp_path / "w.safetensors", changed, data))


EXTREMES: dict[tuple[str, str], list[float]] = {
    ("I16", "weight"): [-(2**15)],
    ("I16", "table"): [-(2**15)],
    ("I64", "bias"): [2**62, -(2**63)],
    ("I64", "shift"): [-5, 63],
    ("I64", "reach"): [-1, 7],
    ("I64", "rd_weights"): [-1, 2**40],
    ("I64", "steps"): [-1, 13],
    ("I64", "inverse"): [0, 2**50],
    ("I32", "exp"): [-1, 2**30],
    ("I32", "sigmoid"): [-1, 2**30],
    ("I32", "tables"): [-1, 0, 2**30],
    ("I32", "table"): [2**30, -(2**31)],
    ("I32", "weight"): [-1, 2**30],
    ("I32", "narrowing"): [1, -(2**30)],
    ("I32", "normal"): [-1, 2**31 - 1],
    ("I32", "odds"): [-1, 0, 2**24],
    ("F16", "any"): [math.nan, -math.inf],
    ("F64", "any"): [math.nan, math.inf],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_values_that_no_export_makes_are_refused(name: str, sound: dict[str, Path], tmp_path: Path) -> None:
    header, data = parts(sound[name])
    types = {"I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F64": "<f8"}
    for (dtype, kind), tensor in kinds_of(header).items():
        values = EXTREMES.get((dtype, kind), EXTREMES.get((dtype, "any")))
        assert values, (dtype, kind, tensor)
        begin, end = header[tensor]["data_offsets"]
        for value in values:
            changed = np.frombuffer(data[begin:end], types[dtype]).copy()
            at = (len(changed) + 1) // 2 if len(changed) > 1 else 0
            changed[at + (changed[at] == value)] = value
            with pytest.raises(ModelMismatch):
                load(written(tmp_path / "w.safetensors", header, data[:begin] + changed.tobytes() + data[end:]))


def test_the_command_line_says_it_in_one_line(sound: dict[str, Path], tmp_path: Path, digits: Any) -> None:
    from PIL import Image

    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    header, data = parts(sound["ladder"])
    for key, value in (("image_size", 10**9), ("latents", 7), ("stages", DEEP)):
        changed = described(header, lambda told, key=key, value=value: told["config"].update({key: value}))  # type: ignore[misc]
        path = written(tmp_path / "w.safetensors", changed, data)
        done = CliRunner().invoke(
            main, ["compress", str(tmp_path / "a.png"), str(tmp_path / "a.vqc"), "--model", str(path)]
        )
        assert done.exit_code == 1, done.output
        assert done.output.count("\n") == 1
        assert "Error:" in done.output


RECIPE = """
family = "{family}"
name = "x"
data = "mnist"
note = ""
[model]
{model}
[train]
{train}
"""


@pytest.mark.parametrize(
    ("family", "model", "train"),
    [
        ("ladder", "", "warmup_steps = 0"),
        ("ladder", "", "epochs = 0"),
        ("ladder", "", "epochs = -1"),
        ("ladder", "", "epochs = 1e400"),
        ("ladder", "", f"epochs = {'9' * 5000}"),
        ("ladder", "", f"epochs = {10**30}"),
        ("ladder", "", "epochs = 2020-01-01"),
        ("ladder", "", "epochs = true"),
        ("ladder", "", "epochs = []"),
        ("ladder", "", "learning_rate = nan"),
        ("ladder", "", "learning_rate = inf"),
        ("ladder", "", "learning_rate = -1"),
        ("ladder", "", "learning_rate = 0"),
        ("ladder", "", "grad_clip = nan"),
        ("ladder", "", "grad_clip = -1"),
        ("ladder", "", "seed = -1"),
        ("ladder", "", "kl_warmup = nan"),
        ("ladder", "", "rd_weights = [nan]"),
        ("ladder", "", "ladder_rate = -1"),
        ("ladder", "", "preview_weight = nan"),
        ("ladder", "", "importance = 0"),
        ("ladder", 'posterior = "gaussian"\nqualities = 3', "rd_weights = [1, 1]"),
        ("ladder", 'posterior = "gaussian"\nqualities = 3\nlikelihood = "categorical"', "rd_weights = [1, 1]"),
        ("ladder", 'inference = "bottom-up"', ""),
        ("ladder", 'inference = "bottom-up"\nposterior = "gaussian"\ncontext = 2', ""),
        ("ladder", "image_size = 1000000000", ""),
        ("ladder", "latents = 5", ""),
        ("ladder", "stages = [1]", ""),
        ("vq", "", "rate_bits = [nan, 1, 1]"),
        ("vq", "", "rate_start = 2"),
        ("vq", "", "commitment = inf"),
        ("vq", "", "restart_until = -1"),
        ("vq", "prior_dropout = 1", ""),
        ("vq", "prior_dropout = nan", ""),
        ("photo", "", "crop = 0"),
        ("photo", "", "smallest = 0"),
        ("photo", "", "round_from = nan"),
        ("photo", "", "watched = [0]"),
        ("photo", "weight_high = inf", ""),
        ("photo-vq", "", "prior_rate = nan"),
        ("photo-vq", "", "crop = -64"),
        ("photo-vq", "weight = nan", ""),
        ("photo-lossless", "", "crop = 1000000000"),
        ("photo-lossless", "", "smallest = -1"),
        ("photo-lossless", "width = 0", ""),
    ],
)
def test_recipes_are_refused_with_config_error(family: str, model: str, train: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(family=family, model=model, train=train))
    with pytest.raises(ConfigError):
        read_recipe(path)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 100_000,
        "family = []",
        "family = 2020-01-01",
        "family = {}",
        'family = "ladder"\nmodel = 1\ntrain = 1\nname = "x"\ndata = "x"\nnote = ""',
        'family = "ladder"',
        'family = "ladder"\nname = 1',
        'family = "ladder"\nname = "../x"\ndata = "x"\nnote = ""\n[model]\n[train]',
        "\0",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        f"a = {'9' * 10_000}",
    ],
)
def test_files_that_are_no_recipes_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        read_recipe(path)
    done = CliRunner().invoke(main, ["train", str(path)])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
