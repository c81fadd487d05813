"""What GHM-C and GHM-R share: the settings, the moving average, the sum over processes."""

from __future__ import annotations

from typing import Callable

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from torch import Tensor, nn

from .. import ops
from ..checks import REDUCTIONS, check_bool, check_choice, check_momentum
from ..formulas import Settings
from ..functional.losses import FirstPass, second_pass
from ..functional.paper import Statistics, moving_average

HALF_DTYPES = (torch.float16, torch.bfloat16)


class GradientHarmonizingLoss(nn.Module):
    """The state of a gradient harmonizing loss.

    Attributes:
        bins, momentum, density, formula, sync, reduction, loss_weight: As the arguments; the
            last two may be set later.
        edges: Buffer of shape (M + 1,), the edges of the unit regions as in MMDetection's class,
            so that checkpoints load both ways; ind(g) is computed from M.
        acc_sum: Buffer of shape (M,), S of Eq. 12, in float32; only if `momentum` > 0. As the
            running statistics of BatchNorm it is used always, and changes in training mode
            alone, nor does it change where activation checkpointing computes a loss again.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(self, settings: Settings, momentum: float, sync: bool, last_edge: float) -> None:
        super().__init__()
        check_momentum('momentum', momentum)
        check_bool('sync', sync)
        if settings.density == 'exact' and (momentum > 0 or sync):
            raise ValueError(
                "density='exact' has no unit regions to average or to sum over processes: "
                f'it takes momentum=0 and sync=False, got momentum={momentum} and sync={sync}'
            )
        self.bins, self.density, self.formula = settings.bins, settings.density, settings.formula
        self.reduction, self.loss_weight = settings.reduction, settings.loss_weight
        self.momentum = momentum
        self.sync = sync
        edges = torch.arange(settings.bins + 1, dtype=torch.float32) / settings.bins
        edges[-1] = last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(settings.bins, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: bool, **kwargs: bool) -> nn.Module:
        """As `nn.Module`, but `half()` and `bfloat16()` leave the statistics in float32.

        They could not hold the counts: float16 ends at 65504.
        """

        def apply_but_to_half(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF_DTYPES else moved

        return super()._apply(apply_but_to_half, *args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]

    def extra_repr(self) -> str:
        keys = 'use_sigmoid mu mu_momentum bins momentum loss_weight reduction density formula sync'
        return ', '.join(f'{k}={getattr(self, k)!r}' for k in keys.split() if hasattr(self, k))

    def settings_of_call(self, reduction_override: str | None = None) -> Settings:
        if reduction_override is not None:
            check_choice('reduction_override', reduction_override, REDUCTIONS)
        reduction = reduction_override or self.reduction
        return Settings(self.bins, self.density, self.formula, reduction, self.loss_weight)

    def loss_of(self, first: FirstPass, settings: Settings) -> Tensor:
        """The loss after the first pass: statistics of all processes, S, and the second pass."""
        statistics = self.remembered(self.summed(first.statistics))
        return second_pass(first._replace(statistics=statistics), settings)

    @property
    def is_learning(self) -> bool:
        """Whether a call changes the state: in training mode, and not in a backward pass."""
        return self.training and not ops.is_in_backward()

    def summed(self, statistics: Statistics) -> Statistics:
        """The statistics over all processes if `sync`."""
        if not self.sync or get_world_size() == 1:
            return statistics
        counts, _, n, finite, _ = statistics
        sums = torch.cat([counts.to(n.dtype), torch.stack([n, (~finite).to(n.dtype)])])
        dist.all_reduce(sums)
        return Statistics(sums[:-2], None, sums[-2], sums[-1] == 0, get_world_size())

    @torch.no_grad()
    def remembered(self, statistics: Statistics) -> Statistics:
        """The statistics with S of Eq. 12, which `acc_sum` keeps from now on.

        A mini-batch whose loss is not finite does not enter `acc_sum`.
        """
        if self.momentum == 0:
            return statistics
        restore(self.acc_sum, statistics.counts)
        if not self.is_learning:
            known = self.acc_sum.where(self.acc_sum > 0, statistics.counts.to(self.acc_sum.dtype))
            return statistics._replace(average=known)
        average = moving_average(self.acc_sum, statistics.counts, self.momentum, self.formula)
        self.acc_sum.copy_(average.where(statistics.finite, self.acc_sum))
        return statistics._replace(average=average)


@torch.no_grad()
def restore(buffer: Tensor, default: Tensor) -> None:
    """Take a buffer back to float32 that was cast behind `_apply`, as FSDP and DeepSpeed do.

    What overflowed becomes the default.
    """
    if buffer.dtype in HALF_DTYPES:
        # In place: DDP and FSDP hold the buffer.
        buffer.data = torch.where(buffer.isfinite(), buffer.float(), default.float())
