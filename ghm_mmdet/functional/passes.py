"""Count, then weigh: the two passes over the examples between which β is computed."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from .examples import Examples, FusedExamples
from .gradient_density import fine_bins, fine_gradient_density, prefers_fine_bins
from .harmonizing import (
    FORMULAS,
    ExactStatistics,
    RegionStatistics,
    Statistics,
    beta_of_examples,
    bounded_beta,
    no_less_than_one,
    statistics_of,
)
from .settings import Settings


class Counted(NamedTuple):
    """What the first pass found.

    Attributes:
        statistics: Of this call; a loss module puts its moving average in.
        finite: Whether the loss is finite in every example, a bool scalar.
        bin_index: The region or fine bin of each example; None where the density is that of
            each.
        loss: The loss of each example, with its graph; None where operators do both passes.
    """

    statistics: Statistics
    finite: Tensor
    bin_index: Tensor | None
    loss: Tensor | None


def count(examples: Examples, settings: Settings) -> Counted:
    """The first pass: how many examples have a similar gradient norm."""
    num_examples = examples.num_examples(FORMULAS[settings.formula])
    if isinstance(examples, FusedExamples) and _fused(examples, settings):
        return _count_fused(examples, num_examples, settings)
    loss, g, valid = examples.elementwise()
    statistics, index = statistics_of(g, valid, num_examples, settings.bins, settings.density)
    return Counted(statistics, loss.detach().isfinite().all(), index, loss)


def _fused(examples: FusedExamples, settings: Settings) -> bool:
    fine = settings.density == 'exact'
    if settings.reduction == 'none' or (
        fine and not prefers_fine_bins(examples.pred, 1 / settings.bins)
    ):
        return False
    return ops.can_fuse(examples.pred, examples.target, settings.bins, fine=fine)


def _count_fused(examples: FusedExamples, num_examples: Tensor, settings: Settings) -> Counted:
    if settings.density == 'region':
        counts, index, finite = examples.count(settings.bins, exact_edges=True)
        statistics = RegionStatistics(counts.to(num_examples.dtype), None, num_examples)
        return Counted(statistics, finite, index, None)
    epsilon = 1 / settings.bins
    bins, half = fine_bins(epsilon)
    counts, index, finite = examples.count(bins, exact_edges=False)
    gd = fine_gradient_density(counts, half, epsilon).to(num_examples.dtype)
    return Counted(ExactStatistics(gd, num_examples, epsilon), finite, index, None)


def weigh(
    examples: Examples, counted: Counted, statistics: Statistics, settings: Settings
) -> Tensor:
    """The second pass: `(1/N) Σ β_i L_i` (Eqs. 8, 11 and 19), with β as a constant.

    Args:
        examples: Those that were counted.
        counted: From `count`.
        statistics: Those of `counted`, or what a loss module made of them.
        settings: As for `count`.

    Returns:
        A scalar, or the shape of the examples' losses for 'none'.
    """
    beta = bounded_beta(statistics, settings.formula, settings.max_beta)
    num_examples = no_less_than_one(statistics.num_examples)
    # DDP averages the gradients of the processes; N is that of all of them.
    loss_weight = settings.loss_weight * statistics.num_processes
    if counted.loss is None:
        assert isinstance(examples, FusedExamples) and counted.bin_index is not None
        # `loss_weight / N` goes into β, in the order in which autograd would apply it to the
        # plain formula: the gradient is the same bit for bit, and is not scaled afterwards.
        # A tensor over a tensor: a number over a tensor would be rounded twice.
        factor = torch.full_like(num_examples, loss_weight)
        factor = factor / num_examples if settings.reduction == 'mean' else factor
        exact_edges = settings.density == 'region'
        total = examples.weighted_sum(counted.bin_index, factor * beta, exact_edges)
        # The passes leave out products with a target of 0, where cross entropy has 0 · (-inf).
        return total + torch.where(counted.finite, 0.0, torch.nan)
    loss = beta_of_examples(beta, counted.bin_index) * counted.loss
    if settings.reduction != 'none':
        loss = loss.sum()
    return (loss / num_examples if settings.reduction == 'mean' else loss) * loss_weight
