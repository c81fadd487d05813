"""The gradient norms of a detector on a data set, before and after harmonizing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..functional import (
    classification_gradient_norm,
    harmonizing_parameter,
    regression_gradient_norm,
)
from ..functional.examples import dense_target, valid_examples
from ..losses import GHMC, GHMR


@dataclass
class GradientNormRecord:
    """Histograms over M unit regions of the gradient norm, summed over calls.

    Attributes:
        examples: Number of examples of each region, shape (M,).
        gradient: Sum of their gradient norms g, before harmonizing, shape (M,).
        harmonized: Sum of β·g, after harmonizing, shape (M,).
    """

    examples: Tensor
    gradient: Tensor
    harmonized: Tensor

    @classmethod
    def empty(cls, bins: int) -> 'GradientNormRecord':
        return cls(*torch.zeros(3, bins, dtype=torch.float64))

    def add(self, g: Tensor, beta: Tensor) -> None:
        """Add the examples of one call: their g and β, shape (n,)."""
        bins = len(self.examples)
        region = (g * bins).long().clamp(max=bins - 1)
        g, beta = g.double(), beta.double()
        self.examples.index_add_(0, region, torch.ones_like(g))
        self.gradient.index_add_(0, region, g)
        self.harmonized.index_add_(0, region, beta * g)


@contextmanager
def recorded(model: nn.Module, bins: int = 30) -> Iterator[dict[str, GradientNormRecord]]:
    """Record what the GHM losses of a model see while the block runs.

    β is that of each call alone, without the moving average.

    Args:
        model: A detector with `GHMC` and `GHMR` losses.
        bins: M of the record. Default: 30.

    Yields:
        'cls' and 'reg' to their records, which fill as the losses are called.
    """
    records = {'cls': GradientNormRecord.empty(bins), 'reg': GradientNormRecord.empty(bins)}

    def record(loss: GHMC | GHMR, args: tuple) -> None:
        pred, target, weight = args[:3]
        pred = pred.detach().float()
        valid = valid_examples(pred, weight)
        if isinstance(loss, GHMC):
            name, g = 'cls', classification_gradient_norm(pred, dense_target(pred, target))
        else:
            name, g = 'reg', regression_gradient_norm(pred - target, loss.mu)
        beta, _ = harmonizing_parameter(
            g, valid, valid.sum().float(), bins=loss.bins, density=loss.density,
            formula=loss.formula, max_beta=loss.max_beta,
        )  # fmt: skip
        records[name].add(g[valid], beta[valid])

    losses = [m for m in model.modules() if isinstance(m, (GHMC, GHMR))]
    handles = [loss.register_forward_pre_hook(record) for loss in losses]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
