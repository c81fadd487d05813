"""The losses as modules, with PyTorch alone; `ghm_mmdet.registry` registers them for configs."""

from .ghm_c import GHMC
from .ghm_r import GHMR
from .rivals import AuthenticSmoothL1Loss, OHEMLoss

__all__ = ['GHMC', 'GHMR', 'AuthenticSmoothL1Loss', 'OHEMLoss']
