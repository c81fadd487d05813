"""SSD's head, with losses from the config."""

from mmdet.models.dense_heads import SSDHead
from torch import Tensor

from ..registry import MODELS
from .mini_batch import Examples, loss_of_mini_batch

GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=False, loss_weight=1.0)
GHM_R = dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)


@MODELS.register_module()
class GHMSSDHead(SSDHead):
    """`SSDHead` with `loss_cls` and `loss_bbox`, each called once over the mini-batch.

    `SSDHead` itself computes softmax cross entropy, of the positives and of the three times as
    many negatives with the largest loss of each image, and smooth L1. Here every anchor is an
    example, hard negatives are not mined, and the density is that of the whole mini-batch.
    `OHEMLoss` with `use_sigmoid=False` is the loss of `SSDHead`, but for mining its negatives
    from the whole mini-batch.
    The other arguments, the parameters and inference are those of `SSDHead`; of `train_cfg`,
    `neg_pos_ratio` and `smoothl1_beta` are not used. (Inference of MMDetection 3.3 and 3.5
    reads `loss_cls` of every head and fails on `SSDHead`, which has none; here it works, for
    the checkpoints of `SSDHead` too.)

    Args:
        *args, **kwargs: As `SSDHead`.
        loss_cls: Config of a loss of softmax logits, shape (N, C + 1), background last.
            Default: GHM-C with `use_sigmoid=False`, M = 30 and α = 0.75.
        loss_bbox: Config of the regression loss. Default: GHM-R with μ = 0.02, M = 10,
            α = 0.7 and weight 10.

    Raises:
        ValueError: `loss_cls` is not a softmax loss.
    """

    def __init__(
        self, *args: object, loss_cls: dict = GHM_C, loss_bbox: dict = GHM_R, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        if loss_cls.get('use_sigmoid', False):
            raise ValueError(
                'loss_cls of GHMSSDHead must say use_sigmoid=False, got use_sigmoid='
                f'{loss_cls["use_sigmoid"]!r}: SSD reads its scores through softmax'
            )
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchor: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: int,
    ) -> tuple[tuple[Examples, int], tuple[Examples, int]]:
        """What the losses are to be called with for one image, instead of their values.

        Args:
            cls_score: Shape (A, C + 1).
            bbox_pred, anchor, bbox_targets, bbox_weights: Shape (A, 4).
            labels, label_weights: Shape (A,).
            avg_factor: Number of positive anchors in the mini-batch.

        Returns:
            The examples of the classification loss and of the regression loss, each with
            `avg_factor`.
        """
        if self.reg_decoded_bbox:
            bbox_pred = self.bbox_coder.decode(anchor, bbox_pred)
        cls_examples = (cls_score, labels, label_weights)
        bbox_examples = (bbox_pred, bbox_targets, bbox_weights)
        return (cls_examples, avg_factor), (bbox_examples, avg_factor)

    def loss_by_feat(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The losses of the mini-batch; arguments as `SSDHead.loss_by_feat`.

        Returns:
            'loss_cls' and 'loss_bbox', a scalar each.
        """
        images = super().loss_by_feat(*args, **kwargs)
        return {name: loss_of_mini_batch(getattr(self, name), of) for name, of in images.items()}
