"""Every config of MMDetection harmonized, and a training step with every head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from ghm_mmdet import GHMC, GHMRetinaHead, harmonize
from studies.compatibility import (
    REPRESENTATIVES,
    Scanned,
    document,
    installed_configs,
    scan,
    step,
)
from studies.tiny_step import (
    CONFIGS,
    build,
    has_masks,
    random_batch,
    small_model,
    training_step,
)

from .reference import cross_entropy
from .test_swap import assert_only_losses_and_clipping_differ

#: Their detectors read text with a language model of `transformers`, which is not installed.
NEED_TRANSFORMERS = ('ATSSVLFusionHead', 'GroundingDINOHead')
KEPT_BY_TEMPERED = dict(Shared2FCBBoxHead='loss_cls', YOLOXHead='loss_obj', YOLOV3Head='loss_conf')
QUICK = ('RetinaHead', 'Shared2FCBBoxHead', 'GFLHead', 'YOLOXHead', 'FCOSHead', 'DETRHead')
SLOW = sorted(REPRESENTATIVES.keys() - {*QUICK, *NEED_TRANSFORMERS})


def with_ghm_c_of(model: nn.Module) -> dict[str, list]:
    """Record what every GHM-C of a model is called with, and what it returns."""
    calls: dict[str, list] = {}
    for name, loss in model.named_modules():
        if isinstance(loss, GHMC):
            loss.register_forward_hook(
                lambda _, args, out, name=name: calls.setdefault(name, []).append((args, out))
            )
    return calls


@pytest.mark.parametrize('head', QUICK)
def test_training_step(head: str) -> None:
    gradients = step(REPRESENTATIVES[head])
    assert gradients and all(0 < value < float('inf') for value in gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize('head', SLOW)
def test_training_step_of_every_head(head: str) -> None:
    if head == 'BoxInstBboxHead':
        pytest.importorskip('skimage')
    gradients = step(REPRESENTATIVES[head])
    assert gradients and all(0 < value < float('inf') for value in gradients.values())


def test_training_step_finds_a_loss_without_gradient() -> None:
    cfg = harmonize(CONFIGS / REPRESENTATIVES['RetinaHead'].config)
    cfg.model.bbox_head.loss_cls.loss_weight = cfg.model.bbox_head.loss_bbox.loss_weight = 0.0
    with pytest.raises(ValueError, match='bbox_head has no gradient'):
        training_step(build(small_model(cfg)))
    cfg.model.bbox_head.loss_cls.loss_weight = 1e38
    with pytest.raises(ValueError, match='the loss is not finite'):
        training_step(build(small_model(cfg)))


def test_batch_density_trains_a_step_with_one_call_of_each_loss() -> None:
    cfg = harmonize(CONFIGS / REPRESENTATIVES['RetinaHead'].config, batch_density=True)
    model = build(small_model(cfg))
    assert type(model.bbox_head) is GHMRetinaHead
    calls = with_ghm_c_of(model)
    training_step(model)
    ((args, _),) = calls['bbox_head.loss_cls']
    anchors = 2 * 9 * sum((128 // stride) ** 2 for stride in (8, 16, 32, 64, 128))
    assert len(args[0]) == anchors


@pytest.mark.parametrize('head', NEED_TRANSFORMERS)
def test_heads_that_need_a_language_model(head: str) -> None:
    cfg = harmonize(CONFIGS / REPRESENTATIVES[head].config)
    assert cfg.model.bbox_head.loss_cls.type == 'ghm_mmdet.GHMC'
    assert cfg.model.language_model.type == 'BertModel'


def test_yolox_divides_the_mean_back() -> None:
    """Objectness: (1/N) Σ β L over all priors, in NumPy, is what the head's division leaves."""
    cfg = harmonize(CONFIGS / 'yolox/yolox_s_8xb8-300e_coco.py', preset='released', momentum=0.0)
    model = build(small_model(cfg))
    calls = with_ghm_c_of(model)
    training_step(model)
    ((logits, target), returned) = calls['bbox_head.loss_obj'][0]
    x, p_star = (t.detach().double().numpy() for t in (logits, target))
    mean = harmonized_mean(x, p_star, bins=30)
    positives = p_star.sum()
    assert positives >= 2
    assert float(returned) / positives == pytest.approx(mean, rel=1e-4)


def harmonized_mean(x: np.ndarray, p_star: np.ndarray, bins: int) -> float:
    """(1/N) Σ β L with the official β = N / (R·n)."""
    g = np.abs(1 / (1 + np.exp(-x)) - p_star)
    region = np.minimum((g * bins).astype(int), bins - 1)
    counts = np.bincount(region.ravel(), minlength=bins)
    beta = x.size / (counts[region] * (counts > 0).sum())
    return float((beta * cross_entropy(x, p_star)).mean())


@pytest.mark.parametrize('head', ['RetinaHead', 'FCOSHead', 'SSDHead', *KEPT_BY_TEMPERED])
def test_tempered_has_the_scale_of_the_loss_replaced(head: str) -> None:
    """Whatever the head divides by, so that the learning rate of a config stays right."""
    original = Config.fromfile(CONFIGS / REPRESENTATIVES[head].config)
    factor, with_mask = REPRESENTATIVES[head].factor, has_masks(original)
    first = build(small_model(original, factor))
    first.init_weights()
    second = build(small_model(harmonize(original, preset='tempered'), factor))
    second.load_state_dict(first.state_dict(), strict=False)
    before, after = losses_of(first, with_mask), losses_of(second, with_mask)
    changed = {name for name in before if name.endswith(('cls', 'obj', 'conf'))}
    kept = KEPT_BY_TEMPERED.get(head)
    if kept:
        assert before[kept] == after[kept]
        changed.remove(kept)
    for name in changed:
        assert before[name] != after[name]
        assert 1 / 4 < after[name] / before[name] < 4, name


def losses_of(model: nn.Module, with_mask: bool) -> dict[str, float]:
    torch.manual_seed(0)
    np.random.seed(0)
    model.train()
    data = model.data_preprocessor(random_batch(model, 128, with_mask), True)
    return {k: float(v) for k, v in model.parse_losses(model(**data, mode='loss'))[1].items()}


def test_scan_and_document(tmp_path: Path) -> None:
    names = [
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        'tood/tood_r50_fpn_1x_coco.py',
        'ghm/retinanet_r50_fpn_ghm-1x_coco.py',
        'common/ms_3x_coco.py',
        'sort/faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17train.py',
    ]
    scanned = [scan(name, tmp_path / 'written.py') for name in names]
    verdicts = ['harmonized', 'refused', 'harmonized', 'refused', 'does not load']
    assert [config.verdict for config in scanned] == verdicts
    assert scanned[0].swaps == [
        ('RetinaHead', 'loss_bbox', 'GHM-R'), ('RetinaHead', 'loss_cls', 'GHM-C'),
    ]  # fmt: skip
    result = dict(
        mmdet='mmdet 3', torch='2', configs=[vars(s) for s in scanned],
        steps={'RetinaHead': 1.5, 'ATSSHead': 'ValueError: no'},
    )  # fmt: skip
    text = document([result])
    assert '| mmdet 3 | 5 | 2 | 0 | 2 | 1 |  | 1 of 2 |' in text
    assert '| `loss_cls` | `loss_bbox` | `RetinaHead` 2 |' in text
    assert '| 1 | no model in it | `common` |' in text
    assert '| 1 | its losses are kept | `tood` |' in text
    assert '| no training step | ValueError: no | 1 | `ATSSHead`, mmdet 3 |' in text


@pytest.mark.slow
def test_every_config(tmp_path: Path) -> None:
    """Harmonized or refused with a reason; what is written differs in losses and clipping only."""
    scanned: list[Scanned] = []
    for name in installed_configs():
        scanned.append(scan(name, tmp_path / 'written.py'))
        if scanned[-1].verdict == 'harmonized':
            written = Config.fromfile(tmp_path / 'written.py')
            assert_only_losses_and_clipping_differ(Config.fromfile(CONFIGS / name), written)
    assert len(scanned) > 800
    assert sum(config.verdict == 'harmonized' for config in scanned) >= 700
    assert all(config.why for config in scanned if config.verdict in ('refused', 'does not load'))
    swapped = {head for config in scanned for head, *_ in config.swaps}
    assert swapped == REPRESENTATIVES.keys()
