"""GHM-R as a registered loss (Eqs. 17-19)."""

from torch import Tensor

from ..functional.checks import check_positive
from ..functional.examples import OffsetExamples
from ..functional.settings import Settings
from ..registry import MODELS
from .gradient_harmonizing import GradientHarmonizingLoss


@MODELS.register_module()
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
        formula: As for `GHMC`. Default: 'official'. Unless it is 'paper', N is the sum of the
            weights, as in the released code; it shows in 'none' and 'sum' only.
        sync: As for `GHMC`. Default: False.
        max_beta: Upper bound of β. Default: None, no bound.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.
    """

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        *,
        density: str = 'region',
        formula: str = 'official',
        sync: bool = False,
        max_beta: float | None = None,
    ) -> None:
        settings = Settings(bins, density, formula, reduction, loss_weight, max_beta)
        super().__init__(settings, momentum, sync, last_edge=1e3)
        check_positive('mu', mu)
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
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

        Returns:
            A scalar, or the shape of `pred` for 'none'; float32, or float64 for float64.

        Raises:
            TypeError, ValueError: As `ghm_mmdet.functional.ghm_r_loss`.
        """
        settings = self.reduced_by(reduction_override)
        return self.harmonized(OffsetExamples(pred, target, label_weight, self.mu), settings)
