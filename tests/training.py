"""Short training runs, and data, made for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghm_mmdet.presets import RELEASED

ROOT = Path(__file__).parent.parent
GHM_CONFIG = ROOT / 'configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py'
#: `key=value`, by which a RetinaNet of `configs/ghm/` trains on small images in seconds.
SMALL = (
    'model.backbone.depth=18', 'model.backbone.base_channels=16', 'model.backbone.stem_channels=16',
    'model.backbone.frozen_stages=-1', 'model.backbone.norm_eval=False',
    'model.backbone.init_cfg=None', 'model.neck.in_channels=[16,32,64,128]',
    'model.neck.out_channels=32', 'model.bbox_head.in_channels=32',
    'model.bbox_head.feat_channels=32', 'model.bbox_head.stacked_convs=1',
    'model.test_cfg.score_thr=0', 'model.test_cfg.nms_pre=100',
    'train_dataloader.dataset.pipeline.2.scale=(160,160)',
    'val_dataloader.dataset.pipeline.1.scale=(160,160)',
    'test_dataloader.dataset.pipeline.1.scale=(160,160)', 'train_cfg.max_epochs=3',
)  # fmt: skip


class LossRecorder(Hook):
    """The losses of every iteration."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        self.losses.append({name: value.item() for name, value in outputs.items()})

    def curve(self, name: str = 'loss') -> np.ndarray:
        return np.array([losses[name] for losses in self.losses])


def demo_config(
    data: Path, work_dir: Path, iters: int, path: Path = GHM_CONFIG, **options: object
) -> Config:
    """A config of the demo for a few iterations of two images.

    That with GHM has the released settings, in which MMDetection's classes are equal.
    """
    config = Config.fromfile(path)
    if path == GHM_CONFIG:
        head = config.model.bbox_head
        head.loss_cls, head.loss_bbox = map(ConfigDict, RELEASED)
    config.work_dir = str(work_dir)
    config.experiment_name = work_dir.name
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=10**6)
    config.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)
    ]
    config.train_dataloader.batch_size = 2
    config.train_dataloader.dataset.data_root = str(data)
    config.train_dataloader.sampler = dict(type='InfiniteSampler')
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=iters)
    del config.default_hooks.visualization
    config.merge_from_dict(options)
    return config


def train(config: Config) -> tuple[Runner, LossRecorder]:
    recorder = LossRecorder()
    runner = Runner.from_cfg(config)
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def write_coco_layout(demo_data: Path, root: Path) -> Path:
    """The demo's images as COCO has them: names of folders, files and the 80 classes."""
    (root / 'annotations').mkdir(parents=True)
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    for split, folder in (('train', 'train2017'), ('val', 'val2017'), ('val', 'test2017')):
        (root / folder).symlink_to(demo_data / split)
        content = json.loads((demo_data / f'annotations/{split}.json').read_text(encoding='utf-8'))
        content['categories'] = categories
        name = f'instances_{folder}.json'
        if folder == 'test2017':
            name = 'image_info_test-dev2017.json'
            del content['annotations']
        (root / 'annotations' / name).write_text(json.dumps(content), encoding='utf-8')
    return root
