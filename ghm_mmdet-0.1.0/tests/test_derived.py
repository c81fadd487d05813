"""A class of one's own keeps what its ancestor of MMDetection keeps, and for the same reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdet.models.dense_heads import DeformableDETRHead, PISASSDHead, RetinaHead, RPNHead, SSDHead
from mmdet.models.detectors import SoftTeacher
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.roi_heads import DynamicRoIHead
from mmdet.models.roi_heads.bbox_heads import DIIHead, Shared2FCBBoxHead
from mmdet.models.task_modules.samplers import OHEMSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import Registry
from torch import nn

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.swap.plan import LossFound

CONFIGS = {
    'soft teacher': 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'dynamic': 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'ohem': 'faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py',
    'faster': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'sparse': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'deformable': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'ssd': 'ssd/ssd300_coco.py',
    'pisa': 'pisa/ssd300_pisa_coco.py',
}
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True)
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True)
#: The config, what is changed in it, and the class that is derived from.
CASES: list[tuple[str, dict, type]] = [
    ('soft teacher', {}, SoftTeacher),
    ('dynamic', {}, DynamicRoIHead),
    ('dynamic', {}, Shared2FCBBoxHead),
    ('ohem', {}, OHEMSampler),
    ('ohem', {}, Shared2FCBBoxHead),
    ('faster', {'roi_head.bbox_head.loss_cls': SIGMOID}, Shared2FCBBoxHead),
    ('faster', {'train_cfg.rpn.pos_weight': 2}, RPNHead),
    ('sparse', {}, DIIHead),
    ('deformable', {'bbox_head.loss_cls': QUALITY}, DeformableDETRHead),
    ('pisa', {}, PISASSDHead),
]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The registries as they were."""
    before = {registry: dict(registry.module_dict) for registry in (MODELS, TASK_UTILS)}
    yield
    MODELS.parent.children.pop('mine', None)
    for registry, modules in before.items():
        registry.module_dict.clear()
        registry.module_dict.update(modules)


def derived_from(kind: type) -> type:
    registry = TASK_UTILS if kind is OHEMSampler else MODELS
    mine = type(f'My{kind.__name__}', (kind,), {})
    return registry.register_module(force=True)(mine)


def renamed(value: Any, old: str, new: Any) -> Any:
    """A copy in which every type of this name is another."""
    if isinstance(value, dict):
        return {k: renamed(v, old, new) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(renamed(item, old, new) for item in value)
    return new if value == old else value


def config(case: str, changes: dict[str, Any]) -> Config:
    cfg = get_config(f'mmdet::{CONFIGS[case]}')
    for key, value in changes.items():
        whole = dict(value, _delete_=True) if isinstance(value, dict) else value
        cfg.merge_from_dict({f'model.{key}': whole})
    return cfg


@pytest.mark.parametrize('preset', ['released', 'tempered'])
@pytest.mark.parametrize('by_class', [False, True], ids=['by name', 'by class'])
@pytest.mark.parametrize(('case', 'changes', 'kind'), CASES)
def test_what_becomes_of_each_loss(
    case: str, changes: dict, kind: type, by_class: bool, preset: str
) -> None:
    original = config(case, changes)
    mine = derived_from(kind)
    model = renamed(original.to_dict(), kind.__name__, mine if by_class else mine.__name__)
    assert model != original.to_dict()
    before = losses_found(original, preset=preset).losses
    after = losses_found(Config(model), preset=preset).losses
    assert any(loss.ghm is None for loss in before)
    assert len(before) == len(after)
    for old, new in zip(before, after):
        assert (new.where, new.ghm) == (old.where, old.ghm)
        assert reasons(new, kind) == reasons(old, kind)


def reasons(loss: LossFound, kind: type) -> list[str]:
    """Without the word that it is taken for its ancestor."""
    why = loss.why.replace(f'My{kind.__name__}', kind.__name__).split('; ')
    return [reason for reason in why if reason and not reason.startswith('taken for')]


def test_a_name_that_nobody_registered_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of an initialization, beside a script of that name."""
    (tmp_path / 'Pretrained.py').write_text('raise SystemExit("imported")\n', encoding='utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert losses_found(config('faster', {})).replaced


def test_a_head_derived_from_ssds_is_named_and_left_alone() -> None:
    derived_from(SSDHead)
    model = get_config(f'mmdet::{CONFIGS["ssd"]}').model.to_dict()
    found = losses_found(Config(dict(model=renamed(model, 'SSDHead', 'MySSDHead'))))
    [loss] = found.losses
    assert loss.ghm is None and 'derives from SSDHead, which computes its losses' in loss.why
    ours = harmonize(get_config(f'mmdet::{CONFIGS["ssd"]}'), preset='released')
    assert not any('derives from' in loss.why for loss in losses_found(ours).losses)


class SoftlyAssigned(RetinaHead):
    def get_targets(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_targets(*args, **kwargs)


class SoftlyWeighted(RetinaHead):
    def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
        return super().loss_by_feat_single(*args, **kwargs)


class Deeper(SoftlyWeighted):
    """Its losses are those of a class between it and MMDetection's."""


@pytest.mark.parametrize(
    ('kind', 'own'),
    [
        (SoftlyAssigned, 'has its own get_targets'),
        (SoftlyWeighted, 'has its own loss_by_feat_single'),
        (Deeper, 'has its own loss_by_feat_single'),
        (type('RetinaHead', (nn.Module,), dict(__module__='mmyolo.models')), 'is not known'),
    ],
)
def test_what_a_derived_head_has_of_its_own_keeps_its_losses(kind: type, own: str) -> None:
    mine = type('Mine', (kind,), {})
    losses = dict(loss_cls=SIGMOID, loss_bbox=dict(type='L1Loss'))
    plan = losses_found(
        Config(dict(model=dict(type='RetinaNet', bbox_head=dict(type=mine, **losses))))
    )
    assert all(loss.ghm is None and own in loss.why for loss in plan.losses)
    assert plan.notes == [], 'what would be set is not noted where nothing is replaced'


# Classes of one's own with the name of MMDetection's.

BY = ['class', 'force', 'scope', 'default_scope']


def retina_with(kind: type, by: str) -> Config:
    """A RetinaNet with a class of one's own in the place of its namesake of MMDetection."""
    mine = type(kind.__name__, (kind,), dict(loss_by_feat_single=None, __module__='mine.models'))
    named: Any = mine
    if by == 'force':
        named = MODELS.register_module(force=True)(mine).__name__
    elif by != 'class':
        Registry('model', parent=MODELS.parent, scope='mine').register_module(module=mine)
        named = kind.__name__ if by == 'default_scope' else f'mine.{kind.__name__}'
    types: dict[str, Any] = {
        name: f'mmdet.{name}' for name in ('RetinaHead', 'FocalLoss', 'L1Loss')
    }
    types.update({'SSDHead': 'mmdet.SSDHead', kind.__name__: named})
    losses = dict(
        loss_cls=dict(type=types['FocalLoss'], use_sigmoid=True),
        loss_bbox=dict(type=types['L1Loss']),
    )
    head = dict(type=types['RetinaHead'], num_classes=3, in_channels=8, **losses)
    if kind is SSDHead:
        head = dict(type=types['SSDHead'], num_classes=3, in_channels=(8,))
    scope = 'mine' if by == 'default_scope' else 'mmdet'
    return Config(dict(model=dict(bbox_head=head), default_scope=scope))


@pytest.mark.parametrize('by', BY)
def test_a_head_of_ones_own_is_not_its_namesake(by: str) -> None:
    losses = losses_found(retina_with(RetinaHead, by)).losses
    assert [loss.ghm for loss in losses] == [None, None]
    assert all('its own loss_by_feat_single' in loss.why for loss in losses)


@pytest.mark.parametrize('by', BY)
@pytest.mark.parametrize('kind', [FocalLoss, L1Loss])
def test_a_loss_of_ones_own_is_not_its_namesake(kind: type, by: str) -> None:
    losses = losses_found(retina_with(kind, by)).losses
    assert [loss.ghm is None for loss in losses] == [kind is FocalLoss, kind is L1Loss]
    [kept] = [loss for loss in losses if loss.ghm is None]
    assert "takes the place of MMDetection's" in kept.why


@pytest.mark.parametrize('by', BY)
def test_an_ssd_head_of_ones_own_is_not_its_namesake(by: str) -> None:
    [loss] = losses_found(retina_with(SSDHead, by)).losses
    assert loss.ghm is None and 'derives from SSDHead' in loss.why


PROJECT = """
from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.roi_heads import DynamicRoIHead
from mmdet.models.task_modules.samplers import OHEMSampler
class MyTeacher(SemiBaseDetector): pass
class MyRoIHead(DynamicRoIHead): pass
class MySampler(OHEMSampler): pass
"""


@pytest.mark.parametrize(
    ('case', 'old', 'new'),
    [
        ('soft teacher', 'SoftTeacher', 'project_of_a_test.MyTeacher'),
        ('dynamic', 'DynamicRoIHead', 'project_of_a_test.MyRoIHead'),
        ('ohem', 'OHEMSampler', 'project_of_a_test.MySampler'),
    ],
)
def test_a_type_by_its_path_is_that_class(
    case: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `Config.dump` names the classes of a config that imports its bases."""
    (tmp_path / 'project_of_a_test.py').write_text(PROJECT, encoding='utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    original = config(case, {})
    model = renamed(original.to_dict(), old, new)
    theirs, mine = (losses_found(x, preset='released').losses for x in (original, Config(model)))
    assert any(loss.ghm is None for loss in theirs)
    assert [loss.ghm for loss in mine] == [loss.ghm for loss in theirs]
