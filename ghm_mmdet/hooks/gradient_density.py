"""Histograms of the gradient norms that a detector's losses are called with, and their file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..functional import (
    assign_regions,
    classification_gradient_norm,
    count_regions,
    regression_gradient_norm,
)
from ..functional.checks import check_same_shape
from ..functional.examples import dense_target, valid_examples
from ..ops.precision import at_least_float32

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The order of the first dimension of all sums: classification, regression.
KINDS = ('cls', 'reg')
#: The order of the second: the number of examples, the sum of their gradient norms.
SUMS = ('counts', 'gradient')
BLUE = '#0072b2'  # of Okabe and Ito's palette, safe for the colour-blind


def classification_examples(
    pred: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient norm g (Eq. 3) of what a head passes to its loss, and which are valid.

    Args:
        pred: Logits, shape (..., C), floating point.
        target: Labels or targets as `ghm_c_loss` takes them.
        weight: An example is valid where it is > 0. Default: None, all are.

    Returns:
        g in at least float32, and a bool, both of the shape of `pred`.
    """
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
    """The sum of the values in each unit region.

    Args:
        values: Any shape.
        regions: From `assign_regions`, the shape of `values`.
        bins: M.

    Returns:
        Float64 of shape (M,).
    """
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


class GradientNormObserver:
    """Add up the histograms of g and gr over the calls of a detector's losses.

    Between `start` and `stop` each call of the two losses is counted, whatever they are; they
    are called as ever, and outside nothing is attached to them. g and gr are cut at the edges
    of B bins of equal width, the last one closed at 1.

    Args:
        model: A detector, or its wrapper (DDP).
        bins: B, an int >= 1.
        mu: μ of gr for a regression loss that has no attribute `mu` of its own.
        loss_cls: Path of the classification loss in the detector; None leaves it out.
        loss_bbox: Path of the regression loss in the detector; None leaves it out.

    Attributes:
        mu: The μ in use.
        sums: Float64 of shape (2, 2, B) on the detector's device: `KINDS` by `SUMS`, the
            number of valid examples and the sum of their gradient norms in each bin.

    Raises:
        ValueError: The detector has no such module, or the classification is a softmax.
    """

    def __init__(
        self, model: nn.Module, bins: int, mu: float, loss_cls: str | None, loss_bbox: str | None
    ) -> None:
        detector = model.module if is_model_wrapper(model) else model
        losses = [
            None if path is None else _submodule(detector, name, path)
            for name, path in (('loss_cls', loss_cls), ('loss_bbox', loss_bbox))
        ]
        if getattr(losses[0], 'use_sigmoid', True) is False:
            raise ValueError(
                f'loss_cls={loss_cls!r} has use_sigmoid=False, but the gradient norm of Eq. 3 is '
                'that of a sigmoid: pass the path of another loss, or None to leave it out'
            )
        self.mu = getattr(losses[1], 'mu', mu)
        device = next(detector.parameters()).device
        self.sums = torch.zeros(2, 2, bins, dtype=torch.float64, device=device)
        examples = (classification_examples, partial(regression_examples, mu=self.mu))
        self._observed = [
            (loss, partial(self._count, sums, of_kind))
            for loss, sums, of_kind in zip(losses, self.sums, examples, strict=True)
            if loss is not None
        ]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

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
        kwargs: dict[str, object],
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


@dataclass
class GradientDensityRecord:
    """Histograms of g and gr over a training, as `GradientDensityHook` writes them.

    The .npz holds, for T rows and B bins:

    - `iteration`, int64 (T,): iterations done when the row was written;
    - `edges`, float64 (B + 1,): edges of the bins, from 0 to 1;
    - `mu`, float64 (): μ of gr, in units of the encoded offsets;
    - `cls_counts`, `reg_counts`, int64 (T, B): number of valid logits by g (Eq. 3), of valid
      offsets by gr (Eq. 18), over all calls, recorded iterations and processes of the row;
    - `cls_gradient`, `reg_gradient`, float64 (T, B): sums of their g and gr.

    Attributes:
        mu: μ of gr.
        iteration: Shape (T,), ascending.
        sums: Shape (T, 2, 2, B), `KINDS` by `SUMS`.
    """

    mu: float
    iteration: np.ndarray
    sums: np.ndarray

    @classmethod
    def empty(cls, bins: int, mu: float) -> 'GradientDensityRecord':
        return cls(mu, np.zeros(0, np.int64), np.zeros((0, 2, 2, bins)))

    @property
    def bins(self) -> int:
        return self.sums.shape[-1]

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(0, 1, self.bins + 1)

    def append(self, iteration: int, sums: Tensor) -> None:
        """Add a row.

        Args:
            iteration: Iterations done.
            sums: Of a `GradientNormObserver`, shape (2, 2, B).
        """
        self.iteration = np.append(self.iteration, iteration)
        self.sums = np.concatenate([self.sums, sums.cpu().numpy()[None]])

    def until(self, iteration: int) -> 'GradientDensityRecord':
        """The rows of the first `iteration` iterations."""
        kept = self.iteration <= iteration
        return GradientDensityRecord(self.mu, self.iteration[kept], self.sums[kept])

    def histogram(self, kind: str, rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the last rows.

        Args:
            kind: 'cls' or 'reg'.
            rows: Number of rows. Default: 1.

        Returns:
            Number of examples and sum of their gradient norms, each float64 of shape (B,).
        """
        counts, gradient = self.sums[-rows:, KINDS.index(kind)].sum(0)
        return counts, gradient

    def save(self, path: str | Path) -> None:
        """Write the file, or replace it in one step."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f'{kind}_{name}': self.sums[:, i, j].astype(np.int64 if name == 'counts' else float)
            for i, kind in enumerate(KINDS)
            for j, name in enumerate(SUMS)
        }
        with open(partial_file := path.with_name(f'{path.name}.partial'), 'wb') as file:
            np.savez_compressed(
                file, iteration=self.iteration, edges=self.edges, mu=self.mu, **arrays
            )
        os.replace(partial_file, path)

    @classmethod
    def load(cls, path: str | Path) -> 'GradientDensityRecord':
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: An array is missing.
        """
        with np.load(path) as file:
            arrays = dict(file)
        names = [f'{kind}_{name}' for kind in KINDS for name in SUMS]
        missing = {'iteration', 'mu', *names} - set(arrays)
        if missing:
            raise ValueError(f'{path} is no record of GradientDensityHook: no {sorted(missing)}')
        sums = np.stack([arrays[name].astype(float) for name in names], axis=1)
        shape = (len(sums), len(KINDS), len(SUMS), sums.shape[-1])
        return cls(float(arrays['mu']), arrays['iteration'], sums.reshape(shape))


def in_regions(histogram: np.ndarray, regions: int) -> np.ndarray:
    """Join the bins of a histogram to unit regions.

    Args:
        histogram: Shape (B,).
        regions: M, a divisor of B.

    Returns:
        Shape (M,).

    Raises:
        ValueError: M does not divide B.
    """
    if len(histogram) % regions:
        raise ValueError(
            f'regions must divide the {len(histogram)} bins of the record, got {regions}'
        )
    return histogram.reshape(regions, -1).sum(1)


def draw_density(axes: 'Axes', counts: np.ndarray, norm: str, examples: str) -> None:
    """Draw the distribution of a gradient norm, as in Figures 2 and 4.

    Args:
        axes: Axes of matplotlib.
        counts: Number of examples of each region, shape (M,).
        norm: What the x-axis is.
        examples: What an example is, in plural.
    """
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=BLUE, label=examples)
    axes.set(xlabel=norm, ylabel=f'fraction of the {examples}', xlim=(0, 1))
    axes.legend(loc='upper center')
