"""What heads pass to a loss: the checks, and one target and one validity for every example.

Each error names the argument, its value and what is allowed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import check_real
from ..ops import HIGHEST, LOWEST, check_probabilities, is_compiling, is_traced
from ..ops.trial import Batch


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself if it is float32 or float64, else in float32."""
    return x.to(compute_dtype(x))


# Checks.


def check_floating(name: str, value: Any) -> None:
    """Refuse what is no floating-point tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f'{name} must be a floating-point Tensor, got {got}')


def check_beside(pred: Tensor, name: str, value: Any, *shapes: torch.Size) -> None:
    """Refuse what is no tensor on the device of `pred`, or of none of the shapes.

    Of another device a kernel would read the pointer.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f'{name} must be a Tensor, got {type(value).__name__}')
    if value.shape not in shapes:
        wanted = ' or '.join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f'{name} must have the shape {wanted}, got {tuple(value.shape)}')
    if value.device != pred.device:
        raise ValueError(f'{name} must be on the device of pred, {pred.device}, got {value.device}')


def check_target(pred: Tensor, target: Any) -> None:
    """Refuse a target that neither holds labels of the rows of `pred` nor has its shape."""
    check_beside(pred, 'target', target, pred.shape[:-1], pred.shape)
    is_integer = not (target.is_floating_point() or target.is_complex())
    if target.shape != pred.shape and (not is_integer or target.dtype == torch.bool):
        shape = tuple(target.shape)
        raise TypeError(f'target of the shape {shape} must hold integer labels, got {target.dtype}')


def checked_batch(pred: Tensor, target: Tensor, weight: Tensor | None) -> Batch:
    """What a loss of sigmoids takes."""
    check_floating('pred', pred)
    check_target(pred, target)
    return Batch(pred, target, weight_of(pred, weight))


def weight_of(pred: Tensor, weight: Tensor | None) -> Tensor | None:
    """The weight of each element of `pred`, or of each of its rows; (N, 1) becomes (N,)."""
    if weight is None:
        return None
    rows = pred.shape[:-1]
    check_beside(pred, 'weight', weight, pred.shape, rows, torch.Size([*rows, 1]))
    return weight if weight.shape in (pred.shape, rows) else weight.squeeze(-1)


def weight_of_rows(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor | None:
    """As `weight_of`, for a loss that has one label for each row of (N, C)."""
    check_floating('pred', pred)
    if pred.dim() != 2:
        raise ValueError(f'pred must have the shape (N, C), got {tuple(pred.shape)}')
    check_target(pred, target)
    weight = weight_of(pred, weight)
    for name, value in (('target', target), ('weight', weight)):
        if value is not None:
            check_beside(pred, name, value, pred.shape[:1])
    return weight


def scalar_like(like: Tensor, name: str, value: Any) -> Tensor:
    """A number, or a tensor of one element in whatever shape, as a scalar."""
    if not isinstance(value, Tensor):
        if not is_compiling():  # which a number that varies would send back to Python
            check_real(name, value)
        return torch.full_like(like, value)
    if value.numel() != 1:
        raise ValueError(f'{name} must have one element, got the shape {tuple(value.shape)}')
    return value.to(like).reshape(())


# Targets, and which examples are valid.


def dense_target(pred: Tensor, target: Tensor) -> Tensor:
    """p* of every logit: one-hot labels without the background, or the target itself."""
    check_target(pred, target)
    if target.shape == pred.shape:
        return target.to(pred.dtype)
    classes = torch.arange(pred.shape[-1], device=target.device)
    return (target.unsqueeze(-1) == classes).to(pred.dtype)


def probabilities(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """As `dense_target`, 0 where not valid: what an ignored target holds is not looked at.

    Outside [0, 1] it is refused, or NaN where a look would wait for a device.
    """
    p_star = dense_target(pred, target)
    if target.shape != pred.shape or not target.numel():
        return p_star
    p_star = torch.where(valid, p_star, 0)
    if target.device.type == 'cpu' and not is_traced(p_star):
        check_probabilities(p_star.detach())
        return p_star
    return p_star.masked_fill((p_star < LOWEST) | (p_star > HIGHEST), torch.nan)


def quality_target(pred: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """p* of every logit of (N, C): the score of the row at its label, 0 elsewhere."""
    for name, value in (('labels', labels), ('scores', scores)):
        check_beside(pred, f'the {name} of target', value, pred.shape[:-1])
    return dense_target(pred, labels) * scores.unsqueeze(-1)


def valid_examples(pred: Tensor, weight: Tensor | None) -> Tensor:
    """Where the weight is > 0: bool, the shape of `pred`."""
    weight = weight_of(pred, weight)
    if weight is None:
        return torch.ones_like(pred, dtype=torch.bool)
    return expanded(weight > 0, pred)


def expanded(of_rows: Tensor, pred: Tensor) -> Tensor:
    """A value of each element of `pred`, or of each of its rows, in the shape of `pred`."""
    return of_rows if of_rows.shape == pred.shape else of_rows.unsqueeze(-1).expand_as(pred)


def differences(pred: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """d = pred - target, at least float32, and which are valid; whatever an ignored target is."""
    check_floating('pred', pred)
    check_beside(pred, 'target', target, pred.shape)
    x, valid = at_least_float32(pred), valid_examples(pred, weight)
    return x - torch.where(valid, target.to(x.dtype), 0), valid


def number_of_positives(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of p* over the valid examples, a scalar of the dtype of the loss."""
    check_target(pred, target)
    weight, dtype = weight_of(pred, weight), compute_dtype(pred)
    if target.shape == pred.shape:
        return torch.where(valid_examples(pred, weight), target.detach().to(dtype), 0).sum()
    positive = (target >= 0) & (target < pred.shape[-1])
    if weight is not None:
        at_label = torch.where(positive, target, 0).long().unsqueeze(-1)
        of_logits = weight.shape == pred.shape
        weight = weight.gather(-1, at_label).squeeze(-1) if of_logits else weight
        positive = positive & (weight > 0)
    return positive.sum().to(dtype)
