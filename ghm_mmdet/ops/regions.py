"""The unit regions: in which of them an example lies, and how many lie in each."""

from functools import lru_cache

import torch
from torch import Tensor

from .precision import at_least_float32

#: Widens the product g·M so that its floor is ind(g) or ind(g) + 1, never less: one comparison
#: with the edge then decides, where `assign_regions` needs two.
WIDEN = 1 + 2.0**-20


def assign_regions(g: Tensor, bins: int, valid: Tensor | None = None) -> Tensor:
    """The index function ind(g) of the unit regions `r_j = [(j-1)/M, j/M)`.

    The index is counted from 0, the last region is closed at g = 1, and an example that is
    not valid or whose g is NaN lies in no region, which index M stands for.

    Args:
        g: Gradient norms in [0, 1], any shape, float32 or float64.
        bins: M, the number of unit regions.
        valid: Bool, the shape of `g`; None takes every example.

    Returns:
        int64 of the shape of `g`, values in [0, M].

    Examples:
        >>> assign_regions(torch.tensor([0.0, 0.09, 0.1, 1.0]), bins=10)
        tensor([0, 0, 1, 9])
    """
    # A tensor of the device: by a number CUDA multiplies with its reciprocal, an ulp off.
    m = torch.full((), bins, dtype=g.dtype, device=g.device)
    # The product g·M may round across an edge; the edges themselves, j/M as MMDetection
    # computes them, decide.
    j = (g * bins).floor()
    j = j - (g < j / m).to(j.dtype) + (g >= (j + 1) / m).to(j.dtype)
    inside = g == g if valid is None else valid & (g == g)
    return torch.where(inside, j.clamp(0, bins - 1), bins).long()


def count_regions(regions: Tensor, bins: int) -> Tensor:
    """R_j: the number of examples in each unit region.

    Args:
        regions: From `assign_regions`, any shape.
        bins: M.

    Returns:
        int64 of shape (M,).

    Examples:
        >>> count_regions(torch.tensor([0, 0, 1, 9, 10]), bins=10)
        tensor([2, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    """
    regions = regions.flatten()
    if regions.device.type == 'cpu':
        return torch.bincount(regions, minlength=bins + 1)[:bins]
    # Elsewhere bincount waits for the device, to learn the largest.
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=regions.device)
    return counts.scatter_add_(0, regions.long(), counts.new_ones(1).expand_as(regions))[:bins]


@lru_cache
def product_gives_region(bins: int, dtype: torch.dtype) -> bool:
    """Whether the floor of the rounded g·M is ind(g) for every g.

    Neither decreases in g, so it is enough that they agree at each edge and just below it.
    """
    edges = torch.arange(1, bins, dtype=dtype) / bins
    g = torch.cat([edges, torch.nextafter(edges, torch.zeros_like(edges))])
    return torch.equal((g * bins).long(), assign_regions(g, bins))


def number_of_valid(pred: Tensor, weight: Tensor | None) -> Tensor:
    """How many elements of `pred` have a weight > 0, a scalar."""
    if weight is None:
        return _number_of_elements(pred)
    return _sum_over_examples(weight > 0, pred)


def sum_of_weights(pred: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of the weights of all elements of `pred`, a scalar."""
    if weight is None:
        return _number_of_elements(pred)
    return _sum_over_examples(at_least_float32(weight), pred)


def _sum_over_examples(of_weight: Tensor, pred: Tensor) -> Tensor:
    """The sum over all elements of `pred`, of which a row may share one."""
    total = of_weight.sum()
    return total if of_weight.shape == pred.shape else total * pred.shape[-1]


def _number_of_elements(pred: Tensor) -> Tensor:
    # Not torch.tensor, which would copy from the host and make a CUDA stream wait.
    return torch.full((), pred.numel(), dtype=torch.int64, device=pred.device)
