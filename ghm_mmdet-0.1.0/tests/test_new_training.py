"""What a training of MMEngine inherits: by `load_from` the weights, by `resume` S and μ as well."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from ghm_mmdet.registry import MODELS

LARGE = 1e6


class Data(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.linspace(-2, 2, 12).view(4, 3) + index / 8


class Model(BaseModel):
    """A layer, and the losses as a config has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        config = dict(type='ghm_mmdet.GHMC', bins=10, momentum=0.75, use_sigmoid=True)
        self.loss_cls = MODELS.build(config)
        self.loss_bbox = MODELS.build(dict(type='ghm_mmdet.GHMR', momentum=0.7, mu_momentum=0.9))

    def forward(self, *data: Tensor, mode: str) -> dict[str, Tensor]:
        x = self.layer(torch.cat(data))
        labels = torch.arange(len(x)) % 4
        return dict(loss_cls=self.loss_cls(x, labels), loss_bbox=self.loss_bbox(x, x * 0))


def trained(folder: Path, iterations: int, **start: object) -> Model:
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Data(), collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=False),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        default_scope='mmengine', experiment_name=f'{folder.name}-{iterations}',
        **start,
    )  # fmt: skip
    runner.train()
    return runner.model


def state(model: Model) -> dict[str, Tensor]:
    buffers = dict(model.named_buffers())
    return {name: buffers[name].clone() for name in buffers if 'edges' not in name}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a detector that was trained on much larger data."""
    folder = tmp_path / 'trained'
    trained(folder, 2)
    path = folder / 'iter_2.pth'
    saved = torch.load(path, weights_only=False)
    for name in saved['state_dict']:
        if name.endswith(('acc_sum', 'mean_d')):
            saved['state_dict'][name] += LARGE
    torch.save(saved, path)
    return path


def test_a_new_training_begins_with_its_own_averages(checkpoint: Path, tmp_path: Path) -> None:
    found = trained(tmp_path / 'new', 3, load_from=str(checkpoint))
    torch.testing.assert_close(state(found), state(trained(tmp_path / 'fresh', 3)))
    said = next((tmp_path / 'new').glob('*/*.log')).read_text(encoding='utf-8')
    assert said.count('a new training begins, and so does S') == 2


def test_a_resumed_training_goes_on_with_them(checkpoint: Path, tmp_path: Path) -> None:
    found = state(trained(tmp_path / 'resumed', 3, load_from=str(checkpoint), resume=True))
    share = {'loss_cls.acc_sum': 0.75, 'loss_bbox.acc_sum': 0.7, 'loss_bbox.mean_d': 0.9}
    for name, alpha in share.items():
        assert found[name].max() > 0.99 * alpha * LARGE


def test_outside_of_a_runner_what_is_loaded_stays() -> None:
    config = dict(type='ghm_mmdet.GHMC', bins=10, momentum=0.75, use_sigmoid=True)
    loss, other = MODELS.build(config), MODELS.build(config)
    other.acc_sum.fill_(LARGE)
    loss.load_state_dict(other.state_dict())
    loss.eval()(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    assert (loss.acc_sum == LARGE).all()
