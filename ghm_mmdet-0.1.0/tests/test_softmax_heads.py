"""GHM-C of a softmax in MMDetection's heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads.bbox_heads import BBoxHead, Shared2FCBBoxHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from ghm_mmdet.registry import MODELS

from . import reference

SOFTMAX = dict(type='ghm_mmdet.GHMC', use_sigmoid=False, bins=10, momentum=0.75)


def test_config_must_say_use_sigmoid() -> None:
    with pytest.raises(ValueError, match=r'use_sigmoid is missing .*use_sigmoid=False is the'):
        MODELS.build(dict(type='ghm_mmdet.GHMC', bins=30))
    assert not MODELS.build(dict(SOFTMAX)).use_sigmoid


def box_head(**settings: object) -> BBoxHead:
    torch.manual_seed(0)
    return Shared2FCBBoxHead(
        in_channels=4, fc_out_channels=8, roi_feat_size=2, num_classes=3, **settings
    )


def test_box_head_loss_accuracy_and_inference() -> None:
    """Its losses, its accuracy and its softmax at test time, beside those of cross entropy."""
    torch.manual_seed(1)
    harmonized, plain = box_head(loss_cls=dict(SOFTMAX)), box_head()
    plain.load_state_dict(harmonized.state_dict(), strict=False)
    assert harmonized.fc_cls.out_features == plain.fc_cls.out_features == 4
    features, rois = torch.randn(40, 4, 2, 2), torch.rand(40, 5) * 20
    labels = torch.randint(0, 4, (40,))
    weight, offsets = torch.ones(40), torch.randn(40, 4)
    scores, boxes = harmonized(features)
    args = (scores, boxes, rois, labels, weight, offsets, torch.ones(40, 4))
    found, expected = harmonized.loss(*args), plain.loss(*args)
    assert found.keys() == expected.keys() == {'loss_cls', 'acc', 'loss_bbox'}
    assert torch.equal(found['acc'], expected['acc'])
    assert torch.equal(found['acc'], accuracy(scores, labels))
    cross_entropy = reference.softmax_cross_entropy(
        scores.detach().double().numpy(), labels.numpy()
    )
    g = 1 - np.exp(-cross_entropy)
    counts = reference.region_counts(g, 10, labels.numpy() >= 0)
    # The first S is (1 - α)R.
    of_rows = cross_entropy / counts[[reference.region_of(value, 10) for value in g]]
    expected_loss = of_rows.sum() / (counts > 0).sum() / 0.25
    np.testing.assert_allclose(found['loss_cls'].item(), expected_loss, rtol=1e-5)
    found['loss_cls'].backward()
    assert harmonized.fc_cls.weight.grad.abs().sum() > 0
    predictions = (rois,), (scores.detach(),), (boxes.detach(),), [dict(img_shape=(20, 20))]
    cfg = ConfigDict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9)
    results = [
        head.predict_by_feat(*predictions, rcnn_test_cfg=cfg)[0] for head in (harmonized, plain)
    ]
    assert torch.equal(results[0].scores, results[1].scores) and len(results[0])
    assert torch.equal(results[0].bboxes, results[1].bboxes)


def test_detr_head_gives_its_class_weights() -> None:
    """DETR turns `class_weight` and `bg_cls_weight` of the config into C + 1 weights."""
    loss_cls = dict(**SOFTMAX, class_weight=1.0, bg_cls_weight=0.1)
    head = DETRHead(num_classes=3, embed_dims=8, loss_cls=loss_cls)
    assert head.cls_out_channels == 4 and head.bg_cls_weight == 0.1
    torch.testing.assert_close(head.loss_cls.class_weight, torch.tensor([1.0, 1.0, 1.0, 0.1]))
    torch.manual_seed(0)
    scores = torch.randn(2, 10, 4, requires_grad=True)
    boxes = torch.rand(2, 10, 4, requires_grad=True)
    truth = InstanceData(
        labels=torch.tensor([0, 2]), bboxes=torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20]])
    )
    losses = head.loss_by_feat_single(
        scores, boxes, [truth, truth], [dict(img_shape=(32, 32), scale_factor=1)] * 2
    )
    sum(losses).backward()
    assert all(loss.isfinite() for loss in losses) and scores.grad.abs().sum() > 0
    assert head.loss_cls.acc_sum.sum() == 0.25 * 20
