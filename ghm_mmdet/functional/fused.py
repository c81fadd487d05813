"""The losses without a tensor of weights: count, weigh the regions, sum.

β depends on nothing but the region of an example. So the examples are counted in a first
sweep, β is computed for each region, and a second sweep looks it up; what differs between the
CPU (`blocked.py`) and CUDA (`ghm_mmdet.kernels`) is how a sweep is done. The sweeps are
PyTorch operators, which `torch.compile` takes as they are.
"""

import torch
from torch import Tensor

from ..kernels import choose_kernels
from . import blocked
from .gradient_density import cell_gradient_density, fine_cells, prefers_fine_cells
from .harmonizing import (
    Statistics,
    bounded,
    exact_harmonizing_parameter,
    no_less_than_one,
    region_harmonizing_parameter,
)

#: M must fit into one byte, together with the code of an example that lies in no region.
MAX_REGIONS = 255


def fast_path(pred: Tensor, target: Tensor, bins: int, density: str, reduction: str) -> str | None:
    """Which sweeps compute the loss: 'torch', 'triton', or None for the plain formula."""
    kernels = _choose_kernels(pred.device.type)
    if reduction == 'none' or pred.numel() == 0 or bins > MAX_REGIONS or target.requires_grad:
        return None
    if kernels == 'triton' and density == 'region' and pred.dtype != torch.float64:
        return 'triton'
    if pred.device.type != 'cpu':
        return None
    return 'torch' if density == 'region' or prefers_fine_cells(pred, 1 / bins) else None


# Compiled code keeps the choice that was made when it was traced.
_choose_kernels = torch.compiler.assume_constant_result(choose_kernels)


def harmonized_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    num_examples: Tensor,
    *,
    bins: int,
    density: str,
    formula: str,
    reduction: str,
    loss_weight: float,
    max_beta: float | None,
    statistics: Statistics,
    kernels: str,
    mu: float = 0.0,
) -> Tensor:
    """`(1/N) Σ β_i L_i` of Eq. 11 or 19, with a gradient in which β is a constant.

    The factor `loss_weight / N` goes into β, in the order in which autograd would apply it to
    the plain formula: the gradient is the same bit for bit, and is not scaled afterwards.

    Args:
        pred, target, weight: As `ghm_c_loss`, or as `ghm_r_loss` if `mu` > 0.
        num_examples: N, a scalar of the dtype of the loss.
        bins, density, formula, max_beta, statistics: As `harmonizing_parameter`.
        reduction: 'mean', or 'sum' without the factor 1/N.
        loss_weight: Factor of the loss.
        kernels: From `fast_path`.
        mu: μ of ASL1; 0 for the cross entropy of logits.

    Returns:
        A scalar.
    """
    fine = density == 'exact'
    cells, half = fine_cells(1 / bins) if fine else (bins, 0)
    x = pred.detach()
    counts, codes, finite = torch.ops.ghm_mmdet.count_examples(
        x, target, weight, cells, mu, fine, kernels
    )
    if fine:
        num_examples = no_less_than_one(num_examples)
        gd = cell_gradient_density(counts, half, 1 / bins).to(num_examples.dtype)
        beta = exact_harmonizing_parameter(gd, num_examples, 1 / bins, formula)
    else:
        counts, average, num_examples = statistics(
            counts.to(num_examples.dtype), num_examples, finite=finite
        )
        num_examples = no_less_than_one(num_examples)
        beta = region_harmonizing_parameter(counts, average, num_examples, formula)
    # A tensor over a tensor: a number over a tensor would be rounded twice.
    factor = torch.full_like(num_examples, loss_weight)
    factor = factor / num_examples if reduction == 'mean' else factor
    beta = factor * bounded(beta, max_beta).to(num_examples.dtype)
    total, _ = torch.ops.ghm_mmdet.sum_losses(
        pred, target, weight, codes, beta, mu, fine, kernels,
        torch.is_grad_enabled() and pred.requires_grad,
    )  # fmt: skip
    # The sweep leaves out products with a target of 0, where cross entropy has 0 · (-inf).
    return total + torch.where(finite, 0.0, torch.nan) if kernels == 'torch' else total


@torch.library.custom_op(
    'ghm_mmdet::count_examples',
    mutates_args=(),
    schema='(Tensor pred, Tensor target, Tensor? weight, int bins, float mu, bool fine, '
    'str kernels) -> (Tensor, Tensor, Tensor)',
)
def _count_examples(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bins: int,
    mu: float,
    fine: bool,
    kernels: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The number of examples in each region or cell, and what the second sweep needs of them.

    The third tensor says whether the loss will be finite in every example.
    """
    if kernels == 'torch':
        return blocked.count_examples(pred, target, weight, bins, mu, fine)
    from ..kernels.region_loss import count_examples

    counts, finite = count_examples(pred, target, weight, bins, mu)
    return counts, pred.new_empty(0, dtype=torch.uint8), finite


@_count_examples.register_fake
def _(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bins: int,
    mu: float,
    fine: bool,
    kernels: str,
) -> tuple[Tensor, Tensor, Tensor]:
    counts = pred.new_empty(bins, dtype=torch.int64)
    finite = pred.new_empty((), dtype=torch.bool)
    dtype = torch.uint8 if kernels == 'triton' else blocked.code_dtype(bins)
    if kernels == 'triton':
        return counts, pred.new_empty(0, dtype=dtype), finite
    if mu > 0 and weight is not None:
        size = torch.library.get_ctx().new_dynamic_size()
        return counts, pred.new_empty(size, dtype=dtype), finite
    return counts, pred.new_empty(pred.numel(), dtype=dtype), finite


@torch.library.custom_op(
    'ghm_mmdet::sum_losses',
    mutates_args=(),
    schema='(Tensor pred, Tensor target, Tensor? weight, Tensor codes, Tensor beta, float mu, '
    'bool fine, str kernels, bool with_gradient) -> (Tensor, Tensor)',
)
def _sum_losses(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    codes: Tensor,
    beta: Tensor,
    mu: float,
    fine: bool,
    kernels: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """`Σ β_i L_i`, and its gradient where the sweep gives both at once."""
    if kernels == 'torch':
        return blocked.sum_losses(pred, target, weight, codes, beta, mu, fine, with_gradient)
    from ..kernels.region_loss import sum_losses

    return sum_losses(pred, target, weight, beta, mu), pred.new_empty(0, dtype=beta.dtype)


@_sum_losses.register_fake
def _(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    codes: Tensor,
    beta: Tensor,
    mu: float,
    fine: bool,
    kernels: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    shape = pred.shape if with_gradient and kernels == 'torch' else (0,)
    return beta.new_empty(()), beta.new_empty(shape)


@torch.library.custom_op(
    'ghm_mmdet::gradient_of_losses',
    mutates_args=(),
    schema='(Tensor scale, Tensor pred, Tensor target, Tensor? weight, Tensor beta, float mu) '
    '-> Tensor',
)
def _gradient_of_losses(
    scale: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, beta: Tensor, mu: float
) -> Tensor:
    """`scale · ∂(Σ β_i L_i)/∂pred` in one sweep, for kernels that keep no gradient."""
    from ..kernels.region_loss import gradient_of_losses

    return gradient_of_losses(scale, pred, target, weight, beta, mu)


@_gradient_of_losses.register_fake
def _(
    scale: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, beta: Tensor, mu: float
) -> Tensor:
    return torch.empty_like(pred, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    'ghm_mmdet::scale_gradient',
    mutates_args=(),
    schema='(Tensor scale, Tensor gradient, ScalarType dtype) -> Tensor',
)
def _scale_gradient(scale: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """`scale · gradient`; an operator so that a second derivative is refused, not wrong."""
    return (gradient * scale).to(dtype)


@_scale_gradient.register_fake
def _(scale: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(gradient, dtype=dtype)


def _keep_for_backward(ctx: object, inputs: tuple, output: tuple) -> None:
    pred, target, weight, _, beta, ctx.mu, _, ctx.kernels, _ = inputs
    ctx.dtype = pred.dtype
    ctx.set_materialize_grads(False)
    if ctx.kernels == 'torch':
        ctx.save_for_backward(output[1])
    else:
        ctx.save_for_backward(pred, target, weight, beta)


def _is_last_use(saved: Tensor) -> bool:
    """Whether a saved tensor is freed after this backward, and may be written to.

    It is not with `retain_graph=True`, and where `torch.compile` traces with stand-ins.
    """
    keeps_graph = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return type(saved) is Tensor and keeps_graph is not None and not keeps_graph()


def _backward(ctx: object, scale: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    gradient = None
    if scale is not None and ctx.kernels == 'torch':
        (gradient,) = ctx.saved_tensors
        if gradient.dtype == ctx.dtype and _is_last_use(gradient):
            gradient = gradient.detach()
            gradient = gradient if scale == 1 else gradient.mul_(scale)
        else:
            gradient = torch.ops.ghm_mmdet.scale_gradient(scale, gradient, ctx.dtype)
    elif scale is not None:
        gradient = torch.ops.ghm_mmdet.gradient_of_losses(scale, *ctx.saved_tensors, ctx.mu)
    return gradient, *[None] * 8


_sum_losses.register_autograd(_backward, setup_context=_keep_for_backward)
