"""GHMRetinaHead: the losses of all FPN levels at once, in the place of RetinaHead."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ghm_mmdet import GHMRetinaHead
from ghm_mmdet.registry import MODELS

from . import reference

FOCAL = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
SMOOTH_L1 = dict(type='mmdet.SmoothL1Loss', beta=1 / 9)
GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True, formula='paper')
GHM_R = dict(type='ghm_mmdet.GHMR', bins=10, momentum=0.7, loss_weight=10.0, formula='paper')
IMAGES = [dict(img_shape=s, pad_shape=(64, 64)) for s in ((64, 64), (64, 48))]
CLASSES = 3


def make_heads(**settings: Any) -> tuple[RetinaHead, GHMRetinaHead]:
    """The same head, per level and over all levels, with the same weights."""
    settings = dict(
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(
            type='mmdet.AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=2,
            ratios=[1.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(
            type='mmdet.DeltaXYWHBBoxCoder', target_means=(0.0,) * 4, target_stds=(1.0,) * 4
        ),
        train_cfg=dict(
            assigner=dict(
                type='mmdet.MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='mmdet.PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=ConfigDict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=20,
        ),
        **settings,
    )
    torch.manual_seed(0)
    per_level = MODELS.build(dict(type='mmdet.RetinaHead', **settings))
    whole = MODELS.build(dict(type='ghm_mmdet.GHMRetinaHead', **settings))
    nn.init.normal_(per_level.retina_cls.weight)
    whole.load_state_dict(per_level.state_dict(), strict=True)
    return per_level, whole


def make_batch() -> tuple[list[Tensor], list[InstanceData]]:
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(2, 8, size, size, generator=generator) for size in (8, 4, 2)]
    boxes = [torch.tensor([[4.0, 4, 22, 20], [20, 8, 60, 56]]), torch.tensor([[9.0, 30, 25, 44]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    instances = [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels, strict=True)]
    return feats, instances


def losses_of(head: RetinaHead) -> dict[str, Tensor]:
    feats, instances = make_batch()
    losses = head.loss_by_feat(*head(feats), instances, IMAGES)
    return {name: sum(of) if isinstance(of, list) else of for name, of in losses.items()}


def calls_of(loss: nn.Module, head: RetinaHead) -> list[tuple[np.ndarray, ...]]:
    """What a loss is called with, one entry a call, in float64."""
    calls = []
    handle = loss.register_forward_pre_hook(
        lambda _, args: calls.append(tuple(x.detach().double().numpy() for x in args))
    )
    losses_of(head)
    handle.remove()
    return calls


@pytest.mark.parametrize(
    'loss_bbox',
    [
        dict(loss_bbox=SMOOTH_L1),
        dict(loss_bbox=dict(type='mmdet.GIoULoss'), reg_decoded_bbox=True),
    ],
    ids=['offsets', 'decoded'],
)
def test_losses_that_divide_by_avg_factor_stay_the_same(loss_bbox: dict[str, Any]) -> None:
    per_level, whole = make_heads(loss_cls=FOCAL, **loss_bbox)
    expected, values = losses_of(per_level), losses_of(whole)
    assert values.keys() == expected.keys()
    torch.testing.assert_close(values, expected)
    for head, losses in ((per_level, expected), (whole, values)):
        sum(losses.values()).backward()
        assert head.retina_reg.weight.grad.any()
    for mine, other in zip(whole.parameters(), per_level.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_ghm_is_the_papers_mini_batch() -> None:
    """Eqs. 8-19 in float64 over the examples of all levels, and one step of Eq. 12."""
    per_level, whole = make_heads(loss_cls=GHM_C, loss_bbox=GHM_R)
    values = losses_of(whole)
    levels = calls_of(per_level.loss_cls, per_level)
    assert len(levels) == 3
    logits, labels, weight = (np.concatenate(part) for part in zip(*levels, strict=True))
    p_star = reference.one_hot(labels.astype(int), CLASSES)
    valid = np.repeat(weight[:, None] > 0, CLASSES, 1)
    total, average = reference.paper_region_loss(
        reference.cross_entropy(logits, p_star),
        np.abs(reference.sigmoid(logits) - p_star),
        valid, 30, 0.75, np.zeros(30),
    )  # fmt: skip
    assert values['loss_cls'].item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(whole.loss_cls.acc_sum, average)

    levels = calls_of(per_level.loss_bbox, per_level)
    pred, target, weight = (np.concatenate(part) for part in zip(*levels, strict=True))
    d = pred - target
    total, average = reference.paper_region_loss(
        reference.asl1(d, 0.02),
        np.abs(reference.asl1_gradient(d, 0.02)),
        weight > 0, 10, 0.7, np.zeros(10),
    )  # fmt: skip
    assert values['loss_bbox'].item() == pytest.approx(10 * total, rel=1e-5)
    np.testing.assert_allclose(whole.loss_bbox.acc_sum, average)


def test_each_loss_is_called_once() -> None:
    per_level, whole = make_heads(loss_cls=GHM_C, loss_bbox=GHM_R)
    for loss in ('loss_cls', 'loss_bbox'):
        assert len(calls_of(getattr(per_level, loss), per_level)) == 3
        assert len(calls_of(getattr(whole, loss), whole)) == 1


def test_inference_is_that_of_retina_head() -> None:
    feats, _ = make_batch()
    images = [dict(image, scale_factor=(1.0, 1.0)) for image in IMAGES]
    results = []
    for head in make_heads(loss_cls=GHM_C, loss_bbox=GHM_R):
        head.eval()
        with torch.no_grad():
            results.append(head.predict_by_feat(*head(feats), batch_img_metas=images))
    for expected, found in zip(*results, strict=True):
        assert len(expected) > 0
        assert torch.equal(expected.bboxes, found.bboxes)
        assert torch.equal(expected.scores, found.scores)
        assert torch.equal(expected.labels, found.labels)


def test_images_without_objects() -> None:
    _, whole = make_heads(loss_cls=GHM_C, loss_bbox=GHM_R)
    feats, _ = make_batch()
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    losses = whole.loss_by_feat(*whole(feats), [empty, empty], IMAGES)
    sum(losses.values()).backward()
    assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in whole.parameters())
