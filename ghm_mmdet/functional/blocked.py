"""GHM-C and GHM-R in blocks that stay in the cache: the path of CPU tensors.

An example's weight depends on nothing but its region (Eq. 9), or on its cell of a fine
histogram (`cell_gradient_density`). So one sweep over the logits writes a code of one byte (a
cell: two) for each, the codes are counted, and a second sweep looks the weights up, sums the
loss and writes the gradient. Every step of a sweep works in place on buffers of a block.

Integer labels are not expanded: the sweeps take every logit for a negative, and the few
positive ones, one a row at most, are computed apart.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from .gradient_density import assign_regions
from .precision import at_least_float32

#: Elements of a block for each thread: few enough for the cache, enough to outweigh the calls.
BLOCK_OF_THREAD = 1 << 17

#: Elements from which a table of all pairs of weights is worth its making.
PAIRED_FROM = 1 << 18

# Widens the product g·M so that its floor is ind(g) or ind(g) + 1, never less: one comparison
# with the edge then decides, where `assign_regions` needs two.
_WIDEN = 1 + 2.0**-20


def count_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, mu: float, fine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The region or cell of each example, and the number of examples in each.

    Args:
        pred: Logits, or encoded offsets, any shape, floating point.
        target: int labels of the shape of `pred` without its last dimension, or the shape of
            `pred`.
        weight: Either shape, or None; an example is valid where it is > 0.
        bins: M, the number of unit regions or of cells, below 2**15.
        mu: μ of ASL1; 0 for the cross entropy of logits.
        fine: The bins are cells of a fine histogram, whose edges need no care.

    Returns:
        Counts, int64 of shape (M,); codes in [0, M], uint8 or int16: of all logits in their
        order, or of the valid offsets; M stands for an example in no region, and for a
        positive logit, which the second sweep skips too; and whether all logits and targets,
        or all valid offsets, are finite, a bool scalar.
    """
    if mu > 0:
        d = _valid_offsets(pred, target, weight)[0]
        codes = torch.empty(d.shape, dtype=code_dtype(bins))
        _Encoder(bins, fine, d.numel(), d.dtype).encode(_slope(d, mu).abs_(), codes)
        return _count(codes, bins), codes, d.isfinite().all()
    logits = pred.reshape(-1)
    codes = torch.empty(logits.shape, dtype=code_dtype(bins))
    dense = target.reshape(-1) if target.shape == pred.shape else None
    block = _block_size(logits)
    encoder = _Encoder(bins, fine, block, _compute_dtype(pred))
    buffer = torch.empty_like(encoder.j)
    sums = []
    for part in _blocks(logits, block):
        x = logits[part].to(buffer.dtype)
        sums.append(x.sum())
        g = torch.sigmoid(x, out=buffer[: len(x)])
        if dense is not None:
            g.sub_(dense[part]).abs_()
            sums.append(g.sum())
        encoder.encode(g, codes[part])
    # One value that is not finite makes the sum of its block so.
    finite = torch.stack(sums).isfinite().all()
    _drop_invalid(codes, pred, weight, bins)
    if dense is not None:
        return _count(codes, bins), codes, finite
    positive = _positive_logits(pred, target, weight)
    codes[positive] = bins
    code = _codes_of_positive(at_least_float32(logits[positive]), bins, fine)
    return _count(codes, bins) + torch.bincount(code, minlength=bins + 1)[:bins], codes, finite


def sum_losses(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    codes: Tensor,
    beta: Tensor,
    mu: float,
    fine: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """`Σ β_i L_i` and its gradient.

    Args:
        pred, target, weight, mu, fine: As `count_examples`.
        codes: From `count_examples`.
        beta: β of each region or cell, shape (M,).
        with_gradient: False leaves the gradient out.

    Returns:
        A scalar, and `β_i ∂L_i/∂pred_i` of the shape of `pred` or an empty tensor, all at
        least float32. Blocks are summed pairwise, as PyTorch sums, and their sums in float64.
    """
    table = torch.cat([beta, beta.new_zeros(1)]).to(_compute_dtype(pred))
    if mu > 0:
        return _sum_offsets(pred, target, weight, codes, table, mu, with_gradient)
    logits = pred.reshape(-1)
    dense = target.reshape(-1) if target.shape == pred.shape else None
    gradient = torch.empty(logits.shape if with_gradient else 0, dtype=table.dtype)
    size = _block_size(logits)
    x_buffer, p_buffer, loss_buffer = torch.empty(3, size, dtype=table.dtype)
    lookup = _Lookup(table, codes, size)
    sums = []
    for part in _blocks(logits, size):
        length = part.stop - part.start
        x = logits[part].to(table.dtype)
        p = torch.sigmoid(x, out=p_buffer[:length])
        # log(1 + exp(-|x|)) = -log(1 - min(p, 1 - p)): the sigmoid serves for both.
        loss = torch.sub(1, p, out=loss_buffer[:length])
        torch.minimum(loss, p, out=loss).neg_().log1p_()
        rest = torch.clamp(x, min=0, out=x_buffer[:length])
        if dense is not None:
            p_star = dense[part].to(table.dtype)
            rest.sub_(p_star * x)
            p.sub_(p_star)
        torch.sub(rest, loss, out=loss)
        beta_of = lookup(codes[part], out=rest)
        sums.append(loss.mul_(beta_of).sum())
        if with_gradient:
            torch.mul(p, beta_of, out=gradient[part])
    if dense is None:
        positive = _positive_logits(pred, target, weight)
        x = at_least_float32(logits[positive])
        beta_of = table[_codes_of_positive(x, len(beta), fine)]
        sums.append((beta_of * torch.nn.functional.softplus(-x, threshold=50)).sum())
        if with_gradient:
            gradient[positive] = (_sigmoid(x) - 1) * beta_of
    total = torch.stack(sums).sum(dtype=torch.float64).to(table.dtype)
    return total, gradient.view(pred.shape) if with_gradient else gradient


class _Encoder:
    """Writes the codes of a block of gradient norms, with buffers for `size` of them."""

    def __init__(self, bins: int, fine: bool, size: int, dtype: torch.dtype) -> None:
        self.bins = bins
        self.plain = fine or _product_gives_region(bins, dtype)
        self.j, self.edge = torch.empty(2, size, dtype=dtype)
        self.integer = torch.empty(size, dtype=torch.int32)

    def encode(self, g: Tensor, codes: Tensor) -> None:
        """ind(g), exactly as `assign_regions` gives it, or the cell of g, into `codes`."""
        j, edge = self.j[: g.numel()], self.edge[: g.numel()]
        if self.plain:
            torch.mul(g, self.bins, out=j).clamp_(max=self.bins - 1)
        else:
            torch.mul(g, self.bins * _WIDEN, out=j).floor_().clamp_(max=self.bins - 1)
            j.sub_(torch.div(j, self.bins, out=edge).gt_(g))
        # By way of int32, for which PyTorch has vector code; it cuts the fraction off.
        codes.copy_(self.integer[: g.numel()].copy_(j.nan_to_num_(nan=self.bins)))


@lru_cache
def _product_gives_region(bins: int, dtype: torch.dtype) -> bool:
    """Whether the floor of the rounded g·M is ind(g) for every g.

    Neither decreases in g, so it is enough that they agree at each edge and just below it.
    """
    edges = torch.arange(1, bins, dtype=dtype) / bins
    g = torch.cat([edges, torch.nextafter(edges, torch.zeros_like(edges))])
    return torch.equal((g * bins).long(), assign_regions(g, bins))


class _Lookup:
    """Looks the weights of codes up, two at a time where that is faster.

    Two codes of a byte are read as one 16-bit index into the table of all pairs of float32
    weights, which are moved as one float64: half as many steps.
    """

    def __init__(self, table: Tensor, codes: Tensor, size: int) -> None:
        self.paired = _pairs_fit(codes, len(table)) and codes.numel() >= PAIRED_FROM
        self.paired &= table.dtype == torch.float32
        self.table = table
        if self.paired:
            bytes_of_pair = torch.arange(256 * len(table), dtype=torch.int16).view(torch.uint8)
            table = torch.nn.functional.pad(table, (0, 256 - len(table)))
            self.pairs = table[bytes_of_pair.long()].view(torch.float64)
        self.index = torch.empty(size, dtype=torch.int32)

    def __call__(self, codes: Tensor, out: Tensor) -> Tensor:
        table, found = self.table, out
        if self.paired and codes.numel() % 2 == 0:
            table, codes, found = self.pairs, codes.view(torch.int16), out.view(torch.float64)
        torch.index_select(table, 0, self.index[: codes.numel()].copy_(codes), out=found)
        return out


def _pairs_fit(codes: Tensor, num_codes: int) -> bool:
    """Whether two codes make one 16-bit number that is not negative."""
    return codes.dtype == torch.uint8 and num_codes <= 128


def _codes_of_positive(x: Tensor, bins: int, fine: bool) -> Tensor:
    """The codes of logits whose target is 1, int64."""
    g = (_sigmoid(x) - 1).abs()
    if fine:
        return (g * bins).clamp(max=bins - 1).nan_to_num(nan=bins).long()
    return assign_regions(g, bins)


def _sigmoid(x: Tensor) -> Tensor:
    """`x.sigmoid()` by vector code alone: at the end of a tensor PyTorch's differs in a bit."""
    return torch.nn.functional.pad(x, (0, -len(x) % 64)).sigmoid()[: len(x)]


def _count(codes: Tensor, bins: int) -> Tensor:
    """The number of codes 0 to M-1, int64 of shape (M,).

    Two bytes make one 16-bit number: the histogram of the pairs, summed over either member,
    takes half the steps of the histogram of the bytes.
    """
    even = codes.numel() // 2 * 2
    if not _pairs_fit(codes, bins + 1):
        return torch.bincount(codes, minlength=bins + 1)[:bins]
    pairs = torch.bincount(codes[:even].view(torch.int16), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)
    counts = pairs.sum(1) + pairs.sum(0)[: bins + 1]
    return (counts + torch.bincount(codes[even:], minlength=bins + 1))[:bins]


def _drop_invalid(codes: Tensor, pred: Tensor, weight: Tensor | None, bins: int) -> None:
    if weight is None:
        return
    if weight.shape == pred.shape:
        weight = weight.reshape(-1)
        for part in _blocks(codes, _block_size(codes)):
            codes[part].masked_fill_((weight[part] > 0).logical_not_(), bins)
    else:
        rows = (weight.reshape(-1) > 0).logical_not().nonzero().squeeze(1)
        codes.view(-1, pred.shape[-1]).index_fill_(0, rows, bins)


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


def _slope(d: Tensor, mu: float) -> Tensor:
    """Eq. 18 with its sign: `d / sqrt(d² + μ²)`."""
    return d / (d * d + mu * mu).sqrt()


def _sum_offsets(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    codes: Tensor,
    table: Tensor,
    mu: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    d, at = _valid_offsets(pred, target, weight)
    beta = table[codes.long()]
    root = (d * d + mu * mu).sqrt()
    total = ((root - mu) * beta).sum()
    if not with_gradient:
        return total, d.new_empty(0)
    gradient = beta / root * d  # Eq. 18, in autograd's order of rounding
    if at is not None:
        gradient = d.new_zeros(pred.numel()).index_copy_(0, at, gradient)
    return total, gradient.view(pred.shape)


def code_dtype(bins: int) -> torch.dtype:
    return torch.uint8 if bins < 256 else torch.int16


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _block_size(x: Tensor) -> int:
    return min(x.numel(), BLOCK_OF_THREAD * torch.get_num_threads())


def _blocks(x: Tensor, size: int) -> Iterator[slice]:
    for start in range(0, x.numel(), size):
        yield slice(start, min(start + size, x.numel()))
