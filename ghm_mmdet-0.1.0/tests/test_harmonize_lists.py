"""What harmonize knows of losses, heads and configs, against MMDetection's own sources."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import mmdet.models
import pytest
from mmdet.datasets import CocoDataset, VOCDataset
from mmdet.models.dense_heads import DINOHead, RetinaHead
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config

import ghm_mmdet  # noqa: F401
from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.presets import RELEASED, Options
from ghm_mmdet.swap import rules
from ghm_mmdet.swap.rules import Call

FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
ENTROPY = dict(type='CrossEntropyLoss', use_sigmoid=True)
SOFTMAX = dict(type='CrossEntropyLoss')
L1 = dict(type='L1Loss', loss_weight=1.0)
#: Of a head that passes no `avg_factor`.
SUMMED, SUMMED_L1 = dict(ENTROPY, reduction='sum'), dict(L1, reduction='sum')


def retina(**changes: Any) -> dict:
    return {
        **dict(type='RetinaHead', num_classes=3, in_channels=8, loss_cls=FOCAL, loss_bbox=L1),
        **changes,
    }


def config(head: dict | None = None, train_cfg: Any = None, **others: Any) -> Config:
    model = dict(type='RetinaNet', bbox_head=head or retina(), train_cfg=train_cfg)
    optimizer = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    return Config(dict(dict(model=model, optim_wrapper=optimizer), **others))


def faster(train_cfg: Any = None, **changes: Any) -> Config:
    box = dict(type='Shared2FCBBoxHead', num_classes=3, loss_cls=SOFTMAX, loss_bbox=L1, **changes)
    roi = dict(type='StandardRoIHead', bbox_head=box)
    rpn = dict(type='RPNHead', loss_cls=ENTROPY, loss_bbox=L1)
    model = dict(type='FasterRCNN', rpn_head=rpn, roi_head=roi, train_cfg=train_cfg)
    return Config(dict(model=model))


def found(cfg: Config, key: str = 'loss_cls', **options: Any) -> Any:
    """What becomes of the one loss of this key."""
    [loss] = [
        loss for loss in losses_found(cfg, **options).losses if loss.where.endswith(f'.{key}')
    ]
    return loss


def parameters(kind: type) -> set[str]:
    """The arguments of a class and of those that it derives from."""
    own = (inspect.signature(k.__init__).parameters for k in kind.__mro__ if '__init__' in vars(k))
    return {
        name
        for each in own
        for name, parameter in each.items()
        if name != 'self'
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


# One list says what becomes of every setting.


@pytest.mark.parametrize('name', rules.ARGUMENTS)
def test_every_argument_of_a_loss_is_on_the_list(name: str) -> None:
    kind = MODELS.get(name) or MODELS.get(f'ghm_mmdet.{name}')
    assert parameters(kind) - rules.ARGUMENTS[name].keys() == set()


def test_every_loss_that_is_replaced_has_a_list() -> None:
    replaced = {*rules.CLASSIFICATION_LOSSES, *rules.REGRESSION_LOSSES}
    assert rules.ARGUMENTS.keys() == replaced


def test_every_argument_of_a_head_is_on_the_list() -> None:
    known = {*rules.ARGUMENTS_OF_HEADS}
    for name, calls in rules.HEADS.items():
        kind = MODELS.get(name) or MODELS.get(f'ghm_mmdet.{name}')
        if kind is not None and any(isinstance(call, Call) for call in calls.values()):
            unknown = {key for key in parameters(kind) - known if not key.startswith('loss_')}
            assert unknown == set(), name


#: What is read of `train_cfg` by heads whose losses are kept for another reason.
OF_KEPT_HEADS = {'alpha', 'beta', 'carl', 'isr'}


def keys_read(tree: ast.AST) -> Iterator[str]:
    """Of `train_cfg['key']`, `train_cfg.get('key')` and `cfg.key` of a train_cfg."""
    for node in ast.walk(tree):
        of = getattr(node, 'value', None)
        if isinstance(node, ast.Subscript) and 'train_cfg' in ast.unparse(of):
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                yield node.slice.value
        elif isinstance(node, ast.Attribute) and ast.unparse(of).endswith('train_cfg'):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('train_cfg.get'):
            yield node.args[0].value


def test_every_key_of_train_cfg_that_a_head_reads_is_on_the_list() -> None:
    read = set()
    for folder in ('dense_heads', 'roi_heads'):
        for path in Path(mmdet.models.__file__).parent.joinpath(folder).rglob('*.py'):
            read |= {*keys_read(ast.parse(path.read_text(encoding='utf-8')))}
    assert {'pos_weight', 'sampler'} <= read, 'else nothing was found'
    of_dicts = {'get', 'type'}
    assert read - {*rules.TRAIN_CFG, 'pos_weight'} - OF_KEPT_HEADS - of_dicts == set()


# A setting that GHM has no place for keeps the loss, and is named.


@pytest.mark.parametrize(
    ('loss', 'why'),
    [
        (dict(FOCAL, activated=True), 'activated=True'),
        (dict(ENTROPY, class_weight=[1.0, 2.0, 1.0]), 'class_weight'),
        (dict(ENTROPY, ignore_index=255), 'ignore_index'),
        (dict(SOFTMAX, use_mask=True), 'a mask loss'),
        (dict(FOCAL, temperature=2.0), 'temperature'),
    ],
)
def test_a_setting_of_the_loss_keeps_it(loss: dict, why: str) -> None:
    kept = found(config(retina(loss_cls=loss)), preset='released')
    assert kept.ghm is None and why in kept.why


def test_the_softmax_form_carries_what_it_takes() -> None:
    loss = dict(SOFTMAX, class_weight=[1.0] * 4, ignore_index=255, avg_non_ignore=True)
    cfg = faster()
    cfg.model.roi_head.bbox_head.loss_cls = loss
    ghm = harmonize(cfg, preset='released').model.roi_head.bbox_head.loss_cls
    assert (ghm.class_weight, ghm.ignore_index) == ([1.0] * 4, 255)
    assert MODELS.build(ghm).ignore_index == 255


@pytest.mark.parametrize('weight', [2, 0.5])
def test_the_weight_of_positives_keeps_the_classification_loss(weight: float) -> None:
    """Of a dense head, of a stage of RepPoints, of the RPN and of R-CNN alone."""
    for cfg, place in (
        (config(train_cfg=dict(pos_weight=weight)), 'bbox_head'),
        (config(train_cfg=dict(refine=dict(pos_weight=weight))), 'bbox_head'),
        (
            config(train_cfg=dict(refine=[dict(pos_weight=-1), dict(pos_weight=weight)])),
            'bbox_head',
        ),
        (faster(dict(rpn=dict(pos_weight=weight))), 'rpn_head'),
        (faster(dict(rcnn=dict(pos_weight=weight))), 'roi_head.bbox_head'),
        (faster(dict(rcnn=[dict(pos_weight=weight)])), 'roi_head.bbox_head'),
    ):
        plan = losses_found(cfg, preset='released')
        kept = [loss.where for loss in plan.kept]
        assert kept == [f'model.{place}.loss_cls']
        assert f'pos_weight={weight}' in plan.kept[0].why
    for without_effect in (-1, 0, 1):
        assert found(config(train_cfg=dict(pos_weight=without_effect))).ghm is not None


def test_what_is_on_no_list_keeps_the_losses_and_is_named() -> None:
    for cfg, key in (
        (config(retina(easy_weight=0.1)), 'easy_weight of RetinaHead'),
        (config(train_cfg=dict(hard_weight=3)), 'hard_weight of train_cfg'),
    ):
        with pytest.raises(ValueError, match=f'what {key} means for its losses is not known'):
            harmonize(cfg)


def test_a_head_with_calls_of_its_own_is_not_taken_for_its_ancestor() -> None:
    @MODELS.register_module(force=True)
    class ReweighingDINOHead(DINOHead):
        """As AlignDETRHead, whose weights are powers of the score."""

        def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
            return super().loss_by_feat_single(*args, **kwargs)

    @MODELS.register_module(force=True)
    class DeeperRetinaHead(RetinaHead):
        def _init_layers(self) -> None:
            super()._init_layers()

    kept = found(config(dict(type='ReweighingDINOHead', num_classes=3, loss_cls=FOCAL)))
    assert kept.ghm is None
    assert 'derives from DINOHead, but has its own loss_by_feat_single' in kept.why
    for kind in ('DeeperRetinaHead', DeeperRetinaHead):
        replaced = found(config(retina(type=kind)))
        assert replaced.ghm is not None and 'taken for RetinaHead' in replaced.why
    assert 'taken for' not in found(config()).why


def test_a_head_of_another_library_is_not_taken_for_its_namesake() -> None:
    """As MMYOLO's YOLOXHead."""
    kept = found(config(retina(type='mmyolo.RetinaHead')))
    assert kept.ghm is None and 'is not known' in kept.why
    assert found(config(retina(type='mmdet.RetinaHead'))).ghm is not None


def test_the_loss_of_ssd_is_changed_not_kept() -> None:
    plan = losses_found('mmdet::ssd/ssd300_coco.py')
    loss_cls, loss_bbox = plan.losses
    assert 'changed to OHEMLoss' in str(loss_cls)
    assert rules.MINED_FROM_THE_BATCH in loss_cls.why
    assert plan.summary == '1 replaced, 1 changed, 0 kept' and plan.kept == []
    assert 'replaced by GHMR' in str(loss_bbox)


# How heads call their losses: the settings of the shipped presets, times what they average over.


def test_the_share_of_positive_rois_is_mmdetections() -> None:
    """Where the config does not say it."""
    loss = found(faster(), 'roi_head.bbox_head.loss_bbox', preset='released')
    assert loss.ghm['loss_weight'] == RELEASED.ghm_r['loss_weight'] * 0.25
    for name in ('faster-rcnn_r50_fpn', 'mask-rcnn_r50_fpn'):
        path = Path(mmdet.__file__).parent / f'.mim/configs/_base_/models/{name}.py'
        assert Config.fromfile(path).model.train_cfg.rcnn.sampler.pos_fraction == 0.25


@pytest.mark.parametrize('name', ['OHEMSampler', 'ScoreHLRSampler'])
def test_samplers_that_rank_rois_by_their_loss_keep_it(name: str) -> None:
    for rcnn in (dict(sampler=dict(type=name)), [dict(sampler=dict(type=name))]):
        kept = found(faster(dict(rcnn=rcnn)), 'roi_head.bbox_head.loss_cls', preset='released')
        assert kept.ghm is None and name in kept.why
    samplers = Path(mmdet.models.__file__).parent / 'task_modules/samplers'
    ranking = {
        node.name
        for path in samplers.glob('*.py')
        for node in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(node, ast.ClassDef) and "'loss_cls'" in ast.unparse(node)
    }
    assert ranking == {*rules.RANKING_SAMPLERS}


def test_yolov3_and_yolox_take_sums() -> None:
    """YOLOX divides them by the number of positives; its `loss_cls` has their rows alone."""
    yolov3 = config(dict(type='YOLOV3Head', loss_cls=SUMMED, loss_conf=SUMMED))
    plan = losses_found(yolov3, preset='released')
    assert [loss.ghm['reduction'] for loss in plan.losses] == ['positives'] * 2
    assert not any('divides' in loss.why for loss in plan.losses)
    losses = dict(loss_cls=SUMMED, loss_obj=SUMMED, loss_l1=SUMMED_L1)
    yolox = config(dict(type='YOLOXHead', **losses))
    plan = losses_found(yolox, preset='released')
    assert [loss.ghm['reduction'] for loss in plan.losses] == ['rows', 'positives', 'sum']
    assert all('the head divides it by the number of positives' in loss.why for loss in plan.losses)


def test_tempered_keeps_the_objectness() -> None:
    yolov3 = dict(type='YOLOV3Head', loss_cls=SUMMED, loss_conf=SUMMED)
    yolox = dict(type='YOLOXHead', loss_cls=SUMMED, loss_obj=SUMMED, loss_l1=SUMMED_L1)
    for head, objectness, reductions in (
        (yolov3, 'loss_conf', ['positives']),
        (yolox, 'loss_obj', ['rows', 'sum']),
    ):
        plan = losses_found(config(head), preset='tempered')
        (kept,) = plan.kept
        assert kept.where.endswith(objectness) and kept.why.startswith('the objectness')
        assert [loss.ghm['reduction'] for loss in plan.replaced] == reductions
    assert 'divides' not in found(config(yolov3)).why


def test_alpha_is_that_of_focal_losses_alone() -> None:
    """VarifocalLoss has its α on the negatives: its positives have the weight 1."""
    weights = [
        found(config(dict(type='VFNetHead', loss_cls=loss))).ghm['loss_weight']
        for loss in (
            dict(type='VarifocalLoss', use_sigmoid=True, alpha=0.75),
            dict(FOCAL, alpha=0.4), ENTROPY, dict(type='QualityFocalLoss', use_sigmoid=True),
        )
    ]  # fmt: skip
    assert weights == [1, 0.4, 1, 0.25]


def test_levels_without_a_generator_are_anchor_heads() -> None:
    generator = inspect.signature(MODELS.get('AnchorHead').__init__).parameters['anchor_generator']
    levels = len(generator.default['strides'])
    cfg = Config(dict(model=dict(rpn_head=dict(type='RPNHead', loss_cls=ENTROPY))))
    assert found(cfg, preset='released').ghm['loss_weight'] == 1 / levels == 0.2


def test_a_box_loss_that_is_kept_for_its_ranks_is_of_a_softmax_head_alone() -> None:
    """PISARoIHead ranks the RoIs, not the anchors of its RPN or of a dense head inside."""
    roi = dict(type='PISARoIHead', bbox_head=[retina(type='Shared2FCBBoxHead', loss_cls=SOFTMAX)])
    roi['shared_head'] = retina()
    plan = losses_found(Config(dict(model=dict(roi_head=roi))), preset='released')
    assert [loss.head for loss in plan.replaced] == ['RetinaHead'] * 2
    assert [loss.head for loss in plan.kept] == ['Shared2FCBBoxHead'] * 2


def test_the_pattern_may_leave_the_model_out() -> None:
    for pattern in ('roi_head.*', 'model.roi_head.*', '*.bbox_head', 'Shared2FC*'):
        plan = losses_found(faster(), head=pattern)
        assert {loss.head for loss in plan.replaced} == {'Shared2FCBBoxHead'}, pattern
    with pytest.raises(ValueError, match='matches none of the heads'):
        losses_found(faster(), head='bbox_head')


def test_the_name_of_a_type_is_its_last_part() -> None:
    for kind in ('mmdet.models.dense_heads.RetinaHead', 'mmdet.RetinaHead', RetinaHead):
        assert found(config(retina(type=kind))).head == 'RetinaHead'


def test_tood_has_two_classification_losses() -> None:
    head = dict(type='TOODHead', loss_cls=FOCAL, initial_loss_cls=FOCAL, loss_bbox=L1)
    plan = losses_found(config(head))
    assert [loss.where.rpartition('.')[2] for loss in plan.kept] == [
        'loss_cls', 'initial_loss_cls', 'loss_bbox',
    ]  # fmt: skip


# What a config may hold.


def test_heads_and_train_cfg_may_be_lists() -> None:
    """As in Co-DETR: each head has its part, or one of the parts is its own."""
    sampler = dict(type='RandomSampler', num=256)
    roi = faster().model.roi_head
    model = dict(
        type='SeveralHeads',
        rpn_head=faster().model.rpn_head,
        roi_head=[roi],
        bbox_head=[retina()],
        train_cfg=[
            dict(assigner=dict(type='HungarianAssigner')),
            dict(
                rpn=dict(sampler=dict(sampler, pos_fraction=0.1)),
                rcnn=dict(sampler=dict(sampler, pos_fraction=0.2)),
            ),
            None,
        ],
    )
    plan = losses_found(Config(dict(model=model)), preset='released')
    weights = {loss.where: loss.ghm['loss_weight'] for loss in plan.losses}
    assert weights['model.rpn_head.loss_bbox'] == pytest.approx(10 / 5 * 0.1)
    assert weights['model.roi_head.0.bbox_head.loss_bbox'] == pytest.approx(10 * 0.2)
    assert len(plan.replaced) == 6
    changed = harmonize(Config(dict(model=copy.deepcopy(model))), preset='released').model
    assert changed.roi_head[0].bbox_head.loss_cls.type == 'ghm_mmdet.GHMC'


def test_fewer_stages_in_train_cfg_than_heads() -> None:
    box = faster().model.roi_head.bbox_head
    sampler = dict(type='RandomSampler', pos_fraction=0.5)
    cfg = faster(dict(rcnn=[dict(sampler=sampler), None]))
    cfg.model.roi_head.bbox_head = [box, box, box]
    weights = [loss.ghm['loss_weight'] for loss in losses_found(cfg).replaced[2:]]
    assert weights == [4 * 0.5] * 3
    cfg.model.train_cfg.rcnn[1] = dict(sampler=dict(sampler, pos_fraction=0.25))
    weights = [loss.ghm['loss_weight'] for loss in losses_found(cfg).replaced[2:]]
    assert weights == [4 * 0.5, 4 * 0.25, 4 * 0.25], 'of each stage its own'
    cfg.model.roi_head.bbox_head = (box,)
    [changed] = harmonize(cfg).model.roi_head.bbox_head
    assert changed.loss_bbox.type == 'ghm_mmdet.GHMR' and box.loss_bbox == L1
    for empty in ([], None, {}):
        cfg.model.train_cfg = dict(rcnn=empty)
        assert losses_found(cfg).replaced[-1].ghm['loss_weight'] == 4 * 0.25


@pytest.mark.parametrize(
    ('cfg', 'words'),
    [
        (config(retina(bbox_coder=dict(target_stds=[1.0, 0.0]))), 'target_stds of model.bbox_head'),
        (config(retina(bbox_coder=dict(target_stds=0))), 'must be > 0, got 0'),
        (config(retina(bbox_coder=dict(target_stds=['a']))), "a number, got 'a'"),
        (config(retina(loss_cls=dict(FOCAL, alpha='a'))), r'alpha of model.bbox_head'),
        (config(retina(loss_cls=dict(FOCAL, alpha=[0.25]))), r'got \[0.25\]'),
        (config(retina(loss_bbox=dict(L1, loss_weight='a'))), 'loss_weight of model.bbox_head'),
        (config(train_cfg=dict(pos_weight='a')), 'pos_weight in the train_cfg of model.bbox_head'),
        (faster(dict(rcnn=dict(sampler=dict(pos_fraction=None)))), 'pos_fraction of the sampler'),
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_named(cfg: Config, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        harmonize(cfg)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(optim_wrapper=dict(type='DeepSpeedOptimWrapper', optimizer={})), 'not set, for Deep'),
        (
            dict(
                optim_wrapper=dict(type='DeepSpeedOptimWrapper', optimizer={}),
                strategy=dict(type='DeepSpeedStrategy', gradient_clipping=0.1),
            ),
            "kept, strategy.gradient_clipping=0.1; norm 10 is the preset's",
        ),
        (dict(optim_wrapper=dict(type='ColossalAIOptimWrapper', optimizer={})), 'not set, for Col'),
        (
            dict(optim_wrapper=dict(constructor='Two', a=dict(optimizer={}))),
            'of one optimizer; norm',
        ),
        (
            dict(optim_wrapper=dict(type='OptimWrapper', clip_grad=dict(max_norm=35))),
            "kept, {'max_norm': 35}; norm 10 is the preset's",
        ),
        (dict(optim_wrapper=None), 'there is no optim_wrapper of one optimizer'),
    ],
)
def test_the_gradient_is_clipped_only_where_the_wrapper_takes_it(changes: dict, words: str) -> None:
    cfg = config(**changes)
    [note] = [note for note in losses_found(cfg).notes if 'gradient clipping' in note]
    assert words in note
    assert harmonize(cfg).get('optim_wrapper') == cfg.get('optim_wrapper')


@pytest.mark.parametrize('kind', [None, 'AmpOptimWrapper', 'mmengine.optim.OptimWrapper'])
def test_the_gradient_is_clipped_where_the_wrapper_takes_it(kind: str | None) -> None:
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), **(dict(type=kind) if kind else {}))
    new = harmonize(config(optim_wrapper=wrapper)).optim_wrapper
    assert new == dict(wrapper, clip_grad=dict(max_norm=10, norm_type=2))


@pytest.mark.parametrize(
    'options',
    [
        dict(preset='released'), dict(bins=5), dict(momentum=0.5), dict(formula='paper'),
        dict(sync=True),
    ],
    ids=str,
)  # fmt: skip
def test_options_without_effect_are_refused(options: dict) -> None:
    cfg = harmonize(config())
    with pytest.raises(ValueError, match=r'the options have no effect: .* is GHMC already'):
        harmonize(cfg, **options)
    assert harmonize(cfg).to_dict() == cfg.to_dict()
    again = harmonize(config(), **options)
    assert harmonize(again, **options).to_dict() == again.to_dict()


def test_batch_density_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match='batch_density=True has no effect: none of the heads is'):
        harmonize(config(dict(type='ATSSHead', loss_cls=FOCAL)), batch_density=True)


def test_a_new_training_is_not_that_of_the_original() -> None:
    old = dict(work_dir='work_dirs/a', resume=True, load_from='work_dirs/a/epoch_3.pth')
    plan = losses_found(config(**old))
    new = harmonize(config(**old))
    assert (new.work_dir, new.resume, new.load_from) == ('work_dirs/a_ghm', False, None)
    assert all(any(note.startswith(f'{key}: ') for note in plan.notes) for key in old)
    # Weights to start from are those of a training that is not resumed.
    start = dict(old, resume=False)
    assert harmonize(config(**start)).load_from == old['load_from']
    assert any('load_from: kept' in note for note in losses_found(config(**start)).notes)
    fresh = harmonize(config())
    assert not {'work_dir', 'resume', 'load_from'} & fresh.keys()


def test_harmonize_returns_a_copy() -> None:
    """Deep, of every key."""
    path = Path(mmdet.__file__).parent / '.mim/configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    cfg = Config.fromfile(path)
    before = copy.deepcopy(cfg.to_dict())
    new = harmonize(cfg)
    assert new.keys() >= cfg.keys()

    def spoil(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            value = node[key]
            if isinstance(value, (dict, list)):
                spoil(value)
            node[key] = 'spoiled'

    for key in list(new.keys()):
        if isinstance(new[key], (dict, list)):
            spoil(new[key])
            assert cfg.to_dict()[key] == before[key], key


COCO = dict(type='CocoDataset', metainfo=dict(classes=('a', 'b', 'c')))


@pytest.mark.parametrize(
    ('dataset', 'number'),
    [
        (COCO, 3),
        (dict(type='RepeatDataset', dataset=COCO), 3),
        (dict(type='ConcatDataset', datasets=[COCO, COCO]), 3),
        (dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[COCO])), 3),
        (dict(type='VOCDataset'), len(VOCDataset.METAINFO['classes'])),
        (dict(type=CocoDataset), len(CocoDataset.METAINFO['classes'])),
        (dict(type='ConcatDataset', datasets=[COCO, dict(type='VOCDataset')]), None),
        (dict(type='NobodysDataset'), None),
    ],
    ids=str,
)
def test_the_number_of_classes_is_the_data_sets(dataset: dict, number: int | None) -> None:
    def noted(classes: int) -> bool:
        cfg = config(retina(num_classes=classes), train_dataloader=dict(dataset=dataset))
        return any('num_classes' in note for note in losses_found(cfg).notes)

    if number is None:
        assert noted(3) is noted(20) is ('datasets' in dataset)
    else:
        assert noted(number + 1) and not noted(number)


def test_the_classes_of_a_file_are_its_lines(tmp_path: Path) -> None:
    (tmp_path / 'classes.txt').write_text('a\nb\n', encoding='utf-8')
    for name, noted in (('classes.txt', True), ('none.txt', False)):
        data = dict(dataset=dict(metainfo=dict(classes=str(tmp_path / name))))
        notes = losses_found(config(train_dataloader=data)).notes
        assert any('num_classes=3, but the data set has 2' in note for note in notes) is noted


def test_the_classes_of_a_softmax_that_is_kept_are_not_noted() -> None:
    """Cross entropy fails by itself at such a label."""
    for preset, noted in (('tempered', False), ('released', True)):
        cfg = faster()
        cfg.train_dataloader = dict(dataset=dict(type='VOCDataset'))
        assert any('num_classes' in n for n in losses_found(cfg, preset=preset).notes) is noted


@pytest.mark.parametrize(
    ('name', 'left_out'),
    [
        ('RetinaHead', ['loss_bbox']),
        ('YOLOXHead', ['loss_obj', 'loss_l1']),
        ('YOLOV3Head', ['loss_conf']),
        ('RepPointsHead', ['loss_bbox_init', 'loss_bbox_refine']),
        ('SABLRetinaHead', ['loss_bbox_reg']),
    ],
)
def test_every_loss_that_is_left_to_a_default_has_a_note(name: str, left_out: list[str]) -> None:
    head = dict(type=name, num_classes=3, loss_cls=dict(FOCAL, reduction='sum'))
    notes = losses_found(config(head), preset='released').notes
    found = [note.partition(' ')[0] for note in notes if "the head's default" in note]
    assert found == [f'model.bbox_head.{key}' for key in left_out]


def test_the_known_numbers_of_classes_are_those_of_mmdetections_data_sets() -> None:
    theirs = {}
    for name, kind in DATASETS.module_dict.items():
        metainfo = getattr(kind, 'METAINFO', {})
        names = (metainfo.get(key, ()) for key in ('classes', 'thing_classes'))
        numbers = {len(of_kind) for of_kind in names if of_kind}
        if numbers and kind.__module__.startswith('mmdet.'):
            theirs[name] = numbers
    assert theirs == {name: {*numbers} for name, numbers in rules.CLASSES.items()}


def test_the_number_of_things_is_a_number_of_classes() -> None:
    """Of a panoptic data set, whose boxes are of things alone."""
    data = dict(dataset=dict(type='CocoPanopticDataset'))
    for number, noted in ((80, False), (133, False), (81, True)):
        notes = losses_found(config(retina(num_classes=number), train_dataloader=data)).notes
        assert any('num_classes' in note for note in notes) is noted


# One density for all processes, where each calls the loss in every iteration.


@pytest.mark.parametrize(
    ('head', 'keys'),
    [
        (dict(type='YOLOXHead', loss_cls=SUMMED), 'loss_cls'),
        (dict(type='YOLOXHead', loss_l1=SUMMED_L1), 'loss_l1'),
        (dict(type='FoveaHead', loss_bbox=L1), 'loss_bbox'),
        (dict(type='Shared2FCBBoxHead', loss_bbox=L1), 'loss_bbox'),
        (dict(type='Shared2FCBBoxHead', loss_cls=SOFTMAX), 'loss_cls'),
        (dict(type='DINOHead', loss_cls=FOCAL), 'loss_cls'),
    ],
)
def test_sync_is_refused_where_a_call_depends_on_the_data(head: dict, keys: str) -> None:
    words = f'sync=True would hang: {head["type"]} does not call model.bbox_head.{keys} '
    with pytest.raises(ValueError, match=words):
        harmonize(config(head), preset='released', sync=True)


def test_sync_is_set_in_every_loss_that_is_put_in() -> None:
    for name in ('RetinaHead', 'RPNHead'):
        head = harmonize(config(retina(type=name)), sync=True).model.bbox_head
        assert head.loss_cls.sync is head.loss_bbox.sync is True
    head = harmonize(config()).model.bbox_head
    assert 'sync' not in head.loss_cls and 'sync' not in head.loss_bbox
    assert harmonize(faster(), head='RPNHead', sync=True).model.rpn_head.loss_cls.sync


# What a person sees of the functions.


@pytest.mark.parametrize('function', [harmonize, losses_found])
def test_every_option_is_in_the_signature(function: Any) -> None:
    options = {field.name: field.default for field in fields(Options)}
    parameters = inspect.signature(function).parameters
    named = {name: p.default for name, p in parameters.items() if name != 'cfg'}
    assert named == options and list(named) == list(options)
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'formla'"):
        function('x.py', formla='paper')


# What the plan reads of a config, near the loss and far from it.


def test_an_rpn_anywhere_has_the_settings_of_an_rpn() -> None:
    rpn = dict(type='RPNHead', in_channels=8, loss_cls=FOCAL, loss_bbox=L1)
    train_cfg = dict(rpn=dict(pos_weight=3.0), rcnn=dict(pos_weight=-1))
    model = dict(type='MyDetector', proposal_head=rpn, train_cfg=train_cfg)
    assert 'pos_weight=3.0 weighs positives' in found(Config(dict(model=model))).why


def test_the_stage_is_the_innermost() -> None:
    box = faster().model.roi_head.bbox_head
    stages = [dict(sampler=dict(type='RandomSampler', pos_fraction=p)) for p in (0.5, 0.25)]
    cfg = faster(dict(rcnn=stages))
    cascade = dict(type='CascadeRoIHead', bbox_head=[box, box])
    cfg.model.roi_head = [cascade, cascade]
    weights = [loss.ghm['loss_weight'] for loss in losses_found(cfg).replaced[2:]]
    assert weights == [4 * 0.5, 4 * 0.25] * 2, 'of each stage, not of each RoI head'


def test_of_several_shares_of_positives_the_smallest() -> None:
    parts = [
        dict(rcnn=dict(sampler=dict(type='RandomSampler', pos_fraction=p))) for p in (0.4, 0.1)
    ]
    loss = found(faster(parts), 'roi_head.bbox_head.loss_bbox', preset='released')
    assert loss.ghm['loss_weight'] == pytest.approx(RELEASED.ghm_r['loss_weight'] * 0.1)


def test_without_a_sampler_every_example_is_positive() -> None:
    rcnn = dict(assigner=dict(type='MaxIoUAssigner'))
    loss = found(faster(dict(rcnn=rcnn)), 'roi_head.bbox_head.loss_bbox', preset='released')
    assert loss.ghm['loss_weight'] == RELEASED.ghm_r['loss_weight']
    assert 'share of positives' not in loss.why


def test_a_ranking_sampler_of_any_stage_keeps_the_loss() -> None:
    rcnn = [dict(sampler=dict(type='RandomSampler')), dict(sampler=dict(type='OHEMSampler'))]
    kept = found(faster(dict(rcnn=rcnn)), 'roi_head.bbox_head.loss_cls', preset='released')
    assert kept.ghm is None and 'OHEMSampler' in kept.why


def test_the_nearest_train_cfg_counts() -> None:
    inner = config(train_cfg=dict(pos_weight=-1)).model
    model = dict(type='MyTeacher', detector=inner, train_cfg=dict(pos_weight=3.0))
    assert found(Config(dict(model=model))).ghm is not None


def test_batch_density_changes_the_chosen_head_alone() -> None:
    model = dict(type='Two', first=retina(), second=retina())
    new = harmonize(Config(dict(model=model)), head='first', batch_density=True).model
    assert (new.first.type, new.second.type) == ('ghm_mmdet.GHMRetinaHead', 'RetinaHead')


def test_a_ghm_loss_is_named_as_such_in_any_detector() -> None:
    teacher = dict(type='SoftTeacher', detector=harmonize(config()).model)
    assert 'it is a GHM loss' in found(Config(dict(model=teacher))).why


@pytest.mark.parametrize('ignored', [0, 255])
def test_an_ignored_label_keeps_a_sigmoid_and_is_carried_over_to_a_softmax(ignored: int) -> None:
    kept = found(config(retina(loss_cls=dict(ENTROPY, ignore_index=ignored))))
    assert kept.ghm is None and 'ignore_index has no place' in kept.why
    cfg = faster()
    cfg.model.roi_head.bbox_head.loss_cls = dict(SOFTMAX, ignore_index=ignored)
    ghm = harmonize(cfg, preset='released').model.roi_head.bbox_head.loss_cls
    assert ghm.ignore_index == ignored


def test_a_loss_that_is_none_keeps_no_other() -> None:
    assert found(config(retina(loss_centerness=None))).ghm is not None


def test_ghm_r_divides_by_its_own_n_with_every_formula() -> None:
    rpn = harmonize(faster(), formula='tempered').model.rpn_head
    assert (rpn.loss_cls.loss_weight, rpn.loss_bbox.loss_weight) == (1, 10 / 5 * 0.5)


def test_beside_a_softmax_the_weight_of_the_loss_counts() -> None:
    cfg = faster()
    cfg.model.roi_head.bbox_head.loss_bbox.loss_weight = 2.0
    assert harmonize(cfg).model.roi_head.bbox_head.loss_bbox.loss_weight == 4 * 2 * 0.25


def test_a_checkpoint_that_is_dropped_is_not_said_to_be_kept() -> None:
    notes = losses_found(config(resume=True, load_from='epoch_3.pth')).notes
    [note] = [note for note in notes if note.startswith('load_from')]
    assert "'epoch_3.pth' of the original becomes None" in note


def test_any_head_in_the_place_of_an_rpn_has_one_class() -> None:
    cfg = faster()
    cfg.model.rpn_head = retina(num_classes=1)
    cfg.train_dataloader = dict(dataset=COCO)
    assert not any('num_classes' in note for note in losses_found(cfg).notes)


def test_the_classes_of_a_wrapper_are_its_own() -> None:
    data = dict(type='Mine', metainfo=dict(classes=('a', 'b')), dataset=dict(type='VOCDataset'))
    for number in (2, 20):
        cfg = config(retina(num_classes=number), train_dataloader=dict(dataset=data))
        assert any('num_classes' in n for n in losses_found(cfg).notes) is (number == 20)
