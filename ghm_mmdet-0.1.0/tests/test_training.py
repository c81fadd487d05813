"""Training in MMEngine's Runner: reproducible, equal to the built-in losses, warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict

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
