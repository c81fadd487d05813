"""The fast path of GHM-C with sigmoids, where the millions of logits are.

The first pass counts the logits of each unit region, the second looks the weight of each logit's
region up, sums the weighted cross entropy and writes its gradient: no tensor of losses, of
gradient norms or of weights. `cpu` and `triton_kernels` are the two implementations.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..formulas import Settings
from . import trial

VARIABLE = 'GHM_MMDET_KERNELS'
KERNELS = ('torch', 'triton')
#: M must fit into one byte, together with the index of a logit that lies in no region.
MAX_REGIONS = 255


class CountedLogits(NamedTuple):
    """What the first pass found, and what the second needs."""

    counts: Tensor  # R, int64 of shape (M,)
    finite: Tensor  # whether logits and targets are finite, a bool scalar
    pred: Tensor  # this and the next two as `ghm_c_loss` takes them
    target: Tensor
    weight: Tensor | None
    regions: Tensor | None  # of each logit, unless the second pass finds it anew
    kernels: ModuleType  # the implementation


def choose_kernels(pred: Tensor, target: Tensor, settings: Settings) -> ModuleType | None:
    """The implementation for these tensors; None where the plain formula computes the loss.

    On CUDA it is Triton's, if it passes its trial, see `trial`. The environment variable
    `GHM_MMDET_KERNELS` forces Triton, or 'torch', which is everything else.

    Raises:
        ValueError: The variable is neither 'torch' nor 'triton', or it asks for Triton where
            Triton cannot run.
    """
    name = kernels_of(pred.device.type)
    if settings.density == 'exact' or settings.reduction == 'none' or settings.bins > MAX_REGIONS:
        return None
    if name is None or pred.numel() == 0 or target.requires_grad or _is_compiling():
        return None
    if name == 'cpu':
        return import_module(f'{__name__}.cpu')
    if pred.dtype == torch.float64:
        return None
    return _triton() if os.environ.get(VARIABLE) else _tried_triton(pred.device)


def kernels_of(device_type: str) -> str | None:
    """'cpu', 'triton', or None for the plain formula, as device and environment have it."""
    forced = os.environ.get(VARIABLE)
    if forced and forced not in KERNELS:
        raise ValueError(f"{VARIABLE} must be 'torch' or 'triton', got {forced!r}")
    if forced == 'triton':
        if find_spec('triton') is None:
            raise ValueError(f"{VARIABLE} is 'triton', but the package triton is not installed")
        if device_type != 'cuda' and os.environ.get('TRITON_INTERPRET') != '1':
            raise ValueError(
                f"{VARIABLE} is 'triton', which needs CUDA tensors, got one on {device_type!r}; "
                'TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests'
            )
        return 'triton'
    if device_type == 'cuda' and not forced:
        return 'triton'
    return 'cpu' if device_type == 'cpu' else None


def _triton() -> ModuleType:
    return import_module(f'{__name__}.triton_kernels')


@lru_cache(maxsize=None)
def _tried_triton(device: torch.device) -> ModuleType | None:
    """Triton's kernels if they work on a device; otherwise a warning says why not."""
    return trial.passed(_triton, device, f'{VARIABLE}=torch')


def _is_compiling() -> bool:
    """Whether `torch.compile` traces the call; it compiles the plain formula."""
    is_compiling = getattr(getattr(torch, 'compiler', None), 'is_compiling', None)
    return is_compiling is not None and is_compiling()


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; before PyTorch 2.2, which can't be asked whether it compiles, not compiled."""
    dynamo: Any = sys.modules.get('torch._dynamo')
    is_asked = dynamo is None or hasattr(torch.compiler, 'is_compiling')
    return function if is_asked else dynamo.disable(function)


def count_cross_entropy(
    kernels: ModuleType, pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> CountedLogits:
    """The first pass: how many logits lie in each of `bins` unit regions of g (Eq. 3)."""
    counts, finite, regions = _untraced(kernels.count)(pred.detach(), target, weight, bins)
    return CountedLogits(counts, finite, pred, target, weight, regions, kernels)


def weighted_cross_entropy(logits: CountedLogits, weights: Tensor) -> Tensor:
    """The second pass: `Σ_i w_i L_i` with w of each region, shape (M,), as a constant.

    A scalar, in float64 for float64 logits, else in float32; NaN where not all is finite.
    """
    with_gradient = torch.is_grad_enabled() and logits.pred.requires_grad
    apply: Any = _WeightedCrossEntropy.apply
    total: Tensor = apply(logits.pred, logits, weights, with_gradient)
    return total


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, logits: CountedLogits, weights: Tensor, with_gradient: bool
    ) -> Tensor:
        # Logits in no region weigh nothing.
        weights = torch.nn.functional.pad(weights, (0, 1))
        total, gradient = _untraced(logits.kernels.weigh)(
            pred, logits.target, logits.weight, logits.regions, weights, with_gradient
        )
        ctx.dtype = pred.dtype
        ctx.save_for_backward(gradient)
        # The passes leave out products with a target of 0, where cross entropy has 0 · (-inf).
        return torch.where(logits.finite, total, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        if gradient.dtype != ctx.dtype or not _is_last_use():
            # The product is rounded, not the gradient: a loss scale keeps the small ones so.
            return (gradient * scale).to(ctx.dtype), None, None, None
        is_one = scale.device.type == 'cpu' and scale == 1
        return gradient if is_one else gradient.mul_(scale), None, None, None


def _is_last_use() -> bool:
    """Whether a saved tensor is freed after this backward, and may be written to."""
    keeps_graph = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return keeps_graph is not None and not keeps_graph()
