"""GHMSSDHead: SSD with losses from the config, in the place of its own."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import SSDHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR, GHMSSDHead
from ghm_mmdet.registry import MODELS

from . import reference

CROSS_ENTROPY = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False)
HARD_NEGATIVES = dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=False)
SMOOTH_L1 = dict(type='mmdet.SmoothL1Loss', beta=1.0)
GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=False, formula='paper')
GHM_R = dict(type='ghm_mmdet.GHMR', bins=10, momentum=0.7, loss_weight=10.0, formula='paper')
IMAGES = [dict(img_shape=s, pad_shape=(64, 64), scale_factor=(1, 1)) for s in ((64, 64), (64, 48))]
CLASSES = 3


def make_head(name: str, neg_pos_ratio: float = 3, **settings: Any) -> SSDHead:
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type=name,
            num_classes=CLASSES,
            in_channels=(8, 8),
            anchor_generator=dict(
                type='mmdet.SSDAnchorGenerator',
                scale_major=False,
                strides=[8, 16],
                ratios=[[2], [2]],
                min_sizes=[12, 24],
                max_sizes=[24, 48],
            ),
            bbox_coder=dict(
                type='mmdet.DeltaXYWHBBoxCoder',
                target_means=(0.0,) * 4,
                target_stds=(0.1, 0.1, 0.2, 0.2),
            ),
            train_cfg=dict(
                assigner=dict(
                    type='mmdet.MaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.5,
                    min_pos_iou=0.0,
                    ignore_iof_thr=-1,
                    gt_max_assign_all=False,
                ),
                sampler=dict(type='mmdet.PseudoSampler'),
                smoothl1_beta=1.0,
                allowed_border=-1,
                pos_weight=-1,
                neg_pos_ratio=neg_pos_ratio,
            ),
            test_cfg=ConfigDict(
                nms_pre=100,
                nms=dict(type='nms', iou_threshold=0.45),
                min_bbox_size=0,
                score_thr=0.02,
                max_per_img=20,
            ),
            **settings,
        )
    )
    for conv in head.cls_convs:
        nn.init.normal_(conv[-1].weight)
    return head


def make_batch() -> tuple[list[Tensor], list[InstanceData]]:
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(2, 8, size, size, generator=generator) for size in (8, 4)]
    boxes = [torch.tensor([[4.0, 4, 22, 20], [20, 8, 44, 36]]), torch.tensor([[9.0, 30, 25, 44]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    instances = [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels, strict=True)]
    return feats, instances


def losses_of(head: SSDHead, images: int = 2) -> dict[str, Tensor]:
    feats, instances = make_batch()
    feats = [feat[:images] for feat in feats]
    losses = head.loss_by_feat(*head(feats), instances[:images], IMAGES[:images])
    return {name: sum(of) if isinstance(of, list) else of for name, of in losses.items()}


@pytest.mark.parametrize(
    ('cross_entropy', 'neg_pos_ratio', 'images'),
    [
        # More negatives than there are: SSDHead mines none away.
        (CROSS_ENTROPY, 10**6, 2),
        (HARD_NEGATIVES, 10**6, 2),
        # It mines those of each image.
        (HARD_NEGATIVES, 3, 1),
        (HARD_NEGATIVES, 1, 1),
    ],
)
def test_losses_are_those_of_ssd(cross_entropy: dict, neg_pos_ratio: float, images: int) -> None:
    theirs = make_head('mmdet.SSDHead', neg_pos_ratio)
    if cross_entropy is HARD_NEGATIVES:
        cross_entropy = dict(cross_entropy, neg_pos_ratio=neg_pos_ratio)
    ours = make_head('ghm_mmdet.GHMSSDHead', loss_cls=cross_entropy, loss_bbox=SMOOTH_L1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    expected, values = losses_of(theirs, images), losses_of(ours, images)
    assert values.keys() == expected.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name].squeeze())
    for losses in (expected, values):
        sum(losses.values()).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad, other.grad)


def test_ghm_is_the_papers_mini_batch() -> None:
    """Eqs. 8-19 in float64 over the anchors of all images, and one step of Eq. 12."""
    head = make_head('ghm_mmdet.GHMSSDHead', loss_cls=GHM_C, loss_bbox=GHM_R)
    calls: dict[nn.Module, list] = {head.loss_cls: [], head.loss_bbox: []}
    for loss, seen in calls.items():
        loss.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
    values = losses_of(head)
    anchors = 2 * (8 * 8 + 4 * 4) * 4
    (logits, labels, weight), (pred, target, of_offsets) = (
        [x.detach().double().numpy() for x in seen[0]] for seen in calls.values()
    )
    assert [len(seen) for seen in calls.values()] == [1, 1]
    assert len(logits) == len(pred) == anchors
    labels = labels.astype(int)
    assert 0 < (labels < CLASSES).sum() < anchors / 10

    loss = reference.softmax_cross_entropy(logits, labels)
    total, average = reference.paper_region_loss(
        loss, 1 - np.exp(-loss), weight > 0, 30, 0.75, np.zeros(30)
    )
    assert values['loss_cls'].item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(head.loss_cls.acc_sum, average)

    d = pred - target
    total, average = reference.paper_region_loss(
        reference.asl1(d, 0.02),
        np.abs(reference.asl1_gradient(d, 0.02)),
        of_offsets > 0, 10, 0.7, np.zeros(10),
    )  # fmt: skip
    assert values['loss_bbox'].item() == pytest.approx(10 * total, rel=1e-5)
    np.testing.assert_allclose(head.loss_bbox.acc_sum, average)


def test_decoded_boxes_for_an_iou_loss() -> None:
    head = make_head(
        'ghm_mmdet.GHMSSDHead',
        loss_bbox=dict(type='mmdet.GIoULoss', reduction='none'),
        reg_decoded_bbox=True,
    )
    head.loss_bbox.forward = lambda pred, target, weight, avg_factor: pred[weight > 0]
    boxes = losses_of(head)['loss_bbox']
    assert boxes.abs().max() > 10, 'boxes in pixels'


def test_inference_and_parameters_are_those_of_ssd_head() -> None:
    theirs, ours = make_head('mmdet.SSDHead'), make_head('ghm_mmdet.GHMSSDHead')
    assert isinstance(ours, GHMSSDHead)
    assert isinstance(ours.loss_cls, GHMC) and not ours.loss_cls.use_sigmoid
    assert isinstance(ours.loss_bbox, GHMR)
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    keys = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(key.startswith('loss_') for key in keys.missing_keys)
    # Inference of MMDetection 3.3 and 3.5 reads a `loss_cls`, which its SSDHead has not.
    theirs.loss_cls = None
    feats, _ = make_batch()
    results = []
    for head in (theirs.eval(), ours.eval()):
        with torch.no_grad():
            results.append(head.predict_by_feat(*head(feats), batch_img_metas=IMAGES))
    for expected, found in zip(*results, strict=True):
        assert len(expected) > 0
        assert torch.equal(expected.bboxes, found.bboxes)
        assert torch.equal(expected.scores, found.scores)
        assert torch.equal(expected.labels, found.labels)


def test_images_without_objects() -> None:
    head = make_head('ghm_mmdet.GHMSSDHead')
    feats, _ = make_batch()
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    losses = head.loss_by_feat(*head(feats), [empty, empty], IMAGES)
    sum(losses.values()).backward()
    assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_sigmoid_loss_is_refused() -> None:
    with pytest.raises(ValueError, match='loss_cls of GHMSSDHead must say use_sigmoid=False'):
        make_head('ghm_mmdet.GHMSSDHead', loss_cls=dict(type='ghm_mmdet.GHMC', use_sigmoid=True))
