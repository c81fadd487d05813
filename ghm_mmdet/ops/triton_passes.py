"""The passes over CUDA tensors, as Triton kernels: count, then loss and gradient.

Each kernel reads the logits (or offsets) once, in float32 registers, and the second assigns the
regions again: that costs less than a byte an element written and read. Nothing waits for the
host, so a CUDA graph can capture the loss.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .operators import Counted, Weighted

BLOCK = 4096
NUM_WARPS = 8

# What the kernels are compiled for: the shape of the weight.
NO_WEIGHT = tl.constexpr(0)
WEIGHT_OF_ROW = tl.constexpr(1)
WEIGHT_OF_EXAMPLE = tl.constexpr(2)


@triton.jit
def _log1p(e):  # noqa: ANN001, ANN202
    """log(1 + e) for e in [0, 1], to float32 accuracy also where e is tiny.

    2 artanh(s) with s = e / (2 + e) <= 1/3. Triton has no log1p in its core language, and
    log(1 + e) would lose the cross entropy of every easy example.
    """
    s = tl.div_rn(e, 2.0 + e)
    z = s * s
    series = 1 / 15 + z * (1 / 17)
    series = 1 / 13 + z * series
    series = 1 / 11 + z * series
    series = 1 / 9 + z * series
    series = 1 / 7 + z * series
    series = 1 / 5 + z * series
    series = 1 / 3 + z * series
    return 2.0 * (s + s * z * series)


@triton.jit
def _offsets(WIDE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN202
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    return block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _example(  # noqa: ANN202
    pred, target, weight, offsets, size, width, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, ASL1: tl.constexpr,
):  # fmt: skip
    """Of each example: its signed gradient, its loss, its region in [0, BINS], and x - p*.

    The regions are those of `assign_regions`, its edge rule included.
    """
    inside = offsets < size
    row = offsets // width
    valid = inside
    if WEIGHT == WEIGHT_OF_ROW:
        valid = inside & (tl.load(weight + row, mask=inside, other=0) > 0)
    if WEIGHT == WEIGHT_OF_EXAMPLE:
        valid = inside & (tl.load(weight + offsets, mask=inside, other=0) > 0)
    # Most boxes are background: their offsets are not even read.
    read = valid if ASL1 else inside
    x = tl.load(pred + offsets, mask=read, other=0).to(tl.float32)
    if LABELS:
        label = tl.load(target + row, mask=inside, other=-1)
        p_star = tl.where(label == offsets - row * width, 1.0, 0.0)
    else:
        p_star = tl.load(target + offsets, mask=read, other=0).to(tl.float32)
    d = x - p_star
    if ASL1:
        root = tl.sqrt_rn(d * d + mu_squared)
        slope = tl.div_rn(d, root)
        loss = root - mu
    else:
        slope = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), 1.0 + tl.exp(-x)) - p_star
        # Not tl.maximum, which may swallow a NaN.
        loss = tl.where(x < 0, 0.0, x) - x * p_star + _log1p(tl.exp(-tl.abs(x)))
    g = tl.abs(slope)
    bins = tl.full(g.shape, BINS, tl.float32)
    j = tl.floor(g * bins)
    below = tl.where(g < tl.div_rn(j, bins), 1.0, 0.0)
    above = tl.where(g >= tl.div_rn(j + 1.0, bins), 1.0, 0.0)
    j = j - below + above
    j = tl.where(j < BINS, j, BINS - 1.0)
    region = tl.where(valid & (g == g), j, BINS * 1.0).to(tl.int32)
    return slope, loss, region, d


@triton.jit
def _count_kernel(
    counts, infinite, pred, target, weight, size, width, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, ASL1: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, HISTOGRAM: tl.constexpr,
) -> None:  # fmt: skip
    offsets = _offsets(WIDE, BLOCK)
    _, _, region, d = _example(
        pred, target, weight, offsets, size, width, mu, mu_squared,
        BINS, LABELS, WEIGHT, ASL1,
    )  # fmt: skip
    j = tl.arange(0, HISTOGRAM)
    histogram = tl.histogram(region, HISTOGRAM)
    tl.atomic_add(counts + j, histogram.to(tl.int64), mask=j < BINS)
    found = tl.max(tl.where(tl.abs(d) < float('inf'), 0, 1))
    tl.atomic_max(infinite, found, mask=found > 0)


@triton.jit
def _loss_kernel(
    sums, gradient, beta, pred, target, weight, size, width, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, ASL1: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
) -> None:  # fmt: skip
    offsets = _offsets(WIDE, BLOCK)
    slope, loss, region, _ = _example(
        pred, target, weight, offsets, size, width, mu, mu_squared,
        BINS, LABELS, WEIGHT, ASL1,
    )  # fmt: skip
    # No weight is loaded for an example that lies in no region.
    beta_i = tl.load(beta + region, mask=region < BINS, other=0)
    tl.store(sums + tl.program_id(0), tl.sum(beta_i * loss))
    if GRADIENT:
        tl.store(gradient + offsets, beta_i * slope, mask=offsets < size)


def count_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, exact_edges: bool
) -> Counted:
    """See `operators.count_cross_entropy`."""
    return _count(_Examples(pred, target, weight), bins)


def count_asl1(
    pred: Tensor, target: Tensor, weight: Tensor | None, mu: float, bins: int, exact_edges: bool
) -> Counted:
    """See `operators.count_asl1`."""
    return _count(_Examples(pred, target, weight, mu), bins)


def weighted_cross_entropy(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bin_index: Tensor,
    beta: Tensor,
    exact_edges: bool,
    with_gradient: bool,
) -> Weighted:
    """See `operators.weighted_cross_entropy`."""
    return _weighted(_Examples(pred, target, weight), beta, with_gradient)


def weighted_asl1(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float,
    bin_index: Tensor,
    beta: Tensor,
    with_gradient: bool,
) -> Weighted:
    """See `operators.weighted_asl1`."""
    return _weighted(_Examples(pred, target, weight, mu), beta, with_gradient)


class _Examples:
    """The arguments that the kernels share; `mu` is None for cross entropy."""

    def __init__(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, mu: float | None = None
    ) -> None:
        mu_or_zero = mu or 0.0
        self.pred = pred.contiguous()
        self.grid = (triton.cdiv(pred.numel(), BLOCK),)
        self.arguments = (
            self.pred,
            target.contiguous(),
            self.pred if weight is None else weight.contiguous(),
            pred.numel(),
            pred.shape[-1] if pred.dim() else 1,
            mu_or_zero,
            mu_or_zero * mu_or_zero,
        )
        of_row = weight is not None and weight.shape != pred.shape
        self.constants = dict(
            LABELS=target.shape != pred.shape,
            WEIGHT=0 if weight is None else 1 if of_row else 2,
            ASL1=mu is not None,
            WIDE=pred.numel() + BLOCK >= 2**31,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )

    def run(self, kernel: Any, *first: Tensor, **constants: Any) -> None:
        with torch.cuda.device_of(self.pred):
            kernel[self.grid](*first, *self.arguments, **self.constants, **constants)


def _count(examples: _Examples, bins: int) -> Counted:
    pred = examples.pred
    counts = torch.zeros(bins, dtype=torch.int64, device=pred.device)
    infinite = torch.zeros((), dtype=torch.int32, device=pred.device)
    histogram = max(32, triton.next_power_of_2(bins + 1))
    examples.run(_count_kernel, counts, infinite, BINS=bins, HISTOGRAM=histogram)
    return counts, pred.new_empty(0, dtype=torch.uint8), infinite == 0


def _weighted(examples: _Examples, beta: Tensor, with_gradient: bool) -> Weighted:
    """Blocks are summed in float32, their sums in float64; the gradient is float32."""
    pred = examples.pred
    sums = torch.empty(examples.grid, device=pred.device)
    gradient = torch.empty(pred.shape if with_gradient else 0, device=pred.device)
    examples.run(_loss_kernel, sums, gradient, beta, BINS=len(beta), GRADIENT=with_gradient)
    return sums.sum(dtype=torch.float64).float(), gradient
