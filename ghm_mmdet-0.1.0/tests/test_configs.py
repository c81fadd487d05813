"""The configs of the paper's tables: settings, schedule, a real step, evaluators, backbones."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from torch import nn

ROOT = Path(__file__).parent.parent
ALL = sorted(path.stem for path in ROOT.glob('configs/ghm/*.py'))
TEST_DEV = [name for name in ALL if name.endswith('_test-dev')]
TRAINED = [name for name in ALL if name not in TEST_DEV]

R50 = ('ResNet', 50, 'torchvision://resnet50')
R101 = ('ResNet', 101, 'torchvision://resnet101')
X101 = ('ResNeXt', 101, 'torchvision://resnext101_32x8d')
SL1 = dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)
ASL1 = dict(type='ghm_mmdet.AuthenticSmoothL1Loss', mu=0.02, loss_weight=1.0)
GHM_R = dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)
FL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
OHEM = dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=True)


def ghm_c(bins: int = 30, momentum: float = 0.75, weight: float = 1.0, **more: object) -> dict:
    return dict(
        type='ghm_mmdet.GHMC', bins=bins, momentum=momentum, use_sigmoid=True, loss_weight=weight,
        **more,
    )  # fmt: skip


#: "Experiments" of the paper: backbone, losses of classification and regression.
RETINANETS = {
    'r50_fpn_ghmc-m05-noema': (R50, ghm_c(5, 0), SL1),
    'r50_fpn_ghmc-m10-noema': (R50, ghm_c(10, 0), SL1),
    'r50_fpn_ghmc-m20-noema': (R50, ghm_c(20, 0), SL1),
    'r50_fpn_ghmc-m30-noema': (R50, ghm_c(30, 0), SL1),
    'r50_fpn_ghmc-m40-noema': (R50, ghm_c(40, 0), SL1),
    'r50_fpn_ce': (R50, ghm_c(1, 0, 20.0), SL1),
    'r50_fpn_ghmc-exact': (R50, ghm_c(30, 0, density='exact'), SL1),
    'r50_fpn_ghmc': (R50, ghm_c(), SL1),
    'r101_fpn_ohem': (R101, OHEM, SL1),
    'r50_fpn_fl': (R50, FL, SL1),
    'r50_fpn_ghmc-asl1': (R50, ghm_c(), ASL1),
    'r50_fpn_ghmc-ghmr': (R50, ghm_c(), GHM_R),
    'r50_fpn_ghmc-ghmr-noprior': (R50, ghm_c(), GHM_R),
    'r101_fpn_ghmc-ghmr': (R101, ghm_c(), GHM_R),
    'x101-32x8d_fpn_ghmc-ghmr': (X101, ghm_c(), GHM_R),
    'r101_fpn_fl': (R101, FL, SL1),
    'x101-32x8d_fpn_fl': (X101, FL, SL1),
}


@pytest.fixture(scope='module', autouse=True)
def data_in_coco_root(coco_root: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('COCO_ROOT', f'{coco_root}/')
        yield


@functools.lru_cache(maxsize=None)
def read(name: str) -> Config:
    return Config.fromfile(ROOT / f'configs/ghm/{name}.py')


def load(name: str) -> Config:
    return copy.deepcopy(read(name))


def load_model(name: str) -> nn.Module:
    """The model as it starts, but with a random backbone."""
    config = load(name)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    model.init_weights()
    return model


@pytest.mark.parametrize('model', RETINANETS)
def test_losses_and_backbone_are_the_papers(model: str) -> None:
    settings = load(f'retinanet_{model}_8xb2-14e_coco').model
    backbone, loss_cls, loss_bbox = RETINANETS[model]
    found = settings.backbone
    assert (found.type, found.depth, found.init_cfg.checkpoint) == backbone
    assert settings.bbox_head.loss_cls.to_dict() == loss_cls
    assert settings.bbox_head.loss_bbox.to_dict() == loss_bbox
    assert settings.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert settings.data_preprocessor.std == [58.395, 57.12, 57.375]
    assert settings.data_preprocessor.bgr_to_rgb is True


def test_two_stages_differ_in_the_second_box_loss_alone() -> None:
    sl1, ghmr = (
        load(f'faster-rcnn_r50_fpn_{loss}_8xb2-14e_coco').model for loss in ('sl1', 'ghmr')
    )
    assert sl1.rpn_head.loss_bbox == SL1
    assert sl1.roi_head.bbox_head.loss_bbox == {**SL1, 'beta': 1.0}
    assert ghmr.roi_head.bbox_head.pop('loss_bbox') == {**GHM_R, 'loss_weight': 2.5}
    sl1.roi_head.bbox_head.pop('loss_bbox')
    assert ghmr == sl1


@pytest.mark.parametrize('name', ALL)
def test_schedule_is_the_papers(name: str) -> None:
    """ "Implementation Details"; the warm-up is the released code's."""
    config = load(name)
    optimizer = config.optim_wrapper.optimizer
    assert optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
    assert config.optim_wrapper.clip_grad.max_norm == 35
    warmup, steps = config.param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.begin, warmup.end) == ('LinearLR', False, 0, 500)
    assert (steps.type, steps.milestones, steps.gamma) == ('MultiStepLR', [9, 12], 0.1)
    assert config.train_cfg.max_epochs == 14
    assert config.train_dataloader.batch_size == 2
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=16)
    train = config.train_dataloader.dataset
    assert (train.ann_file, train.data_prefix.img) == (
        'annotations/instances_train2017.json',
        'train2017/',
    )
    resize, flip = train.pipeline[2:4]
    assert (resize.type, resize.scale, resize.keep_ratio) == ('Resize', (1333, 800), True)
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    assert len(train.pipeline) == 5
    model = config.model
    if model.type == 'RetinaNet':
        anchors = model.bbox_head.anchor_generator
        assert (anchors.scales_per_octave, anchors.ratios) == (3, [0.5, 1.0, 2.0])


def a_batch(size: int = 64) -> dict:
    """Two images with two objects each, as the data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(2):
        image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[4.0, 6, 36, 40], [20, 10, 60, 58]])
        sample = DetDataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0)),
            gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([1, 17])),
        )
        items.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(items)


def with_marks(name: str) -> object:
    """The deep backbones and the rows of Table 1, which differ in M alone, take minutes."""
    slow = '101' in name or 'noema' in name
    return pytest.param(name, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize('name', ALL)
def test_builds(name: str) -> None:
    config = load(name)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    head = model.bbox_head if config.model.type == 'RetinaNet' else model.roi_head.bbox_head
    assert head.num_classes == 80


@pytest.fixture(scope='module', params=[with_marks(name) for name in TRAINED])
def model_after_a_step(request: pytest.FixtureRequest) -> Iterator[tuple]:
    """Name, model, its losses, and its parameters before the step."""
    torch.manual_seed(0)
    model = load_model(request.param)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, load(request.param).optim_wrapper)
    losses = model.train_step(a_batch(), optimizer)
    yield request.param, model, {k: v.item() for k, v in losses.items()}, before


def test_a_step_trains(model_after_a_step: tuple) -> None:
    _, model, losses, before = model_after_a_step
    assert all(math.isfinite(value) for value in losses.values()), losses
    assert losses['loss'] > 0
    assert losses['loss_bbox'] > 0
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        changed = not torch.equal(parameter, before[name])
        frozen = not parameter.requires_grad
        if frozen or 'head' in name:
            assert changed != frozen, name


def test_beginning_of_training(model_after_a_step: tuple) -> None:
    """The bias prior π, and the paper's "beginning classification loss value is around 1"."""
    name, _, losses, before = model_after_a_step
    if 'retinanet' not in name:
        return
    prior = torch.sigmoid(before['bbox_head.retina_cls.bias'])
    assert torch.allclose(prior, torch.tensor(0.5 if 'noprior' in name else 0.01))
    if '_ce_' in name:
        # 20 · -log(0.99) on each of the five levels, and a little for the positives.
        assert losses['loss_cls'] == pytest.approx(5 * 20 * -math.log(0.99), rel=0.15)


@pytest.mark.parametrize('name', ALL)
def test_test_evaluator_works(
    name: str, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(name)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    assert len(dataset) == 8
    evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        found = dict(bboxes=[[5.0, 5, 40, 40]], scores=[0.9], labels=[index])
        found = {key: torch.tensor(value) for key, value in found.items()}
        sample.pred_instances = InstanceData(**found)
        evaluator.process([sample.to_dict()])
    metrics = evaluator.evaluate(len(dataset))
    if name in TEST_DEV:
        [written] = tmp_path.glob(f'work_dirs/{name}/detections.bbox.json')
        assert len(json.loads(written.read_text(encoding='utf-8'))) == 8
        assert dataset[0]['data_samples'].img_path.startswith(f'{coco_root}/test2017/')
    else:
        assert {f'coco/bbox_mAP_{iou}' for iou in (50, 60, 70, 80, 90)} <= metrics.keys()
        assert config.val_evaluator == config.test_evaluator


@pytest.mark.parametrize('name', TEST_DEV)
def test_test_dev_is_the_same_model(name: str) -> None:
    assert load(name).model == load(name.replace('_test-dev', '')).model


def torchvision_resnext101_32x8d() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's weights, from its naming and the paper of ResNeXt."""
    shapes: dict[str, tuple[int, ...]] = {}

    def batch_norm(name: str, channels: int) -> None:
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.{part}'] = (channels,)
        shapes[f'{name}.num_batches_tracked'] = ()

    shapes['conv1.weight'] = (64, 3, 7, 7)
    batch_norm('bn1', 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 23, 3), 1):
        width, outputs = 128 * 2**stage, 128 * 2**stage
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            shapes[f'{name}.conv1.weight'] = (width, inputs, 1, 1)
            shapes[f'{name}.conv2.weight'] = (width, width // 32, 3, 3)
            shapes[f'{name}.conv3.weight'] = (outputs, width, 1, 1)
            for index, channels in enumerate((width, width, outputs), 1):
                batch_norm(f'{name}.bn{index}', channels)
            if block == 0:
                shapes[f'{name}.downsample.0.weight'] = (outputs, inputs, 1, 1)
                batch_norm(f'{name}.downsample.1', outputs)
            inputs = outputs
    shapes['fc.weight'], shapes['fc.bias'] = (1000, 2048), (1000,)
    return shapes


def test_torchvision_names_make_its_number_of_parameters() -> None:
    """88 791 336, as torchvision documents for ResNeXt101_32X8D_Weights."""
    learned = (
        math.prod(shape)
        for name, shape in torchvision_resnext101_32x8d().items()
        if name.endswith(('weight', 'bias'))
    )
    assert sum(learned) == 88_791_336


@pytest.mark.parametrize('name', [name for name in TRAINED if 'x101' in name])
def test_resnext_takes_torchvision_weights(name: str) -> None:
    with torch.device('meta'):
        backbone = MODELS.build(load(name).model.backbone)
    ours = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    theirs = torchvision_resnext101_32x8d()
    assert theirs.keys() - ours.keys() == {'fc.weight', 'fc.bias'}  # ImageNet's classifier
    assert ours == {key: theirs[key] for key in ours}
