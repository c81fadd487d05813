"""SSD's head, with losses from the config."""

from __future__ import annotations

from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS as MMDET_MODELS

from ..presets import RELEASED
from ..registry import MODELS
from .whole_batch import WholeBatchLosses

SOFTMAX_GHM_C = {**RELEASED.ghm_c, 'use_sigmoid': False}


@MODELS.register_module()
class GHMSSDHead(WholeBatchLosses, SSDHead):
    """`SSDHead` with `loss_cls` and `loss_bbox`, each called once over the mini-batch.

    `SSDHead` itself computes softmax cross entropy, of the positives and of the three times as
    many negatives with the largest loss of each image, and smooth L1. `OHEMLoss` with
    `use_sigmoid=False` mines from the whole mini-batch; with GHM-C every anchor is an example.
    The other arguments, the parameters and inference are those of `SSDHead`; of `train_cfg`,
    `neg_pos_ratio` and `smoothl1_beta` are not used. Inference of MMDetection 3.3 and 3.5 fails
    on `SSDHead`, for it reads `loss_cls` of every head; here it works, with its checkpoints too.

    Args:
        *args, **kwargs: As `SSDHead`.
        loss_cls: Config of a loss of softmax logits, shape (N, C + 1), background last.
            Default: GHM-C as released, with `use_sigmoid=False`.
        loss_bbox: Config of the regression loss. Default: GHM-R as released.

    Raises:
        ValueError: `loss_cls` is not a softmax loss.
    """

    def __init__(
        self,
        *args: object,
        loss_cls: dict = SOFTMAX_GHM_C,
        loss_bbox: dict = RELEASED.ghm_r,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        # MMDetection's, as in its own heads: a loss without a scope is one of its losses.
        self.loss_cls = MMDET_MODELS.build(loss_cls)
        self.loss_bbox = MMDET_MODELS.build(loss_bbox)
        if getattr(self.loss_cls, 'use_sigmoid', False):
            raise ValueError(
                f'loss_cls of GHMSSDHead must have use_sigmoid=False, got {loss_cls}: '
                'SSD reads its scores through softmax'
            )
