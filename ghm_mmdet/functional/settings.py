"""The settings that GHM-C and GHM-R share, checked once."""

from dataclasses import dataclass, replace

from ..checks import DENSITIES, REDUCTIONS, check_choice, check_count, check_real
from ..formulas import FORMULAS


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

    def reduced_by(self, reduction: str) -> 'Settings':
        """The same settings with another reduction."""
        return self if reduction == self.reduction else replace(self, reduction=reduction)
