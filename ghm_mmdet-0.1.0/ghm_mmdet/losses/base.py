"""What all losses share: settings that are checked, and the processes of a training."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from ..checks import REDUCTIONS, check_choice
from ..formulas import CHECKS


class Loss(nn.Module):
    """A loss whose settings are checked whenever they are set."""

    reduction: str

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CHECKS:
            self.check_setting(name, value)
        super().__setattr__(name, value)

    def check_setting(self, name: str, value: Any) -> None:
        """Refuse a value of a setting.

        Raises:
            TypeError, ValueError: It is of the wrong type or outside the allowed values.
        """
        CHECKS[name](name, value)

    def reduction_of(self, override: str | None) -> str:
        """The reduction of a call.

        Raises:
            ValueError: The override is not among the allowed values.
        """
        if override is None:
            return self.reduction
        check_choice('reduction_override', override, REDUCTIONS)
        return override


def one_weight(label_weight: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """The weight, under one of its two names.

    Raises:
        ValueError: Both are given.
    """
    if label_weight is not None and weight is not None:
        raise ValueError('label_weight and weight are two names of one argument: give one of them')
    return label_weight if weight is None else weight


def world_size() -> int:
    """The number of processes; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, in place; each of them has to call it."""
    dist.all_reduce(x)
    return x
