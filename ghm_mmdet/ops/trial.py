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
    """The kernels that `load` gives, if they agree with the plain formula on a device.

    Args:
        load: Imports the module.
        device: Where to try them.
        silenced_by: What the warning advises to set in the environment.

    Returns:
        The module; None, after a warning with the reason, if they fail or differ.
    """
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
    labels = torch.randint(0, CLASSES + 1, (ROWS,), generator=generator)
    weight = (torch.rand(ROWS, generator=generator) < 0.9).float()
    p_star = F.one_hot(labels, CLASSES + 1)[:, :CLASSES].float()
    pred = (g / (1 - g)).log() * (1 - 2 * p_star)
    weights = torch.rand(BINS + 1, generator=generator)
    weights[BINS] = 0
    calls = ((labels, weight), (p_star, None))
    tensors = (x if x is None else x.to(device) for call in calls for x in call)
    on_device = (pred.to(device), weights.to(device), *tensors)
    return max(_errors(kernels, *on_device[:2], *on_device[i : i + 2]) for i in (2, 4))


def _errors(
    kernels: ModuleType, pred: Tensor, weights: Tensor, target: Tensor, weight: Tensor | None
) -> float:
    counts, finite, index = kernels.count(pred, target, weight, BINS)
    found = (counts, *kernels.weigh(pred, target, weight, index, weights, True))
    wanted = plain(pred, weights, target, weight)
    return max(
        float((a - b).abs().max() / b.abs().max()) if a.isfinite().all() and finite else math.inf
        for a, b in zip(found, wanted)
    )


def plain(
    pred: Tensor, weights: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the two passes must give: the counts, the weighted loss, its gradient."""
    if target.shape != pred.shape:
        target = F.one_hot(target, CLASSES + 1)[:, :CLASSES].to(pred.dtype)
    slope = pred.sigmoid() - target
    edges = torch.arange(1, BINS, device=pred.device) / BINS
    region = torch.bucketize(slope.abs(), edges, right=True)
    if weight is not None:
        region = region.where(weight[:, None] > 0, torch.full_like(region, BINS))
    counts = torch.stack([(region == j).sum() for j in range(BINS)])
    loss = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
    return counts, (weights[region] * loss).sum(), weights[region] * slope
