"""The hooks that configs name: `type='ghm_mmdet.GHMWarmupHook'`."""

from .warmup_hook import GHMWarmupHook

__all__ = ['GHMWarmupHook']
