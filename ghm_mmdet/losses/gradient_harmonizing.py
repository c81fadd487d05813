"""What GHM-C and GHM-R share: the settings, the moving average, the sum over processes."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from ..functional import moving_average
from ..functional.checks import (
    REDUCTIONS,
    check_choice,
    check_momentum,
    check_positive,
    check_real,
    check_settings,
)

HALF_DTYPES = (torch.float16, torch.bfloat16)


class GradientHarmonizingLoss(nn.Module):
    """The statistics of a gradient harmonizing loss.

    Attributes:
        edges: Buffer of shape (M + 1,), the edges of the unit regions. It is kept, with the
            values of MMDetection's class, so that checkpoints load both ways; ind(g) is
            computed from M.
        acc_sum: Buffer of shape (M,), S of Eq. 12; only if `momentum` > 0.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self,
        bins: int,
        momentum: float,
        loss_weight: float,
        reduction: str,
        density: str,
        formula: str,
        sync: bool,
        max_beta: float | None,
        last_edge: float,
        reductions: Sequence[str] = REDUCTIONS,
    ) -> None:
        super().__init__()
        check_settings(bins, density, formula, reduction, reductions)
        check_momentum('momentum', momentum)
        check_real('loss_weight', loss_weight)
        if max_beta is not None:
            check_positive('max_beta', max_beta)
        if density == 'exact' and (momentum > 0 or sync):
            raise ValueError(
                "density='exact' has no unit regions to average or to sum over processes: "
                f'it takes momentum=0 and sync=False, got momentum={momentum} and sync={sync}'
            )
        self.bins = bins
        self.momentum = momentum
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.density = density
        self.formula = formula
        self.sync = sync
        self.max_beta = max_beta
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(bins))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As `nn.Module`, but `half()` and `bfloat16()` leave the statistics in float32.

        They could not hold the counts: float16 ends at 65504.
        """

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF_DTYPES else moved

        return super()._apply(at_least_float32, recurse)

    def extra_repr(self) -> str:
        names = (
            'bins', 'momentum', 'loss_weight', 'reduction',
            'density', 'formula', 'sync', 'max_beta',
        )  # fmt: skip
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)

    def _reduction(self, reduction_override: str | None) -> str:
        if reduction_override is None:
            return self.reduction
        check_choice('reduction_override', reduction_override, REDUCTIONS)
        return reduction_override

    def _settings(self) -> dict[str, object]:
        """The keyword arguments that `ghm_c_loss` and `ghm_r_loss` share."""
        return dict(
            bins=self.bins,
            density=self.density,
            formula=self.formula,
            loss_weight=self.loss_weight * self._world_size(),
            max_beta=self.max_beta,
            statistics=self._statistics,
        )

    def _world_size(self) -> int:
        return dist.get_world_size() if self.sync and _is_distributed() else 1

    @torch.no_grad()
    def _statistics(
        self, counts: Tensor, num_examples: Tensor, *, finite: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """R, S and N of the mini-batch: over all processes if `sync`, S with its memory.

        A mini-batch whose loss is not finite does not enter the memory.
        """
        if self._world_size() > 1:
            infinite = (~finite).to(counts.dtype)
            sums = torch.cat([counts, num_examples.reshape(1), infinite.reshape(1)])
            dist.all_reduce(sums)
            counts, num_examples, finite = sums[:-2], sums[-2], sums[-1] == 0
        if self.momentum == 0:
            return counts, counts, num_examples
        average = moving_average(self.acc_sum, counts, self.momentum, self.formula)
        self.acc_sum.copy_(torch.where(finite, average, self.acc_sum))
        return counts, average, num_examples


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
