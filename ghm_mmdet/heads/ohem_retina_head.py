"""RetinaNet's head for losses that choose examples of each image over all levels."""

import torch
from mmdet.models.dense_heads import RetinaHead
from mmengine.structures import InstanceData
from torch import Tensor

from ..registry import MODELS


@MODELS.register_module()
class OHEMRetinaHead(RetinaHead):
    """`RetinaHead` that calls each loss once, on the anchors of each image over all levels.

    MMDetection's head calls its losses once per level, with the images of the mini-batch in one
    dimension. Here the losses get an image dimension: logits of shape (B, N, C) with labels
    (B, N), offsets of shape (B, N, 4). `OHEMLoss` mines in each image by it.

    Args: as `RetinaHead`, but for `reg_decoded_bbox=True`, which raises `ValueError`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if self.reg_decoded_bbox:
            raise ValueError(
                'reg_decoded_bbox must be False, got True: OHEMRetinaHead regresses encoded offsets'
            )

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a mini-batch; arguments as `AnchorHead.loss_by_feat`."""
        sizes = [score.shape[-2:] for score in cls_scores]
        anchors, valid_flags = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        *targets, avg_factor = self.get_targets(
            anchors,
            valid_flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore=batch_gt_instances_ignore,
        )
        labels, label_weights, offsets, offset_weights = (torch.cat(level, 1) for level in targets)
        scores = _by_image(cls_scores, self.cls_out_channels)
        predicted = _by_image(bbox_preds, self.bbox_coder.encode_size)
        return dict(
            loss_cls=self.loss_cls(scores, labels, label_weights, avg_factor=avg_factor),
            loss_bbox=self.loss_bbox(predicted, offsets, offset_weights, avg_factor=avg_factor),
        )


def _by_image(maps: list[Tensor], width: int) -> Tensor:
    """Maps (B, A·width, H, W) of each level as one (B, N, width), in the order of the anchors."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps], 1)
