"""The mathematics of the paper in PyTorch alone, equation after equation in `paper`."""

from .losses import ghm_c_loss, ghm_r_loss, softmax_ghm_c_loss
from .paper import (
    assign_regions,
    authentic_smooth_l1,
    classification_gradient_norm,
    count_regions,
    cross_entropy,
    exact_gradient_density,
    exact_harmonizing_parameter,
    harmonizing_parameter,
    moving_average,
    region_gradient_density,
    regression_gradient_norm,
    softmax_gradient_norm,
)  # fmt: skip

__all__ = [
    'assign_regions', 'authentic_smooth_l1', 'classification_gradient_norm', 'count_regions',
    'cross_entropy', 'exact_gradient_density', 'exact_harmonizing_parameter', 'ghm_c_loss',
    'ghm_r_loss', 'harmonizing_parameter', 'moving_average', 'region_gradient_density',
    'regression_gradient_norm', 'softmax_ghm_c_loss', 'softmax_gradient_norm',
]  # fmt: skip
