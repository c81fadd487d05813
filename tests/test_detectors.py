"""The six detectors of the study: harmonized, warmed up by their own losses, trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from ghm_mmdet import GHMC, GHMR
from studies.detectors import DETECTORS, Detector, experiment, table, write_harmonized
from studies.experiment import Settings

from .training import ROOT, demo_config, train

GHM_LOSSES = {
    'faster-rcnn_r18_fpn': 4,
    'cascade-rcnn_r18_fpn': 8,
    'atss_r18_fpn': 1,
    'fcos_r18_fpn': 1,
    'yolox': 3,
    'ssd_r18': 2,
}


QUICK = ('faster-rcnn_r18_fpn', 'yolox', 'ssd_r18')


@pytest.mark.parametrize(
    'detector',
    [
        pytest.param(d, marks=[] if d.name in QUICK else pytest.mark.slow, id=d.name)
        for d in DETECTORS
    ],
)
def test_warmup_is_the_original_and_ghm_takes_over(
    detector: Detector, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first iteration is that of the original losses; in the second the heads learn by GHM."""
    monkeypatch.chdir(ROOT)
    path = tmp_path / 'harmonized.py'
    write_harmonized(detector, path)
    warm = demo_config(demo_data, tmp_path / 'warm', 2, path=path)
    hook = warm.custom_hooks[-1]
    assert hook.type == 'ghm_mmdet.GHMWarmupHook'
    hook.iters = 1
    options = {}
    if detector.name == 'ssd_r18':
        # SSDHead mines negatives from each image, the warm-up's loss from all: here all are hard.
        options = {'model.train_cfg.neg_pos_ratio': 10**6}
        hook.losses['bbox_head.loss_cls'].neg_pos_ratio = 10**6
    runner, recorder = train(warm)
    original = demo_config(
        demo_data, tmp_path / 'original', 1, path=ROOT / detector.config, **options
    )
    expected = train(original)[1].curve()
    assert recorder.curve()[0] == pytest.approx(expected[0], rel=1e-5)

    losses = {n: m for n, m in runner.model.named_modules() if isinstance(m, (GHMC, GHMR))}
    assert len(losses) == GHM_LOSSES[detector.name]
    counted = [n for n, loss in losses.items() if loss.acc_sum.sum() > 0]
    # YOLOX regresses by L1 in its last epochs only.
    assert set(losses) - set(counted) <= {'bbox_head.loss_l1'}
    assert 0 < runner.message_hub.get_scalar('train/grad_norm').current() < float('inf')
    assert np.isfinite(recorder.curve()).all()


def test_written_config_is_the_harmonized_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    faster = DETECTORS[0]
    write_harmonized(faster, tmp_path / 'harmonized.py')
    config = Config.fromfile(tmp_path / 'harmonized.py')
    head = config.model.roi_head.bbox_head
    assert head.loss_cls.type == 'ghm_mmdet.GHMC' and head.loss_cls.use_sigmoid is False
    hook = config.custom_hooks[-1]
    assert hook.iters == faster.warmup == 300
    assert hook.losses['rpn_head.loss_cls'].type == 'mmdet.CrossEntropyLoss'
    assert hook.losses['roi_head.bbox_head.loss_bbox'].type == 'mmdet.L1Loss'
    assert 'formula' not in head.loss_cls
    write_harmonized(faster, tmp_path / 'floored.py', 'floored')
    head = Config.fromfile(tmp_path / 'floored.py').model.roi_head.bbox_head
    assert head.loss_cls.formula == head.loss_bbox.formula == 'floored'


def test_table_has_the_measured_and_leaves_the_rest_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for seed, ap in enumerate((0.25, 0.5)):
        training = experiment((DETECTORS[2], 'original'), Settings(tmp_path), seed)
        run = training.folder / '20260101'
        run.mkdir(parents=True)
        (run / '20260101.json').write_text(json.dumps({'coco/bbox_mAP': ap}) + '\n')
    row = table(Settings(tmp_path), seeds=2).splitlines()[4]
    assert row == '| ATSS | 300 | 37.5 |  |  |'
