"""The two passes over CUDA tensors, as Triton kernels.

Both read each logit once, in float32 registers, and the second assigns the regions again: that
costs less than a byte a logit written and read. Nothing waits for the host, so that a CUDA graph
can capture the loss. `benchmarks/kernels.py` says what they are compiled to.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .regions import ROUNDING, WIDEN, product_gives_region

#: Logits of a block, 8 for each of the threads of 8 warps: 16 take more than 64 registers.
BLOCK = 2048
NUM_WARPS = 8
#: Logits that a thread loads at once; where rows are whole groups of them, one label serves all.
GROUP = 4

#: Between them targets lie, but for the rounding of half precision.
LOWEST, HIGHEST = tl.constexpr(-ROUNDING), tl.constexpr(1 + ROUNDING)

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
def _edge(j, BINS: tl.constexpr):  # noqa: ANN001, ANN202
    """j/M rounded to the nearest, as a division rounds it, for 0 <= j < M < 256.

    A division that rounds so takes twice the instructions and many registers.
    """
    q = j * (1.0 / BINS)
    # 16 bits of q, and the other 8, times the 8 of M are exact, and so is what is left of j.
    high = (q.to(tl.int32, bitcast=True) & -256).to(tl.float32, bitcast=True)
    rest = (j - high * BINS) - (q - high) * BINS
    return q + rest * (1.0 / BINS)


@triton.jit
def _logits(  # noqa: ANN202
    pred, target, weight, size,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The logits of a block, in groups of which a thread loads one at once.

    Returns their offsets, which are inside, and of each x, p*, the signed gradient p - p*,
    e^-|x|, and its region in [0, BINS].
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
    if LABELS:
        label = tl.load(target + row, mask=in_row, other=0)
        p_star = tl.where(label == offsets - row * WIDTH, 1.0, 0.0)
    else:
        p_star = tl.load(target + offsets, mask=inside, other=0).to(tl.float32)
        # Outside of [0, 1] it is no target; what is not finite shows in the loss.
        p_star = tl.where((p_star >= LOWEST) & (p_star <= HIGHEST), p_star, float('nan'))
    valid = inside
    if WEIGHT == WEIGHT_OF_ROW:
        valid = valid & (tl.load(weight + row, mask=in_row, other=0) > 0)
    if WEIGHT == WEIGHT_OF_LOGIT:
        valid = valid & (tl.load(weight + offsets, mask=inside, other=0) > 0)
    e = tl.exp(-tl.abs(x))
    q = 1.0 / (1.0 + e)
    slope = tl.where(x < 0, e * q, q) - p_star
    g = tl.abs(slope)
    product = g * SCALE
    # Not tl.minimum, of which an interpreter may give a NaN: its region must exist.
    j = tl.where(product < BINS - 1.0, product, BINS - 1.0).to(tl.int32)
    if SCALE != BINS:
        j -= tl.where(g < _edge(j.to(tl.float32), BINS), 1, 0)
    return offsets, inside, x, p_star, slope, e, tl.where(valid, j, BINS)


@triton.jit
def _count_kernel(
    sums, pred, target, weight, size,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, HISTOGRAM: tl.constexpr,
) -> None:  # fmt: skip
    """Adds the block to `sums`: R, and the number of blocks that are not finite."""
    _, _, x, p_star, _, _, region = _logits(
        pred, target, weight, size,
        BINS, SCALE, WIDTH, LABELS, WEIGHT, WIDE, WHOLE, GROUP, BLOCK,
    )  # fmt: skip
    # 0 times what is not finite is NaN.
    not_finite = tl.where(tl.sum((x if LABELS else x - p_star) * 0.0) == 0.0, 0, 1)
    j = tl.arange(0, HISTOGRAM)
    found = tl.histogram(tl.ravel(region), HISTOGRAM)
    found = tl.where(j == BINS, not_finite, found).to(tl.int64)
    tl.atomic_add(sums + j, found, mask=(j <= BINS) & (found != 0), sem='relaxed')


@triton.jit
def _weigh_kernel(
    sums, gradient, weights, pred, target, weight, size,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
) -> None:  # fmt: skip
    """The sum of the block's weighted losses, and their gradient."""
    offsets, inside, x, p_star, slope, e, region = _logits(
        pred, target, weight, size,
        BINS, SCALE, WIDTH, LABELS, WEIGHT, WIDE, WHOLE, GROUP, BLOCK,
    )  # fmt: skip
    # Not tl.maximum, which may swallow a NaN.
    loss = tl.where(x < 0, 0.0, x) - x * p_star + _log1p(e)
    weight_i = tl.load(weights + region)
    tl.store(sums + tl.program_id(0), tl.sum(weight_i * loss))
    if GRADIENT:
        tl.store(gradient + offsets, weight_i * slope, mask=inside)


def count(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> tuple[Tensor, Tensor, None]:
    """See `cpu.count`; the second pass finds the regions anew."""
    sums = torch.zeros(bins + 1, dtype=torch.int64, device=pred.device)
    histogram = max(32, triton.next_power_of_2(bins + 1))
    _launch(_count_kernel, (sums,), pred, target, weight, bins, HISTOGRAM=histogram)
    return sums[:bins], sums[bins] == 0, None


def weigh(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    regions: None,
    weights: Tensor,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `cpu.weigh`. Blocks are summed in float32, their sums in float64."""
    sums = torch.empty(triton.cdiv(pred.numel(), BLOCK), dtype=torch.float32, device=pred.device)
    gradient = sums.new_empty(pred.shape if with_gradient else 0)
    outputs = (sums, gradient, weights)
    bins = len(weights) - 1
    _launch(_weigh_kernel, outputs, pred, target, weight, bins, GRADIENT=with_gradient)
    return sums.sum(dtype=torch.float64).float(), gradient if with_gradient else None


def _launch(
    kernel: Any,
    outputs: tuple[Tensor, ...],
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bins: int,
    **constants: Any,
) -> None:
    labels = target.shape != pred.shape
    of_row = weight is not None and weight.shape != pred.shape
    by_product = product_gives_region(bins, torch.float32)
    size = pred.numel()
    pred = pred.detach().contiguous()
    with torch.cuda.device_of(pred):
        kernel[(triton.cdiv(size, BLOCK),)](
            *outputs, pred, _readable(target), pred if weight is None else _readable(weight), size,
            BINS=bins,
            SCALE=bins if by_product else bins * WIDEN,
            WIDTH=pred.shape[-1] if labels or of_row else GROUP,
            LABELS=labels,
            WEIGHT=0 if weight is None else 1 if of_row else 2,
            WIDE=size + BLOCK >= 2**31,
            WHOLE=size % GROUP == 0,
            GROUP=GROUP,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            **constants,
        )  # fmt: skip


def _readable(x: Tensor) -> Tensor:
    return x.view(torch.uint8).contiguous() if x.dtype == torch.bool else x.contiguous()
