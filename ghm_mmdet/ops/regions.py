"""What both implementations share: how they find unit regions, and which targets they take."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

#: Widens the product g·M so that its floor is ind(g) or ind(g) + 1, never less: one comparison
#: with the edge then decides.
WIDEN = 1 + 2.0**-20
#: How far targets may lie outside of [0, 1]: an IoU of half precision may round so.
ROUNDING = 1e-3


@lru_cache(maxsize=None)
def product_gives_region(bins: int, dtype: torch.dtype) -> bool:
    """Whether the floor of the rounded g·M is ind(g) for every g.

    Neither decreases in g, so it is enough that they agree at each edge and just below it.
    """
    j = torch.arange(1, bins, device='cpu')
    edges = j.to(dtype) / bins
    below = torch.nextafter(edges, torch.zeros_like(edges))
    return torch.equal((edges * bins).long(), j) and torch.equal((below * bins).long(), j - 1)


def check_probabilities(target: Tensor) -> bool:
    """Refuse targets outside [0, 1]. Returns whether none is NaN, which shows in the loss."""
    low, high = map(float, target.aminmax())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f'target must lie in [0, 1], got values from {low:g} to {high:g}')
    return low == low
