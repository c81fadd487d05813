"""Several processes without CUDA: a config imports this module by its `custom_imports`.

MMEngine's launcher 'pytorch' chooses a CUDA device before it starts the process group, which
a PyTorch built without CUDA refuses; a process group that is already there it takes as it is.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def join_process_group() -> None:
    """Join the processes that torchrun started, over gloo, unless there is CUDA."""
    if 'RANK' in os.environ and not torch.cuda.is_available() and not dist.is_initialized():
        dist.init_process_group('gloo')


join_process_group()
