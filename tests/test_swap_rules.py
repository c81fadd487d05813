"""What harmonize knows is checked when it is imported; types are what MMEngine takes them for."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Union

import pytest
import yaml
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.config import Config

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.cli import main
from ghm_mmdet.data_files import typed
from ghm_mmdet.presets import Options
from ghm_mmdet.suggest import did_you_mean
from ghm_mmdet.swap import rules
from ghm_mmdet.swap.find import find_heads
from ghm_mmdet.swap.rules import Call

from .test_harmonize_lists import COCO, FOCAL, L1, config, faster, found, parameters, retina

# The tables.


def import_with(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import the tables anew, from a file with another text."""
    text = Path(rules.__file__).with_name('rules.yml').read_text(encoding='utf-8')
    assert old in text
    tables = yaml.safe_load(text.replace(old, new, 1))
    monkeypatch.setattr('ghm_mmdet.data_files.read_yaml', lambda _: tables)
    spec = importlib.util.spec_from_file_location('ghm_mmdet.swap.rules_of_a_test', rules.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ('averaged_levels: true}', 'averaged_lvls: true}', 'rules.yml: HEADS.RPNHead'),
        ('positives: 0.5', "positives: 'half'", 'rules.yml: HEADS.RPNHead.loss_bbox'),
        ('reduction: rows', 'reduction: row', 'rules.yml: HEADS.YOLOXHead.loss_cls'),
        ('{ghm: GHMC}', '{ghm: GHMX}', 'rules.yml: HEADS.'),
        ('{ghm: GHMR}', '{reduction: mean}', 'ghm'),
        ('  FocalLoss: true', "  FocalLoss: 'yes'", 'rules.yml: CLASSIFICATION_LOSSES.FocalLoss'),
        ('CocoDataset: [80]', 'CocoDataset: 80', 'rules.yml: CLASSES.CocoDataset'),
        ('softmax_heads:', 'softmax_head:', 'softmax_heads'),
        ('ranking_samplers:', 'rankers: {}\nranking_samplers:', 'RANKERS'),
        ('QualityFocalLoss: *of_focal_loss', 'QualityFocalLos: *of_focal_loss', 'QualityFocalLos'),
        ('rpn_heads: RPNHead', 'rpn_heads: RPNHed', 'RPNHed'),
        ('SABLHead: {loss_cls', 'SABLHead: {los_cls', 'los_cls'),
        ('  renamed: >-', '  renamd: >-', 'rules.yml: NEW_RUN'),
        ('detectors:\n', 'detectors: nothing\n_detectors:\n', 'rules.yml: DETECTORS'),
        ('roi_heads:\n', 'roi_heads: {A: b}\n_roi_heads:\n', 'rules.yml: ROI_HEADS.A'),
    ],
)
def test_a_mistake_in_the_tables_fails_the_import_and_is_named(
    old: str, new: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_with('heads', 'heads', monkeypatch)
    with pytest.raises((TypeError, ValueError, KeyError), match=re.escape(said)):
        import_with(old, new, monkeypatch)


@pytest.mark.parametrize('name', [n for n, calls in rules.HEADS.items() if MODELS.get(n)])
def test_every_loss_of_a_head_in_the_tables_is_an_argument_of_it(name: str) -> None:
    taken = parameters(MODELS.get(name))
    assert {key for key, call in rules.HEADS[name].items() if isinstance(call, Call)} <= taken


def test_the_values_of_a_file_have_the_types_declared() -> None:
    assert typed('a b', List[str], 'x') == typed(['a', 'b'], List[str], 'x') == ['a', 'b']
    assert typed(dict(a=dict(ghm='GHMC')), Dict[str, Call], 'x') == dict(a=Call('GHMC'))
    assert typed('why', Union[Call, str], 'x') == 'why'
    for value, kind in ((1, bool), (True, int), (1, float), ('1', int), (None, str)):
        with pytest.raises(TypeError, match=r'^here must be'):
            typed(value, kind, 'here')
    with pytest.raises(TypeError, match=r'^here\.b must be .*int'):
        typed(dict(a=1, b='2'), Dict[str, int], 'here')


# One spelling of the options.


def test_the_options_are_passed_through() -> None:
    cfg = config()
    for chosen in (dict(bins=5), dict(cls=False), dict(preset='released', sync=True)):
        assert (
            losses_found(cfg, **chosen).losses
            == losses_found(cfg, *vars(Options(**chosen)).values()).losses
        )
    assert Options().preset is None and Options().preset_or_default == 'tempered'
    assert Options(bins=5).chosen == dict(bins=5)
    assert Options(momentum=0.0).chosen == dict(momentum=0.0), '0 is chosen, too'
    keeps = [Options(**x).keeps_ghm for x in ({}, dict(bins=5), dict(preset='tempered'))]
    assert [*keeps, Options(formula='paper').keeps_ghm] == [True, True, False, False]


# Names that mean another class.


class OtherHead(RetinaHead):
    pass


@pytest.mark.parametrize(
    'way', ['prefix', 'path', 'scope', '_scope_', '_scope_ around', 'class', 'registered']
)
def test_a_namesake_of_another_package_is_not_taken_for_mmdetections(way: str) -> None:
    """Whichever way it is named: a head, a loss in a known head, a sampler."""

    class Namesake:
        pass

    Namesake.__name__, Namesake.__module__ = 'RetinaHead', 'mmyolo.models'
    names = dict(prefix='mmyolo.RetinaHead', path='mmyolo.models.heads.RetinaHead')
    head = retina(type={**names, 'class': Namesake}.get(way, 'RetinaHead'))
    others: dict[str, Any] = {}
    if way == '_scope_':
        head['_scope_'] = 'mmyolo'
    if way == 'scope':
        others['default_scope'] = 'mmyolo'
    cfg = config(head, **others)
    if way == '_scope_ around':
        cfg.model._scope_ = 'mmyolo'
    before = dict(MODELS.module_dict)
    if way == 'registered':
        MODELS.register_module(name='RetinaHead', module=Namesake, force=True)
    try:
        with pytest.raises(ValueError, match='how RetinaHead calls it is not known'):
            harmonize(cfg)
    finally:
        MODELS.module_dict.clear()
        MODELS.module_dict.update(before)


@pytest.mark.parametrize(
    'kind', ['mmdet.RetinaHead', 'mmdet.models.dense_heads.RetinaHead', RetinaHead, OtherHead]
)
def test_mmdetections_own_is_found_whatever_is_around(kind: Any) -> None:
    cfg = config(retina(type=kind), default_scope='mmyolo')
    loss = dict(FOCAL, type='mmdet.FocalLoss')
    cfg.model.bbox_head.update(loss_cls=loss, loss_bbox=dict(L1, type='mmdet.L1Loss'))
    assert len(losses_found(cfg).replaced) == 2


@pytest.mark.parametrize(
    'loss', [dict(FOCAL, type='mmyolo.FocalLoss'), dict(FOCAL, _scope_='mmyolo')]
)
def test_a_loss_of_another_package_in_a_known_head_is_kept(loss: dict) -> None:
    kept = found(config(retina(loss_cls=loss)))
    assert (
        kept.ghm is None and "GHM-C takes the place of MMDetection's CrossEntropyLoss" in kept.why
    )


def test_a_sampler_of_another_package_ranks_nothing() -> None:
    for name, ranks in (
        ('OHEMSampler', True),
        ('mmdet.OHEMSampler', True),
        ('mmyolo.OHEMSampler', False),
    ):
        rcnn = dict(sampler=dict(type=name, num=512, pos_fraction=0.25))
        loss = found(faster(dict(rcnn=rcnn)), 'roi_head.bbox_head.loss_cls', preset='released')
        assert (loss.ghm is None) == ranks


def test_heads_are_what_has_losses_or_is_known_to_call_some() -> None:
    names = {head.where: head.name for head in find_heads(faster().model)}
    assert names == {'model.rpn_head': 'RPNHead', 'model.roi_head.bbox_head': 'Shared2FCBBoxHead'}
    assert [
        head.where for head in find_heads(dict(a=[dict(type='FCOSHead')], train_cfg=retina()))
    ] == ['model.a.0']


# Configs that are none of MMDetection 3.x, and names of nothing.

OF_2X = dict(
    data=dict(samples_per_gpu=2, train=dict(type='CocoDataset')), total_epochs=12,
    optimizer=dict(type='SGD', lr=0.01), optimizer_config=dict(grad_clip=None),
    lr_config=dict(policy='step'), runner=dict(type='EpochBasedRunner', max_epochs=12),
    checkpoint_config=dict(interval=1), log_config=dict(interval=50),
    evaluation=dict(metric='bbox'), workflow=[('train', 1)],
)  # fmt: skip


@pytest.mark.parametrize(
    'keys', [[*OF_2X], ['data'], ['total_epochs'], ['evaluation'], ['runner', 'optimizer']]
)
def test_a_config_of_mmdetection_2_is_refused(keys: list[str]) -> None:
    cfg = config(**{key: OF_2X[key] for key in keys})
    cfg.pop('optim_wrapper')
    with pytest.raises(
        ValueError,
        match=r'at the top of the config: it is one of MMDetection 2\.x; docs/coming-from-2\.x\.md',
    ):
        harmonize(cfg)
    with pytest.raises(ValueError, match=keys[0]):
        losses_found(cfg)


def test_what_3_x_ignores_is_no_reason_to_refuse_a_config() -> None:
    """A key of 2.x left in one, and one of its variables."""
    assert harmonize(config(evaluation=dict(interval=1), runner=None, optimizer=dict(lr=0.1)))
    alone = config(optimizer=dict(lr=0.1))
    alone.pop('optim_wrapper')
    assert harmonize(alone)


@pytest.mark.parametrize(
    ('cfg', 'said'),
    [
        (
            dict(model=dict(type='ImageClassifier', head=dict(type='LinearClsHead', loss=FOCAL))),
            "no loss of a detector's head: harmonize knows the heads of MMDetection and MMRotate",
        ),
        (dict(model=dict(type='RetinaNet')), "no loss of a detector's head"),
        (dict(train_dataloader={}), 'the config has no model'),
    ],
    ids=['mmpretrain', 'no loss', 'no model'],
)
def test_a_config_without_a_loss_of_a_detector_says_so(cfg: dict, said: str) -> None:
    with pytest.raises(ValueError, match=f'^no loss can be replaced by GHM\n.*{said}'):
        harmonize(Config(cfg))


def test_a_name_of_nothing_is_told_from_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text('', encoding='utf-8')
    for name, meant in (
        ('mmdet::retinanet/retinanet_r50_fpn_1x.py', 'retinanet/retinanet_r50_fpn_1x_coco.py'),
        (str(tmp_path / 'mien.py'), 'mine.py'),
    ):
        with pytest.raises(FileNotFoundError, match=f"; did you mean '{meant}'\\?$"):
            losses_found(name)
        with pytest.raises(SystemExit, match=f"did you mean '{meant}'"):
            main(['harmonize', name])
    with pytest.raises(FileNotFoundError, match=r'^a folder, not a config$'):
        losses_found(tmp_path)
    (tmp_path / 'mine.py').write_text("_base_ = 'lost.py'\n", encoding='utf-8')
    with pytest.raises(FileNotFoundError) as error:
        losses_found(tmp_path / 'mine.py')
    assert 'lost.py' in str(error.value) and 'did you mean' not in str(error.value)


@pytest.mark.parametrize(
    ('option', 'meant'),
    [(dict(preset='temperd'), 'tempered'), (dict(formula='oficial'), 'official')],
)
def test_a_preset_or_formula_that_may_have_been_meant_is_named(option: dict, meant: str) -> None:
    with pytest.raises(ValueError, match=f"; did you mean '{meant}'\\?$"):
        harmonize(config(), **option)
    assert did_you_mean('nothing like it', ['tempered']) == ''


# The classes of the config beside those of the annotations.


def annotated(folder: Path, names: list[str], **dataset: Any) -> dict:
    content = dict(
        images=[], annotations=[], categories=[dict(id=i, name=n) for i, n in enumerate(names)]
    )
    (folder / 'train.json').write_text(json.dumps(content), encoding='utf-8')
    return dict(dict(type='CocoDataset', data_root=str(folder), ann_file='train.json'), **dataset)


def notes_on_classes(dataset: dict, **head: Any) -> list[str]:
    notes = losses_found(config(retina(**head), train_dataloader=dict(dataset=dataset))).notes
    return [note for note in notes if note.startswith(('metainfo', 'model.bbox_head: num_classes'))]


def test_a_class_that_no_annotation_has_is_noted(tmp_path: Path) -> None:
    """Misspelt, in the data set or in a wrapper around it."""
    classes = dict(metainfo=dict(classes=('screw', 'nutt', 'bolt')))
    dataset = annotated(tmp_path, ['screw', 'nut', 'bolt', 'washer'], **classes)
    for wrapped in (
        dataset,
        dict(type='RepeatDataset', dataset=dataset),
        dict(type='ConcatDataset', datasets=[dataset]),
    ):
        [note] = notes_on_classes(wrapped)
        where = (
            f"'nutt' is no category of {tmp_path}/train.json, and never learnt; did you mean 'nut'?"
        )
        assert note == f'metainfo.classes: {where}'
    assert notes_on_classes(annotated(tmp_path, ['screw', 'nutt', 'bolt'], **classes)) == []


def test_classes_are_looked_for_only_where_that_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = dict(metainfo=dict(classes=('a', 'b', 'd')))
    dataset = annotated(tmp_path, ['a', 'b', 'c'], **classes)
    assert len(notes_on_classes(dataset)) == 1
    for text in ('[]', '{}', 'not JSON', '{"categories": [1]}', '{"categories": [{"id": 1}]}'):
        (tmp_path / 'train.json').write_text(text, encoding='utf-8')
        assert notes_on_classes(dataset) == []
    assert notes_on_classes(dict(dataset, ann_file='none.json')) == []
    assert notes_on_classes(dict(dataset, ann_file='')) == []
    annotated(tmp_path, ['a', 'b', 'c'])
    monkeypatch.setattr('ghm_mmdet.swap.classes.MAX_BYTES', 10)
    assert notes_on_classes(dataset) == []


def test_a_data_set_that_names_no_classes_has_those_of_its_type(tmp_path: Path) -> None:
    [note] = notes_on_classes(annotated(tmp_path, ['a', 'b', 'c']))
    assert 'num_classes=3, but the data set has 80 classes' in note
    assert notes_on_classes(dict(COCO, type='mmdet.CocoDataset')) == []
