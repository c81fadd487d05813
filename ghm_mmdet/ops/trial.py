"""The trial of kernels at their first use in a process: compiled, run, compared.

Kernels that a driver, a compiler or a version of Triton breaks must not break a training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

VARIABLE = 'GHM_MMDET_KERNELS'
ROWS = 501
#: Largest difference, relative to the largest value.
TOLERANCE = 1e-5


def kind_of(pred: Tensor, target: Tensor, weight: Tensor | None, bins: int) -> tuple[object, ...]:
    """What kernels are compiled for: tensors of one kind share a trial.

    Of the shapes it is the width of a row, whether the logits divide into the groups of four that
    a thread loads, and whether targets and weights are of rows or of logits.
    """
    tensors = [(x.dtype, x.shape == pred.shape) for x in (pred, target, weight) if x is not None]
    return pred.device, bins, pred.shape[-1], pred.numel() % 4 == 0, *tensors


def passed(
    load: Callable[[], ModuleType], pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> ModuleType | None:
    """The kernels, if they agree with the plain formula for tensors of this kind.

    Else None, and a warning says why.
    """
    try:
        kernels = load()
        error = largest_error(kernels, pred, target, weight, bins)
        if error <= TOLERANCE:
            return kernels
        reason = f'they differ from the plain formula by {error:.1e}, relative'
    except Exception as failure:
        reason = ': '.join([type(failure).__name__, *str(failure).strip().splitlines()[:1]])
    warnings.warn(
        f'the Triton kernels of GHM-C are not used on {pred.device}, the plain formula of PyTorch '
        f'computes the same values: {reason} (without this trial: {VARIABLE}=torch in the '
        'environment)',
        stacklevel=2,
    )
    return None


def largest_error(
    kernels: ModuleType, pred: Tensor, target: Tensor, weight: Tensor | None, bins: int
) -> float:
    """Of counts, loss and gradient, for random tensors of the same kind."""
    # Numbers of the CPU, whatever the default device.
    generator = torch.Generator('cpu').manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device='cpu', dtype=torch.float64)

    width = pred.shape[-1]
    # Whole groups, if the logits are such: the width may be anything.
    rows = ROWS - 1 if pred.numel() % 4 == 0 else ROWS
    labels = (random(rows) * (width + 1)).long()
    p_star = F.one_hot(labels, width + 1)[:, :width].double()
    x = _logits(random(rows, width), bins, pred.dtype) * (1 - 2 * p_star).to(pred.dtype)
    given = (p_star if target.shape == pred.shape else labels).to(pred.device, target.dtype)
    valid = None
    if weight is not None:
        shape = (rows, width) if weight.shape == pred.shape else (rows,)
        valid = (random(*shape) < 0.9).to(pred.device, weight.dtype)
    weights = F.pad(random(bins).float(), (0, 1))
    on_device, of_regions = x.to(pred.device), weights.to(pred.device)
    counts, finite, regions = kernels.count(on_device, given, valid, bins)
    total, gradient = kernels.weigh(on_device, given, valid, regions, of_regions, True)
    found = counts, torch.where(finite, total, torch.nan), gradient
    wanted = plain(x, weights, p_star, None if valid is None else valid.cpu())
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
