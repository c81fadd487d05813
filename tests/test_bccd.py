"""BCCD: the converter from Pascal VOC, the configs, the commands and the report of the study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from ghm_mmdet.reproduce.runs import shell_line
from studies.bccd import VARIANTS, experiment, table
from studies.experiment import Settings
from tools.convert_bccd import convert_bccd

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob('configs/bccd/*.py'))
#: Name of an image to its objects: class, xmin, ymin, xmax, ymax.
IMAGES = {
    'BloodImage_00000': [('WBC', 260, 177, 491, 376), ('RBC', 78, 336, 184, 435)],
    'BloodImage_00001': [('Platelets', 10, 20, 40, 60), ('RBC', 5, 5, 5, 30)],
    'BloodImage_00002': [],
}
LISTS = dict(train=['BloodImage_00001'], val=['BloodImage_00002'], test=['BloodImage_00000'])


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / 'BCCD'
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (folder / part).mkdir(parents=True)
    for name, objects in IMAGES.items():
        items = ''.join(
            f'<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
            f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
            for label, x1, y1, x2, y2 in objects
        )
        (folder / f'Annotations/{name}.xml').write_text(
            f'<annotation><filename>wrong.jpg</filename><size><width>640</width>'
            f'<height>480</height><depth>3</depth></size>{items}</annotation>'
        )
        (folder / f'JPEGImages/{name}.jpg').write_bytes(b'')
    for split, names in {**LISTS, 'trainval': LISTS['train'] + LISTS['val']}.items():
        (folder / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    return folder


def test_converted_boxes_are_those_of_voc(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    sizes = convert_bccd(voc, out)
    assert sizes == dict(train=(1, 1), val=(1, 0), trainval=(2, 1), test=(1, 2))
    coco = COCO(out / 'test.json')
    found = [
        (coco.cats[a['category_id']]['name'], *a['bbox'], a['area']) for a in coco.anns.values()
    ]
    assert found == [('WBC', 260, 177, 231, 199, 231 * 199), ('RBC', 78, 336, 106, 99, 106 * 99)]
    (image,) = coco.imgs.values()
    assert (out / 'images' / image['file_name']).exists()
    assert convert_bccd(voc, out) == sizes


def test_boxes_without_area_are_left_out(voc: Path, tmp_path: Path) -> None:
    convert_bccd(voc, tmp_path / 'out')
    annotations = json.loads((tmp_path / 'out/train.json').read_text())['annotations']
    assert [a['bbox'] for a in annotations] == [[10, 20, 30, 40]]


def test_other_folders_and_classes_are_refused(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='must be the folder BCCD_Dataset/BCCD'):
        convert_bccd(voc.parent, tmp_path / 'out')
    (tmp_path / 'out/images').mkdir(parents=True)
    with pytest.raises(ValueError, match='is not a link to'):
        convert_bccd(voc, tmp_path / 'out')
    path = voc / 'Annotations/BloodImage_00000.xml'
    path.write_text(path.read_text().replace('WBC', 'cell'))
    with pytest.raises(ValueError, match="BloodImage_00000 has an object of class 'cell'"):
        convert_bccd(voc, tmp_path / 'other')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_configs_differ_in_nothing_but_the_losses(path: Path) -> None:
    config, focal = (Config.fromfile(p).to_dict() for p in (path, ROOT / VARIANTS[1].config))
    hooks = config.pop('custom_hooks', None)
    losses = {key: config['model']['bbox_head'].pop(key) for key in ('loss_cls', 'loss_bbox')}
    for head in (config['model']['bbox_head'], focal['model']['bbox_head']):
        head.pop('type')
        for key in losses:
            head.pop(key, None)
    for name in ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert config[name] == focal[name]
    leads = 'ghmc' in path.stem
    assert bool(hooks) == leads
    assert not leads or hooks[0]['iters'] == 438


def test_every_config_is_in_the_study() -> None:
    assert {ROOT / variant.config for variant in VARIANTS} == set(CONFIGS)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_warm_starts_take_the_weights_of_focal_loss(tmp_path: Path) -> None:
    settings = Settings(tmp_path, '/data/bccd', root_variable='BCCD_ROOT')
    planned = [experiment(v, settings, seed) for seed in range(2) for v in VARIANTS]
    lines = [shell_line(e.train_command(), settings.environment) for e in planned]
    assert len(lines) == 2 * len(VARIANTS)
    start = 'BCCD_ROOT=/data/bccd/ CUDA_VISIBLE_DEVICES=-1 mim train'
    assert all(line.startswith(start) for line in lines)
    warm = [line for line in lines if 'warm-start-' in line and 'seed1' in line]
    weights = f'model.init_cfg.checkpoint={tmp_path}/random-weights-fl-sl1-seed1/epoch_12.pth'
    assert warm and all(weights in line and 'max_epochs=6' in line for line in warm)


def test_report_has_means_of_what_was_run(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    for seed, ap in ((0, 0.4), (2, 0.5)):
        folder = experiment(VARIANTS[1], settings, seed).folder / '20260101_000000/vis_data'
        folder.mkdir(parents=True)
        names = ('', '_50', '_60', '_70', '_75', '_80', '_90', '_s', '_m', '_l')
        metrics = {f'coco/bbox_mAP{name}': ap for name in names}
        (folder / 'scalars.json').write_text(json.dumps(metrics) + '\n')
    rows = [line.split(' | ') for line in table(settings, 3).splitlines()[2:]]
    assert rows[1][1:6] == ['focal loss + smooth L1', '2', '45.0', '40.0, 50.0', '45.0']
    assert rows[0][2:5] == ['0', '', '']
