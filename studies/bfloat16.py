"""Neck and head in bfloat16, on a CPU: MMEngine's `AmpOptimWrapper` is for other devices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils._pytree import tree_map


@HOOKS.register_module()
class BFloat16Hook(Hook):
    """The convolutions of `neck` and `bbox_head` in bfloat16; what the losses get is float32."""

    def before_run(self, runner: Runner) -> None:
        for part in (runner.model.neck, runner.model.bbox_head):
            part.forward = in_bfloat16(part.forward)


def in_bfloat16(forward: Callable) -> Callable:
    """`forward` under autocast, with its outputs in float32."""

    def mixed(*args: object) -> object:
        with torch.autocast('cpu', torch.bfloat16):
            outputs = forward(*args)
        return tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, outputs)

    return mixed
