"""The one choice between the passes: the operators' or the plain formula, PyTorch or Triton."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

VARIABLE = 'GHM_MMDET_KERNELS'
KERNELS = ('torch', 'triton')

#: M must fit into one byte, together with the index of an example that lies in no region.
MAX_REGIONS = 255


def choose_kernels(device_type: str) -> str:
    """'triton' for CUDA tensors where Triton is installed, else 'torch'.

    The environment variable `GHM_MMDET_KERNELS` forces one of them. CPU tensors run through
    Triton only in its interpreter.

    Args:
        device_type: `tensor.device.type`.

    Raises:
        ValueError: The variable is neither 'torch' nor 'triton', or it asks for Triton where
            Triton cannot run.
    """
    forced = os.environ.get(VARIABLE)
    if not forced:
        return 'triton' if device_type == 'cuda' and _has_triton() else 'torch'
    if forced not in KERNELS:
        raise ValueError(f"{VARIABLE} must be 'torch' or 'triton', got {forced!r}")
    if forced == 'triton':
        if not _has_triton():
            raise ValueError(f"{VARIABLE} is 'triton', but the package triton is not installed")
        if device_type != 'cuda' and os.environ.get('TRITON_INTERPRET') != '1':
            raise ValueError(
                f"{VARIABLE} is 'triton', which needs CUDA tensors, got one on {device_type!r}; "
                'TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests'
            )
    return forced


def can_fuse(pred: Tensor, target: Tensor, bins: int) -> bool:
    """Whether the operators compute the loss of these tensors; else the plain formula does.

    Args:
        pred, target: As `count_cross_entropy` or `count_asl1` takes them.
        bins: M.
    """
    kernels = _choose_kernels(pred.device.type)
    if pred.numel() == 0 or bins > MAX_REGIONS or target.requires_grad:
        return False
    return pred.dtype != torch.float64 if kernels == 'triton' else pred.device.type == 'cpu'


def in_one_launch(device: torch.device) -> bool:
    """Whether `weigh_regions` weighs the regions, instead of the equations in PyTorch."""
    return bool(_choose_kernels(device.type) == 'triton')


# Compiled code keeps the choice that was made when it was traced.
_choose_kernels = torch.compiler.assume_constant_result(choose_kernels)


def _has_triton() -> bool:
    return find_spec('triton') is not None
