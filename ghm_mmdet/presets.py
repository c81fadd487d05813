"""What `harmonize` can be told: its options, and the settings that go together by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .checks import check_choice, check_count, check_iterations, check_momentum
from .formulas import FORMULAS
from .released import GHM_C, GHM_R


@dataclass(frozen=True)
class Preset:
    """What `harmonize` puts in the place of a loss whose weight is 1: the configs of the losses."""

    ghm_c: dict[str, Any]
    ghm_r: dict[str, Any]


PRESETS = {
    # The released code's, which were made for COCO.
    'released': Preset(GHM_C, GHM_R),
    # For data sets of one's own; measured in docs/recipe.md.
    'tempered': Preset(
        {**GHM_C, 'formula': 'tempered'},
        {**GHM_R, 'momentum': 0, 'formula': 'floored', 'mu_momentum': 0.9},
    ),
}


def _option(default: Any, what: str) -> Any:
    """A field with its line of `ghm-mmdet harmonize --help`."""
    return field(default=default, metadata=dict(help=what))


@dataclass(frozen=True)
class Options:
    """What to replace and by what; `harmonize` says it at length.

    Raises:
        TypeError, ValueError: An option of the wrong type or outside the allowed values.
    """

    cls: bool = _option(True, 'classification losses')
    reg: bool = _option(True, 'regression losses')
    preset: str = _option(
        'released', 'small-data: for some hundreds of images and a pretrained backbone'
    )
    head: str | None = _option(None, "only heads of this type or place, as RPNHead or 'roi_head.*'")
    bins: int | None = _option(None, "M; default: the preset's, 30 for GHM-C, 10 for GHM-R")
    momentum: float | None = _option(None, "α; default: the preset's, 0.75 for GHM-C")
    formula: str | None = _option(None, "of the harmonizing parameter; default: the preset's")
    batch_density: bool = _option(False, 'density over all FPN levels (RetinaHead)')
    warmup: int | float | None = _option(
        None, 'train with the losses replaced at first: iterations as 500, or their share as 0.5'
    )

    def __post_init__(self) -> None:
        for name in ('cls', 'reg', 'batch_density'):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f'{name} must be a bool, got {getattr(self, name)!r}')
        if not (self.cls or self.reg):
            raise ValueError('cls and reg are both False: there is nothing to replace')
        if self.head is not None and not isinstance(self.head, str):
            raise TypeError(f'head must be a pattern (str) or None, got {self.head!r}')
        if self.bins is not None:
            check_count('bins', self.bins)
        if self.warmup is not None:
            check_iterations('warmup', self.warmup)
        if self.momentum is not None:
            check_momentum('momentum', self.momentum)
        if self.formula is not None:
            check_choice('formula', self.formula, tuple(FORMULAS))
        check_choice('preset', self.preset, tuple(PRESETS))
