"""The softmax cross entropy that SSD computes by itself, as a registered loss."""

import torch.nn as nn
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..functional.checks import check_positive, check_real
from ..registry import MODELS


@MODELS.register_module()
class HardNegativeCrossEntropyLoss(nn.Module):
    """Softmax cross entropy of the positives and of the negatives with the largest loss.

    As MMDetection's `SSDHead` computes it, but for the negatives, which are mined from the
    examples of a call together: with `GHMSSDHead` from the mini-batch, not from each image. It
    leads GHM-C of SSD during `GHMWarmupHook`.

    Args:
        neg_pos_ratio: Negatives for each positive, > 0. Default: 3, as SSD.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.
    """

    use_sigmoid = False

    def __init__(self, neg_pos_ratio: float = 3, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_positive('neg_pos_ratio', neg_pos_ratio)
        check_real('loss_weight', loss_weight)
        self.neg_pos_ratio = neg_pos_ratio
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The loss of the examples that are chosen.

        Args:
            pred: Logits, shape (N, C + 1), background last.
            target: int labels in [0, C], shape (N,).
            weight: Factor of the loss of each example, shape (N,). Default: None, 1.
            avg_factor: What the sum is divided by. Default: None, N.
            reduction_override: 'none', 'mean' or 'sum'. Default: None, 'mean'.

        Returns:
            A scalar, or shape (N,) for 'none', 0 where the negative is not chosen.
        """
        loss = cross_entropy(pred, target, reduction='none')
        if weight is not None:
            loss = loss * weight
        negative = target == pred.shape[1] - 1
        chosen = ~negative
        count = min(int(self.neg_pos_ratio * chosen.sum()), int(negative.sum()))
        hardest = loss.detach().masked_fill(~negative, -1).topk(count).indices
        chosen = chosen.scatter(0, hardest, True)
        return self.loss_weight * weight_reduce_loss(
            loss, chosen.to(loss.dtype), reduction_override or 'mean', avg_factor
        )
