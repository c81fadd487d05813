"""GHM-R as a loss (Eqs. 17-19)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formulas import FormulaLike, Settings
from ..functional.inputs import differences
from ..functional.passes import count_offsets
from .base import one_weight, over_processes
from .gradient_harmonizing import GradientHarmonizingLoss, restore


class GHMR(GradientHarmonizingLoss):
    """GHM-R: ASL1, each offset divided by its gradient density (Eq. 19).

    Replaces MMDetection's `GHMR` and, with the default `formula`, equals it in
    value, gradient and buffers.

    Args:
        mu: μ > 0 of ASL1, in units of the encoded box offsets. Default: 0.02, the paper's.
        bins: M, the number of unit regions. Default: 10, the released code's.
        momentum: α of the moving average (Eq. 12), in [0, 1). Default: 0, no average; the
            released code's is 0.7.
        loss_weight: Factor of the loss. Default: 1.0; the released code's is 10.
        reduction: 'none', 'mean' or 'sum'. Default: 'mean'.
        density: As for `GHMC`. Default: 'region'.
        formula: As for `GHMC`. Default: 'official'. N is the number of valid offsets with
            'paper' and 'tempered', and otherwise the sum of the weights, as in the released
            code; it shows in 'none' and 'sum' only.
        sync: As for `GHMC`. Default: False.
        mu_momentum: Let μ follow the offsets: it is the moving average (as Eq. 12, with this
            momentum in [0, 1)) of the mean |d| over the valid offsets of a call, and at least
            `mu`. gr then depends on how large an offset is beside the others, not on how well
            boxes are placed by now. Default: None, μ is `mu`.

    Attributes:
        mean_d: Buffer, a scalar: the moving average of the mean |d|, 0 before the first call;
            only if `mu_momentum` is not None. It changes in training mode alone, as `acc_sum`.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Examples:
        >>> loss = GHMR(mu=0.02, bins=10, loss_weight=10.0)
        >>> pred = torch.tensor([[0.1, 0.2, -0.1, 0.0]])
        >>> loss(pred, torch.zeros(1, 4), torch.ones(1, 4))
        tensor(0.5749)
        >>> following = GHMR(mu=0.02, bins=10, mu_momentum=0.9)
        >>> _ = following(pred, torch.zeros(1, 4))
        >>> following.current_mu
        tensor(0.1000)
    """

    mean_d: Tensor

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        *,
        density: str = 'region',
        formula: FormulaLike = 'official',
        sync: bool = False,
        mu_momentum: float | None = None,
    ) -> None:
        settings = Settings(bins, density, formula, reduction, loss_weight)
        super().__init__(settings, momentum, sync, last_edge=1e3)
        self.mu = mu
        if mu_momentum is not None:
            self.register_buffer('mean_d', torch.empty((), dtype=torch.float32))
        self.mu_momentum = mu_momentum
        self.reset_parameters()

    @property
    def current_mu(self) -> float | Tensor:
        """μ of the latest call in training mode: `mu`, or a scalar where it follows the offsets."""
        return self.mu if self.mu_momentum is None else self.mean_d.clamp(min=self.mu)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        *,
        weight: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The harmonized loss, as MMDetection's heads call it.

        Args:
            pred: Encoded box offsets, shape (N, 4) or (N, 4·C), floating point.
            target: The shape of `pred`.
            label_weight: The shape of `pred`, or (N,); an offset is valid where it is > 0.
                Default: None, all are valid.
            avg_factor: Accepted and ignored: GHM divides by its own N.
            reduction_override: Overrides `reduction`. Default: None.
            weight: Another name of `label_weight`, which some heads use.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar, or the shape of `pred` for 'none'; float32, or float64 for float64.
        """
        settings = self.settings_of_call(self.reduction_of(reduction_override))
        weight = one_weight(label_weight, weight)
        mu: float | Tensor = self.mu
        if self.mu_momentum is not None:
            mu = self._followed_mu(pred, target, weight, self.mu_momentum)
        return self.loss_of(count_offsets(pred, target, weight, mu, settings), settings)

    @torch.no_grad()
    def _followed_mu(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, momentum: float
    ) -> Tensor:
        """μ of this call, a scalar; `mean_d` becomes that of this call."""
        d, valid = differences(pred, target, weight)
        # What is not finite makes the sum so, whether it is valid or not.
        sums = torch.stack([(d.abs() * valid).sum(), valid.sum().to(d.dtype)])
        sums = over_processes(sums) if self.syncs else sums
        mean = sums[0] / sums[1]
        restore(self.mean_d, mean)
        mean = mean.to(self.mean_d.dtype)
        before = self.mean_d.where(self.mean_d > 0, mean)
        after = momentum * before + (1 - momentum) * mean if self.is_learning else before
        # A call without valid offsets says nothing, nor does one with offsets that are not finite.
        after = after.where(mean.isfinite(), self.mean_d)
        if self.is_learning:
            self.mean_d.copy_(after)
        return after.clamp(min=self.mu).to(d.dtype)
