"""A checkpoint in the names of the released code, and the errors of a config, as the pages say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from .test_docs import BLOCKS

#: The released RetinaHead keeps a plain convolution in each of these lists.
TOWERS = {
    f'bbox_head.{kind}_convs.{i}.{part}': f'bbox_head.{kind}_convs.{i}.conv.{part}'
    for kind in ('cls', 'reg')
    for i in range(4)
    for part in ('weight', 'bias')
}


def code(page: str, part: str) -> str:
    """The block of a page that has this part."""
    [found] = [block.code for block in BLOCKS if block.page.name == page and part in block.code]
    return found


def rename(weights: dict[str, Tensor], folder: Path) -> Path:
    """The checkpoint that the lines of the page make of these weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        meta = dict(mmdet_version='0.5.3', config='config.py')
        torch.save(dict(meta=meta, state_dict=weights), 'released.pth')
        exec(code('coming-from-2.x.md', "torch.load('released.pth'"), {})
    return folder / 'renamed.pth'


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """That of the page with a smaller backbone and image, without weights of its own."""
    path = tmp_path_factory.mktemp('config') / 'legacy.py'
    path.write_text(code('coming-from-2.x.md', 'LegacyAnchorGenerator'), encoding='utf-8')
    config = Config.fromfile(path)
    config.model.backbone.update(depth=18, init_cfg=None)
    config.model.neck.in_channels = [64, 128, 256, 512]
    resize = config.test_dataloader.dataset.pipeline[1]
    assert resize.type == 'Resize'
    resize.scale = (96, 64)
    return config


@pytest.fixture(scope='module')
def trained(config: Config) -> nn.Module:
    """A detector whose every weight counts."""
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    for name, parameter in model.bbox_head.named_parameters():
        nn.init.normal_(parameter, std=0.03 if 'weight' in name else 0.1)
    return model


@pytest.fixture(scope='module')
def released(trained: nn.Module) -> dict[str, Tensor]:
    """Its weights in the released names."""
    weights = dict(trained.state_dict())
    return {**{old: weights.pop(new) for old, new in TOWERS.items()}, **weights}


@pytest.fixture(scope='module')
def renamed(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rename(released, tmp_path_factory.mktemp('renamed'))


def test_the_towers_stay_random_without_the_page(
    trained: nn.Module, released: dict[str, Tensor], config: Config
) -> None:
    model = MODELS.build(config.model)
    result = model.load_state_dict(released, strict=False)
    assert set(result.unexpected_keys) == set(TOWERS)
    assert set(result.missing_keys) == set(TOWERS.values()) and len(TOWERS) == 16
    tower = 'bbox_head.cls_convs.0.conv.weight'
    assert not torch.equal(model.state_dict()[tower], trained.state_dict()[tower])


def test_a_released_checkpoint_detects_as_before(
    trained: nn.Module, released: dict[str, Tensor], renamed: Path, config: Config
) -> None:
    model = MODELS.build(config.model).eval()
    model.load_state_dict(torch.load(renamed)['state_dict'], strict=True)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = model.extract_feat(image)
        scores, offsets = model.bbox_head(features)
        for level, x in enumerate(features):
            assert torch.equal(scores[level], released_head(released, 'cls', x))
            assert torch.equal(offsets[level], released_head(released, 'reg', x))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    detector = init_detector(config, str(renamed), device='cpu')
    trained.cfg = config
    found, wanted = (inference_detector(m, pixels).pred_instances for m in (detector, trained))
    assert len(found) == 100
    for part in ('bboxes', 'scores', 'labels'):
        assert torch.equal(found[part], wanted[part]), part


def released_head(weights: dict[str, Tensor], kind: str, x: Tensor) -> Tensor:
    """A branch of the released head: four convolutions with a ReLU each, and the last one."""
    for i in range(4):
        tower = f'bbox_head.{kind}_convs.{i}'
        x = F.conv2d(x, weights[f'{tower}.weight'], weights[f'{tower}.bias'], padding=1).relu()
    last = f'bbox_head.retina_{kind}'
    return F.conv2d(x, weights[f'{last}.weight'], weights[f'{last}.bias'], padding=1)


def test_renaming_leaves_other_names(trained: nn.Module, tmp_path: Path) -> None:
    """As of a checkpoint that has been renamed, or of a later version."""
    head = {k: v for k, v in trained.state_dict().items() if k.startswith('bbox_head')}
    assert set(torch.load(rename(head, tmp_path))['state_dict']) == set(head)


def test_boxes_are_half_a_stride_off_without_the_legacy_anchors(
    trained: nn.Module, config: Config
) -> None:
    usual = Config.fromstring("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n", '.py')
    usual.model.backbone.init_cfg = None
    head = MODELS.build(usual.model.bbox_head)
    shifts = []
    for level in range(5):
        centers = []
        for bbox_head in (trained.bbox_head, head):
            anchors = bbox_head.prior_generator.base_anchors[level]
            centers.append((anchors[:, :2] + anchors[:, 2:]) / 2)
        shifts.append((centers[0] - centers[1]).mean().item())
    assert shifts == pytest.approx([3.5, 7.5, 15.5, 31.5, 63.5], abs=0.5)
    assert f'by {shifts[0]:.1f} to {shifts[-1]:.1f} pixels' in PAGE
    boxes = torch.tensor([[0.0, 0.0, 9.0, 19.0]])
    # A box that ends at pixel 9 is 10 wide.
    wider = trained.bbox_head.bbox_coder.encode(boxes, torch.tensor([[0.0, 0.0, 19.0, 19.0]]))
    assert wider[0, 2].exp().item() == pytest.approx(2)


PAGE = (Path(__file__).parent.parent / 'docs/coming-from-2.x.md').read_text(encoding='utf-8')


def test_the_converter_of_mmdetection_shifts_biases(
    released: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {name: value for name, value in released.items() if name.startswith('bbox_head')}
    ours = torch.load(rename(head, tmp_path))['state_dict']
    # Its first line is the path, in the released code, too.
    text = "x.py\nmodel = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead'))\n"
    monkeypatch.chdir(tmp_path)
    torch.save(dict(meta=dict(mmdet_version='0.5.3', config=text), state_dict=head), 'old.pth')
    script = 'tools/model_converters/upgrade_model_version.py'
    assert script in PAGE
    converter = runpy.run_path(str(Path(mmdet.__path__[0], '.mim', script)))
    converter['convert']('old.pth', 'converted.pth', 81)
    theirs = torch.load('converted.pth')['state_dict']
    assert set(ours) == set(theirs)
    differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differ == {'bbox_head.retina_cls.bias'}
    bias = 'bbox_head.retina_cls.bias'
    assert torch.equal(theirs[bias], ours[bias].roll(-1))


BASE = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
SMOOTH_L1 = "model = dict(bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=0.1)))\n"


@pytest.mark.parametrize(
    ('argument', 'config'),
    [
        (
            'formula',
            "loss_cls=dict(_delete_=True, type='GHMC', formula='tempered', use_sigmoid=True)",
        ),
        ('gamma', "loss_cls=dict(type='ghm_mmdet.GHMC', use_sigmoid=True)"),
        ('beta', "loss_bbox=dict(type='ghm_mmdet.GHMR')"),
    ],
)
def test_errors_of_a_config_stand_in_troubleshooting(
    argument: str, config: str, tmp_path: Path
) -> None:
    """The error is that of MMDetection and Python, and the page names it in a heading."""
    (tmp_path / 'smooth_l1.py').write_text(BASE + SMOOTH_L1, encoding='utf-8')
    child = tmp_path / 'child.py'
    text = f"_base_ = './smooth_l1.py'\nmodel = dict(bbox_head=dict({config}))\n"
    child.write_text(text, encoding='utf-8')
    message = f"got an unexpected keyword argument '{argument}'"
    with pytest.raises(TypeError, match=re.escape(message)):
        MODELS.build(Config.fromfile(child).model.bbox_head)
    page = (Path(__file__).parent.parent / 'docs/troubleshooting.md').read_text(encoding='utf-8')
    assert f'## `{message}`\n' in page or argument == 'beta'
    # With the remedy of the page the head is built.
    mended = text.replace("'GHMC'", "'ghm_mmdet.GHMC'")
    mended = mended.replace('=dict(type', '=dict(_delete_=True, type')
    child.write_text(mended, encoding='utf-8')
    MODELS.build(Config.fromfile(child).model.bbox_head)
