"""Triton kernels of the region density loss: count, sum, gradient.

Each kernel reads the logits (or offsets) once, in float32 registers, and recomputes the region
of each example: that costs less than a byte an element written and read again. Nothing waits
for the host, so a CUDA graph can capture the loss.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

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
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, REGRESSION: tl.constexpr,
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
    read = valid if REGRESSION else inside
    x = tl.load(pred + offsets, mask=read, other=0).to(tl.float32)
    if LABELS:
        label = tl.load(target + row, mask=inside, other=-1)
        p_star = tl.where(label == offsets - row * width, 1.0, 0.0)
    else:
        p_star = tl.load(target + offsets, mask=read, other=0).to(tl.float32)
    d = x - p_star
    if REGRESSION:
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
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, REGRESSION: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr,
) -> None:  # fmt: skip
    offsets = _offsets(WIDE, BLOCK)
    _, _, region, d = _example(
        pred, target, weight, offsets, size, width, mu, mu_squared,
        BINS, LABELS, WEIGHT, REGRESSION,
    )  # fmt: skip
    cells = tl.arange(0, CELLS)
    histogram = tl.histogram(region, CELLS)
    tl.atomic_add(counts + cells, histogram.to(tl.int64), mask=cells < BINS)
    found = tl.max(tl.where(tl.abs(d) < float('inf'), 0, 1))
    tl.atomic_max(infinite, found, mask=found > 0)


@triton.jit
def _sum_kernel(
    sums, beta, pred, target, weight, size, width, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, REGRESSION: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    offsets = _offsets(WIDE, BLOCK)
    _, loss, region, _ = _example(
        pred, target, weight, offsets, size, width, mu, mu_squared,
        BINS, LABELS, WEIGHT, REGRESSION,
    )  # fmt: skip
    tl.store(sums + tl.program_id(0), tl.sum(tl.load(beta + region) * loss))


@triton.jit
def _gradient_kernel(
    gradient, scale, beta, pred, target, weight, size, width, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, LABELS: tl.constexpr, WEIGHT: tl.constexpr, REGRESSION: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    offsets = _offsets(WIDE, BLOCK)
    slope, _, region, _ = _example(
        pred, target, weight, offsets, size, width, mu, mu_squared,
        BINS, LABELS, WEIGHT, REGRESSION,
    )  # fmt: skip
    scaled = slope * (tl.load(beta + region) * tl.load(scale))
    tl.store(gradient + offsets, scaled.to(gradient.dtype.element_ty), mask=offsets < size)


class _Launch:
    """The arguments that the three kernels share.

    Args:
        pred: Logits or offsets, any shape, float32, float16 or bfloat16.
        target: int labels of the shape of `pred` without its last dimension, or the shape of
            `pred`.
        weight: Either shape, or None.
        bins: M.
        mu: μ of ASL1; 0 for the cross entropy of logits.
    """

    def __init__(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, mu: float
    ) -> None:
        self.pred = pred.contiguous()
        self.grid = (triton.cdiv(pred.numel(), BLOCK),)
        self.arguments = (
            self.pred,
            target.contiguous(),
            self.pred if weight is None else weight.contiguous(),
            pred.numel(),
            pred.shape[-1] if pred.dim() else 1,
            mu,
            mu * mu,
        )
        of_row = weight is not None and weight.shape != pred.shape
        self.constants = dict(
            BINS=bins,
            LABELS=target.shape != pred.shape,
            WEIGHT=0 if weight is None else 1 if of_row else 2,
            REGRESSION=mu > 0,
            WIDE=pred.numel() + BLOCK >= 2**31,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )

    def run(self, kernel: triton.JITFunction, *first: Tensor, **constants: int) -> None:
        with torch.cuda.device_of(self.pred):
            kernel[self.grid](*first, *self.arguments, **self.constants, **constants)


def count_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, mu: float
) -> tuple[Tensor, Tensor]:
    """R_j, int64 of shape (M,), and whether all that was read is finite, a bool scalar.

    Args:
        pred, target, weight, bins, mu: As `_Launch`.
    """
    counts = torch.zeros(bins, dtype=torch.int64, device=pred.device)
    infinite = torch.zeros((), dtype=torch.int32, device=pred.device)
    cells = max(32, triton.next_power_of_2(bins + 1))
    _Launch(pred, target, weight, bins, mu).run(_count_kernel, counts, infinite, CELLS=cells)
    return counts, infinite == 0


def sum_losses(
    pred: Tensor, target: Tensor, weight: Tensor | None, beta: Tensor, mu: float
) -> Tensor:
    """Σ β_i L_i, a float32 scalar: sums of blocks in float32, their sum in float64.

    Args:
        pred, target, weight, mu: As `_Launch`.
        beta: β of each region, shape (M,).
    """
    launch = _Launch(pred, target, weight, len(beta), mu)
    sums = torch.empty(launch.grid, device=pred.device)
    launch.run(_sum_kernel, sums, _with_zero(beta))
    return sums.sum(dtype=torch.float64).float()


def gradient_of_losses(
    scale: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, beta: Tensor, mu: float
) -> Tensor:
    """`scale · ∂(Σ β_i L_i)/∂pred`, the shape and dtype of `pred`; arguments as `sum_losses`."""
    launch = _Launch(pred, target, weight, len(beta), mu)
    gradient = torch.empty_like(launch.pred)
    launch.run(_gradient_kernel, gradient, scale.float(), _with_zero(beta))
    return gradient


def _with_zero(beta: Tensor) -> Tensor:
    """β of the regions, and 0 for the examples that lie in none."""
    return torch.cat([beta.float(), beta.new_zeros(1, dtype=torch.float32)])
