"""The trial of kernels at their first use in a process: compiled, run, compared.

Kernels that a driver, a compiler or a version of Triton breaks must not break a training.
"""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import Callable, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

VARIABLE = 'GHM_MMDET_KERNELS'
#: Logits of a trial, about.
SIZE = 1 << 15
#: Largest difference, relative to the largest value.
TOLERANCE = 1e-5


class Batch(NamedTuple):
    """What GHM-C is called with."""

    pred: Tensor  # logits, shape (..., C)
    target: Tensor  # integer labels of shape (...), or p* of each logit
    weight: Tensor | None  # of each row, or of each logit; valid where > 0


#: Of a batch and w of each region: R, `Σ w_i L_i` and its gradient.
Reference = Callable[[Batch, Tensor], Tuple[Tensor, Tensor, Tensor]]


def kind_of(batch: Batch) -> tuple[object, ...]:
    """What the code of the kernels depends on: batches of one kind share a trial.

    Device and dtypes, and whether target and weight are of rows or of logits. Sizes and M are
    constants of the same code.
    """
    shape = batch.pred.shape
    return tuple(x if x is None else (x.device, x.dtype, x.shape == shape) for x in batch)


def passed(
    load: Callable[[], ModuleType], reference: Reference, batch: Batch, bins: int
) -> ModuleType | None:
    """The kernels, if they agree with the reference for tensors of this kind.

    Else None, and a warning says why.

    Raises:
        torch.cuda.OutOfMemoryError: It says nothing of the kernels: the next call tries again.
    """
    try:
        kernels = load()
        error = largest_error(kernels, reference, batch, bins)
        if error <= TOLERANCE:
            return kernels
        reason = f'they differ from the plain formula by {error:.1e}, relative'
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as failure:
        reason = ': '.join([type(failure).__name__, *str(failure).strip().splitlines()[:1]])
    warnings.warn(
        f'the Triton kernels of GHM-C are not used on {batch.pred.device}, the plain formula of '
        f'PyTorch computes the same values: {reason} (without this trial: {VARIABLE}=torch in '
        'the environment)',
        stacklevel=2,
    )
    return None


def largest_error(kernels: ModuleType, reference: Reference, like: Batch, bins: int) -> float:
    """Of counts, loss and gradient, for a random batch of the same kind."""
    # Numbers of the CPU, whatever the default device.
    generator = torch.Generator('cpu').manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device='cpu', dtype=torch.float64)

    width = min(like.pred.shape[-1], SIZE // 8)
    rows = SIZE // width + 1
    # Whole numbers, for every dtype holds them, and no M has an edge near the sigmoid of one,
    # where the last bit would decide.
    pred = (random(rows, width) * 17).floor() - 8
    target, weight, w = (random(rows) * (width + 1)).long(), None, random(bins).float()
    if like.target.shape == like.pred.shape:
        target = F.one_hot(target, width + 1)[:, :width]
    if like.weight is not None:
        is_of_rows = like.weight.shape != like.pred.shape
        weight = (random(rows) < 0.9) if is_of_rows else (random(rows, width) < 0.9)
    there = Batch(*(a if a is None else a.to(b) for a, b in zip((pred, target, weight), like)))  # type: ignore[arg-type]
    counts, finite, regions = kernels.count(there, bins)
    total, gradient = kernels.weigh(there, regions, F.pad(w, (0, 1)).to(like.pred.device), True)
    found = counts, torch.where(finite, total, torch.nan), gradient
    wanted = reference(Batch(pred, target, weight), w)
    errors = [(a.cpu() - b).abs().max() / b.abs().max() for a, b in zip(found, wanted)]
    # The largest of all, which a NaN must not hide behind.
    return max(math.inf if math.isnan(error) else error for error in map(float, errors))
