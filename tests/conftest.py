"""Without a CUDA device, Triton's kernels run on the CPU in its interpreter."""

import os

import torch

if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined.
    os.environ.setdefault('TRITON_INTERPRET', '1')
