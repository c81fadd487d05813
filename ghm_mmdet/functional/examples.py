"""What is an example: targets and validity of each element, from what heads pass."""

import torch
from torch import Tensor

from .checks import is_label_dtype


def dense_target(logits: Tensor, target: Tensor) -> Tensor:
    """p* of every logit: one-hot labels without the background, or the target itself."""
    if not isinstance(target, Tensor):
        raise TypeError(f'target must be a Tensor, got {type(target).__name__}')
    if target.shape == logits.shape:
        return target.to(logits.dtype)
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
    classes = torch.arange(logits.shape[-1], device=target.device)
    return (target.unsqueeze(-1) == classes).to(logits.dtype)


def _expand_weight(weight: Tensor, like: Tensor) -> Tensor:
    if not isinstance(weight, Tensor):
        raise TypeError(f'weight must be a Tensor or None, got {type(weight).__name__}')
    if weight.shape == like.shape:
        return weight
    if weight.shape == like.shape[:-1]:
        return weight.unsqueeze(-1).expand_as(like)
    raise ValueError(
        f'weight must have the shape of pred, {tuple(like.shape)}, or of pred without its last '
        f'dimension, got {tuple(weight.shape)}'
    )


def valid_examples(pred: Tensor, weight: Tensor | None) -> Tensor:
    """Where the weight is > 0: bool, the shape of `pred`."""
    if weight is None:
        return torch.ones_like(pred, dtype=torch.bool)
    return _expand_weight(weight, pred) > 0


def sum_of_weights(pred: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of the weights of all elements of `pred`, a scalar."""
    if weight is None:
        return torch.tensor(pred.numel(), device=pred.device)
    return _expand_weight(weight, pred).to(pred.dtype).sum()
