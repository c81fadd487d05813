"""`python -m studies.zoo`: the published models, what is refused, and a rehearsal."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.experiments.configs import parse_options
from ghm_mmdet.experiments.experiment import RunSettings
from studies.zoo import WHAT_IT_CHECKS, main, published, zoo_report, zoo_tests

R50 = 'retinanet_r50_fpn_ghm-1x_coco'
#: A small detector and small images, in the place of ResNet-50 and 1333 x 800.
SMALL = (
    'model.backbone.depth=18', 'model.backbone.base_channels=16', 'model.backbone.stem_channels=16',
    'model.backbone.init_cfg=None', 'model.neck.in_channels=[16,32,64,128]',
    'model.neck.out_channels=32', 'model.bbox_head.in_channels=32',
    'model.bbox_head.feat_channels=32', 'model.bbox_head.stacked_convs=1',
    'model.test_cfg.score_thr=0', 'model.test_cfg.nms_pre=100',
    'test_dataloader.dataset.pipeline.1.scale=(160,160)', 'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
)  # fmt: skip
GROUND_TRUTHS = 20


def save(config: Config, path: Path) -> Path:
    """Made-up weights under a published name."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    # At its initial values the head answers every image alike.
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.5)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def test_published_figures_are_those_of_mmdetections_table() -> None:
    models = published()
    assert [model.ap for model in models] == [37.0, 39.1, 40.7, 41.4]
    assert all(model.config.exists() for model in models)
    assert [model.digest for model in models] == ['a437fda3', 'c148ee8f', 'e4333bd0', 'dd381cef']


def test_config_is_mmdetections_with_the_losses_of_this_package(tmp_path: Path) -> None:
    for model in published():
        (tmp_path / model.file).touch()
    checkpoints = [tmp_path / model.file for model in published()]
    tests = zoo_tests(checkpoints, RunSettings(tmp_path, '/data/coco'))
    for test, model in zip(tests, published()):
        head = MODELS.build(test.wanted.model.bbox_head)
        assert isinstance(head.loss_cls, GHMC) and isinstance(head.loss_bbox, GHMR)
        theirs = Config.fromfile(model.config)
        assert test.wanted.model.backbone == theirs.model.backbone
        assert test.wanted.test_dataloader.dataset.data_root == '/data/coco'
        annotations = '/data/coco/annotations/instances_val2017.json'
        assert test.wanted.test_evaluator.ann_file == annotations


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r'must be named as one of .*a437fda3\.pth.*, got .*my\.p'):
        zoo_tests([tmp_path / 'my.pth'], RunSettings())
    name = published()[0].file
    with pytest.raises(FileNotFoundError, match=f'{name} is not there'):
        zoo_tests([tmp_path / name], RunSettings())
    (tmp_path / name).touch()
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / name), '--data-root', str(tmp_path)])
    assert stop.value.code == 1
    assert f'{tmp_path}/annotations/instances_val2017.json is not' in capsys.readouterr().out


def test_report_says_what_was_not_checked(tmp_path: Path, coco_root: Path) -> None:
    models = published()
    content = b'not weights'
    (tmp_path / models[0].file).write_bytes(content)
    tests = zoo_tests([tmp_path / models[0].file], RunSettings(tmp_path, str(coco_root)))
    empty = zoo_report(tests)
    assert f'| {R50} | 37.0 |  |  |' in empty
    assert empty.endswith(WHAT_IT_CHECKS)
    assert 'Not' not in empty
    (tests[0].folder / '1').mkdir(parents=True)
    (tests[0].folder / '1/1.json').write_text(
        json.dumps({'coco/bbox_mAP': 0.365}), encoding='utf-8'
    )
    filled = zoo_report(tests)
    assert f'| {R50} | 37.0 | 36.5 | -0.5 |' in filled
    assert '**Not COCO**: evaluated on 8 images' in filled
    assert not hashlib.sha256(content).hexdigest().startswith('a437fda3')
    assert '**Not the published weights**: the SHA-256 of' in filled


@pytest.mark.slow
def test_rehearsal(coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What MMDetection's own classes detect is made the ground truth: AP must be 100."""
    config = Config.fromfile(published()[0].config)
    config.merge_from_dict(parse_options(SMALL))
    checkpoint = save(config, tmp_path / published()[0].file)
    assert config.model.bbox_head.loss_cls.type == 'GHMC'
    root = tmp_path / 'coco'
    shutil.copytree(coco_root, root, symlinks=True)
    path = root / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text(encoding='utf-8'))
    content['annotations'] = detections(config, checkpoint, root / 'val2017', content)
    path.unlink()
    path.write_text(json.dumps(content), encoding='utf-8')

    command = [checkpoint, '--data-root', root, '--work-dir', tmp_path / 'zoo', '--gpus', 0]
    with pytest.raises(SystemExit):
        main([*map(str, command), '--cfg-options', *SMALL])
    printed = capsys.readouterr().out
    assert f'| {R50} | 37.0 | 100.0 | +63.0 |' in printed
    assert '**Not COCO**: evaluated on 8 images' in printed
    assert '**Not the published weights**' in printed
    log = (tmp_path / f'zoo/{R50}.log').read_text(encoding='utf-8')
    assert 'ghm_mmdet.GHMC' in log and 'ghm_mmdet.GHMR' in log
    with pytest.raises(SystemExit):
        main([*map(str, command), '--cfg-options', *SMALL])
    assert 'its result is there' in capsys.readouterr().out


def detections(config: Config, checkpoint: Path, images: Path, content: dict) -> list[dict]:
    """Those of the highest scores over all images, as annotations."""
    model = init_detector(config, str(checkpoint), palette='random', device='cpu')
    found = []
    for image in content['images']:
        instances = inference_detector(model, str(images / image['file_name'])).pred_instances
        for box, score, label in zip(
            *(instances[k].tolist() for k in ('bboxes', 'scores', 'labels')), strict=True
        ):
            x1, y1, x2, y2 = box
            category = content['categories'][label]['id']
            found.append((score, image['id'], category, [x1, y1, x2 - x1, y2 - y1]))
    found.sort(key=lambda one: -one[0])
    return [
        dict(id=i, image_id=image, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
        for i, (_, image, category, box) in enumerate(found[:GROUND_TRUTHS], 1)
    ]
