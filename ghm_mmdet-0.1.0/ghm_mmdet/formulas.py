"""The settings of a loss, and the readings of the paper's formula for β.

Without PyTorch, whose import takes seconds, for what reads and writes configs alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any, Callable, Mapping, Union

from .checks import (
    DENSITIES,
    REDUCTIONS,
    ChoiceError,
    check_bool,
    check_choice,
    check_count,
    check_integer,
    check_momentum,
    check_mu,
    check_positive,
    check_real,
)


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
        beta: A β of one's own in place of all that divides: a function of S, floating point of
            shape (M,) and > 0 in the regions that are not empty, and of the scalar N, that returns
            β of each region, shape (M,). Default: None.
    """

    divisor: str = 'filled'
    power: float = 1.0
    takes_avg_factor: bool = False
    empty_regions_decay: bool = False
    starts_at_first_count: bool = False
    weights_are_counts: bool = True
    min_count: float = 0
    beta: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        check_choice('divisor', self.divisor, ('all', 'filled', 'none'))
        check_real('power', self.power)
        check_real('min_count', self.min_count)


#: What `formula=` of a loss takes, see `formula_of`.
FormulaLike = Union[str, Formula, Mapping[str, Any], Callable[[Any, Any], Any]]

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


def formula_of(formula: Any) -> Formula:
    """What `formula=` of a loss stands for.

    Args:
        formula: A name in `FORMULAS`; a `Formula`, or a dict of its arguments, as configs have
            it; a function of (S, N), as `Formula.beta`, with the rules of 'tempered' for N and
            S; or the path of a `Formula` or a function, as 'my_package.betas.capped'.

    Raises:
        TypeError: None of these, or a dict with other keys.
        ValueError: An unknown name, or a path of nothing.

    Examples:
        >>> formula_of('floored') == formula_of(dict(min_count=30)) == Formula(min_count=30)
        True
        >>> formula_of('temperd')
        Traceback (most recent call last):
        ghm_mmdet.checks.ChoiceError: formula must be one of 'official', 'paper', 'floored',
        'tempered', or the path of a function, got 'temperd'; did you mean 'tempered'?
    """
    if isinstance(formula, Formula):
        return formula
    if isinstance(formula, str):
        return FORMULAS[formula] if formula in FORMULAS else formula_of(_imported(formula))
    if isinstance(formula, Mapping):
        names = [field.name for field in fields(Formula)]
        if unknown := [key for key in formula if key not in names]:
            raise TypeError(f'formula takes {", ".join(names)}, got {", ".join(unknown)}')
        return Formula(**formula)
    if callable(formula):
        return Formula(
            takes_avg_factor=True,
            starts_at_first_count=True,
            weights_are_counts=False,
            beta=formula,
        )
    raise TypeError(f'formula must be a name, a Formula, a dict or a function, got {formula!r}')


def _imported(path: str) -> object:
    module, _, name = path.rpartition('.')
    if module:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f'formula {path!r} can not be imported: {error}') from error
    near = get_close_matches(path, FORMULAS, 1)
    names = ', '.join(map(repr, FORMULAS))
    raise ChoiceError(
        f'formula must be one of {names}, or the path of a function, got {path!r}'
        + (f'; did you mean {near[0]!r}?' if near else '')
    )


#: How each setting of a loss is checked, by its name.
CHECKS: dict[str, Callable[[str, Any], None]] = dict(
    bins=check_count,
    momentum=check_momentum,
    density=partial(check_choice, allowed=DENSITIES),
    formula=lambda name, value: check_formula(value),
    reduction=partial(check_choice, allowed=REDUCTIONS),
    loss_weight=check_real,
    sync=check_bool,
    use_sigmoid=check_bool,
    mu=check_mu,
    mu_momentum=lambda name, value: None if value is None else check_momentum(name, value),
    neg_pos_ratio=check_positive,
    class_weight=lambda name, value: None,  # its length is checked beside the logits
    ignore_index=lambda name, value: None if value is None else check_integer(name, value),
)


def check_formula(value: object) -> None:
    """Refuse what `formula_of` refuses."""
    formula_of(value)


@dataclass(frozen=True)
class Settings:
    """How a loss is harmonized.

    Attributes:
        bins: M, the number of unit regions, or 1/ε.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6).
        formula: What `formula_of` takes.
        reduction: 'mean' divides the sum by N, 'sum' does not, 'none' gives `β_i L_i`.
        loss_weight: Factor of the loss.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.
    """

    bins: int
    density: str = 'region'
    formula: FormulaLike = 'official'
    reduction: str = 'mean'
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            CHECKS[field.name](field.name, getattr(self, field.name))

    @property
    def rule(self) -> Formula:
        """The formula itself."""
        return formula_of(self.formula)
