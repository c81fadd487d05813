"""The record of GradientDensityHook in a work folder that may have been used."""

from __future__ import annotations

import errno
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ghm_mmdet import GradientDensityHook
from ghm_mmdet.visualization.record import GradientDensityRecord

NUMBERS = count()
WARNINGS: list[str] = []


class Detector(BaseModel):
    """One linear layer, and its losses in a head."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_head = nn.Module()
        self.bbox_head.layer = nn.Linear(3, 3)
        self.bbox_head.loss_cls = FocalLoss()
        self.bbox_head.loss_conf = CrossEntropyLoss(use_sigmoid=True)

    def train_step(self, data: Tensor, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        head, background = self.bbox_head, torch.full((len(data),), 3)
        x = head.layer(data)
        losses = dict(loss_cls=head.loss_cls(x, background))
        losses['loss_conf'] = head.loss_conf(x, background)
        optim_wrapper.update_params(sum(losses.values()))
        return losses

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Tensor:
        return self.bbox_head.layer(inputs)


def train(
    folder: Path,
    iters: int,
    hook: dict[str, Any] | None,
    images: int = 1,
    preempted: bool = False,
    **options: Any,
) -> Runner:
    """With a checkpoint every iteration; a batch of `images` is as many rows of 3 logits."""
    hooks: list[Hook] = [] if hook is None else [GradientDensityHook(**{'loss_bbox': None, **hook})]
    hooks += [Preemption()] * preempted
    runner = Runner(
        model=Detector(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=images,
            dataset=[torch.full((3,), 0.1)] * 50,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=hooks,
        visualizer=dict(type='Visualizer', vis_backends=None),
        experiment_name=f'record{next(NUMBERS)}',  # of which MMEngine keeps the state
        log_level='ERROR',
        **options,
    )
    runner.logger.warning = WARNINGS.append
    WARNINGS.clear()
    runner.train()
    return runner


def resume_from(checkpoint: Path) -> None:
    """Let `resume=True` in the folder of the checkpoint take this one."""
    (checkpoint.parent / 'last_checkpoint').write_text(str(checkpoint), encoding='utf-8')


def rows(folder: Path) -> list[tuple[int, int]] | None:
    """(iteration, number of logits) of each row; None if there is no record."""
    path = folder / 'gradient_density.npz'
    if not path.exists():
        return None
    record = GradientDensityRecord.load(path)
    numbers = record.sums[:, 0, 0].sum(-1)
    return [(int(i), int(n)) for i, n in zip(record.iteration, numbers)]


def said_of_the_record() -> list[str]:
    return [line for line in WARNINGS if 'gradient_density.npz' in line]


def test_a_resumed_training_goes_on_with_its_record(tmp_path: Path) -> None:
    train(tmp_path, 5, dict(interval=2))
    before = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    assert rows(tmp_path) == [(2, 3), (4, 3)]
    assert not said_of_the_record()
    train(tmp_path, 8, dict(interval=2), images=10, resume=True)
    after = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    assert rows(tmp_path) == [(2, 3), (4, 3), (6, 30), (8, 30)]
    np.testing.assert_array_equal(after.sums[:2], before.sums)
    assert after.training == before.training and len(after.training) == 32
    assert not said_of_the_record()
    assert not (tmp_path / 'gradient_density.npz.old').exists()


def test_rows_after_the_checkpoint_are_those_of_the_resumed_training(tmp_path: Path) -> None:
    """It was killed at iteration 5, and resumes from the checkpoint of iteration 3."""
    train(tmp_path, 5, dict(interval=1))
    resume_from(tmp_path / 'iter_3.pth')
    train(tmp_path, 6, dict(interval=1), images=10, resume=True)
    assert rows(tmp_path) == [(1, 3), (2, 3), (3, 3), (4, 30), (5, 30), (6, 30)]


class Preemption(Hook):
    """Ends the training before its third iteration, without `after_train`."""

    def before_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        if runner.iter == 2:
            raise KeyboardInterrupt


def test_a_new_training_begins_a_new_record(tmp_path: Path) -> None:
    """Before its first row there is none; the one that was there has another name."""
    train(tmp_path, 3, dict(interval=1))
    trial = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 8, dict(interval=4), 10, preempted=True)
    assert rows(tmp_path) is None
    [line] = said_of_the_record()
    assert 'begins anew at iteration 0, what was there is gradient_density.npz.old' in line
    old = GradientDensityRecord.load(tmp_path / 'gradient_density.npz.old')
    assert old.training == trial.training
    train(tmp_path, 8, dict(interval=4), 10, resume=True)
    assert rows(tmp_path) == [(4, 30), (8, 30)]
    ours = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    assert ours.training != trial.training


def test_a_new_training_of_the_same_settings_begins_a_new_record(tmp_path: Path) -> None:
    train(tmp_path, 3, dict(interval=1))
    train(tmp_path, 2, dict(interval=1), 10)
    assert rows(tmp_path) == [(1, 30), (2, 30)]


def test_load_from_begins_a_new_record(tmp_path: Path) -> None:
    """Fine-tuning takes the weights of a checkpoint, not its record."""
    train(tmp_path, 2, dict(interval=1))
    first = GradientDensityRecord.load(tmp_path / 'gradient_density.npz').training
    train(tmp_path, 2, dict(interval=1), images=10, load_from=str(tmp_path / 'iter_2.pth'))
    assert rows(tmp_path) == [(1, 30), (2, 30)]
    assert GradientDensityRecord.load(tmp_path / 'gradient_density.npz').training != first


def test_a_resumed_training_takes_no_rows_of_another(tmp_path: Path) -> None:
    """The file lies where its own would, with the same settings and iterations that fit."""
    mine, used = tmp_path / 'mine', tmp_path / 'used'
    train(mine, 2, dict(interval=1))
    train(used, 4, dict(interval=1), images=10)
    checkpoint = str(mine / 'iter_2.pth')
    train(used, 4, dict(interval=1), images=2, resume=True, load_from=checkpoint)
    assert rows(used) == [(3, 6), (4, 6)]
    [line] = said_of_the_record()
    assert 'it is of another training' in line
    assert GradientDensityRecord.load(used / 'gradient_density.npz.old').iteration.tolist() == [
        1, 2, 3, 4,
    ]  # fmt: skip


def test_a_checkpoint_without_the_hook_is_of_another_training(tmp_path: Path) -> None:
    train(tmp_path, 4, dict(interval=1))
    train(tmp_path, 2, None)
    assert rows(tmp_path) == [(1, 3), (2, 3), (3, 3), (4, 3)]  # nobody was there to see
    resume_from(tmp_path / 'iter_2.pth')
    train(tmp_path, 4, dict(interval=1), images=10, resume=True)
    assert rows(tmp_path) == [(3, 30), (4, 30)]
    assert any('it is of another training' in line for line in said_of_the_record())


@pytest.mark.parametrize(
    'settings',
    [dict(interval=3), dict(bins=30), dict(loss_cls='bbox_head.loss_conf'), dict(mu=0.1)],
    ids=lambda settings: next(iter(settings)),
)
def test_a_record_of_other_settings_is_set_aside(settings: dict, tmp_path: Path) -> None:
    train(tmp_path, 4, dict(interval=1))
    resume_from(tmp_path / 'iter_3.pth')
    train(tmp_path, 6, {'interval': 1, **settings}, images=10, resume=True)
    expected = [(6, 30)] if 'interval' in settings else [(4, 30), (5, 30), (6, 30)]
    assert rows(tmp_path) == expected
    [line] = said_of_the_record()
    assert "other settings, interval=1, iters=1, Observed(bins=600, mu=0.02, loss_cls='" in line


def make_empty(path: Path) -> None:
    path.write_bytes(b'')


def make_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_later_version(path: Path) -> None:
    with np.load(path) as file:
        np.savez(path, **{**file, 'version': 3})


def make_config(path: Path) -> None:
    path.write_text('model = dict()\n', encoding='utf-8')


@pytest.mark.parametrize(
    'spoil',
    [make_empty, make_half, make_folder, make_later_version, make_config],
    ids=lambda f: f.__name__,
)
def test_a_record_that_can_not_be_read_is_set_aside(spoil: Any, tmp_path: Path) -> None:
    train(tmp_path, 2, dict(interval=1))
    spoil(tmp_path / 'gradient_density.npz')
    train(tmp_path, 4, dict(interval=1), images=10, resume=True)
    assert rows(tmp_path) == [(3, 30), (4, 30)]
    [line] = said_of_the_record()
    assert 'gradient_density.npz.old: ' in line
    train(tmp_path, 5, dict(interval=1), resume=True)
    assert rows(tmp_path) == [(3, 30), (4, 30), (5, 3)]


def test_a_lost_record_is_said(tmp_path: Path) -> None:
    """The one that begins is still of this training, for any of its checkpoints."""
    train(tmp_path, 4, dict(interval=1))
    (tmp_path / 'gradient_density.npz').unlink()
    resume_from(tmp_path / 'iter_2.pth')
    train(tmp_path, 3, dict(interval=1), resume=True)
    assert rows(tmp_path) == [(3, 3)]
    [line] = said_of_the_record()
    assert 'begins anew at iteration 2' in line and 'No such file' in line
    resume_from(tmp_path / 'iter_4.pth')
    train(tmp_path, 5, dict(interval=1), resume=True)
    assert rows(tmp_path) == [(3, 3), (5, 3)] and not said_of_the_record()


def test_a_hook_that_is_added_to_a_training_has_lost_nothing(tmp_path: Path) -> None:
    train(tmp_path, 2, None)
    train(tmp_path, 4, dict(interval=1), resume=True)
    assert rows(tmp_path) == [(3, 3), (4, 3)]
    assert not said_of_the_record()


def test_a_checkpoint_says_the_training_of_the_record(tmp_path: Path) -> None:
    """Also that of a resumed training whose checkpoint said none; and a copy of the folder does."""
    train(tmp_path / 'a', 2, dict(interval=1))
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    resume_from(tmp_path / 'b/iter_2.pth')
    train(tmp_path / 'b', 3, dict(interval=1), resume=True)
    assert rows(tmp_path / 'b') == [(1, 3), (2, 3), (3, 3)]
    training = GradientDensityRecord.load(tmp_path / 'b/gradient_density.npz').training
    state = torch.load(tmp_path / 'b/iter_3.pth', weights_only=False)
    assert state['gradient_density_training'] == training


def test_weights_that_are_loaded_on_the_way_do_not_change_the_training(tmp_path: Path) -> None:
    train(tmp_path / 'other', 1, dict(interval=1))
    runner = train(tmp_path / 'mine', 2, dict(interval=1))
    mine = GradientDensityRecord.load(tmp_path / 'mine/gradient_density.npz').training
    runner.load_checkpoint(str(tmp_path / 'other/iter_1.pth'))
    runner.save_checkpoint(str(tmp_path), 'saved.pth')
    state = torch.load(tmp_path / 'saved.pth', weights_only=False)
    assert state['gradient_density_training'] == mine


def test_a_full_disk_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and the next row brings along those that could not be written."""
    calls, save = count(1), GradientDensityRecord.save

    def save_but_the_second(record: GradientDensityRecord, path: Path) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        save(record, path)

    monkeypatch.setattr(GradientDensityRecord, 'save', save_but_the_second)
    train(tmp_path, 3, dict(interval=1))
    assert rows(tmp_path) == [(1, 3), (2, 3), (3, 3)]
    [line] = said_of_the_record()
    assert 'gradient_density.npz is not written: [Errno 28] No space left on device' in line
