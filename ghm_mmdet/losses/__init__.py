"""The losses that configs name: `type='ghm_mmdet.GHMC'`."""

from .authentic_smooth_l1_loss import AuthenticSmoothL1Loss
from .ghm_c import GHMC
from .ghm_r import GHMR
from .ohem_loss import OHEMLoss

__all__ = ['GHMC', 'GHMR', 'AuthenticSmoothL1Loss', 'OHEMLoss']
