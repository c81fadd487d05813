"""The hooks that configs name: `type='ghm_mmdet.GHMWarmupHook'`."""

from .gradient_density_hook import GradientDensityHook
from .warmup_hook import GHMWarmupHook

__all__ = ['GHMWarmupHook', 'GradientDensityHook']
