"""One call of a loss for the whole mini-batch, in the place of one per FPN level or image."""

import torch
from torch import Tensor, nn

#: The positional arguments of a loss: predictions, targets and weights of each example.
Examples = tuple[Tensor, Tensor, Tensor]


def loss_of_mini_batch(loss: nn.Module, parts: list[tuple[Examples, int]]) -> Tensor:
    """The loss over all parts of the mini-batch together.

    Args:
        loss: A loss as MMDetection's heads call it.
        parts: The examples of each part, with the `avg_factor` of the mini-batch.
    """
    pred, target, weight = map(torch.cat, zip(*(examples for examples, _ in parts), strict=True))
    _, avg_factor = parts[0]
    return loss(pred, target, weight, avg_factor=avg_factor)
