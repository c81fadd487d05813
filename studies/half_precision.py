"""The arithmetic of float16 autocast, on a CPU.

MMEngine's `AmpOptimWrapper` wants a CUDA device, and float16 convolutions take minutes an
iteration on a CPU. Tensor cores multiply float16 numbers, add the products up in float32 and
round the sum to float16; the same comes from float32 convolutions of rounded numbers.
"""

from __future__ import annotations

from functools import partial

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn


def round_convolutions(model: nn.Module) -> None:
    """Round what each `nn.Conv2d` of a model takes and gives in training to float16.

    So are the gradients of all that, which is where a loss can under- or overflow.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            conv.forward = partial(_rounded_forward, conv)


def predict_in_half(head: nn.Module) -> None:
    """Let a RetinaNet head's predictions reach the losses in float16, in training."""

    def in_half(conv: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output.half() if conv.training else output

    for conv in (head.retina_cls, head.retina_reg):
        conv.register_forward_hook(in_half)


def _rounded_forward(conv: nn.Conv2d, features: Tensor) -> Tensor:
    if not conv.training:
        return conv._conv_forward(features, conv.weight, conv.bias)
    bias = None if conv.bias is None else _rounded(conv.bias)
    return _rounded(conv._conv_forward(_rounded(features), _rounded(conv.weight), bias))


def _rounded(x: Tensor) -> Tensor:
    return x.half().float()


class ScaledOptimWrapper(AmpOptimWrapper):
    """`AmpOptimWrapper` with `loss_scale='dynamic'`, without CUDA and without autocast."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        # AmpOptimWrapper's own refuses to be built where there is no CUDA device.
        OptimWrapper.__init__(self, *args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu')
        self._scale_update_param = None

    optim_context = OptimWrapper.optim_context
