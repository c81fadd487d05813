"""The fast path of GHM-C with sigmoids, where the millions of logits are.

The first pass counts the logits of each unit region, the second looks the weight of each logit's
region up, sums the weighted cross entropy and writes its gradient: no tensor of losses, of
gradient norms or of weights. `cpu` and `triton_kernels` are the two implementations, each with

- `count(pred, target, weight, bins)`: R, whether all is finite, and what `weigh` needs of it;
- `weigh(pred, target, weight, regions, weights, with_gradient)`: `Σ w_i L_i` and its gradient.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..formulas import Settings
from . import trial
from .trial import VARIABLE

CHOICES = ('torch', 'triton')
#: M must fit into one byte, together with the index of a logit that lies in no region.
MAX_REGIONS = 255
#: Triton's kernels for each kind of tensors, None where they failed their trial.
_tried: dict[tuple[object, ...], ModuleType | None] = {}


def choose_kernels(
    pred: Tensor, target: Tensor, weight: Tensor | None, settings: Settings
) -> ModuleType | None:
    """The implementation for these tensors; None where the plain formula computes the loss.

    On CUDA it is Triton's, if it passes its trial, see `trial`. The environment variable
    `GHM_MMDET_KERNELS` forces Triton, or with 'torch' the plain formula on every device.

    Raises:
        ValueError: The variable is neither 'torch' nor 'triton', or it asks for Triton where
            Triton cannot run.
    """
    name = kernels_of(pred.device.type)
    if settings.density == 'exact' or settings.reduction == 'none' or settings.bins > MAX_REGIONS:
        return None
    if name is None or pred.numel() == 0 or target.requires_grad or is_traced(pred, target, weight):
        return None
    if name == 'cpu':
        return import_module(f'{__name__}.cpu')
    if pred.dtype == torch.float64:
        return None
    if os.environ.get(VARIABLE):
        return _triton()
    kind = trial.kind_of(pred, target, weight, settings.bins)
    if kind not in _tried:
        _tried[kind] = trial.passed(_triton, pred, target, weight, settings.bins)
    return _tried[kind]


def kernels_of(device_type: str) -> str | None:
    """'cpu', 'triton', or None for the plain formula, as device and environment have it."""
    forced = os.environ.get(VARIABLE)
    if forced and forced not in CHOICES:
        raise ValueError(f"{VARIABLE} must be 'torch' or 'triton', got {forced!r}")
    if forced == 'torch':
        return None
    if forced == 'triton':
        if find_spec('triton') is None:
            raise ValueError(f"{VARIABLE} is 'triton', but the package triton is not installed")
        if device_type != 'cuda' and os.environ.get('TRITON_INTERPRET') != '1':
            raise ValueError(
                f"{VARIABLE} is 'triton', which needs CUDA tensors, got one on {device_type!r}; "
                'TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests'
            )
        return 'triton'
    return {'cuda': 'triton', 'cpu': 'cpu'}.get(device_type)


def _triton() -> ModuleType:
    return import_module(f'{__name__}.triton_kernels')


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether PyTorch follows each operation on these tensors, or their values are not at hand.

    `torch.compile`, `torch.jit.trace`, `torch.func`, forward-mode AD, FakeTensorMode and other
    dispatch modes do.
    """
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    if is_compiling() or forward_mode or torch._C._get_tracing_state() is not None:
        return True
    # PyTorch 1.13 has no such stack.
    if getattr(torch._C, '_len_torch_dispatch_stack', int)():
        return True
    wrapped = torch._C._functorch.is_batchedtensor, torch._C._functorch.is_gradtrackingtensor
    return any(
        type(x) not in (Tensor, torch.nn.Parameter) or any(is_wrapped(x) for is_wrapped in wrapped)
        for x in tensors
        if x is not None
    )


def is_compiling() -> bool:
    """Whether `torch.compile` traces the call; it compiles the plain formula."""
    asked = getattr(getattr(torch, 'compiler', None), 'is_compiling', None)
    return asked is not None and asked()


def is_in_backward() -> bool:
    """Whether activation checkpointing computes something for the second time."""
    # PyTorch 1.13 can't tell, and the compiler traces no backward pass of its own.
    task = getattr(torch._C, '_current_graph_task_id', None)
    return task is not None and not is_compiling() and task() != -1


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which `torch.compile` does not meet: `is_compiling` sends it around.

    Before PyTorch 2.2, where that can't be asked, it calls the function without tracing it.
    """
    dynamo: Any = sys.modules.get('torch._dynamo')
    is_asked = dynamo is None or hasattr(torch.compiler, 'is_compiling')
    return function if is_asked else dynamo.disable(function)
