"""How the losses are computed fast: two passes over the examples, as operators of PyTorch.

The first pass counts the examples of each region, the second looks the weight of each example's
region up, sums the weighted losses and writes their gradient. `operators` declares them,
`cpu_passes` and `triton_passes` implement them, `choice` decides which runs.
"""

from .choice import can_fuse, choose_kernels, in_one_launch
from .operators import (
    Counted,
    count_asl1,
    count_cross_entropy,
    weigh_regions,
    weighted_asl1,
    weighted_cross_entropy,
)
from .precision import at_least_float32
from .regions import assign_regions, count_regions, number_of_valid, sum_of_weights

__all__ = [
    'Counted',
    'assign_regions',
    'at_least_float32',
    'can_fuse',
    'choose_kernels',
    'count_asl1',
    'count_cross_entropy',
    'count_regions',
    'in_one_launch',
    'number_of_valid',
    'sum_of_weights',
    'weigh_regions',
    'weighted_asl1',
    'weighted_cross_entropy',
]
