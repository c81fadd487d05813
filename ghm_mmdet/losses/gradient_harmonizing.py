"""What GHM-C and GHM-R share: the settings, the moving average, the sum over processes."""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from ..checks import REDUCTIONS, check_choice, check_momentum
from ..functional.examples import Examples
from ..functional.harmonizing import Memory, RegionStatistics
from ..functional.passes import Counted, count, weigh
from ..functional.settings import Settings

HALF_DTYPES = (torch.float16, torch.bfloat16)


class GradientHarmonizingLoss(nn.Module):
    """The statistics of a gradient harmonizing loss.

    Attributes:
        settings: The checked settings; `bins`, `loss_weight` and so on read from them.
        momentum: α of Eq. 12.
        sync: Whether the counts are summed over all processes.
        edges: Buffer of shape (M + 1,), the edges of the unit regions. It is kept, with the
            values of MMDetection's class, so that checkpoints load both ways; ind(g) is
            computed from M.
        acc_sum: Buffer of shape (M,), S of Eq. 12; only if `momentum` > 0.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(self, settings: Settings, momentum: float, sync: bool, last_edge: float) -> None:
        super().__init__()
        check_momentum('momentum', momentum)
        if settings.density == 'exact' and (momentum > 0 or sync):
            raise ValueError(
                "density='exact' has no unit regions to average or to sum over processes: "
                f'it takes momentum=0 and sync=False, got momentum={momentum} and sync={sync}'
            )
        self.settings = settings
        self.momentum = momentum
        self.sync = sync
        edges = torch.arange(settings.bins + 1).float() / settings.bins
        edges[-1] = last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(settings.bins))

    @property
    def bins(self) -> int:
        return self.settings.bins

    @property
    def density(self) -> str:
        return self.settings.density

    @property
    def formula(self) -> str:
        return self.settings.formula

    @property
    def reduction(self) -> str:
        return self.settings.reduction

    @property
    def loss_weight(self) -> float:
        return self.settings.loss_weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As `nn.Module`, but `half()` and `bfloat16()` leave the statistics in float32.

        They could not hold the counts: float16 ends at 65504.
        """

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF_DTYPES else moved

        return super()._apply(at_least_float32, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def extra_repr(self) -> str:
        names = (
            'bins', 'momentum', 'loss_weight', 'reduction',
            'density', 'formula', 'sync',
        )  # fmt: skip
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)

    def reduced_by(self, reduction_override: str | None) -> Settings:
        """The settings of a call."""
        if reduction_override is None:
            return self.settings
        check_choice('reduction_override', reduction_override, REDUCTIONS)
        return self.settings.reduced_by(reduction_override)

    def harmonized(self, examples: Examples, settings: Settings) -> Tensor:
        """The loss: count, sum over the processes, weigh with the memory."""
        counted = self.summed(count(examples, settings))
        memory = Memory(self.acc_sum, self.momentum) if self.momentum > 0 else None
        return weigh(examples, counted, settings, memory)

    def summed(self, counted: Counted) -> Counted:
        """What was counted, over all processes if `sync`; the loss stays that of this one."""
        statistics = counted.statistics
        if not self.sync or _num_processes() == 1 or not isinstance(statistics, RegionStatistics):
            return counted
        counts, numbers = statistics.counts, (statistics.num_examples, counted.not_finite)
        sums = torch.cat([counts.double(), torch.stack(numbers).double()])
        sums = self.over_processes(sums).to(counts.dtype)
        statistics = RegionStatistics(sums[:-2], None, sums[-2], _num_processes(), sums[-1])
        return counted._replace(statistics=statistics)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Sums of this process, over all of them if `sync`."""
        if self.sync and _num_processes() > 1:
            dist.all_reduce(sums)
        return sums


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
