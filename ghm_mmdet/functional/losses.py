"""GHM-C (Eqs. 8 and 11), its softmax form, and GHM-R (Eq. 19), each in two passes.

The first counts the examples, the second weighs and sums their losses. Between the two a loss
module sums the statistics over processes and into its moving average.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..formulas import FORMULAS, Settings
from . import fused, inputs, paper
from .paper import Statistics


class FirstPass(NamedTuple):
    """What the first pass over the examples leaves for the second."""

    statistics: Statistics  # of this call, from which β is computed
    loss: Tensor | None = None  # L of each example with its graph, unless kernels compute it
    regions: Tensor | None = None  # of each example; None where β is that of each example
    logits: fused.CountedLogits | None = None  # what the kernels have counted

    def divided_by(self, avg_factor: float | Tensor | None, settings: Settings) -> FirstPass:
        """With the head's `avg_factor` for N, where it gives one and the formula takes it."""
        if avg_factor is None or not FORMULAS[settings.formula].takes_avg_factor:
            return self
        n = inputs.scalar_like(self.statistics.num_examples, 'avg_factor', avg_factor)
        return self._replace(statistics=self.statistics._replace(num_examples=n))


def second_pass(first: FirstPass, settings: Settings) -> Tensor:
    """`(1/N) Σ β_i L_i` (Eqs. 8, 11 and 19), or each `β_i L_i` for 'none'."""
    weights = paper.example_weights(first.statistics, settings)
    if first.logits is not None:
        return fused.weighted_cross_entropy(first.logits, weights)
    assert first.loss is not None
    return paper.weighted(first.loss, paper.of_examples(weights, first.regions), settings)


def first_pass_of_sigmoid(
    pred: Tensor, target: Tensor, weight: Tensor | None, settings: Settings
) -> FirstPass:
    """The first pass of binary cross entropy (Eq. 1), with g of Eq. 3."""
    inputs.check_classification(pred, target, weight)
    kernels = ops.choose_kernels(pred, target, weight, settings)
    if kernels is not None:
        logits = fused.count_cross_entropy(kernels, pred, target, weight, settings.bins)
        n = logits.counts.sum().to(inputs.compute_dtype(pred))
        return FirstPass(Statistics(logits.counts, None, n, logits.finite), logits=logits)
    loss, g = fused.cross_entropy_and_norm(pred, target)
    return _first_pass(loss, g, inputs.valid_examples(pred, weight), None, settings)


def first_pass_of_softmax(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Sequence[float] | Tensor | None,
    ignore_index: int,
    settings: Settings,
) -> FirstPass:
    """The first pass of softmax cross entropy, `w_y · (-log p_y)` of each row, with g = 1 - p_y."""
    inputs.check_softmax(pred, target, weight)
    x, labels = inputs.at_least_float32(pred), target.long()
    valid = labels != ignore_index
    if weight is not None:
        valid = valid & (weight > 0)
    loss = F.cross_entropy(x, labels, reduction='none', ignore_index=ignore_index)
    g = paper.softmax_gradient_norm(loss.detach())
    if class_weight is not None:
        w = torch.as_tensor(class_weight, dtype=x.dtype, device=x.device)
        if w.shape != x.shape[1:]:
            raise ValueError(
                f'class_weight must hold one weight for each of the {x.shape[1]} channels of '
                f'pred, got the shape {tuple(w.shape)}'
            )
        loss = w[torch.where(valid, labels, 0)] * loss
    return _first_pass(loss, g, valid, None, settings)


def first_pass_of_offsets(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float | Tensor,
    settings: Settings,
) -> FirstPass:
    """The first pass of ASL1 (Eq. 17), with gr of Eq. 18."""
    inputs.check_regression(pred, target, weight)
    x = inputs.at_least_float32(pred)
    d = x - target.to(x.dtype)
    n = None
    if FORMULAS[settings.formula].weights_are_counts and weight is not None:
        n = inputs.expanded(weight, x).sum(dtype=x.dtype)
    loss, gr = paper.authentic_smooth_l1(d, mu), paper.regression_gradient_norm(d.detach(), mu)
    return _first_pass(loss, gr, inputs.valid_examples(x, weight), n, settings)


def _first_pass(
    loss: Tensor, g: Tensor, valid: Tensor, n: Tensor | None, settings: Settings
) -> FirstPass:
    """Count the gradient norms, or find their exact density; N is that of the valid, or given."""
    n = valid.sum().to(g.dtype) if n is None else n
    finite = loss.detach().isfinite().all()
    if settings.density == 'exact':
        s = paper.exact_gradient_density(g, 1 / settings.bins, valid) / settings.bins
        return FirstPass(Statistics(valid, s, n, finite), loss)
    regions = paper.assign_regions(g, settings.bins, valid)
    counts = paper.count_regions(regions, settings.bins)
    return FirstPass(Statistics(counts, None, n, finite), loss, regions)


def ghm_c_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    bins: int = 30,
    density: str = 'region',
    formula: str = 'official',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """GHM-C: `(1/N) Σ β_i L_CE(p_i, p_i*)` (Eqs. 8 and 11).

    An example is one (anchor, class) logit; N counts the valid ones.

    Args:
        pred: Logits, shape (..., C), floating point. Half precision is computed in float32.
        target: Integer labels of the shape of `pred` without its last dimension, where any
            label outside [0, C) is background; or targets in [0, 1] of the shape of `pred`.
        weight: Of the shape of `pred`, or of the labels; an example is valid where it is > 0.
            Default: None, all are valid.
        bins: M, the number of unit regions, or 1/ε. Default: 30, the paper's.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6). Default: 'region'.
        formula: A name in `ghm_mmdet.formulas.FORMULAS`. Default: 'official', the
            released code's `β = N / (S·n)` with n regions that are not empty.
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`. Default:
            'mean'.
        loss_weight: Factor of the loss. Default: 1.0.
        avg_factor: N of `formula='tempered'`; the other formulas ignore it. Default: None, the
            number of valid examples.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, a setting that is not among the allowed, or
            targets outside [0, 1]. These are looked for on the CPU alone; on other devices the
            loss is NaN.

    Examples:
        >>> pred = torch.tensor([[2.0, -3.0], [-4.0, -2.0]])
        >>> labels = torch.tensor([0, 2])  # 2 is background
        >>> ghm_c_loss(pred, labels, bins=10)
        tensor(0.0801)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    first = first_pass_of_sigmoid(pred, target, weight, settings)
    return second_pass(first.divided_by(avg_factor, settings), settings)


def softmax_ghm_c_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    class_weight: Sequence[float] | Tensor | None = None,
    ignore_index: int = -100,
    bins: int = 30,
    density: str = 'region',
    formula: str = 'official',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """GHM-C of a softmax: `(1/N) Σ β_i w_y L_i` with `L = -log p_y` (Eqs. 8 and 11).

    An example is one row with its label y, `g = 1 - p_y` (see `softmax_gradient_norm`), and N
    counts the valid rows. The weight w of a class is a factor of the loss, not of the counts.

    Args:
        pred: Logits, shape (N, C), floating point; the background, where there is one, is a
            class. Half precision is computed in float32.
        target: Integer labels in [0, C) or `ignore_index`, shape (N,). Others raise an
            IndexError on the CPU and a device-side assertion on CUDA, as in `cross_entropy`.
        weight: Shape (N,); a row is valid where it is > 0. Default: None, all are valid.
        class_weight: w, shape (C,). Default: None, all are 1.
        ignore_index: A row with this label is not valid. Default: -100.
        bins, density, formula, reduction, loss_weight, avg_factor: As for `ghm_c_loss`.

    Returns:
        A scalar, or shape (N,) for 'none'; float64 for float64 logits, else float32.

    Examples:
        >>> pred = torch.tensor([[2.0, -3.0, 0.0], [-4.0, -2.0, 1.0]])
        >>> softmax_ghm_c_loss(pred, torch.tensor([0, 2]), bins=10)
        tensor(0.0939)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    first = first_pass_of_softmax(pred, target, weight, class_weight, ignore_index, settings)
    return second_pass(first.divided_by(avg_factor, settings), settings)


def ghm_r_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    mu: float = 0.02,
    bins: int = 10,
    density: str = 'region',
    formula: str = 'official',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
) -> Tensor:
    """GHM-R: `(1/N) Σ β_i ASL1(d_i)` (Eq. 19), `d = pred - target`.

    An example is one coordinate offset. N counts the valid ones with `formula='paper'` and
    'tempered'; otherwise it is the sum of the weights, as in the released code, which is the
    same for weights 0 and 1.

    Args:
        pred: Encoded box offsets, shape (..., 4) or any other, floating point.
        target: Target offsets, the shape of `pred`.
        weight: Of the shape of `pred`, or of `pred` without its last dimension; an offset is
            valid where it is > 0. Default: None, all are valid.
        mu: μ of ASL1, in units of the offsets. Default: 0.02, the paper's.
        bins: M, the number of unit regions, or 1/ε. Default: 10, the released code's.
        density, formula, reduction, loss_weight: As for `ghm_c_loss`.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 offsets, else float32.

    Raises:
        TypeError, ValueError: As `ghm_c_loss`; `mu` is not > 0.

    Examples:
        >>> pred = torch.tensor([[0.1, 0.2, -0.1, 0.0]])
        >>> ghm_r_loss(pred, torch.zeros(1, 4))
        tensor(0.0575)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    return second_pass(first_pass_of_offsets(pred, target, weight, mu, settings), settings)
