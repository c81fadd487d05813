"""The heads that configs name: `type='ghm_mmdet.OHEMRetinaHead'`."""

from .ohem_retina_head import OHEMRetinaHead

__all__ = ['OHEMRetinaHead']
