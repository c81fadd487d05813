"""The fast path of GHM-C with sigmoids, where the millions of logits are.

The first pass counts the logits of each unit region, the second looks the weight of each logit's
region up, sums the weighted cross entropy and writes its gradient: no tensor of losses, of
gradient norms or of weights. `cpu` and `triton_kernels` are the two implementations, each with

- `count(batch, bins)`: R, whether all is finite, and what `weigh` needs of it;
- `weigh(batch, regions, weights, with_gradient)`: `Σ w_i L_i` and its gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..formulas import Settings
from . import trial
from .trial import VARIABLE, Batch

CHOICES = ('torch', 'triton')
#: M must fit into one byte, together with the index of a logit that lies in no region.
MAX_REGIONS = 255
#: Widens the product g·M so that its floor is ind(g) or ind(g) + 1, never less: one comparison
#: with the edge j/M then decides.
WIDEN = 1 + 2.0**-20
#: Between them targets lie: an IoU of half precision may round to a little outside of [0, 1].
LOWEST, HIGHEST = -1e-3, 1 + 1e-3
#: Triton's kernels for each kind of tensors, None where they failed their trial.
_tried: dict[tuple[object, ...], ModuleType | None] = {}


def choose_kernels(
    batch: Batch, settings: Settings, reference: trial.Reference
) -> ModuleType | None:
    """The implementation for these tensors; None where the plain formula computes the loss.

    On CUDA it is Triton's, if it agrees with the reference in a trial, see `trial`. The
    environment variable `GHM_MMDET_KERNELS` forces Triton, or with 'torch' the plain formula on
    every device.

    Raises:
        ValueError: The variable is neither 'torch' nor 'triton', or it asks for Triton where
            Triton cannot run.
    """
    pred, target, _ = batch
    name = kernels_of(pred.device.type)
    if settings.density == 'exact' or settings.reduction == 'none' or settings.bins > MAX_REGIONS:
        return None
    if name is None or pred.numel() == 0 or target.requires_grad or is_traced(*batch):
        return None
    if name == 'cpu':
        return import_module(f'{__name__}.cpu')
    if pred.dtype == torch.float64:
        return None
    if os.environ.get(VARIABLE):
        return _triton()
    kind = trial.kind_of(batch)
    if kind not in _tried:
        _tried[kind] = trial.passed(_triton, reference, batch, settings.bins)
    return _tried[kind]


def kernels_of(device_type: str) -> str | None:
    """'cpu', 'triton', or None for the plain formula, as device and environment have it."""
    forced = os.environ.get(VARIABLE)
    if not forced:
        return {'cuda': 'triton', 'cpu': 'cpu'}.get(device_type)
    if forced not in CHOICES:
        raise ValueError(f"{VARIABLE} must be 'torch' or 'triton', got {forced!r}")
    if forced == 'torch':
        return None
    if find_spec('triton') is None:
        raise ValueError(f"{VARIABLE} is 'triton', but the package triton is not installed")
    if device_type != 'cuda' and os.environ.get('TRITON_INTERPRET') != '1':
        raise ValueError(
            f"{VARIABLE} is 'triton', which needs CUDA tensors, got one on {device_type!r}; "
            'TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests'
        )
    return 'triton'


def _triton() -> ModuleType:
    return import_module(f'{__name__}.triton_kernels')


def check_probabilities(target: Tensor) -> None:
    """Refuse targets outside [0, 1]; a NaN is let through, for it shows in the loss."""
    low, high = map(float, target.aminmax())
    if low < LOWEST or high > HIGHEST:
        raise ValueError(f'target must lie in [0, 1], got values from {low:g} to {high:g}')


# Who calls: the kernels read memory, which not every tensor has, and PyTorch can't follow them.


def is_compiling() -> bool:
    """Whether `torch.compile` traces the call; it compiles the plain formula."""
    asked = getattr(getattr(torch, 'compiler', None), 'is_compiling', None)
    return asked is not None and asked()


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether PyTorch follows each operation on these tensors, or their values are not at hand.

    `torch.compile`, `torch.jit.trace`, `torch.func`, forward-mode AD, FakeTensorMode and other
    dispatch modes do.
    """
    is_tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if is_compiling() or is_tracing or _private('_len_torch_dispatch_stack', 0):
        return True
    return any(
        type(x) not in (Tensor, torch.nn.Parameter)
        or not has_memory(x)
        or forward_ad.unpack_dual(x).tangent is not None
        for x in tensors
        if x is not None
    )


def has_memory(x: Tensor) -> bool:
    """Whether a tensor has values in memory; those that `torch.func` wraps have none."""
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def is_in_backward() -> bool:
    """Whether activation checkpointing computes something for the second time.

    PyTorch 1.13 can't tell, and the compiler traces no backward pass of its own.
    """
    return not is_compiling() and _private('_current_graph_task_id', -1) != -1


def _private(name: str, otherwise: int) -> int:
    """What a function of PyTorch answers for which there is no public one, if it is there."""
    return int(getattr(torch._C, name, lambda: otherwise)())


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which `torch.compile` does not meet: `is_compiling` sends it around.

    PyTorch 2.1, where that can't be asked, calls the function without tracing it.
    """
    compiler = getattr(torch, 'compiler', None)
    if compiler is None or hasattr(compiler, 'is_compiling'):
        return function
    return compiler.disable(function)  # type: ignore[no-any-return]
