"""A run that is cut by SIGKILL and resumed ends as the run that was not cut."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .processes import start
from .training import demo_config, train

EPOCHS = 2
CUT_AT = 6  # an iteration within the second epoch


@HOOKS.register_module()
class KillHook(Hook):
    """Ends this process the hard way."""

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if runner.iter == CUT_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def run(data: Path, work_dir: Path, cut: bool, resume: bool = False) -> None:
    """Epochs of 4 iterations in shuffled order.

    Without random flips: MMEngine does not keep the state of the random generators.
    """
    config = demo_config(data, work_dir, 0, resume=resume)
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS)
    config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    config.train_dataloader.batch_size = 4
    config.train_dataloader.dataset.indices = 16
    config.train_dataloader.dataset.pipeline[2].prob = 0.0
    config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    if cut:
        config.custom_hooks.append(dict(type='KillHook'))
    train(config)


@pytest.mark.slow
def test_killed_and_resumed_is_equal_bit_for_bit(demo_data: Path, tmp_path: Path) -> None:
    run(demo_data, tmp_path / 'whole', cut=False)
    killed = start(run, demo_data, tmp_path / 'cut', True)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.glob('cut/*.pth')) == ['epoch_1.pth']
    run(demo_data, tmp_path / 'cut', cut=False, resume=True)
    whole, cut = (
        torch.load(tmp_path / name / f'epoch_{EPOCHS}.pth', weights_only=False)['state_dict']
        for name in ('whole', 'cut')
    )
    assert whole.keys() == cut.keys()
    for name in whole:
        assert torch.equal(whole[name], cut[name]), name
    for loss in ('loss_cls', 'loss_bbox'):
        assert cut[f'bbox_head.{loss}.acc_sum'].any()
