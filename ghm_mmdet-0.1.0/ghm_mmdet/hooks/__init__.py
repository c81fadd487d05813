"""The hooks that configs name: `type='ghm_mmdet.GradientDensityHook'`."""

from .gradient_density_hook import GradientDensityHook

__all__ = ['GradientDensityHook']
