"""GHM into any MMDetection config: `harmonize`, and what writes the result as a config."""

from .harmonize import harmonize, harmonized_text, load, losses_found
from .writer import inherited_config

__all__ = ['harmonize', 'harmonized_text', 'inherited_config', 'load', 'losses_found']
