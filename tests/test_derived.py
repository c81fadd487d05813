"""A class of one's own keeps what its ancestor of MMDetection keeps, and for the same reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdet.models.dense_heads import DeformableDETRHead, PISASSDHead, RetinaHead, RPNHead, SSDHead
from mmdet.models.detectors import SoftTeacher
from mmdet.models.roi_heads import DynamicRoIHead
from mmdet.models.roi_heads.bbox_heads import DIIHead, Shared2FCBBoxHead
from mmdet.models.task_modules.samplers import OHEMSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.hub import get_config
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
