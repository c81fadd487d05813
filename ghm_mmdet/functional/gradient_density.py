"""Gradient density: how many examples have a similar gradient norm (Eqs. 4-6, 9, 12)."""

import torch
from torch import Tensor

from .checks import check_count, check_floating, check_positive, check_same_shape
from .precision import at_least_float32


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
    """
    # The product g·M may round across an edge; the edges themselves, j/M as MMDetection
    # computes them, decide.
    j = (g * bins).floor()
    j = j - (g < j / bins).to(j.dtype) + (g >= (j + 1) / bins).to(j.dtype)
    inside = g == g if valid is None else valid & (g == g)
    return torch.where(inside, j.clamp(0, bins - 1), bins).long()


def count_regions(regions: Tensor, bins: int) -> Tensor:
    """R_j: the number of examples in each unit region.

    Args:
        regions: From `assign_regions`, any shape.
        bins: M.

    Returns:
        int64 of shape (M,).
    """
    return torch.bincount(regions.flatten(), minlength=bins + 1)[:bins]


def moving_average(
    average: Tensor, counts: Tensor, momentum: float, formula: str = 'official'
) -> Tensor:
    """Eq. 12: `S = αS + (1-α)R`.

    Args:
        average: S of the call before, shape (M,), floating point.
        counts: R of this call, shape (M,).
        momentum: α in [0, 1).
        formula: 'paper' applies Eq. 12 to every region; 'official' leaves S as it is where
            R is 0, as the released code does.

    Returns:
        The new S, shape (M,).
    """
    share = ((1 - momentum) * counts.double()).to(average.dtype)
    updated = momentum * average + share
    return updated if formula == 'paper' else torch.where(counts > 0, updated, average)


def region_gradient_density(g: Tensor, bins: int, valid: Tensor | None = None) -> Tensor:
    """Eq. 9: `ĜD(g) = R_ind(g) · M`, the density in the unit region of g.

    Args:
        g: Gradient norms in [0, 1], any shape, floating point.
        bins: M, the number of unit regions.
        valid: Bool, the shape of `g`; the others are not counted. None counts all.

    Returns:
        The density, at least float32, the shape of `g`; 0 for an example that is not valid.

    Raises:
        TypeError: `g` is not a floating-point tensor, `bins` not an int.
        ValueError: `bins` < 1, or `valid` has another shape.
    """
    check_floating('g', g)
    check_count('bins', bins)
    if valid is not None:
        check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    regions = assign_regions(g, bins, None if valid is None else valid.bool())
    counts = count_regions(regions, bins).to(g.dtype)
    return torch.cat([counts * bins, counts.new_zeros(1)])[regions]


def exact_gradient_density(g: Tensor, epsilon: float, valid: Tensor | None = None) -> Tensor:
    """Eqs. 4-6: `GD(g) = (1/l_ε(g)) Σ_k δ_ε(g_k, g)`, in O(N log N) by sorting.

    δ is 1 for `g - ε/2 <= g_k < g + ε/2` (Eq. 5) and `l_ε(g)` is the length of that window
    clipped to [0, 1] (Eq. 6).

    Args:
        g: Gradient norms in [0, 1], any shape, floating point.
        epsilon: ε, the length of the window, in (0, 1]; 1/M for comparison with M regions.
        valid: Bool, the shape of `g`; the others are not counted. None counts all.

    Returns:
        The density, at least float32, the shape of `g`.

    Raises:
        TypeError: `g` is not a floating-point tensor, `epsilon` not a number.
        ValueError: `epsilon` is not > 0, or `valid` has another shape.
    """
    check_floating('g', g)
    check_positive('epsilon', epsilon)
    if valid is not None:
        check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    counted = g.flatten() if valid is None else g[valid.bool()]
    ordered = counted.sort().values
    lower, upper = g - epsilon / 2, g + epsilon / 2
    inside = torch.searchsorted(ordered, upper) - torch.searchsorted(ordered, lower)
    length = upper.clamp(max=1) - lower.clamp(min=0)
    return inside / length
