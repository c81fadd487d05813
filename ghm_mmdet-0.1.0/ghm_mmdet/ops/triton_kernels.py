"""The two passes over CUDA tensors, as Triton kernels.

Both read each logit once, in float32 registers, and the second assigns the regions again: that
costs less than a byte a logit written and read. Nothing waits for the host, so that a CUDA graph
can capture the loss. `benchmarks/kernels.py` says what they are compiled to.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import HIGHEST, LOWEST, WIDEN
from .trial import Batch

#: Logits of a block, 8 for each of the threads of 8 warps: 16 take more than 64 registers.
BLOCK = 2048
NUM_WARPS = 8
#: Logits that a thread loads at once; where rows are whole groups of them, one label serves all.
GROUP = 4

LOWEST, HIGHEST, WIDEN = tl.constexpr(LOWEST), tl.constexpr(HIGHEST), tl.constexpr(WIDEN)

# What the kernels are compiled for: the shape of the weight.
NO_WEIGHT = tl.constexpr(0)
WEIGHT_OF_ROW = tl.constexpr(1)
WEIGHT_OF_LOGIT = tl.constexpr(2)


@triton.jit
def _log1p(e):  # noqa: ANN001, ANN202
    """log(1 + e) for e in [0, 1], with a relative error below 3e-7 also where e is tiny.

    The minimax polynomial of log(1 + e) / e. Triton has no log1p in its core language, and
    log(1 + e) would lose the cross entropy of every easy example.
    """
    y = 0.00523262934 * e - 0.0295049869
    y = y * e + 0.0782255576
    y = y * e - 0.13663214
    y = y * e + 0.191059928
    y = y * e - 0.24842979
    y = y * e + 0.333190965
    y = y * e - 0.499994931
    y = y * e + 0.99999997
    return y * e


@triton.jit
def _pass_kernel(
    sums, gradient, weights, pred, target, weight, size,  # noqa: ANN001
    BINS: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr,
    WIDE: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    COUNT: tl.constexpr, GRADIENT: tl.constexpr,
) -> None:  # fmt: skip
    """A block of logits, in groups of which a thread loads one at once.

    The first pass adds R, and the number of blocks that are not finite, to `sums`. The second
    writes the sum of the block's weighted losses there, and their gradient.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    group = block * BLOCK + tl.arange(0, BLOCK // GROUP)[:, None] * GROUP
    offsets = group + tl.arange(0, GROUP)[None, :]
    # Of whole groups: a mask of single elements would split the loads.
    inside = tl.broadcast_to(group < size, offsets.shape) if WHOLE else offsets < size
    at_row = group if WIDTH % GROUP == 0 else offsets
    in_row = group < size if WIDTH % GROUP == 0 else inside
    row = at_row // WIDTH
    x = tl.load(pred + offsets, mask=inside, other=0).to(tl.float32)
    valid = inside
    if WEIGHT == WEIGHT_OF_ROW:
        valid = valid & (tl.load(weight + row, mask=in_row, other=0) > 0)
    if WEIGHT == WEIGHT_OF_LOGIT:
        valid = valid & (tl.load(weight + offsets, mask=inside, other=0) > 0)
    if LABELS:
        label = tl.load(target + row, mask=in_row, other=0)
        p_star = tl.where(label == offsets - row * WIDTH, 1.0, 0.0)
    else:
        p_star = tl.load(target + offsets, mask=inside, other=0).to(tl.float32)
        # Outside of [0, 1] it is no target; what is not finite shows in the loss. What an ignored
        # target holds is not looked at.
        p_star = tl.where((p_star >= LOWEST) & (p_star <= HIGHEST), p_star, float('nan'))
        p_star = tl.where(valid, p_star, 0.0)
    # The gradient p - p* of the cross entropy (Eq. 2), its norm g (Eq. 3), and ind(g), counted
    # from 0 and M where not valid.
    e = tl.exp(-tl.abs(x))
    q = 1.0 / (1.0 + e)
    slope = tl.where(x < 0, e * q, q) - p_star
    g = tl.abs(slope)
    product = g * (BINS * WIDEN)
    # Not tl.minimum, of which an interpreter may give a NaN: its region must exist.
    j = tl.where(product < BINS - 1.0, product, BINS - 1.0).to(tl.int32)
    # The edge j/M as PyTorch divides: a plain division of Triton may be a last bit off.
    j -= tl.where(g < tl.div_rn(j.to(tl.float32), BINS * 1.0), 1, 0)
    region = tl.where(valid, j, BINS)
    if COUNT > 0:
        # 0 times what is not finite is NaN.
        not_finite = tl.where(tl.sum((x if LABELS else x - p_star) * 0.0) == 0.0, 0, 1)
        place = tl.arange(0, COUNT)
        found = tl.histogram(tl.ravel(region), COUNT)
        found = tl.where(place == BINS, not_finite, found).to(tl.int64)
        tl.atomic_add(sums + place, found, mask=(place <= BINS) & (found != 0), sem='relaxed')
    else:
        # Eq. 1. Not tl.maximum, which may swallow a NaN.
        loss = tl.where(x < 0, 0.0, x) - x * p_star + _log1p(e)
        weight_i = tl.load(weights + region)
        tl.store(sums + tl.program_id(0), tl.sum(weight_i * loss))
        if GRADIENT:
            tl.store(gradient + offsets, weight_i * slope, mask=inside)


def count(batch: Batch, bins: int) -> tuple[Tensor, Tensor, None]:
    """See `cpu.count`, but the second pass finds the regions anew."""
    pred = batch.pred
    sums = torch.zeros(bins + 1, dtype=torch.int64, device=pred.device)
    histogram = max(32, triton.next_power_of_2(bins + 1))
    _launch((sums, pred, pred), batch, bins, COUNT=histogram, GRADIENT=False)
    return sums[:bins], sums[bins] == 0, None


def weigh(
    batch: Batch, regions: None, weights: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """See `cpu.weigh`. Blocks are summed in float32, their sums in float64."""
    pred = batch.pred
    sums = torch.empty(triton.cdiv(pred.numel(), BLOCK), dtype=torch.float32, device=pred.device)
    gradient = sums.new_empty(pred.shape if with_gradient else 0)
    outputs = (sums, gradient, weights)
    _launch(outputs, batch, len(weights) - 1, COUNT=0, GRADIENT=with_gradient)
    return sums.sum(dtype=torch.float64).float(), gradient if with_gradient else None


def _launch(outputs: tuple[Tensor, ...], batch: Batch, bins: int, **constants: int) -> None:
    pred, target, weight = batch
    of_rows = [x is not None and x.shape != pred.shape for x in (target, weight)]
    size, pred = pred.numel(), pred.detach().contiguous()
    with torch.cuda.device_of(pred):
        _pass_kernel[(triton.cdiv(size, BLOCK),)](
            *outputs, pred, _readable(target), pred if weight is None else _readable(weight), size,
            BINS=bins, WIDTH=pred.shape[-1] if any(of_rows) else GROUP, LABELS=of_rows[0],
            WEIGHT=0 if weight is None else 1 if of_rows[1] else 2,
            WIDE=size + BLOCK >= 2**31, WHOLE=size % GROUP == 0, GROUP=GROUP, BLOCK=BLOCK,
            num_warps=NUM_WARPS, **constants,
        )  # fmt: skip


def _readable(x: Tensor) -> Tensor:
    return x.view(torch.uint8).contiguous() if x.dtype == torch.bool else x.contiguous()
