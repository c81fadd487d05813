"""GHM into any config: what is replaced, what is written, what is read from there."""

from __future__ import annotations

import copy
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import mmdet
import pytest
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.config import Config

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.presets import PRESETS, RELEASED, Options
from ghm_mmdet.swap import harmonized_text, load
from ghm_mmdet.swap.writer import difference, literal

ROOT = Path(__file__).parent.parent
GHM_C, GHM_R = RELEASED
CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

SAMPLE = [
    'retinanet/retinanet_r50_fpn_1x_coco.py',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'ssd/ssd300_coco.py',
    'yolox/yolox_s_8xb8-300e_coco.py',
    'detr/detr_r50_8xb2-150e_coco.py',
    'gfl/gfl_r50_fpn_1x_coco.py',
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco.py',
    'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py',
]
#: 'tempered' keeps the one loss of these, of a softmax.
SOFTMAX_ALONE = ('detr/', 'mask2former/')
SAMPLE_OF_PRESETS = [
    *(('released', name) for name in SAMPLE),
    *(('tempered', name) for name in SAMPLE if not name.startswith(SOFTMAX_ALONE)),
]
#: SSDHead has no place for the loss it computes: kept, it is written out.
KEPT_OF_SSD = (('model', 'bbox_head', 'loss_cls', 'type'), 'ghm_mmdet.OHEMLoss')
#: Where a harmonized config may differ from the original.
LOSSES = ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1', 'loss_conf', 'loss_bbox_init',
          'loss_bbox_refine', 'loss_bbox_reg')  # fmt: skip


def written(original: str | Path, out: Path, **options: Any) -> Config:
    """The harmonized config, as read from the file that was written."""
    out.write_text(harmonized_text(original, out, Options(**options))[1], encoding='utf-8')
    return Config.fromfile(out)


def leaves(node: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Every value of nested dicts and lists by its path; empty ones are values."""
    if isinstance(node, Config):
        node = node._cfg_dict
    if isinstance(node, dict) and node:
        items = node.items()
    elif isinstance(node, (list, tuple)) and node:
        items = enumerate(node)
    else:
        return {path: node}
    return {k: v for key, value in items for k, v in leaves(value, (*path, key)).items()}


def assert_only_losses_and_clipping_differ(original: Config, new: Config) -> None:
    before, after = leaves(original), leaves(new)
    changed = [
        path
        for path in before.keys() | after.keys()
        if path not in before or path not in after or before[path] != after[path]
    ]
    assert any(path[0] == 'model' for path in changed)
    for path in changed:
        assert (
            path[:2] == ('optim_wrapper', 'clip_grad')
            or (path[0].endswith('_evaluator') and path[-1] in ('outfile_path', 'outfile_prefix'))
            or (path[0] == 'model' and any(key in LOSSES for key in path))
            or (path[-1] == 'type' and after[path] == 'ghm_mmdet.GHMSSDHead')
        ), path
    for path in changed:
        if path[0] == 'model' and path[-1] == 'type' and (path, after[path]) != KEPT_OF_SSD:
            assert after[path].startswith('ghm_mmdet.GHM')


@pytest.mark.parametrize(('preset', 'name'), SAMPLE_OF_PRESETS)
def test_what_is_read_is_the_original_but_for_losses_and_clipping(
    preset: str, name: str, tmp_path: Path
) -> None:
    path = CONFIGS / name
    original = Config.fromfile(path)
    read = written(path, tmp_path / 'ghm.py', preset=preset)
    assert leaves(read) == leaves(harmonize(original, preset=preset))
    assert leaves(original) == leaves(Config.fromfile(path))
    assert_only_losses_and_clipping_differ(original, read)


@pytest.mark.parametrize(('preset', 'name'), SAMPLE_OF_PRESETS)
def test_harmonizing_twice_changes_nothing(preset: str, name: str, tmp_path: Path) -> None:
    once = written(CONFIGS / name, tmp_path / 'once.py', preset=preset)
    assert leaves(harmonize(once, preset=preset)) == leaves(once)
    text = harmonized_text(tmp_path / 'once.py', tmp_path / 'twice.py', Options(preset=preset))[1]
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    assert len(lines) == 1 and lines[0].startswith('_base_ = ')


def test_settings_are_those_of_the_shipped_configs() -> None:
    shipped = Config.fromfile(ROOT / 'configs/_base_/ghm_losses.py')
    of_preset = dict(ghm_c=GHM_C, ghm_r=GHM_R)
    of_preset.update(zip(('tempered_ghm_c', 'tempered_ghm_r'), PRESETS['tempered']))
    for name, settings in of_preset.items():
        assert {k: v for k, v in shipped[name].items() if k != '_delete_'} == settings
    head = harmonize(RETINANET, preset='released').model.bbox_head
    assert (head.loss_cls, head.loss_bbox) == (GHM_C, GHM_R)


def test_faster_rcnn() -> None:
    model = harmonize(FASTER, preset='released').model
    rpn, box = model.rpn_head, model.roi_head.bbox_head
    assert rpn.loss_cls == {**GHM_C, 'loss_weight': 0.2}
    # 5 levels; half of the samples may be positive, a quarter of the RoIs.
    assert rpn.loss_bbox == {**GHM_R, 'loss_weight': 10 / 5 * 0.5}
    assert box.loss_cls == {**GHM_C, 'use_sigmoid': False}
    # target_stds are 0.1, 0.1, 0.2, 0.2.
    mu = pytest.approx(0.02 / 0.15)
    assert box.loss_bbox == {**GHM_R, 'mu': mu, 'loss_weight': 10 * 0.25}


def test_detr_keeps_its_class_weights_and_its_boxes() -> None:
    original = load('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    new = harmonize(original, preset='released')
    head = new.model.bbox_head
    assert (head.loss_cls.class_weight, head.loss_cls.bg_cls_weight) == (1.0, 0.1)
    assert head.loss_cls.use_sigmoid is False
    assert head.loss_bbox == original.model.bbox_head.loss_bbox
    assert new.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    MODELS.build(head)


def test_heads_of_mmrotate_are_known_without_it() -> None:
    focal = dict(type='mmdet.FocalLoss', use_sigmoid=True)
    smooth_l1 = dict(type='mmdet.SmoothL1Loss')
    refine = dict(type='S2ARefineHead', loss_cls=focal, loss_bbox=dict(type='KFLoss'))
    model = dict(
        bbox_head_init=dict(type='S2AHead', loss_cls=focal, loss_bbox=smooth_l1),
        bbox_head_refine=[refine],
        roi_head=dict(bbox_head=dict(type='GVBBoxHead', loss_bbox=smooth_l1, loss_fix=smooth_l1)),
    )
    plan = losses_found(Config(dict(model=model)))
    assert [loss.where for loss in plan.replaced] == [
        'model.bbox_head_init.loss_cls',
        'model.bbox_head_init.loss_bbox',
        'model.bbox_head_refine.0.loss_cls',
    ]
    assert [loss.why.partition(' ')[0] for loss in plan.kept] == ['compares', 'calls', 'does']


def test_every_stage_of_a_cascade() -> None:
    path = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'
    heads = harmonize(path, preset='released').model.roi_head.bbox_head
    assert len(heads) == 3
    for head in heads:
        assert (head.loss_cls.type, head.loss_bbox.type) == ('ghm_mmdet.GHMC', 'ghm_mmdet.GHMR')


def local(folder: Path, text: str, base: str = RETINANET) -> Path:
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {base!r}\n{text}', encoding='utf-8')
    return path


@pytest.mark.parametrize(
    'text',
    [
        '',
        'model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type="FocalLoss")))\n',
        'model = dict(bbox_head=dict(loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.1)))'
        '\n',
        'lr = 0.02\nmodel = dict(bbox_head=dict(num_classes=len({{_base_.dataset_type}})))\n'
        'optim_wrapper = dict(optimizer=dict(lr=lr))\n',
        'optim_wrapper = dict(clip_grad=None)\n',
        'optim_wrapper = dict(clip_grad=dict(max_norm=5))\n',
        'custom_hooks = [dict(type="NumClassCheckHook")]\n',
    ],
)
def test_local_configs(text: str, tmp_path: Path) -> None:
    path = local(tmp_path, text)
    (tmp_path / 'deeper').mkdir()
    read = written(path, tmp_path / 'deeper/ghm.py')
    assert leaves(read) == leaves(harmonize(path))
    assert '_delete_' not in str(read._cfg_dict)
    assert_only_losses_and_clipping_differ(Config.fromfile(path), read)
    max_norm = 5 if 'max_norm' in text else 10
    assert read.optim_wrapper.clip_grad.max_norm == max_norm
    released = harmonize(path, preset='released').optim_wrapper.clip_grad.max_norm
    assert released == (5 if 'max_norm' in text else 35)


def test_relative_base_is_relative_to_the_file_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(tmp_path, '')
    (tmp_path / 'deeper').mkdir()
    monkeypatch.chdir(tmp_path)
    text = harmonized_text('mine.py', 'deeper/ghm.py', Options(preset='released'))[1]
    assert "_base_ = '../mine.py'\n" in text
    Path('deeper/ghm.py').write_text(text, encoding='utf-8')
    assert Config.fromfile('deeper/ghm.py').model.bbox_head.loss_cls == GHM_C


def test_config_is_not_written_over_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local(tmp_path, '')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"another file than the config, got 'mine\.py'"):
        harmonized_text(path, 'mine.py', Options())


def test_name_stays_the_base(tmp_path: Path) -> None:
    text = harmonized_text(FASTER, tmp_path / 'ghm.py', Options())[1]
    assert f'_base_ = {FASTER!r}\n' in text
    read = written(FASTER, tmp_path / 'ghm.py')
    assert leaves(read) == leaves(harmonize(FASTER))


def test_config_that_imports_its_bases_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmdet.models import FocalLoss, L1Loss, RetinaHead, RetinaNet\n'
        'model = dict(type=RetinaNet, bbox_head=dict(type=RetinaHead, num_classes=3,\n'
        '    loss_cls=dict(type=FocalLoss, use_sigmoid=True), loss_bbox=dict(type=L1Loss)))\n'
        'optim_wrapper = dict(type="OptimWrapper")\n',
        encoding='utf-8',
    )
    read = written(path, tmp_path / 'ghm.py', preset='released')
    assert read.model.bbox_head.num_classes == 3
    assert (read.model.bbox_head.loss_cls, read.model.bbox_head.loss_bbox) == (GHM_C, GHM_R)
    assert read.model.type.endswith('RetinaNet')


def test_options() -> None:
    assert types_of(FASTER, preset='released', reg=False) == ['ghm_mmdet.GHMC', None] * 2
    assert types_of(FASTER, cls=False) == [None, 'ghm_mmdet.GHMR'] * 2
    for pattern in ('RPNHead', 'rpn_head', '*rpn*'):
        assert [loss.ghm is None for loss in losses_found(FASTER, head=pattern).losses] == [
            False, False, True, True,
        ]  # fmt: skip
    head = harmonize(RETINANET, bins=7, momentum=0.5, formula='paper').model.bbox_head
    for loss in (head.loss_cls, head.loss_bbox):
        assert (loss.bins, loss.momentum, loss.formula) == (7, 0.5, 'paper')


def types_of(config: str, **options: Any) -> list[str | None]:
    """Of what takes the place of each loss; None where it is kept."""
    return [loss.ghm and loss.ghm['type'] for loss in losses_found(config, **options).losses]


@pytest.mark.parametrize('formula', [None, 'tempered'])
def test_tempered_keeps_the_losses_of_a_softmax(formula: str | None) -> None:
    """RPN's is of a sigmoid."""
    ghm_c, ghm_r = 'ghm_mmdet.GHMC', 'ghm_mmdet.GHMR'
    assert types_of(FASTER) == [ghm_c, ghm_r, None, ghm_r]
    assert types_of(FASTER, preset='released', formula=formula) == [ghm_c, ghm_r] * 2
    assert types_of('mmdet::ssd/ssd300_coco.py') == [None, ghm_r]
    box_head = load(FASTER).model.roi_head.bbox_head
    found = harmonize(FASTER).model.roi_head.bbox_head
    assert found.loss_cls == box_head.loss_cls
    assert found.loss_bbox.loss_weight == 4 * 0.25, "L1's, times the share of positives"
    assert harmonize('mmdet::ssd/ssd300_coco.py').model.bbox_head.loss_bbox.loss_weight == 4
    seesaw = 'mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_sample1e-3-ms-2x_lvis-v1.py'
    assert harmonize(seesaw).model.roi_head.bbox_head.loss_bbox.loss_weight == 4 * 0.25
    why = losses_found(FASTER).kept[0].why
    assert why == "a softmax: preset='tempered' keeps it, preset='released' replaces it"
    with pytest.raises(ValueError, match="preset='released' replaces it"):
        harmonize('mmdet::detr/detr_r50_8xb2-150e_coco.py')


def test_tempered_is_the_default() -> None:
    """GHM-C is scaled as the loss that it replaces, GHM-R as released."""
    following = dict(formula='floored', bins=10, momentum=0, mu_momentum=0.9)
    head = harmonize(RETINANET).model.bbox_head
    assert head.loss_cls == {**GHM_C, 'formula': 'tempered', 'loss_weight': 0.25}, 'α of focal loss'
    assert head.loss_bbox == {**GHM_R, **following, 'loss_weight': 10}
    rpn = harmonize(FASTER).model.rpn_head
    assert (rpn.loss_cls.loss_weight, rpn.loss_bbox.loss_weight) == (1, 10 / 5 * 0.5)
    for quality in ('gfl/gfl_r50_fpn_1x_coco.py', 'rtmdet/rtmdet_s_8xb32-300e_coco.py'):
        loss = harmonize(f'mmdet::{quality}').model.bbox_head.loss_cls
        assert loss.loss_weight == 0.25, 'as of a focal loss'
    head = harmonize(RETINANET, formula='paper', momentum=0.5).model.bbox_head
    for loss in (head.loss_cls, head.loss_bbox):
        assert (loss.formula, loss.momentum) == ('paper', 0.5)
    assert leaves(harmonize(RETINANET, preset='tempered')) == leaves(harmonize(RETINANET))


def test_batch_density() -> None:
    assert harmonize(RETINANET, batch_density=True).model.bbox_head.type == (
        'ghm_mmdet.GHMRetinaHead'
    )
    with pytest.raises(ValueError, match='batch_density=True has no effect'):
        losses_found('mmdet::atss/atss_r50_fpn_1x_coco.py', batch_density=True)
    heads = dict(bbox_head=load(RETINANET).model.bbox_head, other=dict(type='ATSSHead'))
    heads['other']['loss_cls'] = heads['bbox_head'].loss_cls
    plan = losses_found(Config(dict(model=heads)), batch_density=True)
    assert any('ATSSHead' in note and 'not available' in note for note in plan.notes)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(bins=0), ValueError, 'bins must be >= 1, got 0'),
        (dict(momentum=1), ValueError, r'momentum must be in \[0, 1\), got 1'),
        (
            dict(formula='mine'),
            ValueError,
            "formula must be one of 'official', 'paper', 'floored', 'tempered'",
        ),
        (dict(preset='mine'), ValueError, "preset must be one of 'released', 'tempered', got"),
        (dict(head='SSD*'), ValueError, r"head='SSD\*' matches none of the heads: model.bbox_head"),
        (dict(cls=False, reg=False), ValueError, 'cls and reg are both False'),
        (dict(cls='yes'), TypeError, "cls must be True or False, got 'yes'"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        harmonize(RETINANET, **options)


def test_wrong_config() -> None:
    with pytest.raises(TypeError, match='cfg must be a Config, a path or a name, got int'):
        harmonize(3)
    with pytest.raises(ValueError, match='no loss can be replaced by GHM\nthe config has no loss'):
        harmonize(Config(dict(model=dict(type='RetinaNet'))))


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('tood/tood_r50_fpn_1x_coco.py', 'probabilities, not logits'),
        ('paa/paa_r50_fpn_1x_coco.py', 'ranks its anchors'),
        ('centernet/centernet_r18_8xb16-crop512-140e_coco.py', 'a Gaussian heat map'),
        ('soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py', 'teacher'),
        ('fsaf/fsaf_r50_fpn_1x_coco.py', 'to choose its level'),
    ],
)
def test_refused_with_a_reason(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f'no loss can be replaced by GHM\n[^$]*{why}'):
        harmonize(CONFIGS / name)


@pytest.mark.parametrize(
    ('name', 'where', 'why'),
    [
        ('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py', 'roi_head.bbox_head.loss_bbox', 'β'),
        ('faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py', 'roi_head.bbox_head.loss_cls', 'OHEM'),
        ('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py', 'roi_head.bbox_head.loss_cls', 'ranks'),
        ('faster_rcnn/faster-rcnn_r50_fpn_giou_1x_coco.py', 'roi_head.bbox_head.loss_bbox', 'IoU'),
    ],
)
def test_kept_for_what_is_around(name: str, where: str, why: str) -> None:
    plan = losses_found(CONFIGS / name)
    (found,) = [loss for loss in plan.losses if loss.where == f'model.{where}']
    assert found.ghm is None and why in found.why
    assert plan.replaced


def test_heads_of_users() -> None:
    """One that derives from a known head is treated as it, another is left alone."""

    @MODELS.register_module(force=True)
    class MyRetinaHead(RetinaHead):
        pass

    losses = dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='L1Loss'))
    mine = Config(dict(model=dict(type='RetinaNet', bbox_head=dict(type='MyRetinaHead', **losses))))
    assert harmonize(mine, preset='released').model.bbox_head.loss_cls == GHM_C
    decoded = copy.deepcopy(mine)
    decoded.model.bbox_head.reg_decoded_bbox = True
    assert harmonize(decoded).model.bbox_head.loss_bbox == dict(type='L1Loss')
    mine.model.bbox_head.type = 'NobodyKnowsHead'
    with pytest.raises(ValueError, match='how NobodyKnowsHead calls it is not known'):
        harmonize(mine)


def test_difference() -> None:
    base = dict(a=1, b=dict(c=1, d=[1, 2]), e=None, f=dict(type='A', x=1))
    new = dict(a=1, b=dict(c=2, d=[1, 2]), e=dict(g=1), f=dict(type='B'), h=dict(i=1))
    assert difference(base, new) == dict(
        b=dict(c=2), e=dict(_delete_=True, g=1), f=dict(_delete_=True, type='B'), h=dict(i=1)
    )
    assert difference(base, base) == {}
    with pytest.raises(ValueError, match='can not take away from its base: a'):
        difference(base, {k: v for k, v in base.items() if k != 'a'})


@pytest.mark.parametrize(
    'value',
    [
        dict(a=[1, 2.5, None], b=(1,), c={'x.y': True, 3: 'text'}, d={}, e=float('inf'), f=[]),
        dict(long=[dict(type='A' * 30, values=list(range(40)))] * 3),
        {'not a name' * 12: [((1, 2), 'x' * 60), ((3, 4), 'y' * 60)]},
    ],
)
def test_literal(value: dict) -> None:
    assert eval(literal(value)) == value


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def printed(*args: object) -> str:
        tool = ROOT / 'tools/harmonize.py'
        monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
        runpy.run_path(str(tool), run_name='__main__')
        return capsys.readouterr().out

    out = tmp_path / 'new/ghm.py'
    lines = printed(FASTER, '--out', out, '--no-reg', '--head', 'RPNHead', '--bins', '20')
    assert 'model.rpn_head.loss_cls (RPNHead, CrossEntropyLoss): replaced by GHMC' in lines
    assert 'model.rpn_head.loss_bbox (RPNHead, L1Loss): kept: reg=False' in lines
    model = Config.fromfile(out).model
    assert (model.rpn_head.loss_cls.type, model.rpn_head.loss_cls.bins) == ('ghm_mmdet.GHMC', 20)
    assert model.roi_head.bbox_head.loss_cls.type == 'CrossEntropyLoss'
    dry = printed(FASTER, '--out', tmp_path / 'dry.py', '--dry-run')
    assert f'_base_ = {FASTER!r}' in dry and not (tmp_path / 'dry.py').exists()
    with pytest.raises(SystemExit, match=r'no loss can be replaced by GHM\n.*not logits'):
        printed('mmdet::tood/tood_r50_fpn_1x_coco.py')
    with pytest.raises(SystemExit, match='does not exist'):
        printed('mmdet::retinanet/nobody.py')


def test_ssd_with_its_own_regression_loss() -> None:
    head = harmonize('mmdet::ssd/ssd300_coco.py', preset='released', reg=False).model.bbox_head
    assert (head.type, head.loss_cls.type) == ('ghm_mmdet.GHMSSDHead', 'ghm_mmdet.GHMC')
    assert head.loss_bbox == dict(type='SmoothL1Loss', loss_weight=1.0, beta=1.0)


def test_a_named_tuple_is_not_written_as_another_type() -> None:
    class Size(NamedTuple):
        height: int
        width: int

    with pytest.raises(TypeError, match='a config can not hold'):
        literal(dict(size=Size(1, 2)))
