"""The losses: ASL1 (Eq. 17), GHM-C (Eqs. 8 and 11) and GHM-R (Eq. 19)."""

from collections.abc import Sequence

from torch import Tensor

from ..checks import check_positive
from .checks import check_floating
from .examples import Examples, OffsetExamples, SigmoidExamples, SoftmaxExamples
from .passes import count, weigh
from .settings import Settings


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

    Examples:
        >>> import torch
        >>> authentic_smooth_l1(torch.tensor([0.0, 0.02, 1.0]))
        tensor([0.0000, 0.0083, 0.9802])
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
        formula: A name in `ghm_mmdet.formulas.FORMULAS`. Default: 'official', the
            released code's `β = N / (S·n)` with n regions that are not empty.
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`.
        loss_weight: Factor of the loss. Default: 1.0.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[2.0, -3.0], [-4.0, -2.0]])
        >>> labels = torch.tensor([0, 2])  # 2 is background
        >>> ghm_c_loss(pred, labels, bins=10)
        tensor(0.0801)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    return _harmonized(SigmoidExamples(pred, target, weight), settings)


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
        bins: M, the number of unit regions, or 1/ε. Default: 30, the paper's.
        density: As for `ghm_c_loss`. Default: 'region'.
        formula: As for `ghm_c_loss`. Default: 'official'.
        reduction: As for `ghm_c_loss`. Default: 'mean'.
        loss_weight: Factor of the loss. Default: 1.0.

    Returns:
        A scalar, or shape (N,) for 'none'; float64 for float64 logits, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[2.0, -3.0, 0.0], [-4.0, -2.0, 1.0]])
        >>> softmax_ghm_c_loss(pred, torch.tensor([0, 2]), bins=10)
        tensor(0.0939)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    examples = SoftmaxExamples(pred, target, weight, class_weight, ignore_index)
    return _harmonized(examples, settings)


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
        density: As for `ghm_c_loss`. Default: 'region'.
        formula: As for `ghm_c_loss`. Default: 'official'.
        reduction: As for `ghm_c_loss`. Default: 'mean'.
        loss_weight: Factor of the loss. Default: 1.0.

    Returns:
        A scalar, or the shape of `pred` for 'none'; float64 for float64 offsets, else float32.

    Raises:
        TypeError: A tensor of the wrong dtype, or a setting of the wrong type.
        ValueError: A shape that does not fit, or a setting that is not among the allowed.

    Examples:
        >>> import torch
        >>> pred = torch.tensor([[0.1, 0.2, -0.1, 0.0]])
        >>> ghm_r_loss(pred, torch.zeros(1, 4))
        tensor(0.0575)
    """
    settings = Settings(bins, density, formula, reduction, loss_weight)
    return _harmonized(OffsetExamples(pred, target, weight, mu), settings)


def _harmonized(examples: Examples, settings: Settings) -> Tensor:
    return weigh(examples, count(examples, settings), settings)
