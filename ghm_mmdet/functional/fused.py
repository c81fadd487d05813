"""The weighted cross entropy of GHM-C as one operation of autograd, by the kernels of `ops`."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from .inputs import at_least_float32, probabilities, valid_examples
from .paper import assign_regions, classification_gradient_norm, of_examples


class CountedLogits(NamedTuple):
    """What the first pass found, and what the second needs."""

    counts: Tensor  # R, int64 of shape (M,)
    finite: Tensor  # whether logits and targets are finite, a bool scalar
    pred: Tensor  # this and the next two as `ghm_c_loss` takes them
    target: Tensor
    weight: Tensor | None
    regions: Any  # what the first pass of these kernels leaves for their second
    kernels: ModuleType  # the implementation


def count_cross_entropy(
    kernels: ModuleType, pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> CountedLogits:
    """The first pass: how many logits lie in each of `bins` unit regions of g (Eq. 3)."""
    counts, finite, regions = ops.untraced(kernels.count)(pred.detach(), target, weight, bins)
    return CountedLogits(counts, finite, pred, target, weight, regions, kernels)


def weighted_cross_entropy(logits: CountedLogits, weights: Tensor) -> Tensor:
    """The second pass: `Σ_i w_i L_i` with w of each region, shape (M,), as a constant.

    A scalar, in float64 for float64 logits, else in float32; NaN where not all is finite.
    """
    with_gradient = torch.is_grad_enabled() and logits.pred.requires_grad
    return _WeightedCrossEntropy.apply(  # type: ignore[no-any-return, no-untyped-call]
        logits.pred, logits, weights.detach(), with_gradient
    )


def plain_weighted_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor | None, weights: Tensor
) -> Tensor:
    """The same in plain PyTorch, which can be differentiated any number of times."""
    loss, g = cross_entropy_and_norm(pred, target)
    regions = assign_regions(g, len(weights), valid_examples(pred, weight))
    return (of_examples(weights, regions) * loss).sum()


def cross_entropy_and_norm(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """L of Eq. 1 and g of Eq. 3 of each logit, g as a constant."""
    x = at_least_float32(pred)
    p_star = probabilities(x, target)
    loss = F.binary_cross_entropy_with_logits(x, p_star, reduction='none')
    return loss, classification_gradient_norm(x.detach(), p_star)


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, logits: CountedLogits, weights: Tensor, with_gradient: bool
    ) -> Tensor:
        target, weight = logits.target, logits.weight
        total, gradient = ops.untraced(logits.kernels.weigh)(
            # Logits in no region weigh nothing.
            pred, target, weight, logits.regions, F.pad(weights, (0, 1)), with_gradient,
        )  # fmt: skip
        if with_gradient:
            # Labels of a teacher may be inference tensors, which can't be saved.
            kept = (x if x is None or not x.is_inference() else x.clone() for x in (target, weight))
            ctx.save_for_backward(pred, *kept, weights)
        # It is scaled in place, which no hook of saved tensors may see.
        ctx.gradient = gradient
        # The passes leave out products with a target of 0, where cross entropy has 0 · (-inf).
        return torch.where(logits.finite, total, torch.nan)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        # After the last use of the graph this raises PyTorch's own error.
        pred, target, weight, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            total = plain_weighted_cross_entropy(pred, target, weight, weights)
            (gradient,) = torch.autograd.grad(total, pred, scale, create_graph=True)
            return gradient, None, None, None
        gradient, is_last_use = ctx.gradient, _is_last_use()
        if is_last_use:
            del ctx.gradient
        if gradient.dtype != pred.dtype or _is_batched(scale) or not is_last_use:
            # The product is rounded, not the gradient: a loss scale keeps the small ones so.
            return (gradient * scale).to(pred.dtype), None, None, None
        is_one = scale.device.type == 'cpu' and scale == 1
        return gradient if is_one else gradient.mul_(scale), None, None, None


def _is_batched(scale: Tensor) -> bool:
    """Whether it holds several gradients, of `is_grads_batched=True`."""
    # PyTorch 1.13 does not have the second.
    tests = 'is_batchedtensor', 'is_legacy_batchedtensor'
    return any(getattr(torch._C._functorch, name, lambda x: False)(scale) for name in tests)


def _is_last_use() -> bool:
    """Whether the graph is freed after this backward, so that the gradient may be written to."""
    keeps_graph = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return keeps_graph is not None and not keeps_graph()
