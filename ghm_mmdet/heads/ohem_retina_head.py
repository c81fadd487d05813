"""RetinaNet's head for losses that choose examples of each image over all levels."""

from __future__ import annotations

from mmdet.models.dense_heads import RetinaHead
from torch import Tensor

from ..registry import MODELS
from .whole_batch import Examples, Part, WholeBatchLosses


@MODELS.register_module()
class OHEMRetinaHead(WholeBatchLosses, RetinaHead):
    """`RetinaHead` that calls each loss once, on the anchors of each image over all levels.

    MMDetection's head calls its losses once per level, with the images of the mini-batch in one
    dimension. Here the losses get an image dimension: logits of shape (B, N, C) with labels
    (B, N), offsets of shape (B, N, 4). `OHEMLoss` mines in each image by it.

    Args: as `RetinaHead`, but for `reg_decoded_bbox=True`, which raises `ValueError`.
    """

    joined_dim = 1

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if self.reg_decoded_bbox:
            raise ValueError(
                'reg_decoded_bbox must be False, got True: OHEMRetinaHead regresses encoded offsets'
            )

    def examples_of_part(self, part: Part) -> tuple[Examples, Examples]:
        cls_score = _by_image(part.cls_score, self.cls_out_channels)
        bbox_pred = _by_image(part.bbox_pred, self.bbox_coder.encode_size)
        cls_examples = (cls_score, part.labels, part.label_weights)
        return cls_examples, (bbox_pred, part.bbox_targets, part.bbox_weights)


def _by_image(level: Tensor, width: int) -> Tensor:
    """A map (B, A·width, H, W) as (B, H·W·A, width), in the order of the anchors."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, width)
