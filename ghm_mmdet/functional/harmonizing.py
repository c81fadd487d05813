"""The harmonizing parameter β (Eqs. 7, 10 and 13)."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .gradient_density import assign_regions, count_regions, exact_gradient_density

#: What a unit region counts as at least with `formula='floored'`. The number of examples that
#: fall into a region scatters by its square root: a count of 30 is known to 18 %, one of 1 to
#: nothing better than itself.
MIN_COUNT = 30


class Statistics(Protocol):
    """What turns the counts of a call into those that the density uses.

    A loss module passes its moving average, and the sum over processes.
    """

    def __call__(
        self, counts: Tensor, num_examples: Tensor, *, finite: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """R, S and N from the counts R (M,) and the number N of this call.

        `finite` is a bool scalar: whether the loss is finite in every example of the call.
        """


def counts_of_this_call(
    counts: Tensor, num_examples: Tensor, *, finite: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics without a memory: S = R."""
    return counts, counts, num_examples


def no_less_than_one(num_examples: Tensor) -> Tensor:
    """N as a divisor: 1 where the whole mini-batch has no valid example."""
    return num_examples.clamp(min=1)


def region_harmonizing_parameter(
    counts: Tensor, average: Tensor, num_examples: Tensor, formula: str
) -> Tensor:
    """β of each unit region.

    'paper': `β = N / (S·M)` (Eqs. 10 and 13). 'official': `β = N / (S·n)` with the number n
    of non-empty regions in the place of M, as in the released code. 'floored':
    `β = N / (max(S, MIN_COUNT)·n)`, so that a few examples alone in their region do not weigh
    as much as all the others of another.

    Args:
        counts: R, shape (M,).
        average: S, shape (M,); R itself where there is no moving average.
        num_examples: N, a scalar tensor.
        formula: 'official', 'paper' or 'floored'.

    Returns:
        Shape (M,); 0 for a region that is empty in this call.
    """
    filled = counts > 0
    divisor = counts.numel() if formula == 'paper' else filled.sum().clamp(min=1)
    # Python's `N / S` of the released code is `N * (1 / S)` for a tensor S, its moving average:
    # the same rounding here makes training runs equal bit for bit.
    of_counts = average is counts
    average = average.where(filled, 1)
    if formula == 'floored':
        average = average.clamp(min=MIN_COUNT)
    quotient = num_examples / average if of_counts else num_examples * average.reciprocal()
    return torch.where(filled, quotient / divisor, 0)


def exact_harmonizing_parameter(
    gd: Tensor, num_examples: Tensor, epsilon: float, formula: str
) -> Tensor:
    """Eq. 7: `β = N / GD`, 0 where the density is 0, that is for what is not counted.

    With 'floored' GD is at least that of `MIN_COUNT` examples in a window of ε.
    """
    counted = gd > 0
    if formula == 'floored':
        gd = gd.clamp(min=MIN_COUNT / epsilon)
    return torch.where(counted, num_examples / gd.where(counted, 1), 0)


def bounded(beta: Tensor, max_beta: float | None) -> Tensor:
    """β, or `min(β, max_beta)` where there is a bound."""
    return beta if max_beta is None else beta.clamp(max=max_beta)


def harmonizing_parameter(
    g: Tensor,
    valid: Tensor,
    num_examples: Tensor,
    *,
    bins: int,
    density: str = 'region',
    formula: str = 'official',
    max_beta: float | None = None,
    statistics: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = counts_of_this_call,
) -> tuple[Tensor, Tensor]:
    """Eq. 7: `β_i = N / GD(g_i)` of every example.

    With `density='exact'` 'official' and 'paper' are Eq. 7 with the density of Eqs. 4-6 and
    ε = 1/M.

    Args:
        g: Gradient norms in [0, 1], any shape, float32 or float64.
        valid: Bool, the shape of `g`.
        num_examples: N, a scalar tensor of the dtype of `g`.
        bins: M.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6).
        formula: 'official', 'paper' or 'floored', see `region_harmonizing_parameter`.
        max_beta: Upper bound of β; None leaves it unbounded, as the paper does.
        statistics: Gives R, S and N from the R and N of this call; only for 'region'.

    Returns:
        β, the shape of `g`, 0 where not valid; and N, at least 1.
    """
    if density == 'exact':
        num_examples = no_less_than_one(num_examples)
        gd = exact_gradient_density(g, 1 / bins, valid)
        beta = exact_harmonizing_parameter(gd.where(valid, 0), num_examples, 1 / bins, formula)
        return bounded(beta, max_beta), num_examples
    regions = assign_regions(g, bins, valid)
    counts, average, num_examples = statistics(
        count_regions(regions, bins).to(g.dtype), num_examples
    )
    num_examples = no_less_than_one(num_examples)
    of_region = region_harmonizing_parameter(counts, average, num_examples, formula)
    of_region = bounded(of_region, max_beta).to(g.dtype)
    return torch.cat([of_region, of_region.new_zeros(1)])[regions], num_examples
