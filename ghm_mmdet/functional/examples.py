"""What is an example: targets and validity of each element, from what heads pass."""

import torch
from torch import Tensor

from .checks import is_label_dtype
from .precision import at_least_float32


def check_target(logits: Tensor, target: object) -> None:
    """Whether the target is labels of the rows of `logits`, or has its shape."""
    if not isinstance(target, Tensor):
        raise TypeError(f'target must be a Tensor, got {type(target).__name__}')
    if target.shape == logits.shape:
        return
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f'target must be labels of shape {tuple(logits.shape[:-1])} or have the shape of '
            f'pred, {tuple(logits.shape)}, got {tuple(target.shape)}'
        )
    if not is_label_dtype(target.dtype):
        raise TypeError(
            f'target must hold integer labels where it has the shape {tuple(target.shape)}, '
            f'got {target.dtype}'
        )


def check_softmax_target(logits: Tensor, target: object, weight: object) -> None:
    """Whether target and weight are those of the rows of `logits`, shape (N, C)."""
    if logits.dim() != 2:
        raise ValueError(f'pred must have the shape (N, C), got {tuple(logits.shape)}')
    check_target(logits, target)
    check_weight(logits, weight)
    for name, tensor in (('target', target), ('weight', weight)):
        if tensor is not None and tensor.dim() != 1:
            raise ValueError(
                f'{name} must have the shape ({len(logits)},) where use_sigmoid=False, for an '
                f'example is a row with one label, got {tuple(tensor.shape)}'
            )


def dense_target(logits: Tensor, target: Tensor) -> Tensor:
    """p* of every logit: one-hot labels without the background, or the target itself."""
    check_target(logits, target)
    if target.shape == logits.shape:
        return target.to(logits.dtype)
    classes = torch.arange(logits.shape[-1], device=target.device)
    return (target.unsqueeze(-1) == classes).to(logits.dtype)


def quality_target(logits: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """p* of every logit of (N, C): the score of the row at its label, 0 elsewhere."""
    for name, value in (('labels', labels), ('scores', scores)):
        if value.shape != logits.shape[:-1]:
            raise ValueError(
                f'the {name} of target must have the shape {tuple(logits.shape[:-1])}, '
                f'got {tuple(value.shape)}'
            )
    return dense_target(logits, labels) * scores.to(logits.dtype).unsqueeze(-1)


def check_weight(pred: Tensor, weight: object) -> None:
    """Whether the weight is None, of the shape of `pred`, or of its rows."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f'weight must be a Tensor or None, got {type(weight).__name__}')
    if weight.shape not in (pred.shape, pred.shape[:-1]):
        raise ValueError(
            f'weight must have the shape of pred, {tuple(pred.shape)}, or of pred without its '
            f'last dimension, got {tuple(weight.shape)}'
        )


def _expand_weight(weight: Tensor, like: Tensor) -> Tensor:
    check_weight(like, weight)
    return weight if weight.shape == like.shape else weight.unsqueeze(-1).expand_as(like)


def valid_examples(pred: Tensor, weight: Tensor | None) -> Tensor:
    """Where the weight is > 0: bool, the shape of `pred`."""
    if weight is None:
        return torch.ones_like(pred, dtype=torch.bool)
    return _expand_weight(weight, pred) > 0


def _sum_over_examples(of_weight: Tensor, pred: Tensor) -> Tensor:
    """The sum over all elements of `pred`, of which a row may share one."""
    total = of_weight.sum()
    return total if of_weight.shape == pred.shape else total * pred.shape[-1]


def number_of_valid(pred: Tensor, weight: Tensor | None) -> Tensor:
    """How many elements of `pred` have a weight > 0, a scalar."""
    if weight is None:
        return _number_of_elements(pred)
    return _sum_over_examples(weight > 0, pred)


def sum_of_weights(pred: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of the weights of all elements of `pred`, a scalar."""
    if weight is None:
        return _number_of_elements(pred)
    return _sum_over_examples(at_least_float32(weight), pred)


def sum_of_targets(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of p* over the valid examples, a scalar: the number of positives."""
    p_star = dense_target(at_least_float32(pred), target)
    return p_star.where(valid_examples(pred, weight), 0).sum()


def _number_of_elements(pred: Tensor) -> Tensor:
    # Not torch.tensor, which would copy from the host and make a CUDA stream wait.
    return torch.full((), pred.numel(), dtype=torch.int64, device=pred.device)
