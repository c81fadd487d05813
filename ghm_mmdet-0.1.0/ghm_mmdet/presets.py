"""What `harmonize` can be told: its options, and the settings that go together by name.

The shipped configs read the settings from here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .checks import ChoiceError, check_bool, check_count, check_momentum
from .formulas import FORMULAS
from .suggest import did_you_mean


class Preset(NamedTuple):
    """What `harmonize` puts in the place of losses whose weight is 1: the configs of both."""

    ghm_c: dict[str, Any]
    ghm_r: dict[str, Any]


#: M = 30, α = 0.75 and μ = 0.02 are the paper's; the rest of both losses and the clipping are the
#: released code's. MMDetection's heads read `use_sigmoid` from the config: never leave it out.
RELEASED = Preset(
    dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0),
    dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0),
)
#: For a training on data of one's own: it bears a cold start and few examples.
TEMPERED = Preset(
    {**RELEASED.ghm_c, 'formula': 'tempered'},
    {**RELEASED.ghm_r, 'momentum': 0, 'formula': 'floored', 'mu_momentum': 0.9},
)
PRESETS = {'released': RELEASED, 'tempered': TEMPERED}
#: That of `harmonize` where none is given.
DEFAULT_PRESET = 'tempered'
#: The weight of GHM-R in a head whose softmax a preset keeps. It is 4, and not the released 10,
#: because L1 beside it is summed over the 4 offsets of a box and GHM-R is averaged over them.
BESIDE_SOFTMAX = {'tempered': 4.0}
#: The norm at which the gradient is clipped. 35 is the authors'; at 10, SGD bears twice the
#: learning rate of MMDetection's schedules.
MAX_NORM = {'released': 35, 'tempered': 10}
#: The norm that the gradient of RetinaNet with focal loss exceeds in most iterations. Clipped so,
#: focal loss keeps its step as it learns: the baseline that GHM is compared with.
BASELINE_NORM = 2


def _option(default: Any, what: str, choices: Collection[str] = (), type: Any = str) -> Any:
    """A field with what `ghm-mmdet harmonize` needs for it: its help, choices and type."""
    return field(default=default, metadata=dict(help=what, choices=choices or None, type=type))


@dataclass(frozen=True)
class Options:
    """What to replace and by what; `harmonize` says it at length."""

    cls: bool = _option(True, 'classification losses')
    reg: bool = _option(True, 'regression losses')
    preset: str | None = _option(
        None, "released: COCO's, as published; default: tempered, for other data", PRESETS
    )
    head: str | None = _option(None, "only heads of this type or place, as RPNHead or 'roi_head.*'")
    bins: int | None = _option(
        None, "M; default: the preset's, 30 for GHM-C, 10 for GHM-R", type=int
    )
    momentum: float | None = _option(None, "α; default: the preset's, 0.75 for GHM-C", type=float)
    formula: str | None = _option(
        None, "of the harmonizing parameter; default: the preset's", FORMULAS
    )
    batch_density: bool = _option(False, 'density over all FPN levels (RetinaHead)')
    sync: bool = _option(False, 'sum the counts over all processes')
    record: bool = _option(False, 'record the gradient densities: adds GradientDensityHook')

    def __post_init__(self) -> None:
        for name in ('cls', 'reg', 'batch_density', 'sync', 'record'):
            check_bool(name, getattr(self, name))
        if not (self.cls or self.reg):
            raise ValueError('cls and reg are both False: there is nothing to replace')
        if self.head is not None and not isinstance(self.head, str):
            raise TypeError(f'head must be a pattern (str) or None, got {self.head!r}')
        if self.bins is not None:
            check_count('bins', self.bins)
        if self.momentum is not None:
            check_momentum('momentum', self.momentum)
        for name, known in (('formula', FORMULAS), ('preset', PRESETS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                hint = did_you_mean(value, known)
                names = ', '.join(map(repr, known))
                raise ChoiceError(f'{name} must be one of {names}, got {value!r}{hint}')

    @property
    def preset_or_default(self) -> str:
        return self.preset or DEFAULT_PRESET

    @property
    def keeps_ghm(self) -> bool:
        """Whether MMDetection's own GHM losses keep their settings but for what is chosen."""
        return self.preset is None and self.formula is None

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings of the losses that were chosen beside the preset."""
        settings = dict(bins=self.bins, momentum=self.momentum, formula=self.formula)
        return {name: value for name, value in settings.items() if value is not None}

    def settings(self, ghm: str) -> dict[str, Any]:
        """The settings of 'GHMC' or 'GHMR': the preset's, and what was chosen."""
        preset = PRESETS[self.preset_or_default]
        return {**(preset.ghm_c if ghm == 'GHMC' else preset.ghm_r), **self.chosen}
