"""Gradient norms: how hard an example is (Eqs. 3 and 18)."""

from torch import Tensor


def classification_gradient_norm(pred: Tensor, target: Tensor) -> Tensor:
    """Eq. 3: `g = |p - p*|` with `p = sigmoid(x)`, the norm of the gradient of cross entropy.

    Args:
        pred: Logits x, any shape, floating point.
        target: Targets p* in [0, 1], the shape of `pred`.

    Returns:
        g in [0, 1], the shape of `pred`.
    """
    return (pred.sigmoid() - target).abs()


def regression_gradient_norm(d: Tensor, mu: float) -> Tensor:
    """Eq. 18: `gr = |d / sqrt(d² + μ²)|`, the norm of the gradient of ASL1.

    Args:
        d: Differences `t - t*` of the encoded box offsets, any shape, floating point.
        mu: μ > 0, in units of the encoded offsets.

    Returns:
        gr in [0, 1], the shape of `d`.
    """
    return (d / (d * d + mu * mu).sqrt()).abs()
