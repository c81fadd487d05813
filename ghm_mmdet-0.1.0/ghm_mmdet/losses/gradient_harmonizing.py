"""What GHM-C and GHM-R share: the settings, the moving average, the sum over processes."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice
from ..formulas import Settings
from ..functional.paper import moving_average
from ..functional.passes import Counted, weigh
from ..presets import PRESETS
from .base import Loss, over_processes, world_size

HALF_DTYPES = (torch.float16, torch.bfloat16)
#: What the buffers, and the channels of the head, depend on.
FIXED = ('bins', 'use_sigmoid', 'momentum', 'mu_momentum')

T = TypeVar('T', bound='GradientHarmonizingLoss')


class GradientHarmonizingLoss(Loss):
    """The state of a gradient harmonizing loss.

    Attributes:
        bins, momentum, density, formula, sync, reduction, loss_weight: As the arguments. Each is
            checked when it is set; `bins` and `momentum` can't be set later.
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
        self.bins, self.density, self.formula = settings.bins, settings.density, settings.formula
        self.reduction, self.loss_weight = settings.reduction, settings.loss_weight
        self.momentum, self.sync, self._last_edge = momentum, sync, last_edge
        #: R of the latest call that changed S, which activation checkpointing has to meet again.
        self._latest_counts: Tensor | None = None
        self.register_buffer('edges', torch.empty(settings.bins + 1, dtype=torch.float32))
        if momentum > 0:
            self.register_buffer('acc_sum', torch.empty(settings.bins, dtype=torch.float32))
        self.settings_of_call()

    @classmethod
    def from_preset(cls: type[T], preset: str = 'tempered', **settings: Any) -> T:
        """The loss with the settings of a preset, as `harmonize` puts it into a config.

        Args:
            preset: 'tempered', for data of one's own, or 'released', for COCO as published.
            **settings: Arguments of the class, in place of the preset's. `loss_weight` is for
                losses whose weight is 1: that of GHM-C is to be α of a focal loss.

        Raises:
            ValueError: An unknown preset.

        Examples:
            >>> from ghm_mmdet import GHMC, GHMR
            >>> GHMC.from_preset(loss_weight=0.25)  # for sigmoid_focal_loss with alpha=0.25
            GHMC(use_sigmoid=True, bins=30, momentum=0.75, loss_weight=0.25, reduction='mean',
            density='region', formula='tempered', sync=False)
            >>> GHMR.from_preset('released').loss_weight
            10.0
        """
        check_choice('preset', preset, tuple(PRESETS))
        names = [base.__name__ for base in cls.__mro__]
        (config,) = (c for c in PRESETS[preset] if c['type'].rpartition('.')[2] in names)
        return cls(**{k: v for k, v in {**config, **settings}.items() if k != 'type'})

    def check_setting(self, name: str, value: Any) -> None:
        """Refuse a value of a setting, or another one than its buffers are made for."""
        super().check_setting(name, value)
        is_built = 'edges' in self.__dict__.get('_buffers', ())
        if is_built and name in FIXED and value != getattr(self, name, value):
            raise ValueError(f'{name} can not be set later, got {value!r}: make another loss')

    def reset_parameters(self) -> None:
        """Begin anew: S is 0, as before the first call, and `edges` are those of M.

        For the folds of a cross-validation, and after `to_empty` of a module built on the meta
        device.
        """
        edges = torch.arange(self.bins + 1, dtype=torch.float32, device=self.edges.device)
        self.edges.copy_(edges / self.bins)
        self.edges[-1] = self._last_edge
        self._latest_counts = None
        for name, buffer in self.named_buffers():
            if name in ('acc_sum', 'mean_d'):
                buffer.zero_()

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

    def settings_of_call(self, reduction: str = 'mean') -> Settings:
        """The settings of a call with this reduction.

        Raises:
            ValueError: The exact density with an average or with `sync`.
        """
        if self.density == 'exact' and (self.momentum > 0 or self.sync):
            raise ValueError(
                "density='exact' has no unit regions to average or to sum over processes: it "
                f'takes momentum=0 and sync=False, got momentum={self.momentum} and '
                f'sync={self.sync}'
            )
        return Settings(self.bins, self.density, self.formula, reduction, self.loss_weight)

    def loss_of(self, counted: Counted, settings: Settings) -> Tensor:
        """The loss after the first pass: statistics of all processes, S, and the second pass."""
        return weigh(self.remembered(self.of_all_processes(counted)), settings)

    @property
    def syncs(self) -> bool:
        """Whether a call sums over the processes: outside of training each is on its own."""
        return self.sync and self.training and world_size() > 1

    @property
    def is_learning(self) -> bool:
        """Whether a call changes the state: in training mode, and not in a backward pass."""
        return self.training and not ops.is_in_backward()

    def of_all_processes(self, counted: Counted) -> Counted:
        """R and N summed over all processes if `syncs`."""
        if not self.syncs:
            return counted
        counts, n, finite, *_ = counted
        sums = torch.cat([counts.to(n.dtype), torch.stack([n, (~finite).to(n.dtype)])])
        over_processes(sums)
        summed = dict(counts=sums[:-2], n=sums[-2], finite=sums[-1] == 0)
        return counted._replace(**summed, num_processes=world_size())

    @torch.no_grad()
    def remembered(self, counted: Counted) -> Counted:
        """With S of Eq. 12, which `acc_sum` keeps from now on.

        A mini-batch whose loss is not finite does not enter `acc_sum`.
        """
        if self.momentum == 0:
            return counted
        counts = counted.counts
        restore(self.acc_sum, counts)
        if not self.is_learning:
            self._check_recomputed(counts)
            known = self.acc_sum.where(self.acc_sum > 0, counts.to(self.acc_sum.dtype))
            return counted._replace(average=known)
        average = moving_average(self.acc_sum, counts, self.momentum, self.formula)
        self.acc_sum.copy_(average.where(counted.finite, self.acc_sum))
        self._latest_counts = None if ops.is_compiling() else counts
        return counted._replace(average=average)

    def _check_recomputed(self, counts: Tensor) -> None:
        """Refuse to compute a call again whose S is that of a later call by now."""
        latest = self._latest_counts
        if self.training and latest is not None and not torch.equal(counts, latest):
            raise RuntimeError(
                f'activation checkpointing computes a call of {type(self).__name__} again whose '
                'moving average has gone on since: call the loss outside of the checkpointed '
                'function, or use a loss of its own for each call'
            )


@torch.no_grad()
def restore(buffer: Tensor, default: Tensor) -> None:
    """Take a buffer back to float32 that was cast behind `_apply`, as FSDP and DeepSpeed do.

    What overflowed becomes the default.
    """
    if buffer.dtype in HALF_DTYPES:
        # In place: DDP and FSDP hold the buffer.
        buffer.data = torch.where(buffer.isfinite(), buffer.float(), default.float())
