"""Checks of settings: each error names the argument, its value and what is allowed.

Without PyTorch, whose import takes seconds, for what reads and writes configs alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

DENSITIES = ('region', 'exact')
REDUCTIONS = ('none', 'mean', 'sum')

T = TypeVar('T')


class ChoiceError(ValueError, AssertionError):
    """A value that is not among the allowed ones.

    It is an `AssertionError` too, because MMDetection's losses assert their reductions.
    """


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise ChoiceError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}')


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


def check_momentum(name: str, value: Any) -> None:
    check_real(name, value)
    if not 0 <= value < 1:
        raise ValueError(f'{name} must be in [0, 1), got {value!r}')


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def requires_use_sigmoid(loss: type[T]) -> type[T]:
    """Let a classification loss refuse a config that leaves `use_sigmoid` out.

    A decorator of classes. Whoever builds the loss by itself may leave it out.

    Raises:
        ValueError: When MMEngine's registry builds the loss from a config without it.
    """

    def new(cls: type[T], *args: object, **kwargs: object) -> T:
        # Only here one sees what was passed. `exec` and `eval` may give a frame no name.
        caller = sys._getframe(1).f_globals.get('__name__')
        if caller == 'mmengine.registry.build_functions' and 'use_sigmoid' not in kwargs:
            raise ValueError(
                f'use_sigmoid is missing from the config of ghm_mmdet.{cls.__name__}: write '
                "use_sigmoid=True; use_sigmoid=False is the softmax form. MMDetection's heads read "
                'it from the config, and take a missing key for a softmax'
            )
        return super(loss, cls).__new__(cls)  # type: ignore[misc, no-any-return]

    new.__wrapped__ = loss.__init__  # type: ignore[attr-defined]  # what `help` shows
    loss.__new__ = new  # type: ignore[assignment, method-assign]
    return loss
