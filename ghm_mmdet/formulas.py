"""The settings of a loss, and the readings of the paper's formula for β.

Without PyTorch, whose import takes seconds, for what reads and writes configs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import DENSITIES, REDUCTIONS, check_choice, check_count, check_real


@dataclass(frozen=True)
class Formula:
    """A reading of the paper's β = N / (S·M).

    Attributes:
        divisor: 'all', M as in Eqs. 10 and 13; 'filled', the number n of the regions that are
            not empty in the call, as in the released code; or 'none', 1.
        power: τ of β = (N/S)^τ: 1 is GHM, 0 would be cross entropy.
        takes_avg_factor: Whether N of GHM-C is the head's `avg_factor`, by which MMDetection's
            losses divide: in a dense head the number of positives of the mini-batch.
        empty_regions_decay: Whether Eq. 12 applies to a region that is empty in the call;
            otherwise it keeps its S.
        starts_at_first_count: Whether S of a region begins at its first count. Otherwise it begins
            at 0, as in the released code, and is too small by 1 - α in that call.
        weights_are_counts: Whether N of GHM-R is the sum of the weights, as in the released
            code, instead of the number of valid offsets. For weights 0 and 1 it is the same.
        min_count: What a region counts as at least. The number of examples that fall into a
            region scatters by its square root: a count of 30 is known to 18 %, one of 1 to
            nothing better than itself.
    """

    divisor: str = 'filled'
    power: float = 1.0
    takes_avg_factor: bool = False
    empty_regions_decay: bool = False
    starts_at_first_count: bool = False
    weights_are_counts: bool = True
    min_count: int = 0


#: The formulas by name; n is the number of regions that are not empty in the call.
FORMULAS = {
    # `β = N / (S·n)`: the released code's, and that of MMDetection's classes.
    'official': Formula(),
    # `β = N / (S·M)`: Eqs. 9-13 to the letter.
    'paper': Formula('all', empty_regions_decay=True, weights_are_counts=False),
    # `β = N / (max(S, 30)·n)`: a few examples alone in their region do not weigh as much as all
    # the others of another; for GHM-R on data of one's own.
    'floored': Formula(min_count=30),
    # `β = (N/S)^½` with N the head's `avg_factor`: halfway from cross entropy to GHM, and scaled
    # as the losses it replaces; for data of one's own.
    'tempered': Formula(
        'none', 0.5, takes_avg_factor=True, starts_at_first_count=True, weights_are_counts=False
    ),
}


@dataclass(frozen=True)
class Settings:
    """How a loss is harmonized.

    Attributes:
        bins: M, the number of unit regions, or 1/ε.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6).
        formula: A name in `FORMULAS`.
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`.
        loss_weight: Factor of the loss.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.
    """

    bins: int
    density: str = 'region'
    formula: str = 'official'
    reduction: str = 'mean'
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        check_count('bins', self.bins)
        check_choice('density', self.density, DENSITIES)
        check_choice('formula', self.formula, tuple(FORMULAS))
        check_choice('reduction', self.reduction, REDUCTIONS)
        check_real('loss_weight', self.loss_weight)
