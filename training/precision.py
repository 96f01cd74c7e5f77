"""Precision of matrix products in training."""

from __future__ import annotations

import torch


def products(device: torch.device, precision: str) -> torch.autocast:
    """Context in which networks run: autocast for "bf16", unless the CPU has no instructions for it, where it would
    take tens of times as long as float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and _has_bf16(device))


def _has_bf16(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in known)
