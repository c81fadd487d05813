"""The losses beside GHM in the paper's tables: ASL1 (Eq. 17) and online hard example mining."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import authentic_smooth_l1
from ..functional.inputs import (
    at_least_float32,
    check_beside,
    check_floating,
    dense_target,
    expanded,
    weight_of,
    weight_of_rows,
)
from .base import Loss


class AuthenticSmoothL1Loss(Loss):
    """Eq. 17: `ASL1(d) = sqrt(d² + μ²) - μ`; arguments as MMDetection's `SmoothL1Loss`.

    Args:
        mu: μ > 0, in units of the encoded box offsets. Default: 0.02, the paper's.
        reduction: 'none', 'mean' or 'sum'. Default: 'mean'.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Examples:
        >>> loss = AuthenticSmoothL1Loss(mu=0.02, reduction='sum')
        >>> loss(torch.tensor([[0.02, 1.0]]), torch.zeros(1, 2))
        tensor(0.9885)
    """

    def __init__(self, mu: float = 0.02, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.mu, self.reduction, self.loss_weight = mu, reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The weighted and reduced loss; arguments as MMDetection's `SmoothL1Loss`.

        Args:
            pred: Encoded offsets, any shape, floating point.
            target: The shape of `pred`.
            weight: Factor of each element, the shape of `pred`; or of each row, its shape without
                the last dimension, or with one of 1. Default: None, 1.
            avg_factor: 'mean' divides the sum by it instead of the number of elements.
            reduction_override: Overrides `reduction`. Default: None.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar, or the shape of `pred` for 'none', in the dtype of `pred`.
        """
        reduction = self.reduction_of(reduction_override)
        check_floating('pred', pred)
        check_beside(pred, 'target', target, pred.shape)
        loss = authentic_smooth_l1(pred - target, self.mu)
        factor = weight_of(pred, weight)
        factor = None if factor is None else expanded(factor, pred)
        return self.loss_weight * weighted_and_reduced(loss, factor, reduction, avg_factor)


class OHEMLoss(Loss):
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
            weight: Factor of each anchor, shape (N,) or (N, 1); those not > 0 take no part.
                Default: None, 1.
            avg_factor: 'mean' divides the sum by it instead of the number of mined anchors.
            reduction_override: Overrides `reduction`. Default: None.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar; for 'none' shape (N, C), or (N,) of a softmax; float32, or float64 for
            float64 logits.
        """
        reduction = self.reduction_of(reduction_override)
        weight = weight_of_rows(pred, target, weight)
        pred = at_least_float32(pred)  # the sum of float16 overflows
        loss, positive = self._entropy(pred, target)
        if weight is None:
            weight = torch.ones_like(target, dtype=pred.dtype)
        of_anchor = loss.detach().sum(-1) if self.use_sigmoid else loss.detach()
        mined = mined_examples(of_anchor, positive, weight > 0, self.neg_pos_ratio)
        if reduction == 'mean' and avg_factor is None:
            avg_factor = mined.sum().clamp(min=1)
        factor = (weight * mined).unsqueeze(-1) if self.use_sigmoid else weight * mined
        return self.loss_weight * weighted_and_reduced(loss, factor, reduction, avg_factor)

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


def weighted_and_reduced(
    loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | Tensor | None
) -> Tensor:
    """`Σ w_i L_i` over a divisor, or each `w_i L_i`, as MMDetection's losses.

    Args:
        loss: L, any shape.
        weight: w, to be broadcast to `loss`. Default: None, 1.
        reduction: 'mean', 'sum', or 'none' for each.
        avg_factor: What 'mean' divides by. Default: None, the number of elements.

    Raises:
        ValueError: 'sum' with an `avg_factor`.
    """
    loss = loss if weight is None else loss * weight.to(loss.dtype)
    if reduction == 'none':
        return loss
    if reduction == 'mean':
        # As MMDetection keeps off a division by 0.
        eps = torch.finfo(torch.float32).eps
        return loss.sum() / (max(loss.numel(), 1) if avg_factor is None else avg_factor + eps)
    if avg_factor is not None:
        raise ValueError('avg_factor can not be used with reduction="sum"')
    return loss.sum()
