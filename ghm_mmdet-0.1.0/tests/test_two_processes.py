"""A training step of every head on two processes, of which one has no box: none hangs."""

from __future__ import annotations

import datetime
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ghm_mmdet import harmonize
from studies import rotated
from studies.compatibility import REPRESENTATIVES
from studies.tiny_step import CONFIGS, PRESET, build, has_masks, random_batch, small_model

from .processes import start

SECONDS = 60.0
QUICK = ('RetinaHead', 'YOLOXHead', 'Shared2FCBBoxHead')
#: Their detectors need a language model or an image library that is not installed.
NEED_MORE = ('ATSSVLFusionHead', 'GroundingDINOHead', 'BoxInstBboxHead')
SLOW = sorted(REPRESENTATIVES.keys() - {*QUICK, *NEED_MORE})
#: Its assigner needs an operator that mmcv has for CUDA alone.
NEED_CUDA = ('RotatedRepPointsHead', 'SAMRepPointsHead')
ROTATED = [f'mmrotate.{head}' for head in rotated.REPRESENTATIVES if head not in NEED_CUDA]
#: The kinds of losses: the config's own, GHM's, GHM's with one density for both processes.
KINDS = ('original', 'harmonized', 'sync')


def small_detector(head: str, kind: str, boxes: int) -> tuple[nn.Module, dict]:
    """The detector that stands for a head, and a batch with so many boxes in each image."""
    library, _, name = head.rpartition('.')
    if library:
        cfg = Config.fromfile(rotated.configs() / rotated.REPRESENTATIVES[name])
    else:
        cfg = Config.fromfile(CONFIGS / REPRESENTATIVES[name].config)
    if kind != 'original':
        cfg = harmonize(cfg, preset=PRESET, sync=kind == 'sync')
    if library:
        return rotated.build(rotated.small(cfg)), rotated.random_batch(cfg, boxes)
    _, factor, size = REPRESENTATIVES[name]
    model = build(small_model(cfg, factor))
    return model, random_batch(model, size, has_masks(cfg), boxes)


def steps(rank: int, head: str, folder: str) -> None:
    """A step of this process with each kind of losses; process 1 has no box."""
    torch.set_num_threads(1)
    store = dist.FileStore(f'{folder}/store', 2)
    for kind in KINDS:
        try:
            found = step(rank, head, kind, dist.PrefixStore(kind, store))
        except Exception as error:
            found = f'{type(error).__name__}: {error}'.partition('\n')[0]
        Path(folder, f'{kind}.{rank}').write_text(found, encoding='utf-8')
        if dist.is_initialized():
            dist.destroy_process_group()
    os._exit(0)


def step(rank: int, head: str, kind: str, store: dist.Store) -> str:
    """'ends'; the errors are those of the model."""
    torch.manual_seed(0)
    model, batch = small_detector(head, kind, boxes=10 * (1 - rank))
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1))
    model.init_weights()
    timeout = datetime.timedelta(seconds=SECONDS)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=2, timeout=timeout)
    parallel = DistributedDataParallel(model.train(), find_unused_parameters=True)
    data = model.data_preprocessor(batch, True)
    total, _ = model.parse_losses(parallel(**data, mode='loss'))
    total.backward()
    if not torch.isfinite(total):
        return 'the loss is not finite'
    return 'ends'


def outcomes(head: str, folder: Path) -> dict[str, str]:
    """Of each kind 'ends', 'refused', or what happens on the process that does not end."""
    processes = [start(steps, rank, head, str(folder)) for rank in range(2)]
    for process in processes:
        process.join(10 * SECONDS)
        process.kill()
    return {kind: outcome(folder, kind) for kind in KINDS}


def outcome(folder: Path, kind: str) -> str:
    found = [folder / f'{kind}.{rank}' for rank in range(2)]
    texts = [path.read_text() if path.exists() else 'hangs or aborts' for path in found]
    if all('sync=True would hang' in text for text in texts):
        return 'refused'
    return next((f'process {rank}: {t}' for rank, t in enumerate(texts) if t != 'ends'), 'ends')


@pytest.mark.parametrize(
    'head',
    [*QUICK, *(pytest.param(head, marks=pytest.mark.slow) for head in (*SLOW, *ROTATED))],
)
def test_a_process_without_a_box_ends_the_step(head: str, tmp_path: Path) -> None:
    if head in ROTATED and not find_spec('mmrotate'):
        pytest.skip('MMRotate is not installed')
    found = outcomes(head, tmp_path)
    if found['original'] == 'ends':
        assert found['harmonized'] == 'ends'
        assert found['sync'] in ('ends', 'refused')
    else:
        assert 'hangs' not in found['harmonized'] + found['sync']
