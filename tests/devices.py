"""The suites on another device: what a test calls moves its tensors there, and the results back."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, functional

DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()


def moved(function: Callable, device: str) -> Callable:
    """`function` on a device, for a test whose tensors are on the CPU."""

    @functools.wraps(function)
    def on_device(*args: object, **kwargs: object) -> object:
        args, kwargs = tree_map_only(Tensor, lambda x: x.to(device), (args, kwargs))
        module = args[0] if args and isinstance(args[0], nn.Module) else nn.Module()
        module.to(device)
        try:
            return tree_map_only(Tensor, lambda x: x.cpu(), function(*args, **kwargs))
        finally:
            module.cpu()

    return on_device


def move(test_module: object, device: str, patch: pytest.MonkeyPatch) -> None:
    """Let the losses, and the functions that a module of tests has imported, run on a device."""
    for loss in (GHMC, GHMR, AuthenticSmoothL1Loss):
        patch.setattr(loss, 'forward', moved(loss.forward, device))
    for name in functional.__all__:
        if hasattr(test_module, name):
            patch.setattr(test_module, name, moved(getattr(functional, name), device))


def away_from_edges(g_of: Callable[[Tensor], Tensor], x: Tensor, bins: int) -> Tensor:
    """`x` with a gradient norm 1e-5 away from every inner edge.

    Devices round the last bits of sigmoids and square roots differently, and those of an example
    at an edge decide on its region.
    """
    for _ in range(20):
        g = g_of(x.double()) * bins
        edge = g.round()
        near = ((g - edge).abs() < 1e-5 * bins) & (edge > 0) & (edge < bins)
        if not near.any():
            break
        x = torch.where(near, x * 1.003 + 1e-3, x)
    return x
