"""The passes over CUDA tensors, as Triton kernels: count, weigh the regions, loss and gradient.

The passes over the examples read each logit (or offset) once, in float32 registers, and the
second assigns the regions again: that costs less than a byte an element written and read. What
lies between them is one launch of one block. Nothing waits for the host, so a CUDA graph can
capture the loss. `benchmarks/kernels.py` says what they are compiled to.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import regions
from .operators import Counted, Weighted

#: Elements of a block, 8 for each of the threads of 8 warps: 16 take more than 64 registers.
BLOCK = 2048
NUM_WARPS = 8
#: Elements that a thread loads at once; where rows are whole groups of them, one label serves all.
GROUP = 4
#: Bins from which the count adds each example to global memory by itself.
FINE = 1024

# What the kernels are compiled for: the shape of the weight.
NO_WEIGHT = tl.constexpr(0)
WEIGHT_OF_ROW = tl.constexpr(1)
WEIGHT_OF_EXAMPLE = tl.constexpr(2)


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
def _load(pointer, offsets, wanted, inside, full, WHOLE: tl.constexpr):  # noqa: ANN001, ANN202
    """Whole groups that are wanted; a mask of single elements would split the loads."""
    if WHOLE:
        x = tl.load(pointer + offsets, mask=wanted & inside, other=0)
    elif full:
        x = tl.load(pointer + offsets, mask=wanted, other=0)
    else:
        x = tl.load(pointer + offsets, mask=wanted & inside, other=0)
    return x


@triton.jit
def _examples(  # noqa: ANN202
    pred, target, weight, size, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, ASL1: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The examples of a block, in groups of which a thread loads one at once.

    Returns their offsets, which are inside, and whether all are; and of each its weight, its
    signed gradient, its loss, its region in [0, BINS], and x - p*.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    group = block * BLOCK + tl.arange(0, BLOCK // GROUP)[:, None] * GROUP
    offsets = group + tl.arange(0, GROUP)[None, :]
    full = (block + 1) * BLOCK <= size
    groups = tl.broadcast_to(group < size, offsets.shape)
    inside = groups if WHOLE else offsets < size
    at_row = group if WIDTH % GROUP == 0 else offsets
    in_row = group < size if WIDTH % GROUP == 0 else inside
    row = at_row // WIDTH
    if WEIGHT == NO_WEIGHT:
        w = inside
    if WEIGHT == WEIGHT_OF_ROW:
        w = tl.load(weight + row, mask=in_row, other=0)
    if WEIGHT == WEIGHT_OF_EXAMPLE:
        w = _load(weight, offsets, groups, inside, full, WHOLE)
    w = tl.where(inside, w, 0)
    valid = w > 0
    wanted = groups
    if ASL1:
        # Most boxes are background: groups without a valid offset are not even read.
        any_valid = tl.max(valid.to(tl.int32), axis=1, keep_dims=True) > 0
        wanted = tl.broadcast_to(any_valid, offsets.shape)
    x = _load(pred, offsets, wanted, inside, full, WHOLE).to(tl.float32)
    if LABELS:
        label = tl.load(target + row, mask=in_row, other=0)
        p_star = tl.where(label == offsets - row * WIDTH, 1.0, 0.0)
        difference = x
    else:
        p_star = _load(target, offsets, wanted, inside, full, WHOLE).to(tl.float32)
        difference = x - p_star
    if ASL1:
        difference = tl.where(valid, difference, 0.0)
        root = tl.sqrt(difference * difference + mu_squared)
        slope = difference / root
        loss = root - mu
    else:
        e = tl.exp(-tl.abs(x))
        q = 1.0 / (1.0 + e)
        slope = tl.where(x < 0, e * q, q) - p_star
        # Not tl.maximum, which may swallow a NaN.
        loss = tl.where(x < 0, 0.0, x) - x * p_star + _log1p(e)
    g = tl.abs(slope)
    product = g * SCALE
    # Not tl.minimum, of which an interpreter may give a NaN: its region must exist.
    j = tl.where(product < BINS - 1.0, product, BINS - 1.0).to(tl.int32)
    if SCALE != BINS:
        j -= tl.where(g < _edge(j.to(tl.float32), BINS), 1, 0)
    region = tl.where(valid, j, BINS)
    return offsets, inside, full, w, slope, loss, region, difference


@triton.jit
def _count_kernel(
    sums, pred, target, weight, size, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, ASL1: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, HISTOGRAM: tl.constexpr,
    WEIGHTS_ARE_COUNTS: tl.constexpr,
) -> None:  # fmt: skip
    _, _, _, w, _, _, region, difference = _examples(
        pred, target, weight, size, mu, mu_squared,
        BINS, SCALE, WIDTH, LABELS, WEIGHT, ASL1, WIDE, WHOLE, GROUP, BLOCK,
    )  # fmt: skip
    # 0 times what is not finite is NaN.
    not_finite = tl.where(tl.sum(difference * 0.0) == 0.0, 0, 1)
    if HISTOGRAM > 0:
        j = tl.arange(0, HISTOGRAM)
        found = tl.histogram(tl.ravel(region), HISTOGRAM)
        n = tl.sum(w.to(tl.float32) if WEIGHTS_ARE_COUNTS else tl.where(j < BINS, found, 0))
        found = tl.where(j < BINS, found, tl.where(j == BINS, n, not_finite)).to(tl.float64)
        tl.atomic_add(sums + j, found, mask=(j < BINS + 2) & (found != 0), sem='relaxed')
    else:
        one = tl.where(region < BINS, 1.0, 0.0).to(tl.float64)
        n = tl.sum(w.to(tl.float64) if WEIGHTS_ARE_COUNTS else one)
        tl.atomic_add(sums + region, one, mask=region < BINS, sem='relaxed')
        tl.atomic_add(sums + BINS, n, sem='relaxed')
        tl.atomic_add(sums + BINS + 1, not_finite.to(tl.float64), sem='relaxed')


@triton.jit
def _weigh_kernel(
    weights, counts, num_examples, not_finite, average,  # noqa: ANN001
    loss_weight, min_count,  # noqa: ANN001
    BINS: tl.constexpr, MOMENTUM: tl.constexpr, DIVISOR: tl.constexpr, DECAY: tl.constexpr,
    POWER: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One block: Eqs. 12 and 13 and the factor of the loss, as `functional.passes` has them."""
    j = tl.arange(0, BLOCK)
    inside = j < BINS
    counted = tl.load(counts + j, mask=inside, other=0)
    r = counted.to(tl.float32)
    filled = r > 0
    n = tl.load(num_examples).to(tl.float32)
    n = tl.where(n < 1, 1.0, n)
    one = tl.full([BLOCK], 1.0, tl.float32)
    if MOMENTUM > 0:
        before = tl.load(average + j, mask=inside, other=0)
        s = MOMENTUM * before + ((1 - MOMENTUM) * counted).to(before.dtype)
        if not DECAY:
            s = tl.where(filled, s, before)
        if tl.load(not_finite) == 0:
            tl.store(average + j, s, mask=inside)
        s = s.to(tl.float32)
    else:
        s = r
    s = tl.where(filled, s, 1.0)
    s = tl.where(s < min_count, min_count, s)
    if POWER != 1.0:
        s = tl.exp2(POWER * tl.log2(s))
    # Rounded as `functional.harmonizing` does with an average and without.
    quotient = n * tl.div_rn(one, s) if MOMENTUM > 0 else tl.div_rn(one * n, s)
    quotient = tl.where(filled, quotient, 0.0)
    if DIVISOR == 'all':
        divisor = one * BINS
    elif DIVISOR == 'filled':
        divisor = one * tl.maximum(tl.sum(filled.to(tl.float32)), 1.0)
    else:
        mean_beta = tl.div_rn(one * tl.sum(r * quotient), one * n)
        divisor = tl.where(mean_beta > 0, mean_beta, 1.0)
    beta = tl.div_rn(quotient, divisor)
    factor = tl.div_rn(one * loss_weight, one * n) if MEAN else loss_weight
    tl.store(weights + j, factor * beta, mask=j <= BINS)


@triton.jit
def _loss_kernel(
    sums, gradient, weights, pred, target, weight, size, mu, mu_squared,  # noqa: ANN001
    BINS: tl.constexpr, SCALE: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
    WEIGHT: tl.constexpr, ASL1: tl.constexpr, WIDE: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
) -> None:  # fmt: skip
    offsets, inside, full, _, slope, loss, region, _ = _examples(
        pred, target, weight, size, mu, mu_squared,
        BINS, SCALE, WIDTH, LABELS, WEIGHT, ASL1, WIDE, WHOLE, GROUP, BLOCK,
    )  # fmt: skip
    weight_i = tl.load(weights + region)
    tl.store(sums + tl.program_id(0), tl.sum(weight_i * loss))
    if GRADIENT:
        if full:
            tl.store(gradient + offsets, weight_i * slope)
        else:
            tl.store(gradient + offsets, weight_i * slope, mask=inside)


@triton.jit
def _total_kernel(total, sums, not_finite, size, BLOCK: tl.constexpr) -> None:  # noqa: ANN001
    """One block: the sums of the blocks in float64, and NaN for a loss that is not finite.

    The passes leave out products with a target of 0, where cross entropy has 0 · (-inf).
    """
    added = tl.zeros([BLOCK], tl.float64)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        added += tl.load(sums + at, mask=at < size, other=0).to(tl.float64)
    value = tl.sum(added).to(tl.float32)
    tl.store(total, tl.where(tl.load(not_finite) > 0, float('nan'), value))


@triton.jit
def _scale_kernel(
    scaled, gradient, scale, size,  # noqa: ANN001
    WIDE: tl.constexpr, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """`scale · gradient`; in place it reads nothing where the scale is 1."""
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    offsets = block * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(scale)
    if IN_PLACE:  # noqa: SIM102
        if s == 1.0:
            return
    inside = offsets < size
    value = s.to(tl.float32) * tl.load(gradient + offsets, mask=inside, other=0)
    tl.store(scaled + offsets, value.to(scaled.dtype.element_ty), mask=inside)


def count_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, exact_edges: bool
) -> Counted:
    """See `operators.count_cross_entropy`."""
    return _count(_Examples(pred, target, weight, bins, exact_edges), False)


def count_asl1(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float,
    bins: int,
    exact_edges: bool,
    weights_are_counts: bool,
) -> Counted:
    """See `operators.count_asl1`."""
    examples = _Examples(pred, target, weight, bins, exact_edges, mu)
    return _count(examples, weights_are_counts and weight is not None)


def weigh_regions(
    counts: Tensor,
    num_examples: Tensor,
    not_finite: Tensor,
    average: Tensor | None,
    momentum: float,
    decay: bool,
    divisor: str,
    min_count: float,
    power: float,
    loss_weight: float,
    mean: bool,
) -> Tensor:
    """See `operators.weigh_regions`."""
    bins = len(counts)
    weights = torch.empty(bins + 1, device=counts.device)
    _launch(
        _weigh_kernel, 1, weights, counts, num_examples, not_finite,
        weights if average is None else average, loss_weight, min_count,
        BINS=bins, MOMENTUM=0.0 if average is None else momentum, DIVISOR=divisor, DECAY=decay,
        POWER=power, MEAN=mean, BLOCK=triton.next_power_of_2(bins + 1), num_warps=1,
    )  # fmt: skip
    return weights


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
    """See `operators.weighted_cross_entropy`."""
    examples = _Examples(pred, target, weight, len(weights) - 1, exact_edges)
    return _weighted(examples, weights, not_finite, with_gradient)


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
    examples = _Examples(pred, target, weight, len(weights) - 1, exact_edges, mu)
    return _weighted(examples, weights, not_finite, with_gradient)


def scaled(gradient: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """`scale · gradient` in `out`, which may be the gradient itself."""
    size = gradient.numel()
    _launch(
        _scale_kernel, triton.cdiv(size, BLOCK), out, gradient, scale, size,
        WIDE=size + BLOCK >= 2**31, IN_PLACE=out is gradient, BLOCK=BLOCK,
    )  # fmt: skip
    return out


class _Examples:
    """The arguments that the kernels share; `mu` is None for cross entropy."""

    def __init__(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        bins: int,
        exact_edges: bool,
        mu: float | None = None,
    ) -> None:
        labels = target.shape != pred.shape
        of_row = weight is not None and weight.shape != pred.shape
        if weight is not None and weight.dtype == torch.bool:
            weight = weight.view(torch.uint8)
        by_product = not exact_edges or regions.product_gives_region(bins, torch.float32)
        self.bins = bins
        self.pred = pred.contiguous()
        self.arguments = (
            self.pred,
            target.contiguous(),
            self.pred if weight is None else weight.contiguous(),
            pred.numel(),
            mu or 0.0,
            (mu or 0.0) ** 2,
        )
        self.constants: dict[str, Any] = dict(
            BINS=bins,
            SCALE=bins if by_product else bins * regions.WIDEN,
            WIDTH=pred.shape[-1] if labels or of_row else GROUP,
            LABELS=labels,
            WEIGHT=0 if weight is None else 1 if of_row else 2,
            ASL1=mu is not None,
            WIDE=pred.numel() + BLOCK >= 2**31,
            WHOLE=pred.numel() % GROUP == 0,
            GROUP=GROUP,
            BLOCK=BLOCK,
            # gr is that of PyTorch bit for bit: its d² + μ² is rounded twice.
            enable_fp_fusion=mu is None,
        )

        self.grid = triton.cdiv(pred.numel(), BLOCK)

    def run(self, kernel: Any, *first: Tensor, **constants: Any) -> None:
        _launch(kernel, self.grid, *first, *self.arguments, **self.constants, **constants)


def _launch(
    kernel: Any, grid: int, *arguments: Any, num_warps: int = NUM_WARPS, **constants: Any
) -> None:
    with torch.cuda.device_of(arguments[0]):
        kernel[(grid,)](*arguments, num_warps=num_warps, **constants)


def _count(examples: _Examples, weights_are_counts: bool) -> Counted:
    sums = torch.zeros(examples.bins + 2, dtype=torch.float64, device=examples.pred.device)
    histogram = max(32, triton.next_power_of_2(examples.bins + 2))
    examples.run(
        _count_kernel, sums,
        HISTOGRAM=0 if examples.bins >= FINE else histogram, WEIGHTS_ARE_COUNTS=weights_are_counts,
    )  # fmt: skip
    return sums, sums.new_empty(0, dtype=torch.uint8)


def _weighted(
    examples: _Examples, weights: Tensor, not_finite: Tensor, with_gradient: bool
) -> Weighted:
    """Blocks are summed in float32, their sums in float64; the gradient is float32."""
    pred = examples.pred
    sums = torch.empty(examples.grid, device=pred.device)
    gradient = torch.empty(pred.shape if with_gradient else 0, device=pred.device)
    examples.run(_loss_kernel, sums, gradient, weights, GRADIENT=with_gradient)
    total = torch.empty((), device=pred.device)
    _launch(_total_kernel, 1, total, sums, not_finite, len(sums), BLOCK=1024)
    return total, gradient
