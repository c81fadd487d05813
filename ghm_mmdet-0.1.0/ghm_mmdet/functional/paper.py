"""GHM in the order of the paper, Eqs. 1-19, in plain PyTorch.

Gradient norm → density → β → weighted loss. This is the reference, and what computes the losses
wherever `ghm_mmdet.ops` does not. Nothing here waits for a device.
"""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count, check_momentum, check_mu, check_positive
from ..formulas import Formula, FormulaLike, Settings, formula_of
from .inputs import at_least_float32, check_beside, check_floating

#: Types of devices, Apple's.
NO_FLOAT64 = ('mps',)
Divide = Callable[[Tensor, Tensor], Tensor]

# Losses and gradient norms: how hard an example is.


def cross_entropy(pred: Tensor, target: Tensor) -> Tensor:
    """Eq. 1: `L = -log p` where `p* = 1`, `-log(1 - p)` where it is 0, and between for others.

    Args:
        pred: Logits x, any shape, float32 or float64.
        target: Targets p* in [0, 1], shape and dtype of `pred`.

    Returns:
        L, the shape of `pred`.
    """
    return F.binary_cross_entropy_with_logits(pred, target, reduction='none')


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
        check_mu('mu', mu)
    x = at_least_float32(d)
    root = _root(x, mu)
    loss = root - mu
    # Its gradient is Eq. 18, that of MMDetection's class bit for bit; but where d is small beside
    # μ, no digit of its value is left. So the value is that of the other form.
    correction = x * (x / (root + mu)) - loss
    return (loss + correction.detach()).to(d.dtype)


def regression_gradient_norm(d: Tensor, mu: float | Tensor) -> Tensor:
    """Eq. 18: `gr = |d / sqrt(d² + μ²)|`, the norm of the gradient of ASL1.

    Args:
        d: Differences `t - t*` of the encoded box offsets, any shape, floating point.
        mu: μ > 0, in units of the encoded offsets.

    Returns:
        gr in [0, 1], the shape of `d`.
    """
    return (d / _root(d, mu)).abs()


def _root(d: Tensor, mu: float | Tensor) -> Tensor:
    """sqrt(d² + μ²), which is |d| where d² would overflow.

    Not `hypot`, whose gradient differs from that of MMDetection's class in the last bit.
    """
    return torch.where(d.abs() < 1e18, (d * d + mu * mu).sqrt(), d.abs())


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
    check_beside(g, 'valid', valid, g.shape)
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
        check_beside(g, 'valid', valid, g.shape)
    g = at_least_float32(g)
    regions = assign_regions(g, bins, None if valid is None else valid.bool())
    return of_examples(count_regions(regions, bins).to(g.dtype) * bins, regions)


def of_examples(values: Tensor, regions: Tensor) -> Tensor:
    """The value of the region of each example; 0 for those in no region."""
    return F.pad(values, (0, 1))[regions]


# The harmonizing parameter β.


def moving_average(
    average: Tensor, counts: Tensor, momentum: float, formula: FormulaLike = 'official'
) -> Tensor:
    """Eq. 12: `S = αS + (1-α)R`.

    Args:
        average: S of the call before, shape (M,), floating point.
        counts: R of this call, shape (M,).
        momentum: α in [0, 1).
        formula: As for `ghm_c_loss`. 'paper' applies Eq. 12 to every region, 'official' leaves
            S as it is where R is 0, and 'tempered' also begins S at the first count that is not
            0. Default: 'official'.

    Returns:
        The new S, shape (M,).

    Raises:
        TypeError, ValueError: `momentum` or `formula` is not among the allowed values.
    """
    check_momentum('momentum', momentum)
    rule = formula_of(formula)
    r = counts.to(average.dtype)
    # In float64, as the released code rounds it, whose product is Python's.
    wide = torch.float32 if counts.device.type in NO_FLOAT64 else torch.float64
    new = (1 - momentum) * counts.to(wide)
    updated = momentum * average + new.to(average.dtype)
    if rule.starts_at_first_count:
        updated = torch.where(average > 0, updated, r)
    return updated if rule.empty_regions_decay else torch.where(r > 0, updated, average)


def harmonizing_parameter(
    counts: Tensor,
    num_examples: Tensor,
    average: Tensor | None = None,
    *,
    formula: FormulaLike = 'official',
) -> Tensor:
    """β = N / (S·M) of each unit region (Eqs. 10 and 13), or as the formula has it.

    Args:
        counts: R, shape (M,).
        num_examples: N, a floating-point scalar; taken as 1 where it is less.
        average: S of Eq. 12, shape (M,). Default: None, S = R.
        formula: As for `ghm_c_loss`.

    Returns:
        β, shape (M,), in the dtype of N; 0 where nothing is counted.

    Raises:
        TypeError, ValueError: `formula` is not among the allowed values.

    Examples:
        >>> counts = torch.tensor([3, 0, 1])
        >>> harmonizing_parameter(counts, torch.tensor(4.0))
        tensor([0.6667, 0.0000, 2.0000])
        >>> harmonizing_parameter(counts, torch.tensor(4.0), formula='paper')
        tensor([0.4444, 0.0000, 1.3333])
        >>> harmonizing_parameter(counts, torch.tensor(4.0), formula=lambda s, n: (n / s) ** 0.25)
        tensor([1.0746, 0.0000, 1.4142])
    """
    rule, n, filled = formula_of(formula), num_examples.clamp(min=1), counts > 0
    divisor = filled.sum().clamp(min=1) if rule.divisor == 'filled' else len(counts)
    if average is None:
        return _beta(torch.div, n, counts.to(n.dtype), filled, divisor, rule)
    # Python's `N / S` of the released code is `N * (1 / S)` for a tensor S, its moving average:
    # the same rounding here makes training runs equal bit for bit.
    return _beta(lambda n, s: n * s.reciprocal(), n, average, filled, divisor, rule)


def exact_harmonizing_parameter(
    density: Tensor,
    num_examples: Tensor,
    valid: Tensor,
    bins: int,
    formula: FormulaLike = 'official',
) -> Tensor:
    """β = N / GD(g) of each example (Eq. 7); GD/M stands where `harmonizing_parameter` has S.

    Args:
        density: GD(g) of Eq. 4 with ε = 1/M, any shape, floating point.
        num_examples: N, a floating-point scalar; taken as 1 where it is less.
        valid: Bool, the shape of `density`.
        bins: M.
        formula: As for `ghm_c_loss`. The divisor of 'official' is M, too: no region is empty.

    Returns:
        β, the shape of `density`; 0 where not valid.
    """
    n = num_examples.clamp(min=1)
    return _beta(torch.div, n, density / bins, valid, bins, formula_of(formula))


def _beta(
    divide: Divide, n: Tensor, s: Tensor, filled: Tensor, divisor: int | Tensor, rule: Formula
) -> Tensor:
    """`(N/S)^τ`, divided by M or by n, or a function of one's own; 0 where nothing is counted."""
    if rule.beta is not None:
        beta = rule.beta(torch.where(filled, s.to(n.dtype), 1), n)
    else:
        ratio = divide(n, s.clamp(min=rule.min_count) if rule.min_count else s)
        beta = ratio if rule.power == 1 else ratio.pow(rule.power)
        beta = beta if rule.divisor == 'none' else beta / divisor
    return torch.where(filled, beta.to(n.dtype), 0)


# The loss.


def example_weights(
    beta: Tensor, num_examples: Tensor, settings: Settings, num_processes: int = 1
) -> Tensor:
    """What the loss of each example is multiplied by: `loss_weight β / N`, the shape of β.

    1/N is left out unless the reduction is 'mean'. DDP averages the gradients of the processes;
    where N is that of all of them, their number is a factor.
    """
    n = num_examples.clamp(min=1)
    factor = torch.full_like(n, settings.loss_weight * num_processes)
    # In this order, which is autograd's, the gradient is MMDetection's bit for bit.
    return (factor / n if settings.reduction == 'mean' else factor) * beta


def weighted(loss: Tensor, weights: Tensor, settings: Settings) -> Tensor:
    """Eqs. 8, 11 and 19: `(1/N) Σ β_i L_i`, or each `β_i L_i` for 'none'; β is a constant."""
    product = weights.detach() * loss
    return product if settings.reduction == 'none' else product.sum()
