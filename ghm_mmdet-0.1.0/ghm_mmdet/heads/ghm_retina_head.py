"""RetinaNet's head, with one gradient density for all FPN levels."""

from __future__ import annotations

from mmdet.models.dense_heads import RetinaHead

from ..registry import MODELS
from .whole_batch import WholeBatchLosses


@MODELS.register_module()
class GHMRetinaHead(WholeBatchLosses, RetinaHead):
    """`RetinaHead` that calls each loss once, over all FPN levels.

    `RetinaHead` calls its losses once per FPN level. GHM then has a density of its own on
    each level, and pushes all of them through one moving average. Here the density is that of
    the whole mini-batch of this process, as in the paper, and the moving average is updated
    once per iteration; with `sync=True` in the losses it is that of all processes.

    Arguments, parameters, checkpoints and inference are those of `RetinaHead`. A loss that
    divides by `avg_factor`, such as focal loss, has the same value in both. A GHM loss divides
    by its own number of examples: `RetinaHead` adds up one such mean for every level, and here
    there is a single one.

    Examples:
        In a config of RetinaNet:

        >>> model = dict(bbox_head=dict(
        ...     type='ghm_mmdet.GHMRetinaHead',
        ...     loss_cls=dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True),
        ...     loss_bbox=dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7)))
    """
