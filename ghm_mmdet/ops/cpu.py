"""The two passes over CPU tensors, in blocks that stay in the cache.

The first pass writes the region of each logit, one byte, and the second looks the weights up. Every
step works in place on buffers of a block. Integer labels are not expanded: the passes take every
logit for a negative, and the few positive ones, one a row at most, are computed apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import WIDEN, check_probabilities, product_gives_region

#: Logits of a block for each thread: few enough for the cache, enough to outweigh the calls.
BLOCK_OF_THREAD = 1 << 17


class Regions(NamedTuple):
    """What the first pass leaves for the second: in which region each logit lies."""

    of_logits: Tensor  # uint8, of the flat logits; M for those in no region, and for `positive`
    positive: Tensor | None  # indices of the logits at the labels; None for a dense target


def count(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> tuple[Tensor, Tensor, Regions]:
    """The first pass: `counts`, `finite` and `regions` of a `CountedLogits`."""
    logits, p_star = pred.reshape(-1), _dense(pred, target)
    index = torch.empty_like(logits, dtype=torch.uint8)
    dtype, size = torch.promote_types(pred.dtype, torch.float32), _block_size(logits)
    g_buffer, j, edge = logits.new_empty(3, size, dtype=dtype)
    buffers = [j, edge, logits.new_empty(size, dtype=torch.int32)]
    finite = True
    for part in _blocks(logits):
        x = logits[part].to(g_buffer.dtype)
        finite = finite and _is_finite(x)
        g = torch.sigmoid(x, out=g_buffer[: len(x)])
        if p_star is not None:
            target_of_part = p_star[part].to(g.dtype)
            finite = check_probabilities(target_of_part) and finite
            g.sub_(target_of_part).abs_()
        _write_regions(g, bins, index[part], buffers)
    if weight is not None:
        _drop_invalid(index, pred, weight, bins)
    all_finite = torch.tensor(finite, device='cpu')
    if p_star is not None:
        return _histogram(index, bins)[:bins], all_finite, Regions(index, None)
    positive = _positive_logits(pred, target, index, bins)
    of_positive = _regions_of_positive(logits[positive].to(g_buffer.dtype), bins)
    index[positive] = bins
    counts = _histogram(index, bins) + torch.bincount(of_positive, minlength=bins + 1)
    return counts[:bins], all_finite, Regions(index, positive)


def weigh(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    regions: Regions,
    weights: Tensor,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The second pass: `Σ w_i L_i`, and if wanted `w_i ∂L_i/∂x_i` of the shape of `pred`.

    `regions` are those of `count`; `weights` holds w of each region, and 0.
    """
    flat, p_star = pred.detach().reshape(-1), _dense(pred, target)
    index, positive = regions
    gradient = torch.empty_like(flat, dtype=weights.dtype) if with_gradient else None
    size = _block_size(flat)
    x_buffer, p_buffer, loss_buffer = weights.new_empty(3, size)
    index_buffer = index.new_empty(size, dtype=torch.int32)
    pairs = _table_of_pairs(weights) if _in_pairs(index, len(weights)) else None
    sums = []
    for part in _blocks(flat):
        x = flat[part].to(weights.dtype)
        p = torch.sigmoid(x, out=p_buffer[: len(x)])
        target_of_part = None if p_star is None else p_star[part].to(weights.dtype)
        loss = _log_of_smaller(x, p, target_of_part, out=loss_buffer[: len(x)])
        rest = torch.clamp(x, min=0, out=x_buffer[: len(x)])
        if target_of_part is not None:
            rest.addcmul_(target_of_part, x, value=-1)
            p.sub_(target_of_part)
        torch.sub(rest, loss, out=loss)
        w = _look_up(weights, pairs, index[part], index_buffer, out=rest)
        sums.append(loss.mul_(w).sum())
        if gradient is not None:
            torch.mul(p, w, out=gradient[part])
    if positive is not None:
        x = flat[positive].to(weights.dtype)
        w = weights[_regions_of_positive(x, len(weights) - 1)]
        sums.append((w * F.softplus(-x, threshold=50)).sum())
        if gradient is not None:
            gradient[positive] = (_sigmoid(x) - 1) * w
    return torch.stack(sums).sum(), None if gradient is None else gradient.view(pred.shape)


def _log_of_smaller(x: Tensor, p: Tensor, p_star: Tensor | None, out: Tensor) -> Tensor:
    """-log(1 + exp(-|x|)) = log(1 - min(p, 1 - p)), for which the sigmoid serves, too.

    But 1 - p has lost its digits where p is near 1. That shows where p* is near 1 as well, and
    this is all that is left of the loss; where one of them is at most 0.9, the error is below
    1e-6 of it.
    """
    if p_star is not None and torch.minimum(p, p_star, out=out).max() > 0.9:
        return torch.abs(x, out=out).neg_().exp_().log1p_().neg_()
    torch.sub(1, p, out=out)
    return torch.minimum(out, p, out=out).neg_().log1p_()


def _write_regions(g: Tensor, bins: int, index: Tensor, buffers: list[Tensor]) -> None:
    """ind(g), as `assign_regions` gives it, counted from 0; any region for NaN."""
    j, edge, integer = (buffer[: len(g)] for buffer in buffers)
    if product_gives_region(bins, g.dtype):
        torch.mul(g, bins, out=j).clamp_(max=bins - 1)
    else:
        torch.mul(g, bins * WIDEN, out=j).floor_().clamp_(max=bins - 1)
        j.sub_(torch.div(j, bins, out=edge).gt_(g))
    # By way of int32, for which PyTorch has vector code; it cuts the fraction off.
    index.copy_(integer.copy_(j))


# Two regions, a byte each, are read as one 16-bit number: half the steps to count them, and to look
# their weights up in a table of all pairs, whose entries of two float32 are moved as one float64.


def _in_pairs(index: Tensor, num_regions: int) -> bool:
    """Whether all blocks divide into pairs, which are positive numbers."""
    return index.numel() % 2 == 0 and num_regions <= 128


def _histogram(index: Tensor, bins: int) -> Tensor:
    """How often each number from 0 to `bins` occurs."""
    if not _in_pairs(index, bins + 1):
        return torch.bincount(index, minlength=bins + 1)
    pairs = torch.bincount(index.view(torch.int16), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)
    return pairs.sum(1) + pairs.sum(0)[: bins + 1]


def _table_of_pairs(weights: Tensor) -> Tensor | None:
    if weights.dtype != torch.float32:
        return None
    both = torch.arange(256 * len(weights), dtype=torch.int16, device='cpu').view(torch.uint8)
    return F.pad(weights, (0, 256 - len(weights)))[both.long()].view(torch.float64)


def _look_up(
    weights: Tensor, pairs: Tensor | None, index: Tensor, buffer: Tensor, out: Tensor
) -> Tensor:
    """The weight of each region."""
    table, found = weights, out
    if pairs is not None:
        table, found, index = pairs, out.view(torch.float64), index.view(torch.int16)
    torch.index_select(table, 0, buffer[: len(index)].copy_(index), out=found)
    return out


def _regions_of_positive(x: Tensor, bins: int) -> Tensor:
    """The regions of logits whose target is 1."""
    index = torch.empty_like(x, dtype=torch.uint8)
    buffers = [torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x), dtype=torch.int32)]
    _write_regions((_sigmoid(x) - 1).abs(), bins, index, buffers)
    return index.long()


def _sigmoid(x: Tensor) -> Tensor:
    """`x.sigmoid()` by vector code alone: at the end of a tensor PyTorch's differs in a bit."""
    return F.pad(x, (0, -len(x) % 64)).sigmoid()[: len(x)]


def _is_finite(x: Tensor) -> bool:
    # One value that is not finite makes the sum so; but large values can, too.
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def _dense(pred: Tensor, target: Tensor) -> Tensor | None:
    """The flat target if it has a value for every logit; None for labels."""
    return target.reshape(-1) if target.shape == pred.shape else None


def _drop_invalid(index: Tensor, pred: Tensor, weight: Tensor, bins: int) -> None:
    if weight.shape == pred.shape:
        weight = weight.reshape(-1)
        for part in _blocks(index):
            index[part].masked_fill_((weight[part] > 0).logical_not_(), bins)
    else:
        rows = (weight.reshape(-1) > 0).logical_not().nonzero().squeeze(1)
        index.view(-1, pred.shape[-1]).index_fill_(0, rows, bins)


def _positive_logits(pred: Tensor, labels: Tensor, index: Tensor, bins: int) -> Tensor:
    """Where p* = 1 among the valid logits: indices into the flat `pred`."""
    num_classes = pred.shape[-1]
    labels = labels.reshape(-1).long()
    rows = ((labels >= 0) & (labels < num_classes)).nonzero().squeeze(1)
    positive = rows * num_classes + labels[rows]
    return positive[index[positive] < bins]


def _block_size(x: Tensor) -> int:
    return min(x.numel(), BLOCK_OF_THREAD * torch.get_num_threads())


def _blocks(x: Tensor) -> Iterator[slice]:
    size = _block_size(x)
    for start in range(0, x.numel(), size):
        yield slice(start, min(start + size, x.numel()))
