"""The harmonizing parameter β (Eqs. 7, 10 and 13), and the moving average (Eq. 12)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..formulas import FORMULAS, Formula
from ..ops import assign_regions, count_regions
from .gradient_density import exact_gradient_density


def moving_average(
    average: Tensor, counts: Tensor, momentum: float, formula: str = 'official'
) -> Tensor:
    """Eq. 12: `S = αS + (1-α)R`.

    Args:
        average: S of the call before, shape (M,), floating point.
        counts: R of this call, shape (M,).
        momentum: α in [0, 1).
        formula: A name in `FORMULAS`. 'paper' applies Eq. 12 to every region, 'official' leaves
            S as it is where R is 0. Default: 'official'.

    Returns:
        The new S, shape (M,).

    Examples:
        >>> moving_average(torch.tensor([4.0, 8.0]), torch.tensor([0, 4]), momentum=0.75)
        tensor([4., 7.])
    """
    share = ((1 - momentum) * counts.double()).to(average.dtype)
    updated = momentum * average + share
    decays = FORMULAS[formula].empty_regions_decay
    return updated if decays else torch.where(counts > 0, updated, average)


class RegionStatistics(NamedTuple):
    """What β is computed from where the density is that of unit regions (Eq. 9).

    Attributes:
        counts: R, shape (M,).
        average: S, shape (M,); None where there is no moving average, and S = R.
        num_examples: N, a scalar.
        num_processes: Over how many processes they were summed.
        not_finite: 0 where the loss is finite in every example, a scalar; None if not known.
    """

    counts: Tensor
    average: Tensor | None
    num_examples: Tensor
    num_processes: int = 1
    not_finite: Tensor | None = None

    def to(self, dtype: torch.dtype) -> 'RegionStatistics':
        counts, num_examples = self.counts.to(dtype), self.num_examples.to(dtype)
        return self._replace(counts=counts, num_examples=num_examples)

    def beta(self, formula: Formula) -> Tensor:
        """`β_j = N / (S_j·M)` (Eqs. 10 and 13), or as another of `FORMULAS` has it.

        Shape (M,); 0 for an empty region.
        """
        n = no_less_than_one(self.num_examples)
        filled = self.counts > 0
        s = (self.counts if self.average is None else self.average).where(filled, 1)
        if formula.min_count:
            s = s.clamp(min=formula.min_count)
        if formula.power != 1:
            s = s.pow(formula.power)
        # Python's `N / S` of the released code is `N * (1 / S)` for a tensor S, its moving
        # average: the same rounding here makes training runs equal bit for bit.
        quotient = n / s if self.average is None else n * s.reciprocal()
        return torch.where(filled, quotient / self._divisor(quotient, formula), 0)

    def _divisor(self, beta: Tensor, formula: Formula) -> Tensor | int:
        """M, n, or the mean of the β given over the examples."""
        if formula.divisor == 'all':
            return len(beta)
        if formula.divisor == 'filled':
            return (self.counts > 0).sum().clamp(min=1)
        return mean_over_examples(beta, self.counts, self.num_examples)


class ExactStatistics(NamedTuple):
    """What β is computed from where the density is exact (Eqs. 4-6).

    Attributes:
        density: GD of each example, or of each bin of the fine histogram; 0 where nothing is
            counted.
        counts: How many examples have it, the shape of the density.
        num_examples: N, a scalar.
        epsilon: ε.
    """

    density: Tensor
    counts: Tensor
    num_examples: Tensor
    epsilon: float
    num_processes: int = 1

    def to(self, dtype: torch.dtype) -> 'ExactStatistics':
        density, counts = self.density.to(dtype), self.counts.to(dtype)
        return self._replace(
            density=density, counts=counts, num_examples=self.num_examples.to(dtype)
        )

    def beta(self, formula: Formula) -> Tensor:
        """Eq. 7: `β = N / GD`, the shape of the density, or as another of `FORMULAS` has it.

        GD is at least that of `min_count` examples in a window of ε.
        """
        gd, counted = self.density, self.density > 0
        if formula.min_count:
            gd = gd.clamp(min=formula.min_count / self.epsilon)
        gd = gd.where(counted, 1)
        if formula.power != 1:
            gd = gd.pow(formula.power)
        beta = no_less_than_one(self.num_examples) / gd
        if formula.divisor == 'mean':
            beta = beta / mean_over_examples(beta, self.counts, self.num_examples)
        return torch.where(counted, beta, 0)


Statistics = RegionStatistics | ExactStatistics


class Memory(NamedTuple):
    """The moving average of a loss module.

    Attributes:
        average: S after the calls before, shape (M,).
        momentum: α.
    """

    average: Tensor
    momentum: float


@torch.no_grad()
def remembered(statistics: Statistics, memory: Memory | None, formula: str) -> Statistics:
    """The statistics with S of Eq. 12, which the memory keeps from now on.

    A mini-batch whose loss is not finite does not enter the memory.
    """
    if memory is None or not isinstance(statistics, RegionStatistics):
        return statistics
    before, momentum = memory
    average = moving_average(before, statistics.counts, momentum, formula)
    kept = (
        average
        if statistics.not_finite is None
        else average.where(statistics.not_finite == 0, before)
    )
    before.copy_(kept)
    return statistics._replace(average=average)


def mean_over_examples(beta: Tensor, counts: Tensor, num_examples: Tensor) -> Tensor:
    """`(1/N) Σ_i β_i`, with β of each region or bin and how many examples have it; 1 of none."""
    total = (counts * beta).sum() / no_less_than_one(num_examples)
    return total.where(total > 0, 1)


def no_less_than_one(num_examples: Tensor) -> Tensor:
    """N as a divisor: 1 where the whole mini-batch has no valid example."""
    return num_examples.clamp(min=1)


def beta_of(statistics: Statistics, formula: str) -> Tensor:
    """β of each region, example or bin, in the dtype of the loss."""
    return statistics.beta(FORMULAS[formula]).to(statistics.num_examples.dtype)


def statistics_of(
    g: Tensor, valid: Tensor, num_examples: Tensor, bins: int, density: str
) -> tuple[Statistics, Tensor | None]:
    """Count gradient norms, or find their exact density.

    Args:
        g: Gradient norms in [0, 1], any shape, float32 or float64.
        valid: Bool, the shape of `g`.
        num_examples: N, a scalar of the dtype of `g`.
        bins: M.
        density: 'region' or 'exact'.

    Returns:
        The statistics, and the region of each example for `beta_of_examples`; None where the
        density is that of each example.
    """
    if density == 'exact':
        gd = exact_gradient_density(g, 1 / bins, valid).where(valid, 0)
        return ExactStatistics(gd, valid, num_examples, 1 / bins), None
    regions = assign_regions(g, bins, valid)
    counts = count_regions(regions, bins).to(g.dtype)
    return RegionStatistics(counts, None, num_examples), regions


def beta_of_examples(beta: Tensor, regions: Tensor | None) -> Tensor:
    """β of each example: that of its region, 0 outside; `regions` from `statistics_of`."""
    return beta if regions is None else torch.cat([beta, beta.new_zeros(1)])[regions]


def harmonizing_parameter(
    g: Tensor,
    valid: Tensor,
    num_examples: Tensor,
    *,
    bins: int,
    density: str = 'region',
    formula: str = 'official',
) -> tuple[Tensor, Tensor]:
    """Eq. 7: `β_i = N / GD(g_i)` of every example.

    With `density='exact'` it is Eq. 7 with the density of Eqs. 4-6 and ε = 1/M.

    Args:
        g: Gradient norms in [0, 1], any shape, float32 or float64.
        valid: Bool, the shape of `g`.
        num_examples: N, a scalar tensor of the dtype of `g`.
        bins: M.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6). Default: 'region'.
        formula: A name in `FORMULAS`. Default: 'official'.

    Returns:
        β, the shape of `g`, 0 where not valid; and N, at least 1.

    Examples:
        >>> g = torch.tensor([0.05, 0.02, 0.03, 0.95])
        >>> beta, n = harmonizing_parameter(g, g >= 0, torch.tensor(4.0), bins=10)
        >>> beta
        tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """
    statistics, regions = statistics_of(g, valid, num_examples, bins, density)
    beta = beta_of(statistics, formula)
    return beta_of_examples(beta, regions), no_less_than_one(num_examples)


def region_harmonizing_parameter(
    counts: Tensor, average: Tensor | None, num_examples: Tensor, formula: str
) -> Tensor:
    """β of each unit region: `β = N / (S·M)` (Eqs. 10 and 13), or another of `FORMULAS`.

    Args:
        counts: R, shape (M,).
        average: S, shape (M,); None where there is no moving average, and S = R.
        num_examples: N, a scalar tensor.
        formula: A name in `FORMULAS`.

    Returns:
        Shape (M,); 0 for a region that is empty in this call.

    Examples:
        >>> counts = torch.tensor([3.0, 0.0, 1.0])
        >>> region_harmonizing_parameter(counts, None, torch.tensor(4.0), 'official')
        tensor([0.6667, 0.0000, 2.0000])
    """
    return RegionStatistics(counts, average, num_examples).beta(FORMULAS[formula])
