"""Online hard example mining for dense heads, as a registered loss."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from ..checks import (
    REDUCTIONS,
    check_bool,
    check_choice,
    check_positive,
    check_real,
    requires_use_sigmoid,
)
from ..functional.inputs import at_least_float32, check_rows, check_same_shape, dense_target
from ..registry import MODELS


@MODELS.register_module()
@requires_use_sigmoid
class OHEMLoss(nn.Module):
    """Cross entropy of the positives and of the hardest negatives, the others left out.

    An example is an anchor, its loss the sum of the binary cross entropies of its classes
    (Eq. 1), or with `use_sigmoid=False` its softmax cross entropy, as in SSD. Of the anchors of
    a call all P positives are kept, and of the negatives the `neg_pos_ratio · P` with the highest
    loss; a call without positives adds nothing.

    The paper's Table 4 has the figures of Lin et al. (2017), Table 1d, "OHEM 1:3": mini-batches
    of 128 examples, NMS at 0.5. Here there is neither NMS nor an upper bound.

    In a config, always write `use_sigmoid`, as for `GHMC`. Heads of MMDetection call their loss,
    which mines, once per level; `GHMRetinaHead` does over all levels.

    Args:
        neg_pos_ratio: Negatives kept for each positive, > 0. Default: 3.
        use_sigmoid: Whether the logits are of a sigmoid for each class, or of a softmax over the
            classes and the background, which is last. Default: True.
        loss_weight: Factor of the loss. Default: 1.0.
        reduction: 'none', 'mean' or 'sum'. Default: 'mean'.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Examples:
        >>> loss = OHEMLoss(neg_pos_ratio=1, reduction='sum')
        >>> pred = torch.tensor([[0.0], [0.0], [-5.0]])  # the last is an easy negative
        >>> loss(pred, torch.tensor([0, 1, 1]))  # 1 is background: 2 log 2
        tensor(1.3863)
    """

    def __init__(
        self,
        neg_pos_ratio: float = 3,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__()
        check_positive('neg_pos_ratio', neg_pos_ratio)
        check_real('loss_weight', loss_weight)
        check_choice('reduction', reduction, REDUCTIONS)
        check_bool('use_sigmoid', use_sigmoid)
        self.neg_pos_ratio, self.use_sigmoid = neg_pos_ratio, use_sigmoid
        self.loss_weight, self.reduction = loss_weight, reduction

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The loss of the mined examples.

        Args:
            pred: Logits, floating point, shape (N, C); with `use_sigmoid=False` (N, C + 1).
            target: int labels, background outside [0, C), shape (N,).
            weight: Factor of each anchor, shape (N,); those not > 0 take no part. Default:
                None, 1.
            avg_factor: 'mean' divides the sum by it instead of the number of mined anchors.
            reduction_override: Overrides `reduction`. Default: None.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar; for 'none' shape (N, C), or (N,) of a softmax; float32, or float64 for
            float64 logits.
        """
        reduction = self.reduction if reduction_override is None else reduction_override
        check_choice('reduction_override', reduction, REDUCTIONS)
        check_rows(pred)
        check_same_shape('target', target, 'pred[:, 0]', pred[:, 0])
        pred = at_least_float32(pred)  # the sum of float16 overflows
        loss, positive = self._entropy(pred, target)
        if weight is None:
            weight = torch.ones_like(target, dtype=pred.dtype)
        check_same_shape('weight', weight, 'target', target)
        of_anchor = loss.detach().sum(-1) if self.use_sigmoid else loss.detach()
        mined = mined_examples(of_anchor, positive, weight > 0, self.neg_pos_ratio)
        if reduction == 'mean' and avg_factor is None:
            avg_factor = mined.sum().clamp(min=1)
        factor = (weight * mined).unsqueeze(-1) if self.use_sigmoid else weight * mined
        reduced: Tensor = weight_reduce_loss(loss, factor, reduction, avg_factor)
        return self.loss_weight * reduced

    def _entropy(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy of each logit, or of each anchor, and which anchors are positive."""
        if self.use_sigmoid:
            one_hot = dense_target(pred, target)
            loss = F.binary_cross_entropy_with_logits(pred, one_hot, reduction='none')
            return loss, one_hot.any(-1)
        loss = F.cross_entropy(pred, target, reduction='none')
        return loss, target != pred.shape[1] - 1


def mined_examples(loss: Tensor, positive: Tensor, valid: Tensor, neg_pos_ratio: float) -> Tensor:
    """Which anchors are kept, all of shape (N,)."""
    positive = positive & valid
    negative = valid & ~positive
    hardest_first = loss.masked_fill(~negative, -1).argsort(descending=True, stable=True)
    rank = torch.empty_like(hardest_first)
    rank[hardest_first] = torch.arange(len(loss), device=loss.device)
    return positive | (negative & (rank < (neg_pos_ratio * positive.sum()).long()))
