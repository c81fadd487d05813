"""RetinaNet's head, with one gradient density for all FPN levels."""

from __future__ import annotations

from mmdet.models.dense_heads import RetinaHead
from mmdet.structures.bbox import get_box_tensor

from ..registry import MODELS
from .whole_batch import Examples, Part, WholeBatchLosses


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

    def examples_of_part(self, part: Part) -> tuple[Examples, Examples]:
        cls_score = part.cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        bbox_pred = part.bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.bbox_coder.encode_size)
        if self.reg_decoded_bbox:
            anchors = part.anchors.flatten(0, 1)
            bbox_pred = get_box_tensor(self.bbox_coder.decode(anchors, bbox_pred))
        targets, weights = (x.flatten(0, 1) for x in (part.bbox_targets, part.bbox_weights))
        cls_examples = (cls_score, part.labels.flatten(), part.label_weights.flatten())
        return cls_examples, (bbox_pred, targets, weights)
