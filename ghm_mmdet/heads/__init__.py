"""Heads whose losses see the whole mini-batch at once."""

from .ghm_retina_head import GHMRetinaHead
from .ghm_ssd_head import GHMSSDHead

__all__ = ['GHMRetinaHead', 'GHMSSDHead']
