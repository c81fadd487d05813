"""Histograms of the gradient norms that a detector's losses are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..checks import check_count, check_positive
from ..functional import inputs, paper
from ..losses.ghm_r import GHMR
from ..ops import is_in_backward
from .record import KINDS, SUMS


def classification_examples(
    pred: Tensor, target: Tensor | tuple[Tensor, Tensor], weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient norm g (Eq. 3) of what a head passes to its loss, and which are valid."""
    logits = inputs.at_least_float32(pred.detach())
    target, weight = inputs.as_heads_pass(logits, target, weight)
    g = paper.classification_gradient_norm(logits, inputs.dense_target(logits, target))
    return g, inputs.valid_examples(logits, weight)


def regression_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None = None, *, mu: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient norm gr (Eq. 18), see `classification_examples`; `target` as `pred`."""
    offsets = inputs.at_least_float32(pred.detach())
    inputs.check_same_shape('target', target, 'pred', pred)
    gr = paper.regression_gradient_norm(offsets - target, mu)
    return gr, inputs.valid_examples(offsets, weight)


def sum_regions(values: Tensor, regions: Tensor, bins: int) -> np.ndarray:
    """The sum of the values in each of `assign_regions`' regions, float64 of shape (bins,).

    It is added up on the CPU: not every device has float64.
    """
    weights = values.cpu().numpy().ravel()
    return np.bincount(regions.cpu().numpy().ravel(), weights, minlength=bins + 1)[:bins]


def mu_of(loss: nn.Module, otherwise: float) -> float | Tensor:
    """μ of the latest call of a regression loss; `otherwise` where it has none."""
    return loss.current_mu if isinstance(loss, GHMR) else getattr(loss, 'mu', otherwise)


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
    are called as ever. g and gr are cut at the edges of B bins of equal width, the last one
    closed at 1. gr is that of the μ that the regression loss had in that very call.

    The losses are hooked until `close`, for a hook that is put on a module after `torch.compile`
    has traced it is not called. Counting itself is never traced.

    Args:
        model: A detector, or its wrapper (DDP).
        observed: Its losses, and the bins.

    Raises:
        TypeError, ValueError: `bins` or `mu` is not allowed, the detector has no such module, or
            the classification is a softmax.

    Examples:
        >>> detector = nn.Module()
        >>> detector.loss = GHMR(mu=0.02)
        >>> observer = GradientNormObserver(detector, Observed(2, loss_cls=None, loss_bbox='loss'))
        >>> observer.start()
        >>> _ = detector.loss(torch.tensor([[0.0, 0.01, 0.02, 0.3]]), torch.zeros(1, 4))
        >>> observer.stop()
        >>> _, (offsets, sums_of_gr) = observer.take()
        >>> offsets
        tensor([2., 2.], dtype=torch.float64)
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
                f'loss_cls={observed.loss_cls!r} has use_sigmoid=False, but Eq. 3 is of a sigmoid: '
                'pass the path of another loss, or None to leave it out'
            )
        self._observed = observed
        self._counting = False
        self._begin()
        self._handles = [
            loss.register_forward_hook(self._after_call_of(kind), with_kwargs=True)
            for kind, loss in zip(KINDS, losses)
            if loss is not None
        ]

    def start(self) -> None:
        """Count the calls from now on."""
        self._counting = True

    def stop(self) -> None:
        """Count no more; without effect where nothing was started."""
        self._counting = False

    def close(self) -> None:
        """Take the hooks off the losses."""
        for handle in self._handles:
            handle.remove()

    @property
    def mu(self) -> float:
        """The mean μ of the offsets counted since `take`; NaN without any."""
        offsets = self._sums[1, 0].sum()
        return self._sum_of_mu / offsets if offsets else np.nan

    def take(self) -> Tensor:
        """The sums since the last `take`; the next begin at zero.

        Returns:
            Float64 of shape (2, 2, B) on the CPU, `KINDS` by `SUMS`: the number of valid examples
            in each bin, and the sum of their gradient norms.
        """
        sums = torch.from_numpy(self._sums)
        self._begin()
        return sums

    def _begin(self) -> None:
        self._sums = np.zeros((len(KINDS), len(SUMS), self._observed.bins))
        self._sum_of_mu = 0.0

    def _after_call_of(self, kind: str) -> Callable[..., None]:
        compiler = getattr(torch, 'compiler', None)
        count = compiler.disable(self._count) if compiler else self._count

        def after_call(loss: nn.Module, args: tuple, kwargs: dict[str, Any], _: object) -> None:
            if self._counting and not is_in_backward():
                count(kind, loss, *_pred_target_weight(*args, **kwargs))

        return after_call

    @torch.no_grad()
    def _count(
        self, kind: str, loss: nn.Module, pred: Tensor, target: Tensor, weight: Tensor | None
    ) -> None:
        bins, mu = self._observed.bins, mu_of(loss, self._observed.mu)
        if kind == 'cls':
            g, valid = classification_examples(pred, target, weight)
        else:
            g, valid = regression_examples(pred, target, weight, mu=mu)
        regions = paper.assign_regions(g, bins, valid)
        counts = paper.count_regions(regions, bins).cpu().numpy()
        if kind == 'reg':
            self._sum_of_mu += float(mu) * counts.sum()
        self._sums[KINDS.index(kind)] += counts, sum_regions(g, regions, bins)


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
