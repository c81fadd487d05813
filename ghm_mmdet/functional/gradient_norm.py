"""Gradient norms: how hard an example is (Eqs. 3 and 18, and Eq. 3 of a softmax)."""

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


def softmax_gradient_norm(cross_entropy: Tensor) -> Tensor:
    """Eq. 3 of a softmax: `g = 1 - p_y`, with `p_y` the probability of the label.

    The gradient of the cross entropy `L = -log p_y` with respect to the logits has the entries
    `p_j - y_j`. g is its entry at the label, `|∂L/∂x_y|`, and half its L1 norm. With two
    classes a softmax is the sigmoid of the difference of the logits, and g is Eq. 3 of it.

    Args:
        cross_entropy: L of each example, any shape, floating point; `p_y = exp(-L)`.

    Returns:
        g in [0, 1], the shape of `cross_entropy`.
    """
    return -(-cross_entropy).expm1()


def regression_gradient_norm(d: Tensor, mu: float) -> Tensor:
    """Eq. 18: `gr = |d / sqrt(d² + μ²)|`, the norm of the gradient of ASL1.

    Args:
        d: Differences `t - t*` of the encoded box offsets, any shape, floating point.
        mu: μ > 0, in units of the encoded offsets.

    Returns:
        gr in [0, 1], the shape of `d`.
    """
    return (d / (d * d + mu * mu).sqrt()).abs()
