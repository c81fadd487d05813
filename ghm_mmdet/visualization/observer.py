"""Histograms of the gradient norms that a detector's losses are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..checks import check_count, check_positive
from ..functional import (
    assign_regions,
    classification_gradient_norm,
    count_regions,
    regression_gradient_norm,
)
from ..functional.inputs import (
    at_least_float32,
    check_same_shape,
    dense_target,
    valid_examples,
)
from .record import GradientDensityRecord


def classification_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient norm g (Eq. 3) of what a head passes to its loss, and which are valid."""
    logits = at_least_float32(pred.detach())
    g = classification_gradient_norm(logits, dense_target(logits, target))
    return g, valid_examples(logits, weight)


def regression_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None = None, *, mu: float
) -> tuple[Tensor, Tensor]:
    """The gradient norm gr (Eq. 18), see `classification_examples`; `target` as `pred`."""
    offsets = at_least_float32(pred.detach())
    check_same_shape('target', target, 'pred', pred)
    return regression_gradient_norm(offsets - target, mu), valid_examples(offsets, weight)


def sum_regions(values: Tensor, regions: Tensor, bins: int) -> Tensor:
    """The sum of the values in each of `assign_regions`' regions, float64 of shape (bins,)."""
    sums = torch.zeros(bins + 1, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, regions.flatten(), values.double().flatten())[:bins]


def _pred_target_weight(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *args: object,
    label_weight: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What MMDetection's losses are called with, whatever they name the weight."""
    return pred, target, label_weight if weight is None else weight


@dataclass(frozen=True)
class Observed:
    """What `GradientNormObserver` counts: a one-stage detector's; see `GradientDensityHook`."""

    bins: int = 600
    mu: float = 0.02
    loss_cls: str | None = 'bbox_head.loss_cls'
    loss_bbox: str | None = 'bbox_head.loss_bbox'

    def __post_init__(self) -> None:
        check_count('bins', self.bins)
        check_positive('mu', self.mu)


class GradientNormObserver:
    """Add up the histograms of g and gr over the calls of a detector's losses.

    Between `start` and `stop` each call of the two losses is counted, whatever they are; they
    are called as ever, and outside nothing is attached to them. g and gr are cut at the edges
    of B bins of equal width, the last one closed at 1.

    Args:
        model: A detector, or its wrapper (DDP).
        observed: Its losses, and the bins.

    Attributes:
        mu: The μ in use.
        sums: Float64 of shape (2, 2, B) on the detector's device: `KINDS` by `SUMS`, the
            number of valid examples and the sum of their gradient norms in each bin.

    Raises:
        TypeError, ValueError: `bins` or `mu` is not allowed, the detector has no such module, or
            the classification is a softmax.
    """

    def __init__(self, model: nn.Module, observed: Observed) -> None:
        detector: Any = model.module if is_model_wrapper(model) else model
        losses = [
            None if path is None else _submodule(detector, name, path)
            for name, path in vars(observed).items()
            if name.startswith('loss')
        ]
        if getattr(losses[0], 'use_sigmoid', True) is False:
            raise ValueError(
                f'loss_cls={observed.loss_cls!r} has use_sigmoid=False, but the gradient norm of '
                'Eq. 3 is that of a sigmoid: pass the path of another loss, or None to leave it out'
            )
        self.mu = getattr(losses[1], 'mu', observed.mu)
        device = next(detector.parameters()).device
        self.sums = torch.zeros(2, 2, observed.bins, dtype=torch.float64, device=device)
        examples: Any = (classification_examples, partial(regression_examples, mu=self.mu))
        self._observed = [
            (loss, partial(self._count, sums, of_kind))
            for loss, sums, of_kind in zip(losses, self.sums, examples)
            if loss is not None
        ]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def empty_record(self) -> GradientDensityRecord:
        """A record without rows, for what `take` returns."""
        return GradientDensityRecord.empty(self.sums.shape[-1], self.mu)

    def start(self) -> None:
        """Count the calls from now on."""
        self._handles = [
            loss.register_forward_pre_hook(count, with_kwargs=True)
            for loss, count in self._observed
        ]

    def stop(self) -> None:
        """Count no more; without effect where nothing was started."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def take(self) -> Tensor:
        """The sums, which begin at zero again."""
        sums = self.sums.clone()
        self.sums.zero_()
        return sums

    @staticmethod
    @torch.no_grad()
    def _count(
        sums: Tensor,
        examples: Callable[..., tuple[Tensor, Tensor]],
        loss: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> None:
        g, valid = examples(*_pred_target_weight(*args, **kwargs))
        bins = sums.shape[-1]
        regions = assign_regions(g, bins, valid)
        sums += torch.stack([count_regions(regions, bins).double(), sum_regions(g, regions, bins)])


def _submodule(detector: nn.Module, name: str, path: str) -> nn.Module:
    try:
        return detector.get_submodule(path)
    except AttributeError:
        losses = [
            module for module, _ in detector.named_modules()
            if module.rpartition('.')[2].startswith('loss')
        ]  # fmt: skip
        raise ValueError(
            f'{name} must be the path of a loss in the detector, got {path!r}; '
            f'it has {", ".join(losses) or "none"}'
        ) from None
