"""Training in MMEngine's Runner: reproducible, equal to the built-in losses, warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from ghm_mmdet import GHMWarmupHook

from .training import demo_config, train

ITERS = 50
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
SMOOTH_L1 = dict(type='SmoothL1Loss', beta=1 / 9)


def curve_with(losses: dict, data: Path, folder: Path, iters: int) -> np.ndarray:
    """The losses of a training with other losses from its first iteration."""
    config = demo_config(data, folder, iters, custom_hooks=[])
    for name, settings in losses.items():
        config.model.bbox_head[name] = ConfigDict(settings)
    runner, recorder = train(config)
    for name, settings in losses.items():
        assert type(getattr(runner.model.bbox_head, name)).__name__ == settings['type']
    return recorder.curve()


@pytest.fixture(scope='module')
def ghm_curve(ghm_training: Path) -> np.ndarray:
    return np.load(ghm_training / 'losses.npy')


def test_one_seed_two_runs_equal_losses(
    ghm_curve: np.ndarray, demo_data: Path, tmp_path: Path
) -> None:
    again = curve_with({}, demo_data, tmp_path, ITERS)
    assert len(again) == ITERS
    assert np.array_equal(ghm_curve, again)


def test_another_seed_gives_other_losses(
    ghm_curve: np.ndarray, demo_data: Path, tmp_path: Path
) -> None:
    config = demo_config(demo_data, tmp_path, 3, custom_hooks=[])
    config.randomness.seed = 1
    assert not np.array_equal(ghm_curve[:3], train(config)[1].curve())


def test_built_in_losses_give_the_same_curve(
    ghm_curve: np.ndarray, demo_data: Path, tmp_path: Path
) -> None:
    """One line changed, `type='GHMC'` to `type='ghm_mmdet.GHMC'`, and the curve stays."""
    config = demo_config(demo_data, tmp_path, ITERS, custom_hooks=[])
    head = config.model.bbox_head
    head.loss_cls.type, head.loss_bbox.type = 'GHMC', 'GHMR'
    built_in = train(config)[1].curve()
    np.testing.assert_allclose(ghm_curve, built_in, rtol=1e-6)


def test_warmup_is_with_focal_loss_and_switches_to_ghm(demo_data: Path, tmp_path: Path) -> None:
    """The first iterations are those of focal loss + smooth L1, the rest GHM's."""
    warm = train(demo_config(demo_data, tmp_path / 'warm', 6, **{'custom_hooks.0.iters': 4}))
    losses = dict(loss_cls=FOCAL, loss_bbox=SMOOTH_L1)
    focal = curve_with(losses, demo_data, tmp_path / 'focal', 6)
    assert np.array_equal(warm[1].curve()[:4], focal[:4])
    assert (warm[1].curve()[4:] != focal[4:]).all()
    head = warm[0].model.bbox_head
    assert 'forward' not in vars(head.loss_cls)
    assert head.loss_cls.acc_sum.sum() > 0


def test_share_of_the_warmup_is_of_all_iterations(demo_data: Path, tmp_path: Path) -> None:
    """Of 2 epochs of 3 iterations, which the config does not say, two thirds are 4."""
    curves = []
    for iters in (2 / 3, 4, 5):
        config = demo_config(demo_data, tmp_path / str(iters), 0, **{'custom_hooks.0.iters': iters})
        config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
        config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
        config.train_dataloader.dataset.indices = 6
        curves.append(train(config)[1].curve())
    share, same, longer = curves
    assert len(share) == 6
    assert np.array_equal(share, same)
    assert not np.array_equal(share, longer)


@pytest.mark.slow
def test_warmup_goes_on_after_a_restart(demo_data: Path, tmp_path: Path) -> None:
    """Cut within the warm-up and resumed, the losses are those of the run that was not cut."""
    options = {
        'custom_hooks.0.iters': 4,
        'train_dataloader.sampler.shuffle': False,
        'train_dataloader.dataset.pipeline.2.prob': 0.0,
    }
    whole = train(demo_config(demo_data, tmp_path / 'whole', 6, **options))[1].curve()
    train(demo_config(demo_data, tmp_path / 'cut', 2, **options))
    config = demo_config(demo_data, tmp_path / 'cut', 6, resume=True, **options)
    rest = train(config)[1].curve()
    np.testing.assert_allclose(rest, whole[2:], rtol=1e-6)


def test_warmup_without_ghm_is_an_error(demo_data: Path, tmp_path: Path) -> None:
    config = demo_config(demo_data, tmp_path, 2)
    config.model.bbox_head.loss_cls.type = 'GHMC'
    config.model.bbox_head.loss_bbox.type = 'GHMR'
    with pytest.raises(ValueError, match=r'the model has no ghm_mmdet\.GHMC'):
        train(config)
    with pytest.raises(ValueError, match='iters must be >= 1, got 0'):
        GHMWarmupHook(iters=0)
    with pytest.raises(ValueError, match=r'iters as a share must be in \(0, 1\), got 1\.0'):
        GHMWarmupHook(iters=1.0)


def test_warmup_losses_by_suffix_of_the_modules_name(demo_data: Path, tmp_path: Path) -> None:
    """`losses` of the hook: here cross entropy as YOLOX sums it, instead of focal loss."""
    cross_entropy = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5)
    options = {'custom_hooks.0.iters': 2, 'custom_hooks.0.losses': {'loss_cls': cross_entropy}}
    warm = train(demo_config(demo_data, tmp_path / 'warm', 2, **options))[1]
    losses = dict(loss_cls=cross_entropy, loss_bbox=SMOOTH_L1)
    plain = curve_with(losses, demo_data, tmp_path / 'plain', 2)
    assert np.array_equal(warm.curve(), plain)
    saved = torch.load(tmp_path / 'warm/iter_2.pth', weights_only=False)['state_dict']
    for name in ('loss_cls', 'loss_bbox'):
        assert saved[f'bbox_head.{name}.acc_sum'].sum() > 0, 'the checkpoint is that of GHM'


@pytest.mark.parametrize(
    ('suffix', 'loss', 'message'),
    [
        ('rpn_head.loss_cls', dict(type='FocalLoss'), "'rpn_head.loss_cls', .*bbox_head.loss_cls"),
        (
            'bbox_head.loss_cls',
            dict(type='CrossEntropyLoss'),
            'can not be the warm-up loss of bbox_head.loss_cls',
        ),
    ],
)
def test_warmup_refuses_losses_that_do_not_fit(
    suffix: str, loss: dict, message: str, demo_data: Path, tmp_path: Path
) -> None:
    options = {'custom_hooks.0.losses': {suffix: loss}}
    with pytest.raises(ValueError, match=message):
        train(demo_config(demo_data, tmp_path, 2, **options))
