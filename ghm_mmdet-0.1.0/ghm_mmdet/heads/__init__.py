"""The heads that configs name: `type='ghm_mmdet.GHMRetinaHead'`."""

from .ghm_retina_head import GHMRetinaHead
from .ghm_ssd_head import GHMSSDHead

__all__ = ['GHMRetinaHead', 'GHMSSDHead']
