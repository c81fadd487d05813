"""The one rule of precision: statistics and losses are computed in float32 at least."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself if it is float32 or float64, else in float32."""
    return x.to(compute_dtype(x))


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)
