"""What must not pass without a word: names of classes, settings, states, mistakes on the way."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmdet.models.dense_heads import RetinaHead
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

import ghm_mmdet
from ghm_mmdet import GHMC, GHMR, GHMSSDHead, OHEMLoss, harmonize, losses_found
from ghm_mmdet.cli import main
from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss
from ghm_mmdet.registry import MODELS

from .processes import ROOT, leave_group, start_all

# A class by every name.

NAMES = [(GHMC, 'ghm_mmdet.GHMC'), (OHEMLoss, 'ghm_mmdet.OHEMLoss')]


@pytest.mark.parametrize(('loss', 'name'), NAMES, ids=str)
def test_a_config_has_to_write_use_sigmoid(loss: type, name: Any) -> None:
    with pytest.raises(ValueError, match=f'use_sigmoid is missing from the config of {name}:'):
        RetinaHead(num_classes=3, in_channels=8, loss_cls=dict(type=name))
    head = RetinaHead(num_classes=3, in_channels=8, loss_cls=dict(type=name, use_sigmoid=True))
    assert isinstance(head.loss_cls, loss) and head.cls_out_channels == 3


def test_a_python_call_may_leave_use_sigmoid_out_and_so_may_a_class_that_passes_it() -> None:
    class Mine(GHMC):
        def __init__(self, **settings: Any) -> None:
            super().__init__(use_sigmoid=True, **settings)

    assert MMENGINE_MODELS.build(dict(type=Mine, bins=3)).use_sigmoid
    assert Mine(bins=3).use_sigmoid and copy.deepcopy(GHMC(3)).bins == 3
    registered = MODELS.build(dict(type='ghm_mmdet.GHMC', bins=3, momentum=0.5, use_sigmoid=True))
    for loss in (GHMC(3, 0.5), registered):
        assert pickle.loads(pickle.dumps(loss)).momentum == 0.5
    assert repr(registered) == repr(GHMC(3, 0.5)) and registered.__doc__ == GHMC.__doc__


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='FocalLoss'),
        dict(type='mmdet.FocalLoss', use_sigmoid=True),
        dict(type='mmdet.models.losses.FocalLoss'),
        dict(type='ghm_mmdet.GHMC', use_sigmoid=True),
        dict(type=GHMC, use_sigmoid=True),
    ],
    ids=str,
)
def test_ssd_refuses_sigmoids_by_every_name(loss: dict) -> None:
    with pytest.raises(ValueError, match='loss_cls of GHMSSDHead must have use_sigmoid=False'):
        ssd_head(loss_cls=loss)


def ssd_head(**losses: dict) -> GHMSSDHead:
    config = dict(get_config('mmdet::ssd/ssd300_coco.py').model.bbox_head)
    return GHMSSDHead(**{**{k: v for k, v in config.items() if k != 'type'}, **losses})


def test_ssd_head_builds_with_mmdetections_losses_outside_of_a_runner() -> None:
    losses = dict(loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='SmoothL1Loss'))
    head = ssd_head(**losses)
    assert type(head.loss_cls).__name__ == 'CrossEntropyLoss'


# A training that is not the one asked for.


def config(**changes: Any) -> Config:
    cfg = Config.fromfile(ROOT / 'configs/demo/retinanet_r18_fpn_fl-sl1_demo.py')
    cfg.merge_from_dict(changes)
    return cfg


def test_another_number_of_classes_is_noted() -> None:
    wrong = losses_found(config(**{'model.bbox_head.num_classes': 2}))
    [note] = [note for note in wrong.notes if 'num_classes' in note]
    assert 'num_classes=2' in note and 'classes' in note
    assert not any('num_classes' in note for note in losses_found(config()).notes)


def test_detr_like_heads_keep_a_quality_loss() -> None:
    """They test for its class, and hand it IoU targets."""
    head = dict(type='DINOHead', num_classes=3, loss_cls=dict(type='QualityFocalLoss'))
    cfg = Config(dict(model=dict(bbox_head=head)))
    [loss] = losses_found(cfg).losses
    assert loss.ghm is None and 'IoU targets' in loss.why
    head['loss_cls'] = dict(type='FocalLoss', use_sigmoid=True)
    assert losses_found(Config(dict(model=dict(bbox_head=head)))).losses[0].ghm is not None


# State, counted once, and over all processes that share it.


def positives(rank: int, folder: str) -> None:
    """The loss of two processes that have 1 and 30 positives, for a head that divides it."""
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    pred, labels = positives_batch()
    mine = slice(0, 40) if rank == 0 else slice(40, 80)
    found = {}
    for sync in (False, True):
        x = pred[mine].clone().requires_grad_()
        loss = GHMC(10, reduction='positives', sync=sync)(x, labels[mine])
        # YOLOX's and RTMDet's heads: by the mean over the processes.
        average = torch.tensor(float((labels[mine] < 3).sum()))
        dist.all_reduce(average)
        value = loss / (average / 2).clamp(min=1)
        value.backward()
        mean = GHMC(10, sync=sync)(pred[mine], labels[mine])
        found[sync] = (value.detach(), mean, x.grad)
    torch.save(found, f'{folder}/{rank}.pt')
    leave_group()


def positives_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((80,), 3)
    labels[0] = 1
    labels[40:70] = torch.randint(0, 3, (30,), generator=generator)
    return torch.randn(80, 3, generator=generator).double(), labels


def test_positives_are_those_of_this_process_or_with_sync_of_all(tmp_path: Path) -> None:
    start_all(positives, 2, str(tmp_path))
    results = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    for result, number in zip(results, (1, 30)):
        value, mean, _ = result[False]
        torch.testing.assert_close(value, mean * number / 15.5)
        value, mean, _ = result[True]
        torch.testing.assert_close(value, mean)
    # DDP averages the values and gradients of the processes: with sync, those of one process.
    pred, labels = positives_batch()
    x = pred.clone().requires_grad_()
    expected = GHMC(10)(x, labels)
    expected.backward()
    values, _, gradients = zip(*(result[True] for result in results))
    torch.testing.assert_close(sum(values) / 2, expected.detach())
    torch.testing.assert_close(torch.cat(gradients) / 2, x.grad)


def test_positives_are_at_least_one() -> None:
    pred = torch.randn(20, 3)
    found = GHMC(10, reduction='positives')(pred, torch.full((20,), 3))
    torch.testing.assert_close(found, GHMC(10)(pred, torch.full((20,), 3)))
    assert found > 0


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('loss_class', [GHMC, GHMR])
@pytest.mark.parametrize(
    'settings',
    [{}, dict(reduction='none'), dict(density='exact'), dict(bins=256), dict(formula='tempered')],
    ids=str,
)
def test_what_is_neither_valid_nor_finite_shows_on_every_path(
    value: float, loss_class: type, settings: dict
) -> None:
    """As in MMDetection's classes: 0 times it is NaN; S stays clean."""
    momentum = 0.0 if settings.get('density') == 'exact' else 0.75
    loss = loss_class(momentum=momentum, **{'bins': 10, **settings})
    pred, weight = torch.randn(6, 4), torch.ones(6, 4)
    pred[2, 1], weight[2, 1] = value, 0
    found = loss(pred, torch.zeros(6, 4), weight)
    assert found.sum().isnan()
    if momentum:
        assert not loss.acc_sum.any()


@pytest.mark.parametrize('valid', [0, 1])
@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_mu_does_not_follow_what_is_not_finite(value: float, valid: int) -> None:
    loss = GHMR(mu_momentum=0.9)
    pred, weight = torch.ones(3, 4), torch.ones(3, 4)
    pred[0, 0], weight[0, 0] = value, valid
    loss(pred, torch.zeros(3, 4), weight)
    assert loss.mean_d == 0


def test_numbers_of_half_precision_are_counted_in_float32() -> None:
    """float16 has no 2049, and ends at 65504."""
    pred, labels = torch.zeros(4097, 1), torch.zeros(4097, dtype=torch.long)
    loss = GHMC(10, reduction='positives')
    assert loss(pred.half(), labels) == loss(pred, labels)
    pred, target, weight = torch.randn(20_000, 4), torch.zeros(20_000, 4), torch.ones(20_000)
    value = ghm_r_loss(pred, target, weight.half())
    assert value == ghm_r_loss(pred, target, weight) and value > 0


def test_scores_are_not_rounded_to_the_logits() -> None:
    """A pair of labels and scores is the dense target, whatever the precision of the logits."""
    pred, labels, scores = torch.randn(50, 3).half(), torch.randint(0, 4, (50,)), torch.rand(50)
    dense = torch.zeros(50, 4).scatter_(1, labels[:, None], scores[:, None])[:, :3]
    for settings in (dict(bins=256), dict(density='exact')):
        torch.testing.assert_close(
            GHMC(**settings)(pred, (labels, scores)), GHMC(**settings)(pred, dense)
        )


@pytest.mark.parametrize('size', [1e30, 1e34, 3e38])
@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_large_finite_logits_are_finite(size: float, reduction: str) -> None:
    """Of a block whose sum overflows."""
    pred = torch.full((300_000, 1), -size)
    assert ghm_c_loss(pred, torch.zeros_like(pred), reduction=reduction).isfinite().all()


# The same input, the same answer.


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int64, torch.float16])
@pytest.mark.parametrize('settings', [{}, dict(bins=256), dict(density='exact')], ids=str)
def test_dense_targets_of_every_dtype(dtype: torch.dtype, settings: dict) -> None:
    pred = torch.randn(50, 3, requires_grad=True)
    target = torch.rand(50, 3) < 0.3
    found = ghm_c_loss(pred, target.to(dtype), **settings)
    assert found == ghm_c_loss(pred, target.float(), **settings)
    found.backward()
    assert pred.grad.isfinite().all()


def test_weight_of_a_loss_may_be_scheduled() -> None:
    """As on MMDetection's classes."""
    pred, labels = torch.randn(20, 3), torch.randint(0, 4, (20,))
    loss = GHMC(10)
    before = loss(pred, labels)
    loss.loss_weight = 3.0
    torch.testing.assert_close(loss(pred, labels), 3 * before)
    loss.reduction = 'sum'
    torch.testing.assert_close(loss(pred, labels), 3 * before * 60)
    with pytest.raises(TypeError, match="loss_weight must be a number, got 'much'"):
        loss.loss_weight = 'much'
    assert loss.loss_weight == 3.0


# What harmonize reads.


def weight_of(cfg: Config, place: str, **options: Any) -> float:
    [loss] = [loss for loss in losses_found(cfg, **options).losses if loss.where == place]
    return loss.ghm['loss_weight']


FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CASCADE = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'


@pytest.mark.parametrize('share', [0.1, 0.25, 0.8])
def test_the_share_of_positives_is_the_samplers(share: float, tmp_path: Path) -> None:
    path = tmp_path / 'faster.py'
    path.write_text(
        f'_base_ = {FASTER!r}\nmodel = dict(train_cfg=dict('
        f'rpn=dict(sampler=dict(pos_fraction={share})), '
        f'rcnn=dict(sampler=dict(pos_fraction={share / 2}))))\n',
        encoding='utf-8',
    )
    cfg = Config.fromfile(path)
    assert weight_of(cfg, 'model.rpn_head.loss_bbox') == pytest.approx(10 * share / 5)
    # Beside the softmax of the box head, which is kept, the weight is 4.
    assert weight_of(cfg, 'model.roi_head.bbox_head.loss_bbox') == pytest.approx(4 * share / 2)


def test_the_share_of_positives_is_that_of_the_stage(tmp_path: Path) -> None:
    path = tmp_path / 'cascade.py'
    path.write_text(f'_base_ = {CASCADE!r}\n', encoding='utf-8')
    cfg = Config.fromfile(path)
    before = [weight_of(cfg, f'model.roi_head.bbox_head.{i}.loss_bbox') for i in range(3)]
    cfg.model.train_cfg.rcnn[1].sampler.pos_fraction = 0.5
    after = [weight_of(cfg, f'model.roi_head.bbox_head.{i}.loss_bbox') for i in range(3)]
    assert after == [before[0], 2 * before[1], before[2]]


@pytest.mark.parametrize('number', [3, 4, 6])
def test_levels_are_those_of_the_config(number: int) -> None:
    strides = [8 * 2**i for i in range(number)]
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    generator = dict(type='AnchorGenerator', strides=strides)
    for kind, key in (('RPNHead', 'anchor_generator'), ('GARPNHead', 'approx_anchor_generator')):
        cfg = Config(dict(model=dict(rpn_head={'type': kind, key: generator, 'loss_cls': loss})))
        weight = weight_of(cfg, 'model.rpn_head.loss_cls', preset='released')
        assert weight == pytest.approx(1 / number), kind


# One line, not a traceback.


def failed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code not in (0, None)
    # A message is printed by the interpreter, and one on an argument by its parser.
    message = f'{stop.value.code}\n{capsys.readouterr().err}'
    assert 'Traceback' not in message
    return message


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('config.txt', 'x = 1\n', ['config.txt']),
        ('epoch_12.pth', 'weights', ['epoch_12.pth', 'py/yml/yaml/json']),
        ('wrong.py', 'model = dict(\n', ['wrong.py', 'SyntaxError']),
        ('raises.py', 'model = 1 / 0\n', ['raises.py', 'ZeroDivisionError']),
        ('base.py', "_base_ = './none.py'\n", ['none.py']),
        (
            'lazy.py',
            'from mmengine.config import read_base\nwith read_base():\n    from .none import *\n',
            ['lazy.py', 'none'],
        ),
        (
            'weight.py',
            'model = dict(bbox_head=dict(type="RetinaHead", loss_cls=dict(type="FocalLoss", '
            'use_sigmoid=True, loss_weight=None)))\n',
            ['loss_weight of model.bbox_head (FocalLoss) must be a number, got None'],
        ),
    ],
)
def test_a_config_that_can_not_be_read_is_one_line(
    name: str, content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content, encoding='utf-8')
    message = failed('harmonize', str(tmp_path / name), capsys=capsys)
    assert [word for word in words if word not in message] == []


def test_a_scalar_of_target_stds_is_that_of_all_offsets() -> None:
    head = dict(type='RetinaHead', loss_bbox=dict(type='L1Loss'))
    mus = []
    for stds in (0.1, [0.1] * 4):
        coder = dict(type='DeltaXYWHBBoxCoder', target_stds=stds)
        cfg = harmonize(Config(dict(model=dict(bbox_head={**head, 'bbox_coder': coder}))))
        mus.append(cfg.model.bbox_head.loss_bbox.mu)
    assert mus[0] == mus[1] == pytest.approx(0.2)


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'out.py').mkdir()
    for out in (tmp_path, tmp_path / 'out.py'):
        message = failed('harmonize', FASTER, '--out', str(out), '--force', capsys=capsys)
        assert str(out) in message


@pytest.mark.parametrize(
    ('name', 'content'), [('none.npz', None), ('broken.npz', b'PK\x03\x04 no')]
)
def test_figures_of_no_record_are_one_line(
    name: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = str(tmp_path / name)
    assert path in failed('figures', path, '--out', str(tmp_path / 'out'), capsys=capsys)


def test_a_terminal_without_greek_gets_the_output(tmp_path: Path) -> None:
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'ghm_mmdet']
    for arguments in (
        ['harmonize', '--help'],
        ['harmonize', FASTER, '--out', str(tmp_path / 'o.py')],
    ):
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b'\\u03b1' in done.stdout or b'\\u03bc' in done.stdout


def test_the_command_line_starts_from_a_zip_without_metadata(tmp_path: Path) -> None:
    package = Path(ghm_mmdet.__file__).parent
    with zipfile.ZipFile(tmp_path / 'vendored.zip', 'w') as archive:
        for path in (*package.rglob('*.py'), *package.rglob('*.yml')):
            archive.write(path, Path('ghm_mmdet', path.relative_to(package)))
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'vendored.zip')}
    code = (
        'import ghm_mmdet; from ghm_mmdet.cli import main; '
        'assert "vendored.zip" in ghm_mmdet.__file__; main()'
    )
    for arguments in (['--help'], ['harmonize', FASTER, '--dry-run'], ['reproduce', '--help']):
        command = [sys.executable, '-c', code, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
