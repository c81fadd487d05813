"""The two passes over the examples of a mini-batch: count them, then weigh and sum their losses.

Between the two a loss module sums the counts over processes and into its moving average.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..formulas import Settings
from ..ops.trial import Batch
from . import inputs, paper

#: `avg_factor` of MMDetection's losses.
Factor = Union[float, Tensor, None]


class Examples(NamedTuple):
    """Examples, each with its loss and its gradient norm."""

    loss: Tensor  # L, with its graph, any shape
    g: Tensor  # gradient norms, a constant, the shape of `loss`
    valid: Tensor  # bool, the shape of `loss`
    regions: Any = None  # ind(g), once they are counted


class Logits(NamedTuple):
    """The examples of GHM-C where kernels compute their losses."""

    batch: Batch
    regions: Any  # what the first pass of these kernels leaves for their second
    kernels: ModuleType  # the implementation


class Counted(NamedTuple):
    """What the first pass leaves for the second."""

    counts: Tensor  # R, shape (M,); empty where the density is exact
    n: Tensor  # N, a scalar of the dtype of the loss
    finite: Tensor  # whether the loss is finite in every example, a bool scalar
    examples: Any  # `Examples`, or `Logits`
    average: Tensor | None = None  # S of Eq. 12; None for S = R
    num_processes: int = 1  # over which counts and N are summed


# The first pass.


def count_sigmoid(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Factor, settings: Settings
) -> Counted:
    """Binary cross entropy (Eq. 1) of each logit, with g of Eq. 3."""
    batch, n = inputs.checked_batch(pred, target, weight), None
    if settings.rule.takes_avg_factor:
        n = inputs.number_of_positives(*batch) if avg_factor is None else avg_factor
    kernels = ops.choose_kernels(batch, settings, reference)
    if kernels is None:
        return _count(sigmoid_examples(batch), n, settings)
    counts, finite, regions = ops.untraced(kernels.count)(batch, settings.bins)
    n = _n(counts.sum().to(inputs.compute_dtype(pred)), n)
    return Counted(counts, n, finite, Logits(batch, regions, kernels))


def sigmoid_examples(batch: Batch) -> Examples:
    """The same in plain PyTorch."""
    pred, target, weight = batch
    x, valid = inputs.at_least_float32(pred), inputs.valid_examples(pred, weight)
    p_star = inputs.probabilities(x, target, valid)
    g = paper.classification_gradient_norm(x.detach(), p_star)
    return Examples(paper.cross_entropy(x, p_star), g, valid)


def count_softmax(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Sequence[float] | Tensor | None,
    ignore_index: int | None,
    avg_factor: Factor,
    settings: Settings,
) -> Counted:
    """Softmax cross entropy, `w_y · (-log p_y)` of each row, with g = 1 - p_y."""
    weight = inputs.weight_of_rows(pred, target, weight)
    ignored = -100 if ignore_index is None else ignore_index
    x, valid = inputs.at_least_float32(pred), target != ignored
    if weight is not None:
        valid = valid & (weight > 0)
    labels = target.long().masked_fill(~valid, ignored)  # whatever an ignored row holds
    loss = F.cross_entropy(x, labels, reduction='none', ignore_index=ignored)
    g = paper.softmax_gradient_norm(loss.detach())
    if class_weight is not None:
        w = torch.as_tensor(class_weight, dtype=x.dtype, device=x.device)
        inputs.check_beside(pred, 'class_weight', w, pred.shape[1:])
        loss = w[labels.masked_fill(~valid, 0)] * loss
    n = avg_factor if settings.rule.takes_avg_factor else None
    return _count(Examples(loss, g, valid), n, settings)


def count_offsets(
    pred: Tensor, target: Tensor, weight: Tensor | None, mu: float | Tensor, settings: Settings
) -> Counted:
    """ASL1 (Eq. 17) of each offset, with gr of Eq. 18."""
    d, valid = inputs.differences(pred, target, weight)
    gr = paper.regression_gradient_norm(d.detach(), mu)
    weight, n = inputs.weight_of(pred, weight), None
    if weight is not None and settings.rule.weights_are_counts:
        n = inputs.expanded(weight, pred).sum(dtype=d.dtype)
    return _count(Examples(paper.authentic_smooth_l1(d, mu), gr, valid), n, settings)


def _count(examples: Examples, n: Factor, settings: Settings) -> Counted:
    loss, g, valid, _ = examples
    n, finite = _n(valid.sum().to(g.dtype), n), loss.detach().isfinite().all()
    if settings.density == 'exact':
        return Counted(g.new_empty(0), n, finite, examples)
    regions = paper.assign_regions(g, settings.bins, valid)
    counts = paper.count_regions(regions, settings.bins)
    return Counted(counts, n, finite, examples._replace(regions=regions))


def _n(count: Tensor, n: Factor) -> Tensor:
    """N: the number of valid examples, or what is given."""
    return count if n is None else inputs.scalar_like(count, 'avg_factor', n)


# The second pass.


def weigh(counted: Counted, settings: Settings) -> Tensor:
    """`(1/N) Σ β_i L_i` (Eqs. 8, 11 and 19), or each `β_i L_i` for 'none'."""
    counts, n, finite, examples, average, num_processes = counted
    if settings.density == 'exact':
        density = paper.exact_gradient_density(examples.g, 1 / settings.bins, examples.valid)
        beta = paper.exact_harmonizing_parameter(
            density, n, examples.valid, settings.bins, settings.formula
        )
        return paper.weighted(examples.loss, paper.example_weights(beta, n, settings), settings)
    beta = paper.harmonizing_parameter(counts, n, average, formula=settings.formula)
    weights = paper.example_weights(beta, n, settings, num_processes).detach()
    if isinstance(examples, Examples):
        of_examples = paper.of_examples(weights, examples.regions)
        return paper.weighted(examples.loss, of_examples, settings)
    apply: Any = _WeightedCrossEntropy.apply
    total = apply(examples.batch.pred, examples, weights, torch.is_grad_enabled())
    # The kernels leave out products with a target of 0, where cross entropy has 0 · (-inf).
    return torch.where(finite, total, torch.nan)


class _WeightedCrossEntropy(torch.autograd.Function):
    """`Σ w_i L_i`, w of each region, as one operation: the kernels give its gradient with it."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, logits: Logits, weights: Tensor, grad: bool) -> Tensor:
        (_, target, weight), regions, kernels = logits
        with_gradient = grad and pred.requires_grad
        w = F.pad(weights, (0, 1))  # logits in no region weigh nothing
        total, gradient = ops.untraced(kernels.weigh)(logits.batch, regions, w, with_gradient)
        if with_gradient:
            # The labels and the weights of rows may be refilled before the backward pass, as with
            # cross entropy, which has expanded them by then; inference tensors can't be saved.
            kept = (
                x if x is None or (x.shape == pred.shape and not x.is_inference()) else x.clone()
                for x in (target, weight)
            )
            ctx.save_for_backward(pred, gradient, *kept, weights)
        return total  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        pred, gradient, *others = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            target, weight, weights = others
            _, total = _plain(Batch(pred, target, weight), weights)
            (gradient,) = torch.autograd.grad(total, pred, scale, create_graph=True)
        elif not ops.has_memory(scale):  # several at once, of is_grads_batched=True
            gradient = (gradient * scale).to(pred.dtype)
        elif gradient.dtype != pred.dtype:
            # The product is rounded, not the gradient: a loss scale keeps the small ones so. It
            # is rounded as it is written, without a second tensor of float32.
            rounded = torch.empty_like(gradient, dtype=pred.dtype)
            gradient = torch.mul(gradient, scale, out=rounded)
        elif scale.device.type != 'cpu' or scale != 1:
            gradient = gradient * scale
        return gradient, None, None, None


def _plain(batch: Batch, weights: Tensor) -> tuple[Tensor, Tensor]:
    """R and `Σ w_i L_i` in plain PyTorch, which can be differentiated any number of times."""
    loss, g, valid, _ = sigmoid_examples(batch)
    regions = paper.assign_regions(g, len(weights), valid)
    total = (paper.of_examples(weights, regions) * loss).sum()
    return paper.count_regions(regions, len(weights)), total


def reference(batch: Batch, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What kernels have to agree with: R, the weighted loss, and its gradient."""
    x = batch.pred.detach().requires_grad_()
    with torch.enable_grad():
        counts, total = _plain(batch._replace(pred=x), weights)
    return counts, total.detach(), torch.autograd.grad(total, x)[0]
