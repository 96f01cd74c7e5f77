"""Whatever the host program has set, files and pixels are the same, and what it has set stays."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vqcodec
from vqcodec.codec import models

ROOT = Path(__file__).parents[2]
Pixels = NDArray[np.uint8]
Hashes = dict[str, tuple[str, str]]
FAMILIES = ("plain", "vq", "ladder", "ladder lossless", "photo", "photo-vq", "photo-lossless", "archive", "rounded")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def switched(setter: Callable[[Any], object], value: object, back: object) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(back)


def onednn(enabled: bool) -> None:
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]


SETTINGS: dict[str, tuple[Callable[[], AbstractContextManager[object]], ...]] = {
    "float64": (lambda: default_dtype(torch.float64),),
    "bfloat16, autocast": (lambda: default_dtype(torch.bfloat16), lambda: torch.autocast("cpu", torch.bfloat16)),
    "float16, NumPy raises": (lambda: default_dtype(torch.float16), lambda: np.errstate(all="raise")),
    "meta device, gradients, deterministic": (
        lambda: torch.device("meta"),
        torch.enable_grad,
        lambda: switched(torch.use_deterministic_algorithms, True, False),
    ),
    "inference mode, no denormals, no oneDNN, medium products": (
        torch.inference_mode,
        lambda: switched(torch.set_flush_denormal, True, False),
        lambda: switched(onednn, False, True),
        lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    ),
}


def state() -> list[object]:
    """What a host can see of what it has set."""
    return [
        torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision(), torch.get_num_threads(), np.geterr(),
        random_state(),
    ]  # fmt: skip


def random_state() -> list[object]:
    numbers: Any = np.random.get_state()  # noqa: NPY002 - the state that must not change
    with torch.device("cpu"):
        return [torch.get_rng_state().tolist(), random.getstate(), numbers[1].tolist(), numbers[2]]


@pytest.fixture(scope="module")
def tried(
    tiny_model: Path, tiny_ladder: Path, tiny_photo: Path, tiny_archive: Path, digits: Pixels, photo: Pixels
) -> dict[str, Callable[[], tuple[bytes, Pixels]]]:
    """Of every family, a file and its pixels, from models that are loaded anew."""
    digits, photo = digits.copy(), photo[:48, :64].copy()
    for array in (digits, photo):
        array.setflags(write=False)

    def single(image: Pixels, model: str | Path, **options: Any) -> Callable[[], tuple[bytes, Pixels]]:
        def run() -> tuple[bytes, Pixels]:
            blob = vqcodec.encode(image, str(model), **options)
            return blob, vqcodec.decode(blob, "numpy", None if model == "plain" else str(model))

        return run

    def together(model: Path) -> Callable[[], tuple[bytes, Pixels]]:
        def run() -> tuple[bytes, Pixels]:
            codec: Any = models.load(str(model), archive=True).codec
            payload = codec.pack_images(digits)
            return payload, codec.unpack_images(payload, len(digits))

        return run

    runs = (
        single(photo, "plain"),
        single(digits[0], tiny_model, quality=100),
        single(digits[0], tiny_ladder, quality=100),
        single(digits[0], tiny_ladder, lossless=True),
        single(photo, tiny_photo, quality=50),
        single(photo, "vq-photo"),
        single(photo, "lossless-photo"),
        together(tiny_archive),
        together(tiny_ladder),
    )
    return dict(zip(FAMILIES, runs, strict=True))


def hashes(tried: dict[str, Callable[[], tuple[bytes, Pixels]]]) -> Hashes:
    models._load.cache_clear()
    made = {family: run() for family, run in tried.items()}
    return {family: (sha256(a).hexdigest(), sha256(b.tobytes()).hexdigest()) for family, (a, b) in made.items()}


@pytest.fixture(scope="module")
def plain(tried: dict[str, Callable[[], tuple[bytes, Pixels]]]) -> Iterator[Hashes]:
    yield hashes(tried)
    models._load.cache_clear()


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_do_not_matter(
    setting: str, tried: dict[str, Callable[[], tuple[bytes, Pixels]]], plain: Hashes
) -> None:
    with ExitStack() as stack:
        for each in SETTINGS[setting]:
            stack.enter_context(each())
        before = state()
        assert hashes(tried) == plain
        assert state() == before


def test_threads_may_load_and_code_at_the_same_time(
    tried: dict[str, Callable[[], tuple[bytes, Pixels]]], plain: Hashes
) -> None:
    """Each model is loaded once, and random numbers of the host go on as if nothing were."""
    models._load.cache_clear()
    found: list[Hashes] = []
    start = threading.Barrier(3)

    def work(order: int) -> None:
        start.wait()
        names = [*FAMILIES[order:], *FAMILIES[:order]]
        made = {name: tried[name]() for name in names}
        found.append({name: (sha256(a).hexdigest(), sha256(b.tobytes()).hexdigest()) for name, (a, b) in made.items()})

    before = random_state()
    threads = [threading.Thread(target=work, args=(order,)) for order in (0, 3, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [plain] * 3
    assert random_state() == before
    assert models._load.cache_info().misses == 6


HOST = """
import sys, json
import numpy as np
{before}
import vqcodec
{after}
def told(*options, **more):
    blob = vqcodec.encode(*options, **more)
    return [blob.hex(), vqcodec.decode(blob, "numpy").tobytes().hex()]
rows, columns = np.mgrid[:40, :56]
photo = np.stack([rows * 3 + columns, rows + columns * 2, 255 - rows * columns % 97], 2).astype(np.uint8)
photo.setflags(write=False)
print(json.dumps([told(photo), told(photo, lossless=True, model="lossless-photo"), told(photo, "plain")]))
"""


def run(flags: list[str], before: str = "", after: str = "", **environment: str) -> Any:
    code = HOST.format(before=before, after=after)
    known = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, *flags, "-c", code], env=known, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_settings_from_before_the_import_and_of_python_do_not_matter() -> None:
    before = (
        "import torch, decimal\ntorch.set_default_dtype(torch.bfloat16)\ntorch.set_default_device('meta')\n"
        "np.seterr(all='raise')\nnp.set_printoptions(precision=1, threshold=2)\ndecimal.getcontext().prec = 2"
    )
    assert run(["-OO", "-W", "error"], before) == run([])


def test_precision_is_set_back_level_by_level() -> None:
    from vqcodec.codec.exact.guard import full_float32

    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        pytest.skip("torch before 2.9 has one setting only")
    levels = [("generic", "all"), ("mkldnn", "all"), ("mkldnn", "conv"), ("mkldnn", "matmul")]

    def seen() -> list[str]:
        return [torch._C._get_fp32_precision_getter(*level) for level in levels]

    before = seen()
    torch._C._set_fp32_precision_setter("generic", "all", "bf16")
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
    try:
        changed = seen()
        with full_float32(), full_float32():
            assert not {"bf16", "tf32"} & set(seen())
        assert seen() == changed
        torch._C._set_fp32_precision_setter("generic", "all", before[0])
        assert seen()[:3] == before[:3]
    finally:
        torch._C._set_fp32_precision_setter("generic", "all", before[0])
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", "none")
