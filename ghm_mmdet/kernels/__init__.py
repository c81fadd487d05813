"""Device code behind `ghm_mmdet.functional`, and the choice between it and PyTorch.

Nothing but `ghm_mmdet.functional` imports this package, and Triton is imported on first use.
"""

import os
from importlib.util import find_spec

VARIABLE = 'GHM_MMDET_KERNELS'
KERNELS = ('torch', 'triton')


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


def _has_triton() -> bool:
    return find_spec('triton') is not None
