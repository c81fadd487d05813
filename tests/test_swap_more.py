"""What harmonize reads around a loss: the settings of its stage, and those that are off."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from ghm_mmdet import losses_found
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
