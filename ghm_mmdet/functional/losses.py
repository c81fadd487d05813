"""The losses: ASL1 (Eq. 17), GHM-C (Eqs. 8 and 11) and GHM-R (Eq. 19)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_floating, check_positive, check_same_shape, check_settings
from .examples import (
    check_softmax_target,
    check_target,
    check_weight,
    dense_target,
    number_of_valid,
    sum_of_weights,
    valid_examples,
)
from .fused import fast_path, harmonized_loss
from .gradient_norm import (
    classification_gradient_norm,
    regression_gradient_norm,
    softmax_gradient_norm,
)
from .harmonizing import Statistics, counts_of_this_call, harmonizing_parameter
from .precision import at_least_float32


def authentic_smooth_l1(d: Tensor, mu: float = 0.02) -> Tensor:
    """Eq. 17: `ASL1(d) = sqrt(d² + μ²) - μ`, elementwise.

    Args:
        d: Differences, any shape, floating point.
        mu: μ > 0, in units of `d`. Default: 0.02, the paper's.

    Returns:
        The loss of each element, the shape and dtype of `d`.

    Raises:
        TypeError: `d` is not a floating-point tensor, `mu` not a number.
        ValueError: `mu` is not > 0.
    """
    check_floating('d', d)
    check_positive('mu', mu)
    return (d * d + mu * mu).sqrt() - mu


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
    max_beta: float | None = None,
    statistics: Statistics = counts_of_this_call,
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
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6).
        formula: 'official' (`β = N / (S·n)`, n regions not empty), 'paper' (`N / (S·M)`) or
            'floored' (`N / (max(S, 30)·n)`).
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`.
        loss_weight: Factor of the loss. Default: 1.0.
        max_beta: Upper bound of β. Default: None, no bound.
        statistics: Gives S and N from the counts, see `Statistics`; a loss module passes its
            moving average.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.
    """
    check_settings(bins, density, formula, reduction)
    check_floating('pred', pred)
    check_target(pred, target)
    check_weight(pred, weight)
    dtype = torch.promote_types(pred.dtype, torch.float32)
    num_examples = number_of_valid(pred, weight).to(dtype)
    kernels = fast_path(pred, target, bins, density, reduction)
    if kernels is not None:
        return harmonized_loss(
            pred, target, weight, num_examples, bins=bins, density=density, formula=formula,
            reduction=reduction, loss_weight=loss_weight, max_beta=max_beta,
            statistics=statistics, kernels=kernels,
        )  # fmt: skip

    logits = at_least_float32(pred)
    p_star = dense_target(logits, target)
    valid = valid_examples(logits, weight)
    g = classification_gradient_norm(logits.detach(), p_star)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, p_star, reduction='none')
    beta, num_examples = harmonizing_parameter(
        g, valid, num_examples, bins=bins, density=density, formula=formula,
        max_beta=max_beta, statistics=_knowing_finite(statistics, cross_entropy),
    )  # fmt: skip
    return _reduce(beta * cross_entropy, num_examples, reduction) * loss_weight


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
    max_beta: float | None = None,
    statistics: Statistics = counts_of_this_call,
) -> Tensor:
    """GHM-C of a softmax: `(1/N) Σ β_i w_y L_i` with `L = -log p_y` (Eqs. 8 and 11).

    An example is one row with its label y, its gradient norm is `g = 1 - p_y` (see
    `softmax_gradient_norm`), and N counts the valid rows. The density counts examples: the
    weight w of a class is a factor of the loss, not of the counts nor of N.

    Args:
        pred: Logits, shape (N, C), floating point; the background, where there is one, is a
            class. Half precision is computed in float32.
        target: Integer labels in [0, C) or `ignore_index`, shape (N,). Others raise an
            IndexError on the CPU and a device-side assertion on CUDA, as in PyTorch's
            `cross_entropy`.
        weight: Shape (N,); a row is valid where it is > 0. Default: None, all are valid.
        class_weight: w, shape (C,). Default: None, all are 1.
        ignore_index: A row with this label is not valid. Default: -100.
        bins, density, formula, reduction, loss_weight, max_beta, statistics: As for
            `ghm_c_loss`.

    Returns:
        A scalar, or shape (N,) for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.
    """
    check_settings(bins, density, formula, reduction)
    check_floating('pred', pred)
    check_softmax_target(pred, target, weight)
    logits, labels = at_least_float32(pred), target.long()
    valid = labels != ignore_index
    if weight is not None:
        valid = valid & (weight > 0)
    cross_entropy = F.cross_entropy(logits, labels, reduction='none', ignore_index=ignore_index)
    beta, num_examples = harmonizing_parameter(
        softmax_gradient_norm(cross_entropy.detach()), valid,
        valid.sum().to(logits.dtype), bins=bins, density=density, formula=formula,
        max_beta=max_beta, statistics=_knowing_finite(statistics, cross_entropy),
    )  # fmt: skip
    if class_weight is not None:
        beta = beta * _weight_of_class(class_weight, logits)[labels.where(valid, 0)]
    return _reduce(beta * cross_entropy, num_examples, reduction) * loss_weight


def _weight_of_class(class_weight: Sequence[float] | Tensor, logits: Tensor) -> Tensor:
    of_class = torch.as_tensor(class_weight, dtype=logits.dtype, device=logits.device)
    if of_class.shape != logits.shape[1:]:
        raise ValueError(
            f'class_weight must hold one weight for each of the {logits.shape[1]} channels of '
            f'pred, got the shape {tuple(of_class.shape)}'
        )
    return of_class


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
    max_beta: float | None = None,
    statistics: Statistics = counts_of_this_call,
) -> Tensor:
    """GHM-R: `(1/N) Σ β_i ASL1(d_i)` (Eq. 19), `d = pred - target`.

    An example is one coordinate offset. N counts the valid ones; unless `formula='paper'`
    it is the sum of the weights, as in the released code, the same for weights 0 and 1.

    Args:
        pred: Encoded box offsets, shape (..., 4) or any other, floating point.
        target: Target offsets, the shape of `pred`.
        weight: Of the shape of `pred`, or of `pred` without its last dimension; an offset is
            valid where it is > 0. Default: None, all are valid.
        mu: μ of ASL1, in units of the offsets. Default: 0.02, the paper's.
        bins: M, the number of unit regions, or 1/ε. Default: 10, the released code's.
        density, formula, reduction, loss_weight, max_beta, statistics: As for `ghm_c_loss`.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 offsets, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.
    """
    check_settings(bins, density, formula, reduction)
    check_positive('mu', mu)
    check_floating('pred', pred)
    check_same_shape('target', target, 'pred', pred)
    check_weight(pred, weight)
    dtype = torch.promote_types(pred.dtype, torch.float32)
    count = number_of_valid if formula == 'paper' else sum_of_weights
    num_examples = count(pred, weight).to(dtype)
    kernels = fast_path(pred, target, bins, density, reduction)
    if kernels is not None:
        return harmonized_loss(
            pred, target, weight, num_examples, bins=bins, density=density, formula=formula,
            reduction=reduction, loss_weight=loss_weight, max_beta=max_beta,
            statistics=statistics, kernels=kernels, mu=mu,
        )  # fmt: skip

    offsets = at_least_float32(pred)
    d = offsets - target.to(offsets.dtype)
    valid = valid_examples(offsets, weight)
    gr = regression_gradient_norm(d.detach(), mu)
    loss = authentic_smooth_l1(d, mu)
    beta, num_examples = harmonizing_parameter(
        gr, valid, num_examples, bins=bins, density=density, formula=formula,
        max_beta=max_beta, statistics=_knowing_finite(statistics, loss),
    )  # fmt: skip
    return _reduce(beta * loss, num_examples, reduction) * loss_weight


def _knowing_finite(statistics: Statistics, loss: Tensor) -> Statistics:
    """`statistics` that is told whether every element of the loss is finite."""
    return partial(statistics, finite=loss.detach().isfinite().all())


def _reduce(loss: Tensor, num_examples: Tensor, reduction: str) -> Tensor:
    if reduction == 'none':
        return loss
    return loss.sum() / num_examples if reduction == 'mean' else loss.sum()
