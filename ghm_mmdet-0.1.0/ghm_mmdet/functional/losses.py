"""GHM-C (Eqs. 8 and 11), its softmax form, and GHM-R (Eq. 19)."""

from __future__ import annotations

import warnings
from typing import Sequence

from torch import Tensor

from .. import ops
from ..formulas import FormulaLike, Settings
from .passes import count_offsets, count_sigmoid, count_softmax, weigh


def ghm_c_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    bins: int = 30,
    density: str = 'region',
    formula: FormulaLike = 'official',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """GHM-C: `(1/N) Σ β_i L_CE(p_i, p_i*)` (Eqs. 8 and 11).

    An example is one (anchor, class) logit. N counts the valid ones, so that no number of
    positives is divided by; only with `formula='tempered'` N is the number of positives:

        sigmoid_focal_loss(x, p, alpha=0.25, reduction='sum') / num_positives  # instead of this,
        ghm_c_loss(x, p, formula='tempered', loss_weight=0.25)  # write this

    Args:
        pred: Logits, shape (..., C), floating point. Half precision is computed in float32.
        target: Integer labels of the shape of `pred` without its last dimension, where any
            label outside [0, C) is background; or targets in [0, 1] of the shape of `pred`.
        weight: Of the shape of `pred`, or of the labels, or of those with a last dimension of 1.
            It is a mask: an example is valid where it is > 0, whatever the value. Default: None,
            all are valid.
        bins: M, the number of unit regions, or 1/ε. Default: 30, the paper's.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6). Default: 'region'.
        formula: A name in `ghm_mmdet.formulas.FORMULAS`, a `Formula`, or a function, see
            `ghm_mmdet.formulas.formula_of`. Default: 'official', the released code's
            `β = N / (S·n)` with n regions that are not empty.
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`. Default:
            'mean'.
        loss_weight: Factor of the loss. Default: 1.0.
        avg_factor: N, where the formula takes it: 'tempered' does, and a function. Default:
            None, for these the sum of the targets p* over the valid examples, which is the
            number of positives; for the others the number of valid examples.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, a tensor of another device, a setting that is not
            among the allowed, an `avg_factor` that the formula does not take, or valid targets
            outside [0, 1]. These are looked for on the CPU alone; on other devices the loss is
            NaN.

    Warns:
        UserWarning: On the CPU, if a weight is neither 0 nor 1, or if the logits look like
            probabilities.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[2.0, -3.0], [-4.0, -2.0]])
        >>> labels = torch.tensor([0, 2])  # 2 is background
        >>> ghm_c_loss(pred, labels, bins=10)
        tensor(0.0801)
        >>> ghm_c_loss(pred, labels, formula='tempered', loss_weight=0.25)
        tensor(0.0616)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    _check_avg_factor(avg_factor, settings)
    counted = count_sigmoid(pred, target, weight, avg_factor, settings)
    _warn_of_mistakes(pred, weight)
    return weigh(counted, settings)


def _check_avg_factor(avg_factor: float | Tensor | None, settings: Settings) -> None:
    if avg_factor is not None and not settings.rule.takes_avg_factor:
        raise ValueError(
            f'avg_factor is not taken with formula={settings.formula!r}, which divides by the '
            "number of valid examples: leave it out, or take formula='tempered'; got "
            f'{avg_factor!r}'
        )


def _warn_of_mistakes(pred: Tensor, weight: Tensor | None) -> None:
    """A word on what is no error, where a look at a few values costs nothing."""
    if pred.device.type != 'cpu' or ops.is_traced(pred, weight):
        return
    if weight is not None and weight.is_floating_point() and ((weight != 0) & (weight != 1)).any():
        warnings.warn('weight of ghm_c_loss is a mask: only whether it is > 0 counts', stacklevel=3)
    some = pred.detach().reshape(-1)[:1000]
    if len(some) > 100 and some.min() >= 0 and some.max() <= 1 and some.min() < some.max():
        warnings.warn('pred of ghm_c_loss are logits, these look like probabilities', stacklevel=3)


def softmax_ghm_c_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    class_weight: Sequence[float] | Tensor | None = None,
    ignore_index: int = -100,
    bins: int = 30,
    density: str = 'region',
    formula: FormulaLike = 'official',
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
        weight: Shape (N,) or (N, 1); a row is valid where it is > 0. Default: None, all are.
        class_weight: w, shape (C,). Default: None, all are 1.
        ignore_index: A row with this label is not valid. Default: -100.
        bins, density, formula, reduction, loss_weight: As for `ghm_c_loss`.
        avg_factor: N, where the formula takes it. Default: None, the number of valid rows.

    Returns:
        A scalar, or shape (N,) for 'none'; float64 for float64 logits, else float32.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[2.0, -3.0, 0.0], [-4.0, -2.0, 1.0]])
        >>> softmax_ghm_c_loss(pred, torch.tensor([0, 2]), bins=10)
        tensor(0.0939)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    _check_avg_factor(avg_factor, settings)
    counted = count_softmax(pred, target, weight, class_weight, ignore_index, avg_factor, settings)
    return weigh(counted, settings)


def ghm_r_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    mu: float = 0.02,
    bins: int = 10,
    density: str = 'region',
    formula: FormulaLike = 'official',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
) -> Tensor:
    """GHM-R: `(1/N) Σ β_i ASL1(d_i)` (Eq. 19), `d = pred - target`.

    An example is one coordinate offset. N counts the valid ones with `formula='paper'`,
    'tempered' and functions; otherwise it is the sum of the weights, as in the released code,
    which is the same for weights 0 and 1.

    Args:
        pred: Encoded box offsets, shape (..., 4) or any other, floating point.
        target: Target offsets, the shape of `pred`.
        weight: Of the shape of `pred`, or of `pred` without its last dimension, or with one of 1;
            an offset is valid where it is > 0. Default: None, all are valid.
        mu: μ of ASL1, in units of the offsets. Default: 0.02, the paper's.
        bins: M, the number of unit regions, or 1/ε. Default: 10, the released code's.
        density, formula, reduction, loss_weight: As for `ghm_c_loss`.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 offsets, else float32.

    Raises:
        TypeError, ValueError: As `ghm_c_loss`; `mu` is not > 0, or its square is 0.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[0.1, 0.2, -0.1, 0.0]])
        >>> ghm_r_loss(pred, torch.zeros(1, 4))
        tensor(0.0575)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    return weigh(count_offsets(pred, target, weight, mu, settings), settings)
