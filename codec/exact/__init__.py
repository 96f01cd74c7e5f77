"""Exact arithmetic: integer networks held in float64 tensors, the same on every machine."""

from .export import to_exact
from .layers import ExactConv2d, ExactEmbedding, ExactLinear, ExactOffset, Offset, Residual
from .softmax import exp_table, frequencies

__all__ = [
    "ExactConv2d",
    "ExactEmbedding",
    "ExactLinear",
    "ExactOffset",
    "Offset",
    "Residual",
    "exp_table",
    "frequencies",
    "to_exact",
]
