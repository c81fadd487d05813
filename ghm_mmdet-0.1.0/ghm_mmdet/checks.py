"""Checks of settings: each error names the argument, its value and what is allowed.

Without PyTorch, whose import takes seconds, for what reads and writes configs alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

DENSITIES = ('region', 'exact')
REDUCTIONS = ('none', 'mean', 'sum')
#: Its square is a normal number of float32.
SMALLEST_MU = 1.1e-19


class ChoiceError(ValueError, AssertionError):
    """A value that is not among the allowed ones.

    It is an `AssertionError` too, because MMDetection's losses assert their reductions.
    """


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise ChoiceError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}')


def check_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f'{name} must be an int, got {value!r}')


def check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f'{name} must be an int >= 1, got {value!r}')
    if value < 1:
        raise ValueError(f'{name} must be >= 1, got {value!r}')


def check_real(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(value):
        raise ValueError(f'{name} must be finite, got {value!r}')


def check_positive(name: str, value: Any) -> None:
    check_real(name, value)
    if not value > 0:
        raise ValueError(f'{name} must be > 0, got {value!r}')


def check_mu(name: str, value: Any) -> None:
    """μ > 0, and large enough that μ² is no 0 in float32: ASL1 would have no gradient at 0."""
    check_positive(name, value)
    if not value >= SMALLEST_MU:
        raise ValueError(
            f'{name} must be >= {SMALLEST_MU}, for float32 rounds its square to 0 '
            f'or loses its digits, got {value!r}'
        )


def check_momentum(name: str, value: Any) -> None:
    check_real(name, value)
    if not 0 <= value < 1:
        raise ValueError(f'{name} must be in [0, 1), got {value!r}')


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')
