"""Heads whose losses see the whole mini-batch at once."""

from .ghm_retina_head import GHMRetinaHead

__all__ = ['GHMRetinaHead']
