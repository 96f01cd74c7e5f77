"""Batch-norm statistics over the whole training set, in place of the running averages of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .ladder import LadderTask, terms

_SEED = 0


@torch.no_grad()
def reestimate(task: LadderTask, images: Tensor, batch_size: int = 1000) -> None:
    """Set every batch norm's running statistics to the mean of those of all batches of images uint8 [N, S, S].

    The weights of the last step see features that the running averages lag behind (Ioffe and Szegedy 2015, alg. 2).
    Binary models see a new sample of every image, latents are drawn from the posterior, both with a fixed seed. The
    task is left ready for evaluation; nothing happens to one without batch norm."""
    norms = [module for module in task.modules() if isinstance(module, nn.BatchNorm2d)]
    task.eval()
    if not norms:
        return
    in_pixels = any(isinstance(module, nn.BatchNorm2d) for module in task.model.generative.pixels.modules())
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for batch in torch.split(images[: max(batch_size, len(images) // batch_size * batch_size)], batch_size):
            terms(task.model, task.values(batch), lossless=in_pixels)
    task.eval()
