"""One call of each loss for the whole mini-batch, instead of one per FPN level or image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Tuple

import torch
from mmdet.models.dense_heads import AnchorHead
from torch import Tensor

#: The positional arguments of a loss: predictions, targets and weights of each example.
Examples = Tuple[Tensor, Tensor, Tensor]


class Part(NamedTuple):
    """The B images of one of RetinaNet's FPN levels, A anchors each; or one image of SSD.

    Attributes:
        cls_score: Shape (B, A·C, H, W); (A, C + 1) in SSD.
        bbox_pred: Shape (B, A·4, H, W); (A, 4).
        anchors, bbox_targets, bbox_weights: Shape (B, H·W·A, 4); (A, 4).
        labels, label_weights: Shape (B, H·W·A); (A,).
    """

    cls_score: Tensor
    bbox_pred: Tensor
    anchors: Tensor
    labels: Tensor
    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor


class WholeBatchLosses(AnchorHead):
    """Mixin for an anchor head that calls `loss_cls` and `loss_bbox` part by part.

    Here it collects what the losses are to be called with, and each is called once.
    """

    #: What `loss_cls` and `loss_bbox` are to be called with for one part.
    examples_of_part: Callable[[Part], tuple[Examples, Examples]]

    def loss_by_feat(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The losses of the mini-batch; arguments as those of MMDetection's head.

        Returns:
            'loss_cls' and 'loss_bbox', a scalar each.
        """
        losses = {}
        # MMDetection's head lists, by loss, what `loss_by_feat_single` returned of each part.
        for name, parts in super().loss_by_feat(*args, **kwargs).items():
            examples = [examples_of_part for examples_of_part, _ in parts]
            pred, target, weight = (torch.cat(tensors) for tensors in zip(*examples))
            _, avg_factor = parts[0]
            losses[name] = getattr(self, name)(pred, target, weight, avg_factor=avg_factor)
        return losses

    def loss_by_feat_single(self, *tensors: Tensor, avg_factor: int) -> tuple[tuple, tuple]:
        """What each loss is to be called with for one part, and the `avg_factor` of all."""
        cls_examples, bbox_examples = self.examples_of_part(Part(*tensors))
        return (cls_examples, avg_factor), (bbox_examples, avg_factor)
