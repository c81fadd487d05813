"""GHMRetinaHead and GHMSSDHead: one mini-batch of all levels, losses from the config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RetinaHead, SSDHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.losses import GHMR as MMDetGHMR
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.registry import TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR, GHMRetinaHead, GHMSSDHead
from ghm_mmdet.registry import MODELS

from . import reference

FOCAL = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
CROSS_ENTROPY = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False)
HARD_NEGATIVES = dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=False)
SMOOTH_L1 = dict(type='mmdet.SmoothL1Loss', beta=1 / 9)
GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, formula='paper')
GHM_R = dict(type='ghm_mmdet.GHMR', bins=10, momentum=0.7, loss_weight=10.0, formula='paper')
GHM = dict(loss_cls=dict(**GHM_C, use_sigmoid=True), loss_bbox=GHM_R)
SOFTMAX_GHM = dict(loss_cls=dict(**GHM_C, use_sigmoid=False), loss_bbox=GHM_R)
IMAGES = [dict(img_shape=s, pad_shape=(64, 64), scale_factor=(1, 1)) for s in ((64, 64), (64, 48))]
CLASSES = 3


def build(
    name: str, stds: tuple, neg_iou_thr: float, train_cfg: dict, **settings: Any
) -> nn.Module:
    torch.manual_seed(0)
    assigner = dict(
        type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=neg_iou_thr, min_pos_iou=0,
        ignore_iof_thr=-1, gt_max_assign_all='Retina' in name,
    )  # fmt: skip
    sampler = dict(type='mmdet.PseudoSampler')
    train_cfg = dict(
        train_cfg, assigner=assigner, sampler=sampler, allowed_border=-1, pos_weight=-1
    )
    nms = dict(type='nms', iou_threshold=0.5)
    test_cfg = dict(nms_pre=100, min_bbox_size=0, score_thr=0.02, nms=nms, max_per_img=20)
    coder = dict(type='mmdet.DeltaXYWHBBoxCoder', target_means=(0.0,) * 4, target_stds=stds)
    config = dict(type=name, num_classes=CLASSES, bbox_coder=coder, train_cfg=train_cfg)
    return MODELS.build({**config, 'test_cfg': ConfigDict(test_cfg), **settings})


def retina_heads(**settings: Any) -> tuple[RetinaHead, GHMRetinaHead]:
    """The same head, per level and over all levels, with the same weights."""
    anchors = dict(
        type='mmdet.AnchorGenerator', octave_base_scale=2, scales_per_octave=2, ratios=[1.0],
        strides=[8, 16, 32],
    )  # fmt: skip
    sizes = dict(in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors)
    per_level, whole = (
        build(name, (1.0,) * 4, 0.4, {}, **sizes, **settings)
        for name in ('mmdet.RetinaHead', 'ghm_mmdet.GHMRetinaHead')
    )
    nn.init.normal_(per_level.retina_cls.weight)
    whole.load_state_dict(per_level.state_dict(), strict=True)
    return per_level, whole


def ssd_head(name: str, neg_pos_ratio: float = 3, **settings: Any) -> SSDHead:
    anchors = dict(
        type='mmdet.SSDAnchorGenerator', scale_major=False, strides=[8, 16], ratios=[[2], [2]],
        min_sizes=[12, 24], max_sizes=[24, 48],
    )  # fmt: skip
    train_cfg = dict(smoothl1_beta=1.0, neg_pos_ratio=neg_pos_ratio)
    settings = dict(settings, in_channels=(8, 8), anchor_generator=anchors)
    head = build(name, (0.1, 0.1, 0.2, 0.2), 0.5, train_cfg, **settings)
    for conv in head.cls_convs:
        nn.init.normal_(conv[-1].weight)
    return head


def features(head: BaseDenseHead) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (8, 4) if isinstance(head, SSDHead) else (8, 4, 2)
    return [torch.randn(2, 8, size, size, generator=generator) for size in sizes]


def losses_of(head: BaseDenseHead, images: int = 2, empty: bool = False) -> dict[str, Tensor]:
    boxes = [torch.tensor([[4.0, 4, 22, 20], [20, 8, 60, 56]]), torch.tensor([[9.0, 30, 25, 44]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    if empty:
        boxes, labels = [torch.zeros(0, 4)] * 2, [torch.zeros(0).long()] * 2
    instances = [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels)]
    outputs = head([feature[:images] for feature in features(head)])
    losses = head.loss_by_feat(*outputs, instances[:images], IMAGES[:images])
    return {name: sum(of) if isinstance(of, list) else of for name, of in losses.items()}


def calls_of(head: BaseDenseHead) -> tuple[list, list]:
    """What the losses of a head are called with, one entry a call, in float64."""
    calls = [], []
    for loss, seen in zip((head.loss_cls, head.loss_bbox), calls):
        loss.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append([x.detach().double().numpy() for x in args])
        )
    losses_of(head)
    return calls


def assert_losses_and_gradients_equal(ours: nn.Module, theirs: nn.Module, images: int = 2) -> None:
    expected, values = losses_of(theirs, images), losses_of(ours, images)
    assert values.keys() == expected.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name].squeeze())
    for losses in (expected, values):
        sum(losses.values()).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.grad, other.grad)


@TASK_UTILS.register_module()
class FiveNumbersCoder(DeltaXYWHBBoxCoder):
    """Encodes a fifth number, as the coders of rotated boxes do: here the area, in parts of 1000.

    Boxes are not decoded from it.
    """

    encode_size = 5

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        area = ((gt_bboxes[:, 2:] - gt_bboxes[:, :2]) / 1000).prod(1, keepdim=True)
        return torch.cat([super().encode(bboxes, gt_bboxes), area], 1)


@pytest.mark.parametrize(
    'settings',
    [
        dict(loss_bbox=SMOOTH_L1),
        dict(loss_bbox=dict(type='mmdet.GIoULoss'), reg_decoded_bbox=True),
        dict(loss_cls=CROSS_ENTROPY, loss_bbox=SMOOTH_L1),
        dict(loss_bbox=SMOOTH_L1, bbox_coder=dict(type='mmdet.FiveNumbersCoder')),
    ],
    ids=['offsets', 'decoded', 'softmax', 'five numbers'],
)
def test_losses_that_divide_by_avg_factor_are_those_of_retina(settings: dict[str, Any]) -> None:
    per_level, whole = retina_heads(**{'loss_cls': FOCAL, **settings})
    scores, numbers = 4 if 'loss_cls' in settings else 3, 5 if 'bbox_coder' in settings else 4
    assert (whole.retina_cls.out_channels, whole.retina_reg.out_channels) == (
        2 * scores, 2 * numbers,
    )  # fmt: skip
    assert_losses_and_gradients_equal(whole, per_level)
    assert per_level.retina_reg.weight.grad.any() and whole.retina_reg.weight.grad.any()


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
    theirs = ssd_head('mmdet.SSDHead', neg_pos_ratio)
    if cross_entropy is HARD_NEGATIVES:
        cross_entropy = dict(cross_entropy, neg_pos_ratio=neg_pos_ratio)
    smooth_l1 = dict(SMOOTH_L1, beta=1.0)
    ours = ssd_head('ghm_mmdet.GHMSSDHead', loss_cls=cross_entropy, loss_bbox=smooth_l1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_losses_and_gradients_equal(ours, theirs, images)
    assert all(parameter.grad.any() for parameter in ours.parameters())


@pytest.mark.parametrize('kind', ['retina', 'ssd'])
def test_ghm_is_the_papers_mini_batch(kind: str) -> None:
    """Eqs. 8-19 in float64 over the anchors of all images and levels, and one step of Eq. 12."""
    if kind == 'retina':
        per_level, head = retina_heads(**GHM)
        calls, expected_calls = calls_of(per_level), 3
    else:
        head = ssd_head('ghm_mmdet.GHMSSDHead', **SOFTMAX_GHM)
        calls, expected_calls = calls_of(ssd_head('ghm_mmdet.GHMSSDHead', **SOFTMAX_GHM)), 1
    assert [len(seen) for seen in calls] == [expected_calls] * 2
    values = losses_of(head)
    (logits, labels, weight), (pred, target, of_offsets) = (
        [np.concatenate(part) for part in zip(*seen)] for seen in calls
    )
    labels = labels.astype(int)
    if kind == 'retina':
        p_star = reference.one_hot(labels, CLASSES)
        loss, g = reference.cross_entropy(logits, p_star), reference.sigmoid(logits) - p_star
        valid = np.repeat(weight[:, None] > 0, CLASSES, 1)
    else:
        anchors = 2 * (8 * 8 + 4 * 4) * 4
        assert len(logits) == len(pred) == anchors
        assert 0 < (labels < CLASSES).sum() < anchors / 10
        loss = reference.softmax_cross_entropy(logits, labels)
        g, valid = 1 - np.exp(-loss), weight > 0
    total, average = reference.paper_region_loss(loss, np.abs(g), valid, 30, 0.75, np.zeros(30))
    assert values['loss_cls'].item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(head.loss_cls.acc_sum, average)

    d = pred - target
    loss, gr = reference.asl1(d, 0.02), np.abs(reference.asl1_gradient(d, 0.02))
    total, average = reference.paper_region_loss(loss, gr, of_offsets > 0, 10, 0.7, np.zeros(10))
    assert values['loss_bbox'].item() == pytest.approx(10 * total, rel=1e-5)
    np.testing.assert_allclose(head.loss_bbox.acc_sum, average)


def test_each_loss_is_called_once() -> None:
    for head, number in zip(retina_heads(**GHM), (3, 1)):
        assert [len(seen) for seen in calls_of(head)] == [number] * 2


def test_decoded_boxes_for_an_iou_loss() -> None:
    iou_loss = dict(type='mmdet.GIoULoss', reduction='none')
    head = ssd_head('ghm_mmdet.GHMSSDHead', loss_bbox=iou_loss, reg_decoded_bbox=True)
    head.loss_bbox.forward = lambda pred, target, weight, avg_factor: pred[weight > 0]
    boxes = losses_of(head)['loss_bbox']
    assert boxes.abs().max() > 10, 'boxes in pixels'


def test_parameters_are_those_of_ssd_head() -> None:
    theirs, ours = ssd_head('mmdet.SSDHead'), ssd_head('ghm_mmdet.GHMSSDHead')
    assert isinstance(ours, GHMSSDHead)
    assert isinstance(ours.loss_cls, GHMC) and not ours.loss_cls.use_sigmoid
    assert isinstance(ours.loss_bbox, GHMR)
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    keys = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(key.startswith('loss_') for key in keys.missing_keys)


def test_losses_without_a_scope_are_those_of_mmdetection() -> None:
    """As in MMDetection's own heads, though this head is of another registry."""
    loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False)
    head = ssd_head('ghm_mmdet.GHMSSDHead', loss_cls=loss_cls, loss_bbox=dict(type='GHMR'))
    assert type(head.loss_cls) is CrossEntropyLoss
    assert type(head.loss_bbox) is MMDetGHMR is not GHMR


def test_a_sigmoid_in_ssd_is_refused() -> None:
    with pytest.raises(ValueError, match='loss_cls of GHMSSDHead must have use_sigmoid=False'):
        ssd_head('ghm_mmdet.GHMSSDHead', loss_cls=FOCAL)


@pytest.mark.parametrize('kind', ['retina', 'ssd'])
def test_inference_is_that_of_the_original(kind: str) -> None:
    if kind == 'retina':
        heads = retina_heads(**GHM)
    else:
        heads = ssd_head('mmdet.SSDHead'), ssd_head('ghm_mmdet.GHMSSDHead')
        heads[1].load_state_dict(heads[0].state_dict(), strict=False)
        # Inference of MMDetection 3.3 and 3.5 reads a `loss_cls`, which its SSDHead has not.
        heads[0].loss_cls = None
    results = []
    for head in heads:
        head.eval()
        with torch.no_grad():
            outputs = head(features(head))
            results.append(head.predict_by_feat(*outputs, batch_img_metas=IMAGES))
    for expected, found in zip(*results):
        assert len(expected) > 0
        for name in ('bboxes', 'scores', 'labels'):
            assert torch.equal(expected[name], found[name])


@pytest.mark.parametrize('kind', ['retina', 'ssd'])
def test_images_without_objects(kind: str) -> None:
    head = retina_heads(**GHM)[1] if kind == 'retina' else ssd_head('ghm_mmdet.GHMSSDHead')
    losses = losses_of(head, empty=True)
    sum(losses.values()).backward()
    assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
