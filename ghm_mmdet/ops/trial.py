"""The trial of kernels at their first use in a process: compiled, run, compared.

Kernels that a driver, a compiler or a version of Triton breaks must not break a training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 501
#: Largest difference, relative to the largest value.
TOLERANCE = 1e-5


class Kind(NamedTuple):
    """What kernels are compiled for: tensors of one kind share a trial."""

    bins: int
    width: int  # logits of a row
    in_groups: bool  # whether the logits divide into the groups of four that a thread loads
    pred: torch.dtype
    target: torch.dtype
    is_dense: bool  # a target for every logit, or a label for every row
    weight: torch.dtype | None
    is_of_rows: bool  # a weight for every row, or for every logit

    @classmethod
    def of(cls, pred: Tensor, target: Tensor, weight: Tensor | None, bins: int) -> Kind:
        is_of_rows = weight is not None and weight.shape != pred.shape
        return cls(
            bins, pred.shape[-1], pred.numel() % 4 == 0, pred.dtype,
            target.dtype, target.shape == pred.shape, weight.dtype if weight is not None else None,
            is_of_rows,
        )  # fmt: skip


def passed(
    load: Callable[[], ModuleType], device: torch.device, kind: Kind, silenced_by: str
) -> ModuleType | None:
    """The kernels, if they agree with the plain formula; else None, and a warning says why."""
    try:
        kernels = load()
        error = largest_error(kernels, device, kind)
        if error <= TOLERANCE:
            return kernels
        reason = f'they differ from the plain formula by {error:.1e}, relative'
    except Exception as failure:
        reason = ': '.join([type(failure).__name__, *str(failure).strip().splitlines()[:1]])
    warnings.warn(
        f'the Triton kernels of GHM-C are not used on {device}, the plain formula of PyTorch '
        f'computes the same values: {reason} (without this trial: {silenced_by} in the '
        'environment)',
        stacklevel=2,
    )
    return None


def largest_error(kernels: ModuleType, device: torch.device, kind: Kind) -> float:
    """Of counts, loss and gradient, for tensors of one kind."""
    bins = kind.bins
    # Numbers of the CPU, whatever the default device.
    generator = torch.Generator('cpu').manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device='cpu', dtype=torch.float64)

    # Whole groups, if the logits are such: width may be anything.
    rows = ROWS - 1 if kind.in_groups else ROWS
    labels = (random(rows) * (kind.width + 1)).long()
    p_star = F.one_hot(labels, kind.width + 1)[:, : kind.width].double()
    pred = _logits(random(rows, kind.width), bins, kind.pred) * (1 - 2 * p_star).to(kind.pred)
    target = p_star if kind.is_dense else labels
    weight = None
    if kind.weight is not None:
        shape = (rows,) if kind.is_of_rows else (rows, kind.width)
        weight = (random(*shape) < 0.9).to(kind.weight)
    weights = F.pad(random(bins).float(), (0, 1))
    found = _on_device(kernels, device, pred, target.to(kind.target), weight, weights)
    wanted = plain(pred, weights, p_star, weight)
    errors = [(a.cpu() - b).abs().max() / b.abs().max() for a, b in zip(found, wanted)]
    # The largest of all, which a NaN must not hide behind.
    return max(math.inf if math.isnan(error) else error for error in map(float, errors))


def _logits(g: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """Of negatives with about these gradient norms, none near an edge of a region.

    There the last bit of a sigmoid would decide.
    """
    x = (g / (1 - g)).log().to(dtype)
    place = x.double().sigmoid() * bins
    middle_of_first = math.log(0.5) - math.log(bins - 0.5)
    return torch.where((place - place.round()).abs() < 1e-3, middle_of_first, x).to(dtype)


def _on_device(
    kernels: ModuleType,
    device: torch.device,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, loss and gradient; NaN if the kernels took the logits for not finite."""
    pred, target, weights = pred.to(device), target.to(device), weights.to(device)
    weight = None if weight is None else weight.to(device)
    counts, finite, index = kernels.count(pred, target, weight, len(weights) - 1)
    total, gradient = kernels.weigh(pred, target, weight, index, weights, True)
    return counts, torch.where(finite, total, torch.nan), gradient


def plain(
    pred: Tensor, weights: Tensor, p_star: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the two passes must give, in float64: counts, weighted loss, its gradient."""
    x, bins = pred.double(), len(weights) - 1
    slope = x.sigmoid() - p_star
    region = (slope.abs() * bins).floor().long().clamp(max=bins - 1)
    if weight is not None:
        valid = weight > 0
        region = torch.where(valid if valid.dim() == 2 else valid[:, None], region, bins)
    counts = torch.bincount(region.flatten(), minlength=bins + 1)[:bins]
    loss = F.binary_cross_entropy_with_logits(x, p_star, reduction='none')
    return counts, (weights[region] * loss).sum(), weights[region] * slope
