"""The two passes over CPU tensors, in blocks that stay in the cache.

The first pass writes the region of each logit, one byte, and the second looks the weights up.
Everything else is a temporary of one block, whatever the number of logits and of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Tuple, Union

import torch
from torch import Tensor

from . import WIDEN, check_probabilities
from .trial import Batch

#: Logits of a block: 1 MiB of float32, few enough for the cache, enough to outweigh the calls.
BLOCK = 1 << 18

#: p* of a block: a value for each logit; or where it is 1, as indices, and 0 elsewhere.
Target = Union[Tensor, Tuple[Tensor, Tensor]]


def count(batch: Batch, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass, of a batch with a logit at least.

    Returns:
        R, int64 of shape (M,); whether logits and targets are finite, a bool scalar; and the
        region of each logit, uint8 of the shape of `pred`, M where not valid.

    Raises:
        ValueError: A valid target lies outside [0, 1].
    """
    regions, finite = torch.empty(batch.pred.shape, dtype=torch.uint8, device='cpu'), True
    for x, p_star, valid, (a, b, c, integer), region in _blocks(batch, regions):
        g = _subtract(torch.sigmoid(x, out=a), p_star).abs_()
        finite = finite and _is_finite(x) and _is_finite(g)
        # ind(g) of the paper, counted from 0. By way of int32, for which PyTorch has vector code.
        j = torch.mul(g, bins * WIDEN, out=b).floor_().clamp_(max=bins - 1)
        j -= torch.div(j, bins, out=c).gt_(g)
        region.copy_(integer.copy_(j))
        if valid is not None:
            region.masked_fill_(valid.logical_not(), bins)
    counts = torch.bincount(regions.flatten(), minlength=bins + 1)[:bins]
    return counts, torch.tensor(finite, device='cpu'), regions


def weigh(
    batch: Batch, regions: Tensor, weights: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The second pass: `Σ w_i L_i`, and if wanted `w_i ∂L_i/∂x_i` of the shape of `pred`.

    `regions` are those of `count`; `weights` holds w of each region, and 0, in float32 or
    float64, which is that of the results.
    """
    gradient = torch.empty_like(regions, dtype=weights.dtype) if with_gradient else None
    written = [regions] if gradient is None else [regions, gradient]
    sums = []
    for x, p_star, _, (w, a, b, integer), region, *of_block in _blocks(batch, *written):
        torch.index_select(weights, 0, integer.copy_(region).view(-1), out=w.view(-1))
        for part in of_block:
            torch.mul(_subtract(torch.sigmoid(x, out=a), p_star), w, out=part)
        # Eq. 1 as max(x, 0) - x p* - log(1 - σ(-|x|)), which keeps the digits of a small loss:
        # 1 - σ(x) would lose those of easy positives, log(1 + e) those of easy negatives.
        loss = _subtract(torch.clamp(x, min=0, out=a), p_star, x)
        loss -= torch.abs(x, out=b).neg_().sigmoid_().neg_().log1p_()
        sums.append(loss.mul_(w).sum())
    return torch.stack(sums).sum(), gradient


def _blocks(batch: Batch, *written: Tensor) -> Iterator[tuple[Any, ...]]:
    """Of each block of rows: x, p*, which are valid (None for all), four buffers, and `written`.

    Rows of C logits, or of one where target and weight have a value for each logit.
    """
    pred, *beside = batch
    of_rows = [t is not None and t.shape != pred.shape for t in beside]
    rows = pred.detach().reshape(-1, pred.shape[-1] if any(of_rows) else 1)
    flat: list[Any] = [
        t if t is None else t.reshape(-1, 1 if of_row else rows.shape[1])
        for t, of_row in zip(beside, of_rows)
    ]
    target, weight = flat
    outputs = [t.view(rows.shape) for t in written]
    size = max(1, BLOCK // rows.shape[1])
    dtype = torch.promote_types(pred.dtype, torch.float32)
    # Written again and again: an allocation costs as much as a step, and memory that is cut up.
    buffers = [rows.new_empty(rows[:size].shape, dtype=d) for d in (*[dtype] * 3, torch.int32)]
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        x = rows[block].to(dtype)
        valid = None if weight is None else weight[block] > 0
        given = target[block, 0] if of_rows[0] else target[block]
        of_block = [buffer[: len(x)] for buffer in buffers]
        yield x, _target(x, given, valid), valid, of_block, *(t[block] for t in outputs)


def _target(x: Tensor, target: Tensor, valid: Tensor | None) -> Target:
    """p* of a block; what an ignored target holds is not looked at."""
    if target.dim() == 1:
        labels = target.long()
        positive = ((labels >= 0) & (labels < x.shape[1])).nonzero().squeeze(1)
        return positive, labels[positive]
    p_star = target.to(x.dtype)
    if valid is not None:
        p_star = p_star.masked_fill(valid.logical_not(), 0)
    check_probabilities(p_star)
    return p_star


def _subtract(values: Tensor, p_star: Target, x: Tensor | None = None) -> Tensor:
    """`values - p*`, or `values - p* x`, in place."""
    if isinstance(p_star, Tensor):
        return values.sub_(p_star) if x is None else values.addcmul_(p_star, x, value=-1)
    values[p_star] -= 1 if x is None else x[p_star]
    return values


def _is_finite(x: Tensor) -> bool:
    # One value that is not finite makes the sum so; but large values can, too.
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())
