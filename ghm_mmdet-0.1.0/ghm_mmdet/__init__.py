"""GHM-C and GHM-R, the gradient harmonizing losses, as a plugin for MMDetection 3.x.

Nothing is imported here: MMEngine imports `ghm_mmdet.registry` when a config names
`type='ghm_mmdet.GHMC'`, and `ghm_mmdet.functional` and the losses need PyTorch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = '0.1.0'

_HOMES = {
    'losses': ('GHMC', 'GHMR', 'AuthenticSmoothL1Loss', 'OHEMLoss'),
    'evaluation': ('CocoIoUMetric',),
    'heads': ('GHMRetinaHead', 'GHMSSDHead'),
    'hooks': ('GradientDensityHook',),
    'swap': ('harmonize', 'losses_found'),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ['__version__', *_HOME_OF]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f'{__name__}.{_HOME_OF[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
