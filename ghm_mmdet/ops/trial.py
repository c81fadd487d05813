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

ROWS, CLASSES, BINS = 500, 8, 30
#: Largest difference, relative to the largest value.
TOLERANCE = 1e-5


def passed(
    load: Callable[[], ModuleType], device: torch.device, silenced_by: str
) -> ModuleType | None:
    """The kernels, if they agree with the plain formula; else None, and a warning says why."""
    try:
        kernels = load()
        error = largest_error(kernels, device)
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


def largest_error(kernels: ModuleType, device: torch.device) -> float:
    """Of counts, loss and gradient, for labels with weights and for dense targets without."""
    generator = torch.Generator().manual_seed(0)
    # g in the middle of its region: the last bit of a sigmoid decides on nothing.
    j = torch.randint(0, BINS, (ROWS, CLASSES), generator=generator)
    g = (j + 0.25 + torch.rand(j.shape, generator=generator) / 2) / BINS
    labels = torch.randint(0, CLASSES + 1, (ROWS,), generator=generator).to(device)
    weight = (torch.rand(ROWS, generator=generator) < 0.9).float().to(device)
    p_star = F.one_hot(labels, CLASSES + 1)[:, :CLASSES].float()
    pred = (g / (1 - g)).log().to(device) * (1 - 2 * p_star)
    weights = F.pad(torch.rand(BINS, generator=generator), (0, 1)).to(device)
    errors = []
    for target, valid in ((labels, weight), (p_star, None)):
        counts, finite, index = kernels.count(pred, target, valid, BINS)
        found = (counts, *kernels.weigh(pred, target, valid, index, weights, True))
        wanted = plain(pred, weights, p_star, valid)
        errors += [(a - b).abs().max() / b.abs().max() for a, b in zip(found, wanted)]
        errors.append(torch.where(finite, 0.0, math.inf))
    # The largest of all, which a NaN must not hide behind.
    return max(math.inf if math.isnan(error) else error for error in map(float, errors))


def plain(
    pred: Tensor, weights: Tensor, p_star: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the two passes must give: the counts, the weighted loss, its gradient."""
    slope = pred.sigmoid() - p_star
    edges = torch.arange(1, BINS, device=pred.device) / BINS
    region = torch.bucketize(slope.abs(), edges, right=True)
    if weight is not None:
        region = torch.where(weight[:, None] > 0, region, BINS)
    counts = torch.stack([(region == j).sum() for j in range(BINS)])
    loss = F.binary_cross_entropy_with_logits(pred, p_star, reduction='none')
    return counts, (weights[region] * loss).sum(), weights[region] * slope
