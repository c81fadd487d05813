"""The passes over CPU tensors, in blocks that stay in the cache.

An example's weight depends on nothing but its bin: its unit region (Eq. 9), or its bin of the
fine histogram of the exact density. So the first pass writes the bin index of each example,
one byte (of a fine bin: two), the indices are counted, and the second pass looks the weights
up, sums the loss and writes the gradient. Every step works in place on buffers of a block.

Integer labels are not expanded: the passes take every logit for a negative, and the few
positive ones, one a row at most, are computed apart.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .operators import Counted, Weighted, index_dtype
from .precision import at_least_float32, compute_dtype
from .regions import (
    WIDEN,
    assign_regions,
    number_of_valid,
    product_gives_region,
    sum_of_weights,
)

#: Elements of a block for each thread: few enough for the cache, enough to outweigh the calls.
BLOCK_OF_THREAD = 1 << 17

#: Elements from which a table of all pairs of weights is worth its making.
PAIRED_FROM = 1 << 18


def count_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, exact_edges: bool
) -> Counted:
    """See `operators.count_cross_entropy`; the index of a positive logit is `bins`, too."""
    logits = pred.reshape(-1)
    index = torch.empty(logits.shape, dtype=index_dtype(bins))
    dense = _dense(target, pred)
    block = _block_size(logits)
    bin_of = _BinOf(bins, exact_edges, block, compute_dtype(pred))
    buffer = torch.empty_like(bin_of.j)
    sums = []
    for part in _blocks(logits, block):
        x = logits[part].to(buffer.dtype)
        sums.append(x.sum())
        g = torch.sigmoid(x, out=buffer[: len(x)])
        if dense is not None:
            g.sub_(dense[part]).abs_()
            sums.append(g.sum())
        bin_of(g, index[part])
    # One value that is not finite makes the sum of its block so.
    finite = torch.stack(sums).isfinite().all()
    _drop_invalid(index, pred, weight, bins)
    num_examples = number_of_valid(pred, weight)
    if dense is not None:
        return _sums(_count(index, bins), num_examples, finite), index
    positive = _positive_logits(pred, target, weight)
    index[positive] = bins
    of_positive = _bins_of_positive(at_least_float32(logits[positive]), bins, exact_edges)
    counts = _count(index, bins) + torch.bincount(of_positive, minlength=bins + 1)[:bins]
    return _sums(counts, num_examples, finite), index


def count_asl1(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float,
    bins: int,
    exact_edges: bool,
    weights_are_counts: bool,
) -> Counted:
    """See `operators.count_asl1`; the indices are those of the valid offsets alone."""
    d = _valid_offsets(pred, target, weight)[0]
    index = torch.empty(d.shape, dtype=index_dtype(bins))
    slope = d / (d * d + mu * mu).sqrt()
    _BinOf(bins, exact_edges, d.numel(), d.dtype)(slope.abs_(), index)
    num_examples = (sum_of_weights if weights_are_counts else number_of_valid)(pred, weight)
    return _sums(_count(index, bins), num_examples, d.isfinite().all()), index


def weighted_cross_entropy(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bin_index: Tensor,
    weights: Tensor,
    not_finite: Tensor,
    exact_edges: bool,
    with_gradient: bool,
) -> Weighted:
    """See `operators.weighted_cross_entropy`.

    Blocks are summed pairwise, as PyTorch sums, and their sums in float64.
    """
    logits = pred.reshape(-1)
    dense = _dense(target, pred)
    gradient = torch.empty(logits.shape if with_gradient else 0, dtype=weights.dtype)
    size = _block_size(logits)
    x_buffer, p_buffer, loss_buffer = torch.empty(3, size, dtype=weights.dtype)
    weight_of = _Lookup(weights, bin_index, size)
    sums = []
    for part in _blocks(logits, size):
        length = part.stop - part.start
        x = logits[part].to(weights.dtype)
        p = torch.sigmoid(x, out=p_buffer[:length])
        # log(1 + exp(-|x|)) = -log(1 - min(p, 1 - p)): the sigmoid serves for both.
        loss = torch.sub(1, p, out=loss_buffer[:length])
        torch.minimum(loss, p, out=loss).neg_().log1p_()
        rest = torch.clamp(x, min=0, out=x_buffer[:length])
        if dense is not None:
            p_star = dense[part].to(weights.dtype)
            rest.sub_(p_star * x)
            p.sub_(p_star)
        torch.sub(rest, loss, out=loss)
        w = weight_of(bin_index[part], out=rest)
        sums.append(loss.mul_(w).sum())
        if with_gradient:
            torch.mul(p, w, out=gradient[part])
    if dense is None:
        positive = _positive_logits(pred, target, weight)
        x = at_least_float32(logits[positive])
        w = weights[_bins_of_positive(x, len(weights) - 1, exact_edges)]
        sums.append((w * torch.nn.functional.softplus(-x, threshold=50)).sum())
        if with_gradient:
            gradient[positive] = (_sigmoid(x) - 1) * w
    total = torch.stack(sums).sum(dtype=torch.float64).to(weights.dtype)
    # The passes leave out products with a target of 0, where cross entropy has 0 · (-inf).
    total += torch.where(not_finite > 0, torch.nan, 0.0)
    return total, gradient.view(pred.shape) if with_gradient else gradient


def weighted_asl1(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float,
    bin_index: Tensor,
    weights: Tensor,
    not_finite: Tensor,
    exact_edges: bool,
    with_gradient: bool,
) -> Weighted:
    """See `operators.weighted_asl1`."""
    d, at = _valid_offsets(pred, target, weight)
    w = weights[bin_index.long()]
    root = (d * d + mu * mu).sqrt()
    total = ((root - mu) * w).sum()
    if not with_gradient:
        return total, d.new_empty(0)
    gradient = w / root * d  # Eq. 18, in autograd's order of rounding
    if at is not None:
        gradient = d.new_zeros(pred.numel()).index_copy_(0, at, gradient)
    return total, gradient.view(pred.shape)


def scaled(gradient: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """`scale · gradient` in `out`, which may be the gradient itself."""
    if out is not gradient:
        return out.copy_(gradient * scale)
    return gradient if scale == 1 else gradient.mul_(scale)


class _BinOf:
    """Writes the bin index of a block of gradient norms, with buffers for `size` of them."""

    def __init__(self, bins: int, exact_edges: bool, size: int, dtype: torch.dtype) -> None:
        self.bins = bins
        self.by_product = not exact_edges or product_gives_region(bins, dtype)
        self.j, self.edge = torch.empty(2, size, dtype=dtype)
        self.integer = torch.empty(size, dtype=torch.int32)

    def __call__(self, g: Tensor, index: Tensor) -> None:
        """ind(g), exactly as `assign_regions` gives it where the edges are exact."""
        j, edge = self.j[: g.numel()], self.edge[: g.numel()]
        if self.by_product:
            torch.mul(g, self.bins, out=j).clamp_(max=self.bins - 1)
        else:
            torch.mul(g, self.bins * WIDEN, out=j).floor_().clamp_(max=self.bins - 1)
            j.sub_(torch.div(j, self.bins, out=edge).gt_(g))
        # By way of int32, for which PyTorch has vector code; it cuts the fraction off.
        index.copy_(self.integer[: g.numel()].copy_(j.nan_to_num_(nan=self.bins)))


class _Lookup:
    """Looks the weights of bin indices up, two at a time where that is faster.

    Two indices of a byte are read as one 16-bit index into the table of all pairs of float32
    weights, which are moved as one float64: half as many steps.
    """

    def __init__(self, table: Tensor, bin_index: Tensor, size: int) -> None:
        self.paired = _pairs_fit(bin_index, len(table)) and bin_index.numel() >= PAIRED_FROM
        self.paired &= table.dtype == torch.float32
        self.table = table
        if self.paired:
            bytes_of_pair = torch.arange(256 * len(table), dtype=torch.int16).view(torch.uint8)
            table = torch.nn.functional.pad(table, (0, 256 - len(table)))
            self.pairs = table[bytes_of_pair.long()].view(torch.float64)
        self.index = torch.empty(size, dtype=torch.int32)

    def __call__(self, bin_index: Tensor, out: Tensor) -> Tensor:
        table, found = self.table, out
        if self.paired and bin_index.numel() % 2 == 0:
            table, found = self.pairs, out.view(torch.float64)
            bin_index = bin_index.view(torch.int16)
        index = self.index[: bin_index.numel()].copy_(bin_index)
        torch.index_select(table, 0, index, out=found)
        return out


def _pairs_fit(bin_index: Tensor, num_indices: int) -> bool:
    """Whether two indices make one 16-bit number that is not negative."""
    return bin_index.dtype == torch.uint8 and num_indices <= 128


def _bins_of_positive(x: Tensor, bins: int, exact_edges: bool) -> Tensor:
    """The bins of logits whose target is 1, int64."""
    g = (_sigmoid(x) - 1).abs()
    if exact_edges:
        return assign_regions(g, bins)
    return (g * bins).clamp(max=bins - 1).nan_to_num(nan=bins).long()


def _sigmoid(x: Tensor) -> Tensor:
    """`x.sigmoid()` by vector code alone: at the end of a tensor PyTorch's differs in a bit."""
    return torch.nn.functional.pad(x, (0, -len(x) % 64)).sigmoid()[: len(x)]


def _count(index: Tensor, bins: int) -> Tensor:
    """The number of indices 0 to M-1, int64 of shape (M,).

    Two bytes make one 16-bit number: the histogram of the pairs, summed over either member,
    takes half the steps of the histogram of the bytes.
    """
    even = index.numel() // 2 * 2
    if not _pairs_fit(index, bins + 1):
        return torch.bincount(index, minlength=bins + 1)[:bins]
    pairs = torch.bincount(index[:even].view(torch.int16), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)
    counts = pairs.sum(1) + pairs.sum(0)[: bins + 1]
    return (counts + torch.bincount(index[even:], minlength=bins + 1))[:bins]


def _sums(counts: Tensor, num_examples: Tensor, finite: Tensor) -> Tensor:
    """What the count is asked for, see `operators.count_cross_entropy`."""
    return torch.cat([x.reshape(-1).double() for x in (counts, num_examples, ~finite)])


def _dense(target: Tensor, pred: Tensor) -> Tensor | None:
    """The flat target if it has a value for every logit; None for labels."""
    return target.reshape(-1) if target.shape == pred.shape else None


def _drop_invalid(index: Tensor, pred: Tensor, weight: Tensor | None, bins: int) -> None:
    if weight is None:
        return
    if weight.shape == pred.shape:
        weight = weight.reshape(-1)
        for part in _blocks(index, _block_size(index)):
            index[part].masked_fill_((weight[part] > 0).logical_not_(), bins)
    else:
        rows = (weight.reshape(-1) > 0).logical_not().nonzero().squeeze(1)
        index.view(-1, pred.shape[-1]).index_fill_(0, rows, bins)


def _positive_logits(pred: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """Where p* = 1 among the valid logits: indices into the flat `pred`."""
    num_classes = pred.shape[-1]
    labels = labels.reshape(-1).long()
    positive = (labels >= 0) & (labels < num_classes)
    if weight is not None and weight.shape != pred.shape:
        positive &= weight.reshape(-1) > 0
    rows = positive.nonzero().squeeze(1)
    at = rows * num_classes + labels[rows]
    if weight is not None and weight.shape == pred.shape:
        at = at[weight.reshape(-1)[at] > 0]
    return at


def _valid_offsets(
    pred: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The differences d of the valid offsets, flat, and their indices; None for all."""
    if weight is None:
        offsets = at_least_float32(pred.reshape(-1))
        return offsets - target.reshape(-1).to(offsets.dtype), None
    valid = weight > 0
    if weight.shape != pred.shape:
        valid = valid.unsqueeze(-1).expand_as(pred)
    at = valid.reshape(-1).nonzero().squeeze(1)
    offsets = at_least_float32(pred.reshape(-1)[at])
    return offsets - target.reshape(-1)[at].to(offsets.dtype), at


def _block_size(x: Tensor) -> int:
    return min(x.numel(), BLOCK_OF_THREAD * torch.get_num_threads())


def _blocks(x: Tensor, size: int) -> Iterator[slice]:
    for start in range(0, x.numel(), size):
        yield slice(start, min(start + size, x.numel()))
