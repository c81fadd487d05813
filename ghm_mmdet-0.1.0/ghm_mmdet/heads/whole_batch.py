"""One call of each loss for the whole mini-batch, instead of one per FPN level or image."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import AnchorHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor


class WholeBatchLosses(AnchorHead):
    """Mixin for an anchor head that calls `loss_cls` and `loss_bbox` part by part.

    A part is one of RetinaNet's FPN levels, or one image of SSD. Here it is collected what the
    losses are to be called with, and each is called once.
    """

    def loss_by_feat(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The losses of the mini-batch; arguments as those of MMDetection's head.

        Returns:
            'loss_cls' and 'loss_bbox', a scalar each.
        """
        losses = {}
        # MMDetection's head lists, by loss, what `loss_by_feat_single` returned of each part.
        for name, parts in super().loss_by_feat(*args, **kwargs).items():
            *examples, avg_factors = zip(*parts)
            pred, target, weight = map(torch.cat, examples)
            losses[name] = getattr(self, name)(pred, target, weight, avg_factor=avg_factors[0])
        return losses

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: int,
    ) -> tuple[tuple, tuple]:
        """What each loss is to be called with for one part.

        Args:
            cls_score: Shape (B, A·C, H, W) for the A anchors of each cell; (N, C) of one image.
            bbox_pred: Shape (B, A·D, H, W); (N, D). D is 4, or what the box coder encodes.
            anchors, bbox_targets, bbox_weights: Shape (B, H·W·A, D); (N, D).
            labels, label_weights: Shape (B, H·W·A); (N,).
            avg_factor: Of all parts.

        Returns:
            Predictions, targets and weights of the examples, and `avg_factor`, for each loss.
        """
        if cls_score.dim() == 4:
            cls_score, bbox_pred = (x.permute(0, 2, 3, 1) for x in (cls_score, bbox_pred))
        cls_score = cls_score.reshape(-1, self.cls_out_channels)
        bbox_pred = bbox_pred.reshape(-1, self.bbox_coder.encode_size)
        if self.reg_decoded_bbox:
            anchors = anchors.reshape(-1, anchors.size(-1))
            bbox_pred = get_box_tensor(self.bbox_coder.decode(anchors, bbox_pred))
        targets, weights = (x.reshape(-1, x.size(-1)) for x in (bbox_targets, bbox_weights))
        cls_examples = cls_score, labels.flatten(), label_weights.flatten(), avg_factor
        return cls_examples, (bbox_pred, targets, weights, avg_factor)
