"""What mixed precision does to the losses, on a CPU: predictions and gradients in float16.

MMEngine's `AmpOptimWrapper` wants a CUDA device, and float16 convolutions are slow on a CPU. But
what reaches the losses under autocast, and what leaves them, can be had there: the head's
predictions in float16, the gradients of the scaled loss in float16.
"""

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


def predict_in_half(head: nn.Module) -> None:
    """Round a RetinaNet head's predictions in training, and their gradients, to float16."""

    def rounded(conv: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output.half() if conv.training else output

    for conv in (head.retina_cls, head.retina_reg):
        conv.register_forward_hook(rounded)


class ScaledOptimWrapper(OptimWrapper):
    """Scale the loss, and skip steps whose gradients are not finite, as `AmpOptimWrapper` does
    with `loss_scale='dynamic'`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu')

    def backward(self, loss: Tensor, **kwargs: object) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: object) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()
