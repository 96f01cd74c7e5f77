"""The training loop: data on the device, checkpoints, bit-for-bit resume, metrics as JSON lines and TensorBoard."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.config import ConfigError
from ..codec.whole import whole_file
from .captured import Captured
from .config import (
    AnyPhotoRecipe,
    LadderRecipe,
    PhotoLosslessRecipe,
    PhotoRecipe,
    PhotoVQRecipe,
    Recipe,
    TrainConfig,
    VQRecipe,
)
from .data.photos import Photos
from .ladder import LadderTask
from .parallel import ALONE, Group, join
from .photo import PhotoTask
from .photo_lossless import PhotoLosslessTask
from .photo_vq import PhotoVQTask
from .precision import products
from .vq import VQTask

_LOG_EVERY = 50
_AGREE_EVERY = 4
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Task = VQTask | LadderTask | PhotoTask | PhotoVQTask | PhotoLosslessTask


@dataclass(frozen=True)
class Progress:
    """Where a run stands: optimiser steps done and in all, and the newest metrics (for a progress bar)."""

    step: int
    steps: int
    metrics: dict[str, float]


def train(
    recipe: Recipe,
    images: Tensor | Photos,
    folder: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    init: Path | None = None,
    max_seconds: float = math.inf,
    fit_seconds: float = math.inf,
    validation: Tensor | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Task | None:
    """Train a recipe on images uint8 [N, S, S] (or photographs); returns the finished task, or None if max_seconds ran
    out first.

    fit_seconds: train for about this long, with fewer steps than the recipe has if need be: the learning rate falls
    to its end all the same. Such a run depends on the machine's speed.

    The folder gets checkpoint.pt (atomically, after `evaluate_every` epochs and when time runs out), metrics.jsonl and
    TensorBoard events. With `resume` a checkpoint continues exactly as if the run had never stopped: weights,
    optimiser, random state and the place in the epoch are restored. init: folder of a run of the same model, whose
    weights this one starts from (fine-tuning). validation: images to evaluate on after every epoch. Raises ConfigError
    if the images have another size than the model, or a checkpoint is of another recipe (or, for init, model).

    Under torchrun all processes train together (`parallel`); a checkpoint continues with as many as wrote it.
    """
    config = recipe.train
    _check_images(recipe, images)
    torch.manual_seed(config.seed)
    group, device = join(device)
    run = _Run(recipe, device, steps_per_epoch=max(1, len(images) // config.batch_size), group=group)
    if resume and (folder / CHECKPOINT).exists():
        run.load(folder / CHECKPOINT)
    elif init:
        run.start_from(init / CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    images = images.to(device)
    pace, most = _Pace(fit_seconds), run.steps
    end = time.monotonic() + max_seconds
    with _alone(folder, group), _metrics(folder, run) as log:
        for numbers in run.batches(len(images)):
            metrics = run.advance(images, numbers)
            if run.step % _LOG_EVERY == 0 or run.step >= run.steps:
                values = {name: float(value) for name, value in metrics.items()}
                if not math.isfinite(values["loss"]):
                    raise RuntimeError(f"training has diverged before step {run.step}: loss {values['loss']}")
                log.write(run.step, values)
                run.steps = group.agreed(pace.steps(run.step, most))
                report(Progress(run.step, run.steps, values))
            if run.checkpoint_due:
                if validation is not None:
                    log.write(run.step, {f"val_{k}": v for k, v in run.evaluate(validation.to(device)).items()})
                run.save(folder / CHECKPOINT)
            if run.step < run.steps and _over(end, run):
                run.save(folder / CHECKPOINT)
                return None
    return run.task


def _check_images(recipe: Recipe, images: Tensor | Photos) -> None:
    if isinstance(recipe, AnyPhotoRecipe) != isinstance(images, Photos):
        raise ConfigError(f"{recipe.name}: only models of photographs train on photographs")
    if isinstance(images, Photos) or not isinstance(recipe, VQRecipe | LadderRecipe):
        return
    if images.shape[1:] != (recipe.model.image_size,) * 2:
        side = recipe.model.image_size
        raise ConfigError(f"{recipe.name} takes images of {side} x {side} pixels, found {tuple(images.shape[1:])}")


def _over(end: float, run: _Run) -> bool:
    """Whether time has run out; processes that train together agree on it now and then."""
    if run.group.size > 1 and run.step % _AGREE_EVERY:
        return False
    return bool(run.group.agreed(time.monotonic() > end))


def build_task(recipe: Recipe) -> Task:
    """A new model of the recipe's family and what its training needs. Raises ConfigError for an unknown family."""
    if isinstance(recipe, VQRecipe):
        return VQTask(recipe.model, recipe.train)
    if isinstance(recipe, LadderRecipe):
        return LadderTask(recipe.model, recipe.train)
    if isinstance(recipe, PhotoRecipe):
        return PhotoTask(recipe.model, recipe.train)
    if isinstance(recipe, PhotoVQRecipe):
        return PhotoVQTask(recipe.model, recipe.train)
    if isinstance(recipe, PhotoLosslessRecipe):
        return PhotoLosslessTask(recipe.model, recipe.train)
    raise ConfigError(f"{recipe.name}: no training for {type(recipe).__name__}")


class _Run:
    """Everything that a checkpoint holds, and one step of it."""

    def __init__(self, recipe: Recipe, device: str, steps_per_epoch: int, group: Group = ALONE) -> None:
        self.group = group
        self.recipe, self.device, self.steps_per_epoch = recipe, torch.device(device), steps_per_epoch
        self.steps = steps_per_epoch * recipe.train.epochs
        self.step = 0
        self.task = build_task(recipe).to(self.device)
        self.task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.groups = self.task.parameter_groups()
        alone = self.device.type == "cuda" and group.size == 1
        self.captures = alone and recipe.train.capture and self.task.constant
        self.captured: Captured | None = None
        torch.backends.cudnn.benchmark |= self.captures
        self.optimiser = torch.optim.Adam([{"params": spec.parameters} for spec in self.groups], lr=0.0, fused=True)
        self._rates_on_device()
        group.scatter_seeds(recipe.train.seed)

    def _rates_on_device(self) -> None:
        """A captured step reads its learning rates from the device; what a checkpoint says of them does not count."""
        for group in self.optimiser.param_groups:
            group["lr"] = torch.zeros((), device=self.device) if self.captures else 0.0
            group["capturable"] = self.captures

    def _capture(self, images: Tensor | Photos) -> Captured:
        """Steps on these images as a CUDA graph."""
        loss = torch.compile(self.task.loss, dynamic=False) if self.recipe.train.compile else self.task.loss
        return Captured(lambda numbers, progress: self._update(loss, images[numbers], 0, progress))

    @property
    def checkpoint_due(self) -> bool:
        return self.step >= self.steps or self.step % (self.steps_per_epoch * self.recipe.train.evaluate_every) == 0

    def batches(self, images: int) -> Iterator[Tensor]:
        """Numbers of each batch still to do, this process's share; an epoch's order follows from seed and epoch."""
        size, seed = self.recipe.train.batch_size, self.recipe.train.seed
        while self.step < self.steps:
            epoch, first = divmod(self.step, self.steps_per_epoch)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(images, generator=generator).to(self.device)
            for number in range(first, self.steps_per_epoch):
                if self.step >= self.steps:
                    return
                yield self.group.share(order[number * size : (number + 1) * size])

    def advance(self, images: Tensor | Photos, numbers: Tensor) -> dict[str, Tensor]:
        """One optimiser step on uint8 images by their numbers int64 [B]; the metrics hold until the next one."""
        rate = _learning_rate(self.recipe.train, self.step, self.steps, self.step // self.steps_per_epoch)
        for group, spec in zip(self.optimiser.param_groups, self.groups, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * spec.rate)
            else:
                group["lr"] = rate * spec.rate
        progress = self.step / self.steps
        if self.captures:
            self.captured = self.captured or self._capture(images)
            metrics = self.captured(numbers, progress)
        else:
            metrics = self._update(self.task.loss, images[numbers], self.step, progress)
        self.step += 1
        return metrics

    def _update(self, objective: Objective, batch: Tensor, step: int, progress: float | Tensor) -> dict[str, Tensor]:
        with products(self.device, self.recipe.train.precision):
            loss, metrics = objective(batch, step, progress)
        self.optimiser.zero_grad()
        loss.backward()
        self.group.average_gradients(parameter for spec in self.groups for parameter in spec.parameters)
        for spec in self.groups:
            if math.isinf(spec.clip):
                continue
            nn.utils.clip_grad_norm_(spec.parameters, spec.clip, error_if_nonfinite=not self.captures)
        self.optimiser.step()
        return metrics | {"loss": loss.detach()}

    def evaluate(self, images: Tensor) -> dict[str, float]:
        self.task.eval()
        values = self.task.evaluate(images)
        self.task.train()
        return values

    def save(self, path: Path) -> None:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        random = self.group.gathered((torch.get_rng_state(), cuda))
        if not self.group.first:
            return
        state = {
            "recipe": _identity(self.recipe),
            "step": self.step,
            "task": self.task.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": [state for state, _ in random],
            "cuda_rng": [state for _, states in random for state in states],
        }
        with whole_file(path) as stream:
            torch.save(state, stream)

    def start_from(self, path: Path) -> None:
        """Take the weights of another run's checkpoint."""
        state = _read(path)
        if json.loads(state["recipe"])["model"] != json.loads(_identity(self.recipe))["model"]:
            raise ConfigError(f"{path} is of another model: its weights do not fit {self.recipe.name}")
        self.task.load_state_dict(state["task"])

    def load(self, path: Path, resume: bool = True) -> None:
        """Weights and optimiser of a checkpoint; to resume, also the random states of all processes."""
        state = _read(path)
        if _without_note(state["recipe"]) != _without_note(_identity(self.recipe)):
            raise ConfigError(f"{path} belongs to another recipe or another version of it; train in a new folder")
        self.step = state["step"]
        self.task.load_state_dict(state["task"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._rates_on_device()
        if not resume:
            return
        random = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]  # as earlier versions wrote it
        if len(random) != self.group.size:
            raise ConfigError(f"{path} was written by {len(random)} processes, found {self.group.size}")
        torch.set_rng_state(random[self.group.rank])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"][self.group.rank], self.device)


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"no checkpoint {path}") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ConfigError(f"{path} is damaged and cannot be resumed ({type(error).__name__})") from error
    return state


def _identity(recipe: Recipe) -> str:
    return json.dumps(dataclasses.asdict(recipe))


def _without_note(recipe: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(recipe).items() if key != "note"}


def load_task(recipe: Recipe, folder: Path) -> tuple[Task, int]:
    """The task of a run's checkpoint, ready for evaluation or export, and the steps done. Raises ConfigError."""
    if not (folder / CHECKPOINT).exists():
        raise ConfigError(f"no checkpoint in {folder}")
    run = _Run(recipe, "cpu", 1)
    run.load(folder / CHECKPOINT, resume=False)
    return run.task.eval(), run.step


def _learning_rate(config: TrainConfig, step: int, steps: int, epoch: int) -> float:
    """Linear warm-up, then a cosine (Loshchilov and Hutter 2017, eq. 5) from the peak to 1 %, or as the recipe says."""
    peak = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "steps":
        return peak * 0.75 ** (epoch // 200)
    if config.schedule == "constant":
        return peak
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class _Pace:
    """How many steps fit into a time."""

    def __init__(self, seconds: float) -> None:
        """The time begins now."""
        self._end = time.monotonic() + seconds
        self._first: tuple[float, int] | None = None

    def steps(self, step: int, steps: int) -> int:
        """Steps in all, of `steps` at most, at the pace since this was first asked; `step` are done."""
        now = time.monotonic()
        if math.isinf(self._end) or self._first is None:
            self._first = now, step
            return steps
        since, first = self._first
        return min(steps, step + max(0, int((self._end - now) * (step - first) / (now - since))))


@contextmanager
def _alone(folder: Path, group: Group) -> Iterator[None]:
    """Holds a run's folder against other processes (not on Windows), which would write into its checkpoint and metrics.

    Raises ConfigError if one trains there. The lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    if not group.first:
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process trains in {folder}") from error
        yield


def _metrics(folder: Path, run: _Run) -> _Metrics:
    """Where this process writes metrics: only the first of a group does."""
    return _Metrics(folder if run.group.first else Path(os.devnull), append=run.step > 0)


class _Metrics:
    """metrics.jsonl, and TensorBoard events where the package is installed."""

    def __init__(self, folder: Path, append: bool) -> None:
        quiet = folder == Path(os.devnull)
        self._file = (folder if quiet else folder / METRICS).open("a" if append else "w")
        self._board: Any = None
        if quiet:
            return
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder))

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in values.items()}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()
