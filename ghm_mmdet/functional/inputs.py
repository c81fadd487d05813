"""What heads pass to a loss: the checks, and one target and one validity for every example.

Each error names the argument, its value and what is allowed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..checks import check_real
from ..ops import is_compiling, is_traced
from ..ops.regions import ROUNDING, check_probabilities


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself if it is float32 or float64, else in float32."""
    return x.to(compute_dtype(x))


def widest_dtype(device_type: str) -> torch.dtype:
    """float64, or float32 on a device that has no float64, as Apple's MPS."""
    return torch.float32 if is_compiling() else _widest_dtype(device_type)


@lru_cache(maxsize=None)
def _widest_dtype(device_type: str) -> torch.dtype:
    try:
        return torch.zeros((), dtype=torch.float64, device=device_type).dtype
    except (TypeError, RuntimeError):
        return torch.float32


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f'{name} must be a Tensor, got {type(value).__name__}')


def check_floating(name: str, value: Any) -> None:
    """Refuse what is no floating-point tensor."""
    check_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f'{name} must be a floating-point Tensor, got {value.dtype}')


def check_same_shape(name: str, value: Any, like_name: str, like: Tensor) -> None:
    """Refuse what is no tensor of the shape of another."""
    check_tensor(name, value)
    if value.shape != like.shape:
        wanted = f'{name} must have the shape of {like_name}, {tuple(like.shape)}'
        raise ValueError(f'{wanted}, got {tuple(value.shape)}')


def check_target(pred: Tensor, target: Any) -> None:
    """Refuse a target that neither holds labels of the rows of `pred` nor has its shape."""
    check_tensor('target', target)
    if target.shape == pred.shape:
        return
    if target.shape != pred.shape[:-1]:
        raise ValueError(
            f'target must be labels of shape {tuple(pred.shape[:-1])} or have the shape of '
            f'pred, {tuple(pred.shape)}, got {tuple(target.shape)}'
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f'target must hold integer labels where it has the shape {tuple(target.shape)}, '
            f'got {target.dtype}'
        )


def check_weight(pred: Tensor, weight: Any) -> None:
    """Refuse a weight that is neither None nor of the shape of `pred` or of its rows."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f'weight must be a Tensor or None, got {type(weight).__name__}')
    if weight.shape not in (pred.shape, pred.shape[:-1]):
        raise ValueError(
            f'weight must have the shape of pred, {tuple(pred.shape)}, or of pred without its '
            f'last dimension, got {tuple(weight.shape)}'
        )


def scalar_like(like: Tensor, name: str, value: Any) -> Tensor:
    """A number, or a tensor of one element in whatever shape, as a scalar."""
    if not isinstance(value, Tensor):
        if not is_compiling():  # which a number that varies would send back to Python
            check_real(name, value)
        return torch.full_like(like, value)
    if value.numel() != 1:
        raise ValueError(f'{name} must have one element, got the shape {tuple(value.shape)}')
    return value.to(like).reshape(())


def as_heads_pass(
    pred: Tensor, target: Tensor | tuple[Tensor, Tensor], weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The target of a pair of labels and scores, and a weight of rows without a last dimension."""
    if isinstance(target, tuple):
        target = quality_target(pred, *target)
    if isinstance(weight, Tensor) and weight.shape == (*pred.shape[:-1], 1):
        weight = weight.squeeze(-1)
    return target, weight


def _is_at_hand(x: Tensor) -> bool:
    """Whether a look at the values waits for no device."""
    return x.device.type == 'cpu' and not is_traced(x)


def check_classification(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Refuse tensors that a loss of sigmoids does not take."""
    check_floating('pred', pred)
    check_target(pred, target)
    check_weight(pred, weight)


def check_rows(pred: Tensor) -> None:
    """Refuse predictions that are not rows of classes, shape (N, C)."""
    check_floating('pred', pred)
    if pred.dim() != 2:
        raise ValueError(f'pred must have the shape (N, C), got {tuple(pred.shape)}')


def check_softmax(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Refuse tensors that a loss of a softmax over each row of (N, C) does not take."""
    check_rows(pred)
    check_target(pred, target)
    check_weight(pred, weight)
    for name, tensor in (('target', target), ('weight', weight)):
        if tensor is not None and tensor.dim() != 1:
            wanted = f'{name} must have the shape ({len(pred)},) where use_sigmoid=False'
            raise ValueError(f'{wanted}: a row has one label, got {tuple(tensor.shape)}')


def check_regression(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Refuse tensors that a loss of box offsets does not take."""
    check_floating('pred', pred)
    check_same_shape('target', target, 'pred', pred)
    check_weight(pred, weight)


def dense_target(pred: Tensor, target: Tensor) -> Tensor:
    """p* of every logit: one-hot labels without the background, or the target itself."""
    check_target(pred, target)
    if target.shape == pred.shape:
        return target.to(pred.dtype)
    classes = torch.arange(pred.shape[-1], device=target.device)
    return (target.unsqueeze(-1) == classes).to(pred.dtype)


def probabilities(pred: Tensor, target: Tensor) -> Tensor:
    """As `dense_target`; outside [0, 1] refused, or NaN where a look would wait for a device."""
    p_star = dense_target(pred, target)
    if target.shape != pred.shape or not target.numel():
        return p_star
    if _is_at_hand(target):
        check_probabilities(p_star.detach())
        return p_star
    outside = (p_star < -ROUNDING) | (p_star > 1 + ROUNDING)
    return p_star.masked_fill(outside, torch.nan)


def quality_target(pred: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """p* of every logit of (N, C): the score of the row at its label, 0 elsewhere."""
    for name, value in (('labels', labels), ('scores', scores)):
        check_same_shape(f'the {name} of target', value, 'pred[..., 0]', pred[..., 0])
    return dense_target(pred, labels) * scores.unsqueeze(-1)


def valid_examples(pred: Tensor, weight: Tensor | None) -> Tensor:
    """Where the weight is > 0: bool, the shape of `pred`."""
    if weight is None:
        return torch.ones_like(pred, dtype=torch.bool)
    check_weight(pred, weight)
    return expanded(weight > 0, pred)


def expanded(of_rows: Tensor, pred: Tensor) -> Tensor:
    """A value of each element of `pred`, or of each of its rows, in the shape of `pred`."""
    return of_rows if of_rows.shape == pred.shape else of_rows.unsqueeze(-1).expand_as(pred)


def sum_of_targets(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of p* over the valid examples, a scalar: the number of positives."""
    p_star = dense_target(at_least_float32(pred.detach()), target.detach())
    return torch.where(valid_examples(pred, weight), p_star, 0).sum()
