"""Count, then weigh: the two passes over the examples between which β is computed."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..formulas import FORMULAS, Formula
from .examples import Examples, FusedExamples
from .gradient_density import fine_bins, fine_gradient_density, prefers_fine_bins
from .harmonizing import (
    ExactStatistics,
    Memory,
    RegionStatistics,
    Statistics,
    beta_of,
    beta_of_examples,
    no_less_than_one,
    remembered,
    statistics_of,
)
from .settings import Settings


class Counted(NamedTuple):
    """What the first pass found.

    Attributes:
        statistics: Of this call; a loss module sums them over the processes.
        not_finite: 0 where the loss is finite in every example, a scalar.
        bin_index: The region or fine bin of each example; None where the density is that of
            each.
        loss: The loss of each example, with its graph; None where operators do both passes.
    """

    statistics: Statistics
    not_finite: Tensor
    bin_index: Tensor | None
    loss: Tensor | None


def count(examples: Examples, settings: Settings) -> Counted:
    """The first pass: how many examples have a similar gradient norm."""
    formula = FORMULAS[settings.formula]
    if isinstance(examples, FusedExamples) and _fused(examples, settings):
        return _count_fused(examples, formula, settings)
    loss, g, valid = examples.elementwise()
    num_examples = examples.num_examples(formula)
    not_finite = (~loss.detach().isfinite().all()).to(g.dtype)
    statistics, index = statistics_of(g, valid, num_examples, settings.bins, settings.density)
    if isinstance(statistics, RegionStatistics):
        statistics = statistics._replace(not_finite=not_finite)
    return Counted(statistics, not_finite, index, loss)


def _fused(examples: FusedExamples, settings: Settings) -> bool:
    fine = settings.density == 'exact'
    if settings.reduction == 'none' or (
        fine and not prefers_fine_bins(examples.pred, 1 / settings.bins)
    ):
        return False
    return ops.can_fuse(examples.pred, examples.target, settings.bins)


def _count_fused(examples: FusedExamples, formula: Formula, settings: Settings) -> Counted:
    if settings.density == 'region':
        sums, index = examples.count(settings.bins, True, formula)
        counts, num_examples, not_finite = sums[:-2], sums[-2], sums[-1]
        statistics = RegionStatistics(counts, None, num_examples, not_finite=not_finite)
        return Counted(statistics, not_finite, index, None)
    epsilon = 1 / settings.bins
    bins, half = fine_bins(epsilon)
    sums, index = examples.count(bins, False, formula)
    counts, num_examples, not_finite = sums[:-2], sums[-2], sums[-1]
    gd = fine_gradient_density(counts, half, epsilon)
    return Counted(ExactStatistics(gd, counts, num_examples, epsilon), not_finite, index, None)


def weigh(
    examples: Examples, counted: Counted, settings: Settings, memory: Memory | None = None
) -> Tensor:
    """The second pass: `(1/N) Σ β_i L_i` (Eqs. 8, 11 and 19), with β as a constant.

    Args:
        examples: Those that were counted.
        counted: From `count`.
        settings: As for `count`.
        memory: S of the calls before, which becomes that of this call; None for S = R.

    Returns:
        A scalar, or the shape of the examples' losses for 'none'.
    """
    if counted.loss is None:
        assert isinstance(examples, FusedExamples) and counted.bin_index is not None
        weights = _weights_of_bins(counted.statistics, examples.dtype, settings, memory)
        exact_edges = settings.density == 'region'
        return examples.weighted_sum(counted.bin_index, weights, counted.not_finite, exact_edges)
    statistics = remembered(counted.statistics, memory, settings.formula)
    beta = beta_of(statistics, settings.formula)
    loss = beta_of_examples(beta, counted.bin_index) * counted.loss
    if settings.reduction != 'none':
        loss = loss.sum()
    if settings.reduction == 'mean':
        loss = loss / no_less_than_one(statistics.num_examples)
    return loss * _loss_weight(statistics, settings)


@torch.no_grad()
def _weights_of_bins(
    statistics: Statistics, dtype: torch.dtype, settings: Settings, memory: Memory | None
) -> Tensor:
    """`loss_weight β_j / N` of each bin, and 0."""
    if isinstance(statistics, RegionStatistics) and ops.in_one_launch(statistics.counts.device):
        return _weights_in_one_launch(statistics, settings, memory)
    return _weights_by_equations(statistics.to(dtype), settings, memory)


def _weights_by_equations(
    statistics: Statistics, settings: Settings, memory: Memory | None
) -> Tensor:
    statistics = remembered(statistics, memory, settings.formula)
    beta = beta_of(statistics, settings.formula)
    # `loss_weight / N` goes into β, in the order in which autograd would apply it to the
    # plain formula: the gradient is the same bit for bit, and is not scaled afterwards.
    # A tensor over a tensor: a number over a tensor would be rounded twice.
    num_examples = no_less_than_one(statistics.num_examples)
    factor = torch.full_like(num_examples, _loss_weight(statistics, settings))
    factor = factor / num_examples if settings.reduction == 'mean' else factor
    return torch.cat([factor * beta, beta.new_zeros(1)])


def _weights_in_one_launch(
    statistics: RegionStatistics, settings: Settings, memory: Memory | None
) -> Tensor:
    counts, _, num_examples, _, not_finite = statistics
    average, momentum = (None, 0.0) if memory is None else memory
    formula = FORMULAS[settings.formula]
    weights: Tensor = ops.weigh_regions(
        counts, num_examples, not_finite, average, float(momentum),
        formula.empty_regions_decay, formula.divisor, float(formula.min_count), formula.power,
        float(_loss_weight(statistics, settings)), settings.reduction == 'mean',
    )  # fmt: skip
    return weights


def _loss_weight(statistics: Statistics, settings: Settings) -> float:
    # DDP averages the gradients of the processes; N is that of all of them.
    return settings.loss_weight * statistics.num_processes
