"""The unit regions: in which of them an example lies, and how many lie in each."""

import torch
from torch import Tensor


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

    Example:
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

    Example:
        >>> count_regions(torch.tensor([0, 0, 1, 9, 10]), bins=10)
        tensor([2, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    """
    return torch.bincount(regions.flatten(), minlength=bins + 1)[:bins]
