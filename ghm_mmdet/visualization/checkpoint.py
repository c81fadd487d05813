"""The record of the gradient norms of a finished detector on its training data."""

from __future__ import annotations

from pathlib import Path

import torch
from mmdet.apis import init_detector
from mmdet.models import BaseDetector
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed

from ..checks import check_count
from . import ONE_STAGE, Observed
from .observer import GradientNormObserver
from .record import GradientDensityRecord


def record_checkpoint(
    config: Config,
    checkpoint: str | Path,
    batches: int = 50,
    seed: int = 0,
    device: str = 'cpu',
    observed: Observed = ONE_STAGE,
) -> GradientDensityRecord:
    """The record of a finished checkpoint on training batches, without an optimizer step.

    The detector is in training mode, as when `GradientDensityHook` observes it.

    Args:
        config, checkpoint: The config that the checkpoint was trained with, and its path.
        batches: Number of batches, an int >= 1. Default: 50.
        seed: Of the order of the images and their augmentation. Default: 0.
        device: Where the detector runs. Default: 'cpu'.
        observed: What is counted.

    Returns:
        A record of one row, whose `iteration` is the number of batches.

    Raises:
        TypeError, ValueError: As `GradientNormObserver`; `batches` is not an int >= 1.
    """
    check_count('batches', batches)
    # With a palette given, it does not ask the test data set, which need not be there, for one.
    model = init_detector(config, str(checkpoint), palette='random', device=device)
    model.train()
    observer = GradientNormObserver(model, observed)
    observer.start()
    done = call_losses(model, config, batches, seed)
    observer.stop()
    record = observer.empty_record()
    record.append(done, observer.take())
    return record


def call_losses(model: BaseDetector, config: Config, batches: int, seed: int = 0) -> int:
    """Let a detector compute its losses on the first training batches of its config.

    Its mode is left as it is; `seed` is of the order of the images and their augmentation.

    Returns:
        The number of batches, fewer than `batches` where the data set ends.
    """
    set_random_seed(seed)
    loader = Runner.build_dataloader(config.train_dataloader, seed=seed)
    done = 0
    with torch.no_grad():
        for done, batch in zip(range(1, batches + 1), loader):  # noqa: B007
            model(**model.data_preprocessor(batch, training=True), mode='loss')
    return done
