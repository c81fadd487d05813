"""What harmonize reads around a loss: the settings of its stage, and those that are off."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.presets import PRESETS
from ghm_mmdet.swap.writer import difference

from .test_harmonize_lists import FOCAL, L1, found


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
    loss = found(Config(dict(model=model)), 'rpn_head.loss_cls')
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
    assert (found(Config(dict(model=model))).ghm is None) == value


def test_a_sigmoid_that_is_not_written_is_a_reason_to_keep_a_loss() -> None:
    """The head has channels for a softmax then, and others with GHM-C, which has it written."""
    for loss in (dict(type='FocalLoss'), dict(type='CrossEntropyLoss')):
        head = dict(type='RetinaHead', num_classes=3, in_channels=8, loss_cls=loss, loss_bbox=L1)
        cfg = Config(dict(model=dict(type='RetinaNet', bbox_head=head)))
        channels = MODELS.build(head).cls_out_channels
        assert MODELS.build(harmonize(cfg).model.bbox_head).cls_out_channels == channels == 4
    assert 'use_sigmoid is not written' in found(vfnet(loss_cls=VARIFOCAL)).why


def test_a_loss_that_the_head_leaves_out_is_not_replaced() -> None:
    """With `use_vfl=False` `VFNetHead` trains `loss_cls_fl`."""
    written = dict(VARIFOCAL, use_sigmoid=True)
    assert found(vfnet(loss_cls=written, use_vfl=True)).ghm is not None
    left_out = vfnet(loss_cls=written, loss_cls_fl=FOCAL, use_vfl=False)
    assert 'use_vfl=False: the head does not' in found(left_out).why
    built = MODELS.build(left_out.model.bbox_head)
    assert type(built.loss_cls).__name__ == 'FocalLoss'


@pytest.mark.parametrize('preset', PRESETS)
def test_yolox_has_the_box_loss_of_retinanet(preset: str) -> None:
    """Its sum over 4 offsets of each box is divided by the number of boxes, as is RetinaNet's."""
    names = {'retinanet/retinanet_r50_fpn_1x_coco.py': 'loss_bbox',
             'yolox/yolox_s_8xb8-300e_coco.py': 'loss_l1'}  # fmt: skip
    pred, target = torch.randn(200, 4) / 10, torch.zeros(200, 4)
    values = []
    for name, key in names.items():
        original = get_config(f'mmdet::{name}')
        for cfg in (original, harmonize(original, preset=preset)):
            loss = MODELS.build(cfg.model.bbox_head.get(key) or L1_OF_YOLOX)
            if key == 'loss_l1':
                values.append(loss(pred, target) / len(pred))
            else:
                values.append(loss(pred, target, avg_factor=len(pred)))
    torch.testing.assert_close(values[2], values[0])
    torch.testing.assert_close(values[3], values[1])


#: The default of `YOLOXHead`.
L1_OF_YOLOX = dict(type='L1Loss', reduction='sum', loss_weight=1.0)


@pytest.mark.parametrize(
    ('head', 'keys'),
    [
        (dict(type='YOLOV3Head'), ('loss_cls', 'loss_conf')),
        (dict(type='YOLOXHead'), ('loss_cls', 'loss_obj', 'loss_l1')),
    ],
)
def test_a_mean_that_a_head_takes_for_a_sum_is_kept(head: dict, keys: tuple[str, ...]) -> None:
    """GHM's sum in its place would be as many times as large as there are positives."""
    entropy = dict(type='CrossEntropyLoss', use_sigmoid=True)
    for written in ({}, dict(reduction='mean'), dict(reduction='sum')):
        losses = {key: {**(L1 if key == 'loss_l1' else entropy), **written} for key in keys}
        cfg = Config(dict(model=dict(type='YOLOV3', bbox_head={**head, **losses})))
        plan = losses_found(cfg, preset='released')
        is_sum = written == dict(reduction='sum')
        assert [loss.ghm is not None for loss in plan.losses] == [is_sum] * len(keys)
        assert all("write reduction='sum'" in loss.why for loss in plan.losses) != is_sum


FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


def test_sabl_averages_over_all_rois_as_other_box_heads() -> None:
    """Both call it with the number of all RoIs for `avg_factor`."""
    plain = found(get_config(FASTER), 'bbox_head.loss_bbox', preset='released')
    sabl = get_config('mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py')
    sabl = found(sabl, 'bbox_head.loss_bbox_reg', preset='released')
    assert sabl.head == 'SABLHead'
    assert sabl.ghm['loss_weight'] == plain.ghm['loss_weight'] == 10 * 0.25
    assert (sabl.ghm['mu'], plain.ghm['mu']) == (0.02, pytest.approx(0.02 / 0.15))


def test_any_head_that_samples_averages_over_its_samples() -> None:
    """The `avg_factor` of a RetinaHead in the place of an RPN counts the negatives, too."""
    cfg = get_config(FASTER)
    retina = dict(type='RetinaHead', num_classes=1, in_channels=256, loss_cls=FOCAL, loss_bbox=L1)
    cfg.merge_from_dict({'model.rpn_head': dict(retina, _delete_=True)})
    loss = found(cfg, 'rpn_head.loss_bbox', preset='released')
    assert loss.head == 'RetinaHead' and loss.ghm['loss_weight'] == 10 * 0.5


@pytest.mark.parametrize('preset', PRESETS)
def test_what_a_box_head_leaves_to_its_defaults_is_as_if_written(preset: str) -> None:
    defaults = inspect.signature(MODELS.get('BBoxHead').__init__).parameters
    written = {key: dict(defaults[key].default) for key in ('bbox_coder', 'loss_cls')}
    whole = found_of_box_head(written, preset)
    assert whole['mu'] == pytest.approx(0.02 / 0.15)
    for left_out in ([], ['bbox_coder'], ['loss_cls'], ['bbox_coder', 'loss_cls']):
        some = {key: value for key, value in written.items() if key not in left_out}
        assert found_of_box_head(some, preset) == whole
    unscaled = dict(written, bbox_coder=dict(type='DeltaXYWHBBoxCoder'))
    assert found_of_box_head(unscaled, preset)['mu'] == 0.02


def found_of_box_head(arguments: dict, preset: str) -> dict:
    head = dict(type='Shared2FCBBoxHead', num_classes=3, loss_bbox=L1, **arguments)
    cfg = Config(dict(model=dict(type='FasterRCNN', roi_head=dict(bbox_head=head))))
    return found(cfg, 'loss_bbox', preset=preset).ghm


@pytest.mark.parametrize('part', ['pos_sampler', 'neg_sampler'])
def test_a_sampler_inside_of_a_combined_one_ranks_rois_by_their_loss(part: str) -> None:
    sampler = dict(type='CombinedSampler', num=512, pos_fraction=0.25)
    parts = dict(pos_sampler=dict(type='RandomSampler'), neg_sampler=dict(type='RandomSampler'))
    cfg = get_config(FASTER)
    for name, ranks in (('RandomSampler', False), ('OHEMSampler', True)):
        parts[part] = dict(type=name)
        cfg.model.train_cfg.rcnn.sampler = dict(sampler, **parts)
        loss = found(cfg, 'bbox_head.loss_cls', preset='released')
        assert ('OHEMSampler chooses RoIs' in loss.why) == (loss.ghm is None) == ranks


def test_one_box_head_of_a_cascade_is_trained_by_the_settings_of_every_stage() -> None:
    stage = dict(assigner={}, sampler=dict(type='RandomSampler', pos_fraction=0.5), pos_weight=-1)
    last = dict(stage, sampler=dict(type='RandomSampler', pos_fraction=0.25))
    head = dict(type='Shared2FCBBoxHead', num_classes=3, loss_cls=dict(type='CrossEntropyLoss'))
    roi = dict(type='CascadeRoIHead', num_stages=2, bbox_head=dict(head, loss_bbox=L1))
    for weight in (-1, 3):
        rcnn = [stage, dict(last, pos_weight=weight)]
        model = dict(type='CascadeRCNN', roi_head=roi, train_cfg=dict(rcnn=rcnn))
        plan = losses_found(Config(dict(model=model)), preset='released')
        cls, reg = plan.losses
        assert (cls.ghm is None) == ('pos_weight=3' in cls.why) == (weight == 3)
        assert reg.ghm['loss_weight'] == 10 * 0.25


@pytest.mark.parametrize('argument', ['with_reg', 'with_cls'])
def test_a_loss_that_a_box_head_does_without_is_not_replaced(argument: str) -> None:
    """As those of Grid R-CNN."""
    off = dict(with_reg='loss_bbox', with_cls='loss_cls')[argument]
    losses = dict(loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=L1)
    for written in (True, False):
        head = dict(type='Shared2FCBBoxHead', num_classes=3, **{argument: False}, **losses)
        if not written:
            del head[off]
        cfg = Config(dict(model=dict(type='GridRCNN', roi_head=dict(bbox_head=head))))
        plan = losses_found(cfg, preset='released')
        assert [loss.where.rpartition('.')[2] for loss in plan.replaced] == [*{*losses} - {off}]
        reasons = [f'{argument}=False: the head does not call it'] if written else []
        assert [loss.why for loss in plan.kept] == reasons
        assert not any(off in note for note in plan.notes)


VARIFOCAL = dict(type='VarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0)


def vfnet(**arguments: Any) -> Config:
    head = dict(type='VFNetHead', num_classes=3, in_channels=8, stacked_convs=1, **arguments)
    return Config(dict(model=dict(type='VFNet', bbox_head=head)))


@pytest.mark.parametrize('sampler', [None, dict(type='PseudoSampler')])
def test_a_head_that_does_not_sample_averages_over_its_positives(sampler: dict | None) -> None:
    """As its `avg_factor` tells: that of `RandomSampler` counts the negatives, too."""
    head = dict(type='RPNHead', in_channels=8, loss_cls=FOCAL, loss_bbox=L1)
    weights = []
    for each in (sampler, dict(type='RandomSampler', num=256, pos_fraction=0.5)):
        assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3)
        rpn = dict(assigner=assigner, allowed_border=-1, pos_weight=-1, sampler=each)
        cfg = Config(dict(model=dict(type='RPN', rpn_head=head, train_cfg=dict(rpn=rpn))))
        loss = found(cfg, 'loss_bbox')
        built = MODELS.build(dict(head, train_cfg=rpn, test_cfg=None))
        takes_positives_alone = type(built.sampler).__name__ == 'PseudoSampler'
        assert ('share of positives' in loss.why) != takes_positives_alone
        weights.append(loss.ghm['loss_weight'])
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
