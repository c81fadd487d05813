"""The one rule of precision: statistics and losses are computed in float32 at least."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself if it is float32 or float64, else in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
