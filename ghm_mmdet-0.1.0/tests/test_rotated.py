"""MMRotate's detectors harmonized, and a training step with each of their heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from ghm_mmdet import GHMR, GHMRetinaHead, harmonize, losses_found
from ghm_mmdet.stacks import mmdet_distribution
from studies import rotated
from studies.compatibility import report, scan
from studies.rotated import REPRESENTATIVES
from studies.tiny_step import small_model, training_step

pytest.importorskip('mmrotate')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        mmdet_distribution() != 'onedl-mmdetection',
        reason='onedl-mmrotate cannot be imported beside the mmdet of the other stack',
    ),
]

#: Their assigner needs an operator that mmcv has for CUDA alone.
NEED_CUDA = ('RotatedRepPointsHead', 'SAMRepPointsHead')
CONFIGS = sorted({c for head, c in REPRESENTATIVES.items() if head not in NEED_CUDA})
RETINANET = REPRESENTATIVES['RetinaHead']


@pytest.mark.parametrize('config', CONFIGS)
def test_training_step(config: str) -> None:
    gradients = rotated.step(config)
    assert gradients and all(0 < value < float('inf') for value in gradients.values())


@pytest.mark.parametrize('head', NEED_CUDA)
def test_heads_that_need_cuda(head: str) -> None:
    (loss,) = losses_found(rotated.configs() / REPRESENTATIVES[head]).replaced
    assert (loss.head, loss.where) == (head, 'model.bbox_head.loss_cls')


@pytest.mark.parametrize('batch_density', [False, True])
def test_ghm_r_gets_five_offsets(batch_density: bool) -> None:
    cfg = harmonize(rotated.configs() / RETINANET, batch_density=batch_density)
    model = rotated.build(small_model(cfg))
    assert (type(model.bbox_head) is GHMRetinaHead) is batch_density
    loss = model.bbox_head.loss_bbox
    assert isinstance(loss, GHMR)
    shapes = []
    loss.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    training_step(model, batch=rotated.random_batch(cfg))
    levels = [2 * 9 * (128 // stride) ** 2 for stride in (8, 16, 32, 64, 128)]
    assert shapes == [(n, 5) for n in ([sum(levels)] if batch_density else levels)]


def losses_of(model: nn.Module, cfg: Config) -> dict[str, float]:
    torch.manual_seed(0)
    model.train()
    data = model.data_preprocessor(rotated.random_batch(cfg), True)
    return {k: float(v) for k, v in model.parse_losses(model(**data, mode='loss'))[1].items()}


def test_scan_and_section(tmp_path: Path) -> None:
    names = [
        RETINANET,
        'kld/rotated-retinanet-rbox-le90_r50_fpn_kld_1x_dota.py',
        'cfa/cfa-qbox_r50_fpn_1x_dota.py',
        'gwd/rotated-retinanet-rbox-le135_r50_fpn_gwd_1x_dota.py',
    ]
    folder = rotated.configs()
    scanned = [scan(name, tmp_path / 'written.py', folder) for name in names]
    verdicts = ['harmonized', 'harmonized', 'refused', 'does not load']
    assert [config.verdict for config in scanned] == verdicts
    result = dict(
        mmdet='mmdet 3', mmrotate='mmrotate 1', configs=[vars(s) for s in scanned],
        steps={'RetinaHead': 1.5},
    )  # fmt: skip
    text = report([result])
    assert text.startswith('## MMRotate\n')
    assert '| mmdet 3 | 4 | 2 | 0 | 1 | 1 |  | 1 of 1 |' in text
    assert '| `loss_cls` | `loss_bbox` | `RetinaHead` 2 |' in text
