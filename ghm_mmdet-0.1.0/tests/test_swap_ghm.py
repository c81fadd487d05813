"""GHM losses that a config has already, one density for all levels, and weights that make sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.structures import InstanceData
from torch import nn

from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.cli import main
from ghm_mmdet.presets import PRESETS, RELEASED

from .processes import ROOT
from .test_harmonize_lists import FOCAL, L1, config, faster, found, retina

BUILT_IN = 'mmdet::ghm/retinanet_r50_fpn_ghm-1x_coco.py'
THEIR_C = dict(type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0)
THEIR_R = dict(type='GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)


def theirs(**changes: Any) -> Config:
    """A RetinaNet with MMDetection's own GHM losses."""
    losses = dict(loss_cls=dict(THEIR_C), loss_bbox=dict(THEIR_R))
    return config(retina(**{**losses, **changes}))


# MMDetection's own GHM losses.


@pytest.mark.parametrize('prefix', ['', 'mmdet.', 'mmdet.models.losses.'])
def test_the_losses_of_mmdetection_get_the_prefix_and_keep_their_settings(prefix: str) -> None:
    loss_cls = dict(THEIR_C, type=f'{prefix}GHMC', bins=17, loss_weight=3.0)
    cfg = theirs(loss_cls=loss_cls)
    head = harmonize(cfg).model.bbox_head
    assert head.loss_cls == dict(loss_cls, type='ghm_mmdet.GHMC')
    assert head.loss_bbox == dict(THEIR_R, type='ghm_mmdet.GHMR')
    plan = losses_found(cfg)
    assert plan.summary == '2 replaced, 0 kept'
    assert all("MMDetection's own, whose settings and state stay" in x.why for x in plan.losses)
    # Nothing else changes: the training is as it was.
    assert harmonize(cfg).get('optim_wrapper') == cfg.optim_wrapper
    assert not any('clipping' in note for note in plan.notes)


def test_the_prefix_changes_no_value() -> None:
    """MMDetection's classes are the truth, call after call."""
    original = get_config(BUILT_IN).model.bbox_head
    prefixed = harmonize(BUILT_IN).model.bbox_head
    generator = torch.Generator().manual_seed(0)
    losses = [
        [MODELS.build(h[key]) for h in (original, prefixed)] for key in ('loss_cls', 'loss_bbox')
    ]
    for _ in range(3):
        logits = torch.randn(50, 80, generator=generator)
        labels = torch.randint(0, 81, (50,), generator=generator)
        offsets = torch.randn(50, 4, generator=generator) / 10
        of_offsets = (offsets, offsets.flip(0), torch.ones(50, 4))
        for pair, args in zip(losses, ((logits, labels, torch.ones(50)), of_offsets)):
            values = [loss(*args, avg_factor=7) for loss in pair]
            torch.testing.assert_close(values[1], values[0])
    for theirs, ours in losses:
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_what_is_chosen_takes_the_place_of_their_settings() -> None:
    head = harmonize(theirs(), bins=20, momentum=0.5, sync=True).model.bbox_head
    chosen = dict(bins=20, momentum=0.5, sync=True)
    assert head.loss_cls == dict(THEIR_C, type='ghm_mmdet.GHMC', **chosen)
    assert head.loss_bbox == dict(THEIR_R, type='ghm_mmdet.GHMR', **chosen)
    for options, kept in ((dict(cls=False), 'loss_cls'), (dict(reg=False), 'loss_bbox')):
        head = harmonize(theirs(), **options).model.bbox_head
        assert head[kept] == dict(loss_cls=THEIR_C, loss_bbox=THEIR_R)[kept]
        [other] = {'loss_cls', 'loss_bbox'} - {kept}
        assert head[other].type.startswith('ghm_mmdet.')


@pytest.mark.parametrize('weight', [1.0, 2.0])
@pytest.mark.parametrize('preset', PRESETS)
def test_a_preset_is_that_of_the_losses_they_took_the_place_of(preset: str, weight: float) -> None:
    """Their weights are the released code's, 1 and 10, times those of focal loss and L1."""
    loss_cls = dict(THEIR_C, bins=5, loss_weight=1.0 * weight)
    cfg = theirs(loss_cls=loss_cls, loss_bbox=dict(THEIR_R, loss_weight=10.0 * weight))
    of_focal = retina(
        loss_cls=dict(FOCAL, loss_weight=weight), loss_bbox=dict(L1, loss_weight=weight)
    )
    expected = harmonize(config(of_focal), preset=preset)
    assert harmonize(cfg, preset=preset).to_dict() == expected.to_dict()
    # A formula alone needs another weight as well: it comes with the default preset.
    paper = harmonize(config(of_focal), formula='paper')
    assert harmonize(cfg, formula='paper').to_dict() == paper.to_dict()


def test_their_losses_get_the_prefix_in_any_head_but_not_without_use_sigmoid() -> None:
    cfg = theirs(type='NobodyKnowsHead')
    assert harmonize(cfg).model.bbox_head.loss_bbox.type == 'ghm_mmdet.GHMR'
    del cfg.model.bbox_head.loss_cls['use_sigmoid']
    assert 'use_sigmoid is not written' in found(cfg).why
    with pytest.raises(ValueError, match='sync=True would hang: Shared2FCBBoxHead does not call'):
        harmonize(config(dict(type='Shared2FCBBoxHead', loss_bbox=THEIR_R)), sync=True)


def test_the_ghm_of_another_package_is_not_mmdetections() -> None:
    for loss in (
        dict(THEIR_C, type='mmyolo.GHMC'),
        dict(THEIR_C, _scope_='mmyolo'),
    ):
        assert found(theirs(loss_cls=loss)).ghm is None
        assert "GHM-C takes the place of MMDetection's" in found(theirs(loss_cls=loss)).why


def test_ghm_losses_of_this_package_stay() -> None:
    ours = harmonize(theirs())
    plan = losses_found(ours)
    assert (
        not plan.changes
        and [x.why for x in plan.kept] == ['it is a GHM loss, which the options do not change'] * 2
    )
    assert harmonize(ours).to_dict() == ours.to_dict()


@pytest.mark.parametrize(
    'options',
    [dict(cls=False), dict(reg=False), dict(head='RetinaHead'), dict(bins=31), dict(momentum=0.1),
     dict(formula='paper'), dict(sync=True), dict(preset='tempered')],
    ids=str,
)  # fmt: skip
def test_an_option_without_effect_is_refused(options: dict) -> None:
    ours = harmonize(config(), preset='released')
    with pytest.raises(ValueError, match=r'the options have no effect: .* is GHM[CR] already'):
        harmonize(ours, **options)
    assert harmonize(ours, preset='released').to_dict() == ours.to_dict()


# One density for all levels.


@pytest.mark.parametrize(
    ('options', 'key', 'factor'),
    [
        (dict(preset='released'), 'loss_cls', 4),
        (dict(preset='released'), 'loss_bbox', 4),
        (dict(formula='paper'), 'loss_cls', 4),
        (dict(preset='tempered'), 'loss_cls', 2),
        (dict(formula='tempered'), 'loss_bbox', 4),
    ],
)
def test_the_factor_is_exact_where_all_levels_are_alike(
    options: dict, key: str, factor: int
) -> None:
    """Four equal levels, called one by one, and one call of all of them."""
    torch.manual_seed(0)
    args = (torch.randn(200, 3) - 2, torch.randint(0, 4, (200,)))
    if key == 'loss_bbox':
        args = (torch.randn(200, 4) / 20, torch.zeros(200, 4))
    cfg = config(retina(anchor_generator=dict(type='AnchorGenerator', strides=[8, 16, 32, 64])))
    configs = [found(cfg, key, **options, batch_density=x).ghm for x in (False, True)]
    assert configs[1]['loss_weight'] == factor * configs[0]['loss_weight']
    per_level, whole = map(MODELS.build, configs)
    for _ in range(30):  # until the moving averages are those of their calls
        levels = [per_level(*args, avg_factor=90) for _ in range(4)]
        at_once = whole(*(torch.cat([x] * 4) for x in args), avg_factor=90)
    assert float(sum(levels)) == pytest.approx(float(at_once), rel=1e-3)


def test_the_factor_of_a_floor_lies_between_both() -> None:
    """1 below it, L above it; of GHM-R with the default preset."""
    cfg = config(retina(anchor_generator=dict(type='AnchorGenerator', strides=[8, 16, 32, 64])))
    configs = [found(cfg, 'loss_bbox', batch_density=x).ghm for x in (False, True)]
    assert configs[1]['loss_weight'] == 2 * configs[0]['loss_weight']
    ratios = []
    for number in (2, 10_000):
        torch.manual_seed(0)
        args = (torch.rand(number, 4) / 5, torch.zeros(number, 4))
        per_level, whole = map(MODELS.build, configs)
        levels = sum(per_level(*args) for _ in range(4))
        ratios.append(float(levels / (whole(*(torch.cat([x] * 4) for x in args)) / 2)))
    assert ratios == [pytest.approx(1), pytest.approx(4)]


def heads(preset: str, strides: list[int]) -> list[nn.Module]:
    """RetinaNet's head, per level and over all levels, with the same parameters."""
    anchors = dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
        strides=strides,
    )  # fmt: skip
    assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1
    )
    train_cfg = dict(assigner=assigner, sampler=dict(type='PseudoSampler'), allowed_border=-1,
                     pos_weight=-1)  # fmt: skip
    head = retina(in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors)
    built = []
    for whole in (False, True):
        cfg = harmonize(config(head, train_cfg), preset=preset, batch_density=whole)
        torch.manual_seed(0)
        built.append(MODELS.build(dict(cfg.model.bbox_head, train_cfg=train_cfg, test_cfg=None)))
    return built


@pytest.mark.parametrize(('preset', 'rel'), [('released', 0.25), ('tempered', 0.4)])
def test_the_ratio_of_the_losses_is_that_of_the_levels(preset: str, rel: float) -> None:
    """Objects as large as the anchors of each level, so many that no level lacks them."""
    strides, size, seen = [8, 16, 32], 256, []
    for head in heads(preset, strides):
        generator, of_batches = torch.Generator().manual_seed(1), []
        for _ in range(12):
            truth = [objects(strides, size, generator) for _ in range(2)]
            outputs = [
                [scale * torch.randn(2, channels, size // s, size // s, generator=generator) - shift
                 for s in strides]
                for channels, scale, shift in ((3, 2, 4), (4, 0.1, 0))
            ]  # fmt: skip
            meta = dict(img_shape=(size, size), pad_shape=(size, size))
            losses = head.loss_by_feat(*outputs, truth, [meta] * 2)
            of_batches.append(
                [float(sum(x) if isinstance(x, list) else x) for x in losses.values()]
            )
        # When the moving averages have forgotten their start.
        seen.append([sum(values) for values in zip(*of_batches[6:])])
    (cls, box), (whole_cls, whole_box) = seen
    assert (whole_cls, whole_box) == (pytest.approx(cls, rel=rel), pytest.approx(box, rel=rel))
    assert whole_box / whole_cls == pytest.approx(box / cls, rel=rel)


def objects(strides: list[int], size: int, generator: torch.Generator) -> InstanceData:
    boxes = []
    for stride in strides:
        wh = 4 * stride * (0.8 + 0.4 * torch.rand(20, 2, generator=generator))
        corner = (size - wh) * torch.rand(20, 2, generator=generator)
        boxes.append(torch.cat([corner, corner + wh], 1))
    labels = torch.randint(0, 3, (20 * len(strides),), generator=generator)
    return InstanceData(bboxes=torch.cat(boxes), labels=labels)


@pytest.mark.parametrize(
    ('folder', 'name', 'levels'),
    [('ghm', 'retinanet_r50_fpn_ghmc-ghmr{}_8xb2-14e_coco', 5),
     ('demo', 'retinanet_r18_fpn_ghmc-ghmr{}_demo', 3)],
)  # fmt: skip
def test_the_shipped_configs_have_the_weights_of_harmonize(
    folder: str, name: str, levels: int
) -> None:
    per_level, whole = (
        Config.fromfile(ROOT / f'configs/{folder}/{name.format(kind)}.py').model.bbox_head
        for kind in ('', '-batch')
    )
    assert len(per_level.anchor_generator.strides) == levels
    harmonized = harmonize(config(per_level), batch_density=True).model.bbox_head
    assert whole.type == harmonized.type == 'ghm_mmdet.GHMRetinaHead'
    for key in ('loss_cls', 'loss_bbox'):
        assert whole[key] == dict(harmonized[key], **({'sync': True} if folder == 'ghm' else {}))
        assert whole[key].loss_weight > per_level[key].loss_weight


@pytest.mark.parametrize(
    'cfg', [theirs(), harmonize(theirs()), config()], ids=['theirs', 'ours', 'L1']
)
def test_batch_density_takes_effect_or_is_refused(cfg: Config) -> None:
    plan = losses_found(cfg, preset=None, batch_density=True)
    new = harmonize(cfg, batch_density=True)
    head = new.model.bbox_head
    assert head.type == 'ghm_mmdet.GHMRetinaHead'
    before = harmonize(cfg).model.bbox_head
    for key in ('loss_cls', 'loss_bbox'):
        factor = head[key].loss_weight / before[key].loss_weight
        assert factor == (5 if 'formula' not in before[key] else 2.24)
        assert {k: v for k, v in head[key].items() if k != 'loss_weight'} == {
            k: v for k, v in before[key].items() if k != 'loss_weight'
        }
        note = f'its weight is multiplied by {factor:g}, for it is called once for all levels'
        assert note in found(cfg, key, batch_density=True).why
    assert 'model.bbox_head: RetinaHead becomes ghm_mmdet.GHMRetinaHead' in plan.notes
    # A second time nothing is to be done, nor is it.
    assert harmonize(new, batch_density=True).to_dict() == new.to_dict()


def test_a_loss_that_divides_by_the_heads_factor_keeps_its_weight() -> None:
    head = harmonize(config(), cls=False, batch_density=True, preset='released').model.bbox_head
    assert head.loss_cls == FOCAL and head.loss_bbox.loss_weight == 50
    atss = config(dict(type='ATSSHead', loss_cls=dict(THEIR_C, type='ghm_mmdet.GHMC')))
    with pytest.raises(ValueError, match='batch_density=True has no effect'):
        harmonize(atss, batch_density=True)


# Weights that make sense.


@pytest.mark.parametrize('alpha', [-1, -1.0, -0.5])
def test_a_negative_alpha_is_off(alpha: float) -> None:
    """As in torchvision and fvcore: positives and negatives weigh 1."""
    cfg = config(retina(loss_cls=dict(FOCAL, alpha=alpha, loss_weight=2.0)))
    assert found(cfg).ghm['loss_weight'] == 2 and 'α of focal loss' not in found(cfg).why
    assert found(cfg, preset='released').ghm['loss_weight'] == 2


@pytest.mark.parametrize('alpha', [0, 0.0, 1.5, float('nan'), None, True])
def test_an_alpha_that_makes_no_sense_is_refused(alpha: Any) -> None:
    cfg = config(retina(loss_cls=dict(FOCAL, alpha=alpha)))
    with pytest.raises(
        (TypeError, ValueError), match=r'^alpha of model\.bbox_head\.loss_cls must be'
    ):
        harmonize(cfg)
    assert (
        harmonize(
            config(retina(loss_cls=dict(FOCAL, alpha=1)))
        ).model.bbox_head.loss_cls.loss_weight
        == 1
    )


@pytest.mark.parametrize('key', ['loss_cls', 'loss_bbox'])
@pytest.mark.parametrize('preset', PRESETS)
def test_a_loss_weight_that_makes_no_sense_is_refused(key: str, preset: str) -> None:
    for weight in (-1, -0.25, float('inf'), '1'):
        cfg = config(
            retina(**{key: dict(dict(loss_cls=FOCAL, loss_bbox=L1)[key], loss_weight=weight)})
        )
        with pytest.raises(
            (TypeError, ValueError), match=rf'^loss_weight of model\.bbox_head\.{key}'
        ):
            harmonize(cfg, preset=preset)
    off = config(retina(**{key: dict(dict(loss_cls=FOCAL, loss_bbox=L1)[key], loss_weight=0)}))
    assert found(off, key, preset=preset).why == 'loss_weight=0: it is turned off'


def test_every_weight_is_positive_whatever_alpha_and_gamma_say() -> None:
    for gamma in (-1, 0, 2.0, 5):
        weight = found(config(retina(loss_cls=dict(FOCAL, gamma=gamma)))).ghm['loss_weight']
        assert weight == 0.25, 'γ has no part in it'


@pytest.mark.parametrize('share', [0, -0.5])
def test_a_share_of_positives_that_makes_no_sense_is_refused(share: float) -> None:
    sampler = dict(type='RandomSampler', pos_fraction=share)
    with pytest.raises(ValueError, match=r'pos_fraction of the sampler of .* must be > 0'):
        harmonize(faster(dict(rcnn=dict(sampler=sampler))))


def test_levels_that_are_none_are_the_default_ones() -> None:
    rpn = dict(type='RPNHead', loss_cls=FOCAL, loss_bbox=L1, anchor_generator=dict(strides=[]))
    loss = found(config(rpn), preset='released')
    assert loss.ghm['loss_weight'] == 0.2


# Numbers of the heads.


def test_the_share_of_positives_of_sabl_is_that_of_a_box_head() -> None:
    """Where the config does not say it, as of any box head: a quarter."""
    head = dict(
        type='SABLHead', num_classes=3, loss_bbox_reg=L1, loss_cls=dict(type='CrossEntropyLoss')
    )
    for preset, weight in (('released', 10 * 0.25), ('tempered', 4 * 0.25)):
        loss = found(config(head), 'loss_bbox_reg', preset=preset)
        assert loss.ghm['loss_weight'] == weight
        assert 'multiplied by the share of positives, 0.25' in loss.why


def test_without_its_classification_a_box_head_has_no_softmax_beside_it() -> None:
    """The weight of GHM-R is 10 then, as in the other heads, and 4 beside a softmax."""
    for with_cls, weight in ((True, 4 * 0.25), (False, 10 * 0.25)):
        head = dict(type='Shared2FCBBoxHead', num_classes=3, with_cls=with_cls, loss_bbox=L1)
        loss = found(config(head), 'loss_bbox')
        assert loss.ghm['loss_weight'] == weight
        assert ('beside a softmax' in loss.why) == with_cls
    sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(type='RetinaHead', num_classes=3, loss_cls=sigmoid, loss_bbox=L1)
    assert found(config(head), 'loss_bbox').ghm['loss_weight'] == 10


def test_bins_left_out_are_those_of_the_class() -> None:
    """10, which options of 30 are not."""
    without = {k: v for k, v in THEIR_C.items() if k != 'bins'}
    ours = harmonize(theirs(loss_cls=without))
    built = MODELS.build(ours.model.bbox_head.loss_cls)
    assert 'bins' not in ours.model.bbox_head.loss_cls and built.bins == 10
    with pytest.raises(ValueError, match=r'the options have no effect: .*loss_cls is GHMC already'):
        harmonize(ours, bins=30)
    agreed = harmonize(theirs(loss_cls=without, loss_bbox=dict(THEIR_R, bins=10)))
    assert harmonize(agreed, bins=10).to_dict() == agreed.to_dict()
    assert (RELEASED.ghm_c['bins'], RELEASED.ghm_r['bins']) == (30, 10)


def test_an_absolute_base_stays_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the new config, too, where a relative path would do."""
    (tmp_path / 'mine.py').write_text(f"_base_ = '{BUILT_IN}'\n", encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    main(['harmonize', str(tmp_path / 'mine.py'), '--out', 'ghm.py'])
    assert f"_base_ = '{tmp_path}/mine.py'" in Path('ghm.py').read_text(encoding='utf-8')
