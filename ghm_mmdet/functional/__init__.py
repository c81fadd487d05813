"""The mathematics of the paper, one function per equation, in PyTorch alone."""

from ..ops import assign_regions, count_regions
from .gradient_density import exact_gradient_density, region_gradient_density
from .gradient_norm import (
    classification_gradient_norm,
    regression_gradient_norm,
    softmax_gradient_norm,
)
from .harmonizing import harmonizing_parameter, moving_average, region_harmonizing_parameter
from .losses import authentic_smooth_l1, ghm_c_loss, ghm_r_loss, softmax_ghm_c_loss

__all__ = [
    'assign_regions',
    'authentic_smooth_l1',
    'classification_gradient_norm',
    'count_regions',
    'exact_gradient_density',
    'ghm_c_loss',
    'ghm_r_loss',
    'harmonizing_parameter',
    'moving_average',
    'region_gradient_density',
    'region_harmonizing_parameter',
    'regression_gradient_norm',
    'softmax_ghm_c_loss',
    'softmax_gradient_norm',
]
