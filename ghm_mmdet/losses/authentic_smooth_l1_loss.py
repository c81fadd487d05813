"""ASL1 as a registered loss (Eq. 17)."""

from __future__ import annotations

import torch.nn as nn
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from ..checks import REDUCTIONS, check_choice, check_positive, check_real
from ..functional import authentic_smooth_l1
from ..functional.inputs import check_regression
from ..registry import MODELS


@MODELS.register_module()
class AuthenticSmoothL1Loss(nn.Module):
    """Eq. 17: `ASL1(d) = sqrt(d² + μ²) - μ`; arguments as MMDetection's `SmoothL1Loss`.

    Args:
        mu: μ > 0, in units of the encoded box offsets. Default: 0.02, the paper's.
        reduction: 'none', 'mean' or 'sum'. Default: 'mean'.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Examples:
        >>> import torch
        >>> loss = AuthenticSmoothL1Loss(mu=0.02, reduction='sum')
        >>> loss(torch.tensor([[0.02, 1.0]]), torch.zeros(1, 2))
        tensor(0.9885)
    """

    def __init__(self, mu: float = 0.02, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        check_positive('mu', mu)
        check_choice('reduction', reduction, REDUCTIONS)
        check_real('loss_weight', loss_weight)
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
            weight: Factor of each element, the shape of `pred`. Default: None.
            avg_factor: 'mean' divides the sum by it instead of the number of elements.
            reduction_override: Overrides `reduction`. Default: None.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar, or the shape of `pred` for 'none', in the dtype of `pred`.
        """
        reduction = self.reduction if reduction_override is None else reduction_override
        check_choice('reduction_override', reduction, REDUCTIONS)
        check_regression(pred, target, None)
        loss = authentic_smooth_l1(pred - target, self.mu)
        if not loss.numel() and reduction == 'mean':
            avg_factor = 1  # the mean of no offsets is NaN
        reduced: Tensor = weight_reduce_loss(loss, weight, reduction, avg_factor)
        return self.loss_weight * reduced
