"""The gradient norms of a training: their record, its observer, and the paper's figures.

Python alone is enough to import this module, for the command line's help.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_count, check_positive

#: Of the files that figures are written to.
FORMATS = ('png', 'svg')


@dataclass(frozen=True)
class Observed:
    """What `GradientNormObserver` counts; see `GradientDensityHook`."""

    bins: int = 600
    mu: float = 0.02
    loss_cls: str | None = 'bbox_head.loss_cls'
    loss_bbox: str | None = 'bbox_head.loss_bbox'

    def __post_init__(self) -> None:
        check_count('bins', self.bins)
        check_positive('mu', self.mu)


#: A one-stage detector's, in bins of which every M of Table 1 is a divisor.
ONE_STAGE = Observed()
