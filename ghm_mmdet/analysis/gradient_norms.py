"""The gradient norms of a finished detector on its training data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from ..functional import assign_regions, count_regions, harmonizing_parameter
from ..functional.checks import check_count
from ..hooks import GradientDensityHook
from ..hooks.gradient_density import (
    GradientDensityRecord,
    GradientNormObserver,
    classification_examples,
    regression_examples,
    sum_regions,
)
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

    def add(self, g: Tensor, valid: Tensor, beta: Tensor) -> None:
        """Add the valid examples of one call: their g and β, all of one shape."""
        bins = len(self.examples)
        regions = assign_regions(g, bins, valid)
        self.examples += count_regions(regions, bins)
        self.gradient += sum_regions(g, regions, bins)
        self.harmonized += sum_regions(beta.double() * g.double(), regions, bins)


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
        if isinstance(loss, GHMC):
            name, (g, valid) = 'cls', classification_examples(*args[:3])
        else:
            name, (g, valid) = 'reg', regression_examples(*args[:3], mu=loss.mu)
        beta, _ = harmonizing_parameter(
            g, valid, valid.sum().float(), bins=loss.bins, density=loss.density,
            formula=loss.formula, max_beta=loss.max_beta,
        )  # fmt: skip
        records[name].add(g, valid, beta)

    losses = [m for m in model.modules() if isinstance(m, (GHMC, GHMR))]
    handles = [loss.register_forward_pre_hook(record) for loss in losses]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def call_losses(model: nn.Module, config: Config, batches: int, seed: int = 0) -> int:
    """Let a detector compute its losses on the first training batches of its config.

    Args:
        model: The detector; its mode is left as it is.
        config: With `train_dataloader`.
        batches: Number of batches, or fewer where the data set ends.
        seed: Of the order of the images and their augmentation. Default: 0.

    Returns:
        The number of batches.
    """
    set_random_seed(seed)
    loader = Runner.build_dataloader(config.train_dataloader, seed=seed)
    done = 0
    with torch.no_grad():
        for done, batch in zip(range(1, batches + 1), loader, strict=False):  # noqa: B007
            model(**model.data_preprocessor(batch, training=True), mode='loss')
    return done


def record_checkpoint(
    config: Config,
    checkpoint: str | Path,
    batches: int = 50,
    seed: int = 0,
    device: str = 'cpu',
    **settings: object,
) -> GradientDensityRecord:
    """The record of a finished checkpoint on training batches, without an optimizer step.

    The detector is in training mode, as when `GradientDensityHook` observes it.

    Args:
        config: The config that the checkpoint was trained with.
        checkpoint: Its path.
        batches: Number of batches, an int >= 1. Default: 50.
        seed: Of the order of the images and their augmentation. Default: 0.
        device: Where the detector runs. Default: 'cpu'.
        **settings: `bins`, `mu`, `loss_cls` and `loss_bbox` of `GradientDensityHook`.

    Returns:
        A record of one row, whose `iteration` is the number of batches.

    Raises:
        TypeError, ValueError: As `GradientDensityHook`.
    """
    check_count('batches', batches)
    settings = GradientDensityHook(**settings).settings
    # With a palette given, it does not ask the test data set, which need not be there, for one.
    model = init_detector(config, str(checkpoint), palette='random', device=device)
    model.train()
    observer = GradientNormObserver(model, **settings)
    observer.start()
    done = call_losses(model, config, batches, seed)
    observer.stop()
    record = GradientDensityRecord.empty(settings['bins'], observer.mu)
    record.append(done, observer.take())
    return record
