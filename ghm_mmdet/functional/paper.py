"""GHM in the order of the paper, Eqs. 1-19, in plain PyTorch.

Gradient norm → density → β → weighted loss. This is the reference, and what computes the losses
wherever `ghm_mmdet.ops` does not. Nothing here waits for a device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_count, check_momentum, check_positive
from ..formulas import FORMULAS, Settings
from .inputs import at_least_float32, check_floating, check_same_shape, widest_dtype

# Gradient norms: how hard an example is.


def classification_gradient_norm(pred: Tensor, target: Tensor) -> Tensor:
    """Eq. 3: `g = |p - p*|` with `p = sigmoid(x)`, the norm of the gradient of cross entropy.

    Args:
        pred: Logits x, any shape, floating point.
        target: Targets p* in [0, 1], the shape of `pred`.

    Returns:
        g in [0, 1], the shape of `pred`.
    """
    return (pred.sigmoid() - target).abs()


def softmax_gradient_norm(cross_entropy: Tensor) -> Tensor:
    """Eq. 3 of a softmax: `g = 1 - p_y`, with `p_y` the probability of the label.

    It is the entry at the label of the gradient of `L = -log p_y` with respect to the logits,
    and half its L1 norm. With two classes it is Eq. 3 of the difference of the logits.

    Args:
        cross_entropy: L of each example, any shape, floating point; `p_y = exp(-L)`.

    Returns:
        g in [0, 1], the shape of `cross_entropy`.
    """
    return -(-cross_entropy).expm1()


def authentic_smooth_l1(d: Tensor, mu: float | Tensor = 0.02) -> Tensor:
    """Eq. 17: `ASL1(d) = sqrt(d² + μ²) - μ`, elementwise.

    It is computed as `d² / (sqrt(d² + μ²) + μ)`, the same without cancellation.

    Args:
        d: Differences, any shape, floating point. Half precision is computed in float32.
        mu: μ > 0, in units of `d`. Default: 0.02, the paper's.

    Returns:
        The loss of each element, the shape and dtype of `d`.

    Examples:
        >>> authentic_smooth_l1(torch.tensor([0.0, 0.02, 1.0]))
        tensor([0.0000, 0.0083, 0.9802])
    """
    check_floating('d', d)
    if not isinstance(mu, Tensor):
        check_positive('mu', mu)
    x = at_least_float32(d)
    root = (x * x + mu * mu).sqrt()
    loss = root - mu
    # Its gradient is Eq. 18, that of MMDetection's class bit for bit; of its value where d is
    # small beside μ nothing is left.
    correction = x * x / (root + mu) - loss
    return (loss + correction.detach()).to(d.dtype)


def regression_gradient_norm(d: Tensor, mu: float | Tensor) -> Tensor:
    """Eq. 18: `gr = |d / sqrt(d² + μ²)|`, the norm of the gradient of ASL1.

    Args:
        d: Differences `t - t*` of the encoded box offsets, any shape, floating point.
        mu: μ > 0, in units of the encoded offsets.

    Returns:
        gr in [0, 1], the shape of `d`.
    """
    return (d / (d * d + mu * mu).sqrt()).abs()


# Gradient density: how many examples have a similar gradient norm.


def exact_gradient_density(g: Tensor, epsilon: float, valid: Tensor | None = None) -> Tensor:
    """Eqs. 4-6: `GD(g) = (1/l_ε(g)) Σ_k δ_ε(g_k, g)`, in O(N log N).

    δ is 1 for `g - ε/2 <= g_k < g + ε/2` (Eq. 5) and `l_ε(g)` is the length of that window
    clipped to [0, 1] (Eq. 6).

    Args:
        g: Gradient norms in [0, 1], any shape, floating point.
        epsilon: ε, the length of the window; 1/M for comparison with M regions. At least four
            times the resolution of `g` at 1: 4.8e-7, or 8.9e-16 in float64.
        valid: Bool, the shape of `g`; the others are not counted. None counts all.

    Returns:
        The density, at least float32, the shape of `g`.

    Raises:
        TypeError, ValueError: `g` is not floating point, `valid` has another shape, or `epsilon`
            is too small.

    Examples:
        >>> exact_gradient_density(torch.tensor([0.05, 0.5, 0.52]), epsilon=0.1)
        tensor([10.0000, 20.0000, 20.0000])
    """
    check_floating('g', g)
    check_positive('epsilon', epsilon)
    valid = torch.ones_like(g, dtype=torch.bool) if valid is None else valid
    check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    shortest = 4 * torch.finfo(g.dtype).eps
    if epsilon < shortest:
        raise ValueError(f'epsilon must be >= {shortest:.1e} in {g.dtype}, got {epsilon!r}')
    ordered, order = g.flatten().sort()
    lower, upper = ordered - epsilon / 2, ordered + epsilon / 2
    first, end = torch.searchsorted(ordered, lower), torch.searchsorted(ordered, upper)
    counted_before = F.pad(valid.bool().flatten()[order].cumsum(0), (1, 0))
    inside = counted_before[end] - counted_before[first]
    density = inside / (upper.clamp(max=1) - lower.clamp(min=0))
    return torch.empty_like(density).scatter_(0, order, density).view(g.shape)


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
        regions: From `assign_regions`, any shape, int64.
        bins: M, the length of what is returned, int64.
    """
    regions = regions.flatten()
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=regions.device)
    # Not bincount, which waits for the device to learn the largest.
    return counts.scatter_add(0, regions, torch.ones_like(regions))[:bins]


def region_gradient_density(g: Tensor, bins: int, valid: Tensor | None = None) -> Tensor:
    """Eq. 9: `ĜD(g) = R_ind(g) · M`, the density in the unit region of g.

    Args:
        g, valid: As for `exact_gradient_density`.
        bins: M, the number of unit regions, an int >= 1.

    Returns:
        The density, at least float32, the shape of `g`; 0 for an example that is not valid.

    Raises:
        TypeError, ValueError: `g` is not floating point, `valid` has another shape, or `bins` is
            no int >= 1.

    Examples:
        >>> region_gradient_density(torch.tensor([0.05, 0.02, 0.03, 0.95]), bins=10)
        tensor([30., 30., 30., 10.])
    """
    check_floating('g', g)
    check_count('bins', bins)
    if valid is not None:
        check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    regions = assign_regions(g, bins, None if valid is None else valid.bool())
    return of_examples(count_regions(regions, bins).to(g.dtype) * bins, regions)


def of_examples(values: Tensor, regions: Tensor | None) -> Tensor:
    """The value of the region of each example, 0 outside; None: they are those of the examples."""
    return values if regions is None else F.pad(values, (0, 1))[regions]


# The harmonizing parameter β.


def moving_average(
    average: Tensor, counts: Tensor, momentum: float, formula: str = 'official'
) -> Tensor:
    """Eq. 12: `S = αS + (1-α)R`.

    Args:
        average: S of the call before, shape (M,), floating point.
        counts: R of this call, shape (M,).
        momentum: α in [0, 1).
        formula: A name in `FORMULAS`. 'paper' applies Eq. 12 to every region, 'official' leaves
            S as it is where R is 0, and 'tempered' also begins S at the first count that is not
            0. Default: 'official'.

    Returns:
        The new S, shape (M,).

    Raises:
        TypeError, ValueError: `momentum` or `formula` is not among the allowed values.
    """
    check_momentum('momentum', momentum)
    check_choice('formula', formula, FORMULAS)
    rule = FORMULAS[formula]
    r = counts.to(average.dtype)
    # As the released code rounds it, whose product is Python's.
    new = (1 - momentum) * counts.to(widest_dtype(counts.device.type))
    updated = momentum * average + new.to(average.dtype)
    if rule.starts_at_first_count:
        updated = torch.where(average > 0, updated, r)
    return updated if rule.empty_regions_decay else torch.where(r > 0, updated, average)


class Statistics(NamedTuple):
    """What β is computed from, of one mini-batch."""

    counts: Tensor  # R, shape (M,); for the exact density which examples are valid
    average: Tensor | None  # S of Eq. 12; for the exact density GD/M of each; None for S = R
    num_examples: Tensor  # N, a scalar of the dtype of the loss
    finite: Tensor  # whether the loss is finite in every example, a bool scalar
    num_processes: int = 1  # over which they are summed


def harmonizing_parameter(
    counts: Tensor,
    num_examples: Tensor,
    average: Tensor | None = None,
    *,
    bins: int,
    density: str = 'region',
    formula: str = 'official',
) -> Tensor:
    """β = N / GD (Eq. 7), of unit regions N / (S·M) (Eqs. 10 and 13), or as `FORMULAS` has it.

    Args:
        counts: R, shape (M,); with the exact density which examples are valid, any shape.
        num_examples: N, a floating-point scalar; taken as 1 where it is less.
        average: S of Eq. 12, shape (M,); with the exact density GD/M of each example. Default:
            None, S = R.
        bins: M.
        density, formula: As for `ghm_c_loss`.

    Returns:
        The shape of `counts`; 0 where nothing is counted.

    Raises:
        TypeError, ValueError: `bins`, `density` or `formula` is not among the allowed values.

    Examples:
        >>> counts = torch.tensor([3, 0, 1])
        >>> harmonizing_parameter(counts, torch.tensor(4.0), bins=3)
        tensor([0.6667, 0.0000, 2.0000])
        >>> harmonizing_parameter(counts, torch.tensor(4.0), bins=3, formula='paper')
        tensor([0.4444, 0.0000, 1.3333])
    """
    rule = FORMULAS[Settings(bins, density, formula).formula]
    n, filled = num_examples.clamp(min=1), counts > 0
    s = counts.to(n.dtype) if average is None else average
    s = s.clamp(min=rule.min_count) if rule.min_count else s
    # Python's `N / S` of the released code is `N * (1 / S)` for a tensor S, its moving
    # average: the same rounding here makes training runs equal bit for bit.
    beta = n / s if average is None else n * s.reciprocal()
    beta = beta.pow(rule.power) if rule.power != 1 else beta
    beta = torch.where(filled, beta.to(n.dtype), 0)
    if rule.divisor == 'none':
        return beta
    if rule.divisor == 'all' or density == 'exact':
        return beta / bins
    return beta / filled.sum().clamp(min=1)


# The loss.


def example_weights(statistics: Statistics, settings: Settings) -> Tensor:
    """What the loss of each example is multiplied by: `loss_weight β / N`, the shape of β.

    1/N is left out unless the reduction is 'mean'. DDP averages the gradients of the processes,
    and N is that of all of them.
    """
    counts, average, num_examples, _, num_processes = statistics
    beta = harmonizing_parameter(
        counts, num_examples, average,
        bins=settings.bins, density=settings.density, formula=settings.formula,
    )  # fmt: skip
    n = num_examples.clamp(min=1)
    factor = torch.full_like(n, settings.loss_weight * num_processes)
    # In this order, which is autograd's, the gradient is MMDetection's bit for bit.
    return (factor / n if settings.reduction == 'mean' else factor) * beta


def weighted(loss: Tensor, weights: Tensor, settings: Settings) -> Tensor:
    """Eqs. 8, 11 and 19: `(1/N) Σ β_i L_i`, or each `β_i L_i` for 'none'; β is a constant."""
    product = weights.detach() * loss
    return product if settings.reduction == 'none' else product.sum()
