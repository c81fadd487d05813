"""What harmonize reads around a loss: the settings of its stage, and those that are off."""

from __future__ import annotations

from typing import Any

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.swap.writer import difference

FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
L1 = dict(type='L1Loss', loss_weight=1.0)


def loss_cls_of(head: str, model: dict) -> Any:
    """What becomes of the classification loss of a head."""
    [loss] = [
        loss
        for loss in losses_found(Config(dict(model=model))).losses
        if loss.where == f'model.{head}.loss_cls'
    ]
    return loss


@pytest.mark.parametrize(('of_rpn', 'of_rcnn'), [(3.0, -1), (-1, 3.0)])
def test_any_head_in_the_place_of_an_rpn_is_trained_by_its_settings(
    of_rpn: float, of_rcnn: float
) -> None:
    """MMDetection's two-stage detectors hand `train_cfg.rpn` to whatever `rpn_head` is."""
    model = dict(
        type='FasterRCNN',
        rpn_head=dict(
            type='RetinaHead', num_classes=1, in_channels=8, loss_cls=FOCAL, loss_bbox=L1
        ),
        train_cfg=dict(rpn=dict(pos_weight=of_rpn), rcnn=dict(pos_weight=of_rcnn)),
    )
    loss = loss_cls_of('rpn_head', model)
    assert (loss.ghm is None) == (of_rpn == 3.0)
    assert ('pos_weight=3.0 weighs positives' in loss.why) == (of_rpn == 3.0)


@pytest.mark.parametrize(
    ('loss', 'key'),
    [(FOCAL, 'activated'), (dict(type='CrossEntropyLoss', use_sigmoid=True), 'use_mask')],
)
@pytest.mark.parametrize('value', [True, False])
def test_a_setting_that_is_off_is_no_reason_to_keep_a_loss(
    loss: dict, key: str, value: bool
) -> None:
    head = dict(type='RetinaHead', num_classes=3, in_channels=8, loss_bbox=L1)
    model = dict(type='RetinaNet', bbox_head=dict(head, loss_cls={**loss, key: value}))
    assert (loss_cls_of('bbox_head', model).ghm is None) == value


def test_a_sigmoid_that_is_not_written_is_a_reason_to_keep_a_loss() -> None:
    """The head has channels for a softmax then, and others with GHM-C, which has it written."""
    for loss in (dict(type='FocalLoss'), dict(type='CrossEntropyLoss')):
        head = dict(type='RetinaHead', num_classes=3, in_channels=8, loss_cls=loss, loss_bbox=L1)
        cfg = Config(dict(model=dict(type='RetinaNet', bbox_head=head)))
        channels = MODELS.build(head).cls_out_channels
        assert MODELS.build(harmonize(cfg).model.bbox_head).cls_out_channels == channels == 4
    assert 'use_sigmoid is not written' in loss_cls_of('bbox_head', vfnet(loss_cls=VARIFOCAL)).why


def test_a_loss_that_the_head_leaves_out_is_not_replaced() -> None:
    """With `use_vfl=False` `VFNetHead` trains `loss_cls_fl`."""
    written = dict(VARIFOCAL, use_sigmoid=True)
    assert loss_cls_of('bbox_head', vfnet(loss_cls=written, use_vfl=True)).ghm is not None
    left_out = vfnet(loss_cls=written, loss_cls_fl=FOCAL, use_vfl=False)
    assert 'trains loss_cls_fl' in loss_cls_of('bbox_head', left_out).why
    built = MODELS.build(left_out['bbox_head'])
    assert type(built.loss_cls).__name__ == 'FocalLoss'


VARIFOCAL = dict(type='VarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0)


def vfnet(**arguments: Any) -> dict:
    head = dict(type='VFNetHead', num_classes=3, in_channels=8, stacked_convs=1, **arguments)
    return dict(type='VFNet', bbox_head=head)


@pytest.mark.parametrize('sampler', [None, dict(type='PseudoSampler')])
def test_a_head_that_does_not_sample_averages_over_its_positives(sampler: dict | None) -> None:
    """As its `avg_factor` tells: that of `RandomSampler` counts the negatives, too."""
    head = dict(type='RPNHead', in_channels=8, loss_cls=FOCAL, loss_bbox=L1)
    weights = []
    for each in (sampler, dict(type='RandomSampler', num=256, pos_fraction=0.5)):
        assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3)
        rpn = dict(assigner=assigner, allowed_border=-1, pos_weight=-1, sampler=each)
        cfg = Config(dict(model=dict(type='RPN', rpn_head=head, train_cfg=dict(rpn=rpn))))
        [found] = [x for x in losses_found(cfg).losses if x.where.endswith('loss_bbox')]
        built = MODELS.build(dict(head, train_cfg=rpn, test_cfg=None))
        takes_positives_alone = type(built.sampler).__name__ == 'PseudoSampler'
        assert ('share of positives' in found.why) != takes_positives_alone
        weights.append(found.ghm['loss_weight'])
    assert weights[0] == 2 * weights[1]


def test_the_formula_that_is_the_default_is_not_written() -> None:
    head = dict(type='RetinaHead', num_classes=3, in_channels=8, loss_cls=FOCAL, loss_bbox=L1)
    cfg = Config(dict(model=dict(type='RetinaNet', bbox_head=head)))
    for preset in ('released', 'tempered'):
        for loss in losses_found(cfg, preset=preset, formula='official').losses:
            assert 'formula' not in loss.ghm
        for loss in losses_found(cfg, preset=preset, formula='paper').losses:
            assert loss.ghm['formula'] == 'paper'


def test_another_loss_is_written_whole() -> None:
    """Also where its keys cover those of the old one, and a merge would give the same."""
    old, new = dict(type='L1Loss', loss_weight=1.0), dict(type='GHMR', loss_weight=1.0, bins=10)
    assert difference(dict(loss=old), dict(loss=new)) == dict(loss=dict(new, _delete_=True))
    more = dict(old, beta=0.1)
    assert difference(dict(loss=old), dict(loss=more)) == dict(loss=dict(beta=0.1))
