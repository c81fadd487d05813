"""The two passes as operators of PyTorch, which `torch.compile` takes as they are.

Every operator has an implementation for CPU tensors (`cpu_passes`) and one for CUDA tensors
(`triton_passes`, which Triton's interpreter runs on CPU tensors). The index of each example's
bin, which the first pass hands to the second, is empty where the second assigns the bins itself.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .choice import choose_kernels
from .precision import compute_dtype

DEVICES = ('cpu', 'cuda')

Counted = tuple[Tensor, Tensor]
Weighted = tuple[Tensor, Tensor]


def _passes(pred: Tensor) -> Any:
    """The implementation for a tensor."""
    name = 'triton_passes' if choose_kernels(pred.device.type) == 'triton' else 'cpu_passes'
    return import_module(f'.{name}', __package__)


@torch.library.custom_op('ghm_mmdet::count_cross_entropy', mutates_args=(), device_types=DEVICES)
def count_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, exact_edges: bool
) -> Counted:
    """Count the examples of binary cross entropy by their gradient norm (Eq. 3).

    Args:
        pred: Logits, any shape, floating point.
        target: int labels of the shape of `pred` without its last dimension, or targets of the
            shape of `pred`.
        weight: Either shape, or None; an example is valid where it is > 0.
        bins: The number of bins of equal width, below 2**15.
        exact_edges: Decide by the edges j/M themselves, as `assign_regions`. False takes the
            rounded product g·M, which is enough for the fine bins of the exact density.

    Returns:
        Float64 of shape (bins + 2,): the number of examples in each bin; N, the number of valid
        ones; and a number that is 0 where logits and targets are finite. And the bin of each
        example, for `weighted_cross_entropy`.
    """
    passes = _passes(pred)
    counted: Counted = passes.count_cross_entropy(pred, target, weight, bins, exact_edges)
    return counted


@torch.library.custom_op('ghm_mmdet::count_asl1', mutates_args=(), device_types=DEVICES)
def count_asl1(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: float,
    bins: int,
    exact_edges: bool,
    weights_are_counts: bool,
) -> Counted:
    """Count the examples of ASL1 by their gradient norm (Eq. 18).

    Args:
        pred: Encoded offsets, any shape, floating point.
        target: The shape of `pred`.
        weight: The shape of `pred`, or that without its last dimension, or None.
        mu: μ of ASL1.
        bins, exact_edges: As `count_cross_entropy`.
        weights_are_counts: Whether N is the sum of the weights.

    Returns:
        As `count_cross_entropy`; of offsets that are not valid it does not matter whether they
        are finite.
    """
    counted: Counted = _passes(pred).count_asl1(
        pred, target, weight, mu, bins, exact_edges, weights_are_counts
    )
    return counted


@torch.library.custom_op(
    'ghm_mmdet::weigh_regions', mutates_args=('average',), device_types=DEVICES
)
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
    """What lies between the passes, in one launch; only of Triton, see `functional.passes`.

    Args:
        counts, num_examples, not_finite: R, N and the last number of `count_cross_entropy`.
        average: S of Eq. 12, which becomes that of this call unless `not_finite`; None for S = R.
        momentum: α of Eq. 12.
        decay, divisor, min_count, power: Those of a `ghm_mmdet.formulas.Formula`.
        loss_weight: Factor of the loss.
        mean: Whether the loss is divided by N.

    Returns:
        The weight of each region and 0, float32 of shape (M + 1,).
    """
    weights: Tensor = _passes(counts).weigh_regions(
        counts, num_examples, not_finite, average, momentum, decay, divisor, min_count, power,
        loss_weight, mean,
    )  # fmt: skip
    return weights


@torch.library.custom_op('ghm_mmdet::weighted_cross_entropy', mutates_args=(), device_types=DEVICES)
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
    """The weighted sum of binary cross entropy, and its gradient with the weights as constants.

    Args:
        pred, target, weight, exact_edges: As `count_cross_entropy`.
        bin_index: From `count_cross_entropy`.
        weights: w of each bin and 0, for examples that lie in none; shape (bins + 1,).
        not_finite: The last number of `count_cross_entropy`.
        with_gradient: False leaves the gradient out.

    Returns:
        `Σ w_i L_i`, a scalar, NaN if `not_finite`; and `w_i ∂L_i/∂pred_i` of the shape of `pred`,
        or an empty tensor; at least float32.
    """
    weighted: Weighted = _passes(pred).weighted_cross_entropy(
        pred, target, weight, bin_index, weights, not_finite, exact_edges, with_gradient
    )
    return weighted


@torch.library.custom_op('ghm_mmdet::weighted_asl1', mutates_args=(), device_types=DEVICES)
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
    """The weighted sum of ASL1 and its gradient; as `weighted_cross_entropy`."""
    weighted: Weighted = _passes(pred).weighted_asl1(
        pred, target, weight, mu, bin_index, weights, not_finite, exact_edges, with_gradient
    )
    return weighted


@torch.library.custom_op('ghm_mmdet::scale_gradient', mutates_args=())
def scale_gradient(scale: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """`scale · gradient`; an operator so that a second derivative is refused, not wrong.

    The product is rounded to `dtype`, not the gradient: under a loss scale that is what keeps
    the small ones.
    """
    scaled: Tensor = _passes(gradient).scaled(
        gradient, scale, torch.empty_like(gradient, dtype=dtype)
    )
    return scaled


@count_cross_entropy.register_fake
def _(pred: Tensor, target: Tensor, weight: Tensor | None, bins: int, exact_edges: bool) -> Counted:
    return _fake_counts(pred, bins, pred.numel())


@count_asl1.register_fake
def _(
    pred: Tensor, target: Tensor, weight: Tensor | None, mu: float, bins: int, *_: Any
) -> Counted:
    on_cpu = choose_kernels(pred.device.type) == 'torch'
    valid = torch.library.get_ctx().new_dynamic_size() if weight is not None and on_cpu else None
    return _fake_counts(pred, bins, pred.numel() if valid is None else valid)


def _fake_counts(pred: Tensor, bins: int, indices: int | torch.SymInt) -> Counted:
    sums = pred.new_empty(bins + 2, dtype=torch.float64)
    if choose_kernels(pred.device.type) == 'triton':
        return sums, pred.new_empty(0, dtype=torch.uint8)
    return sums, pred.new_empty(indices, dtype=index_dtype(bins))


def index_dtype(bins: int) -> torch.dtype:
    """The smallest that holds 0 to `bins`."""
    return torch.uint8 if bins < 256 else torch.int16


@weigh_regions.register_fake
def _(counts: Tensor, *_: Any) -> Tensor:
    return counts.new_empty(len(counts) + 1, dtype=torch.float32)


@weighted_cross_entropy.register_fake
def _(pred: Tensor, *args: Any) -> Weighted:
    return _fake_weighted(pred, args[-1])


@weighted_asl1.register_fake
def _(pred: Tensor, *args: Any) -> Weighted:
    return _fake_weighted(pred, args[-1])


def _fake_weighted(pred: Tensor, with_gradient: bool) -> Weighted:
    dtype = compute_dtype(pred)
    shape = pred.shape if with_gradient else (0,)
    return pred.new_empty((), dtype=dtype), pred.new_empty(shape, dtype=dtype)


@scale_gradient.register_fake
def _(scale: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(gradient, dtype=dtype)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Weighted) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.num_inputs = len(inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _scaled_gradient(ctx: Any, scale: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    others = (None,) * (ctx.num_inputs - 1)
    if scale is None:
        return None, *others
    (gradient,) = ctx.saved_tensors
    if gradient.dtype != ctx.dtype or not _is_last_use(gradient):
        return torch.ops.ghm_mmdet.scale_gradient(scale, gradient, ctx.dtype), *others
    gradient = gradient.detach()
    return _passes(gradient).scaled(gradient, scale, gradient), *others


def _is_last_use(saved: Tensor) -> bool:
    """Whether a saved tensor is freed after this backward, and may be written to.

    It is not with `retain_graph=True`, and where `torch.compile` traces with stand-ins.
    """
    keeps_graph = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return type(saved) is Tensor and keeps_graph is not None and not keeps_graph()


for _operator in (weighted_cross_entropy, weighted_asl1):
    _operator.register_autograd(_scaled_gradient, setup_context=_keep_gradient)
