"""BCCD: the converter from Pascal VOC, and the configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from ghm_mmdet.presets import PRESETS
from tools.convert_bccd import convert_bccd

ROOT = Path(__file__).parent.parent
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
            f'<height>480</height><depth>3</depth></size>{items}</annotation>',
            encoding='utf-8',
        )
        (folder / f'JPEGImages/{name}.jpg').write_bytes(b'')
    for split, names in {**LISTS, 'trainval': LISTS['train'] + LISTS['val']}.items():
        (folder / f'ImageSets/Main/{split}.txt').write_text(
            '\n'.join(names) + '\n', encoding='utf-8'
        )
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
    annotations = json.loads((tmp_path / 'out/train.json').read_text(encoding='utf-8'))[
        'annotations'
    ]
    assert [a['bbox'] for a in annotations] == [[10, 20, 30, 40]]


def test_other_folders_and_classes_are_refused(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='must be the folder BCCD_Dataset/BCCD'):
        convert_bccd(voc.parent, tmp_path / 'out')
    (tmp_path / 'out/images').mkdir(parents=True)
    with pytest.raises(ValueError, match='is not a link to'):
        convert_bccd(voc, tmp_path / 'out')
    (tmp_path / 'moved').mkdir()
    (tmp_path / 'moved/images').symlink_to(tmp_path / 'where/it/was')
    with pytest.raises(ValueError, match='is not a link to'):
        convert_bccd(voc, tmp_path / 'moved')
    path = voc / 'Annotations/BloodImage_00000.xml'
    path.write_text(path.read_text(encoding='utf-8').replace('WBC', 'cell'), encoding='utf-8')
    with pytest.raises(ValueError, match="BloodImage_00000 has an object of class 'cell'"):
        convert_bccd(voc, tmp_path / 'other')


def test_configs_differ_in_nothing_but_the_losses() -> None:
    config, focal = (
        Config.fromfile(ROOT / f'configs/bccd/retinanet_r18_fpn_{name}_bccd.py').to_dict()
        for name in ('ghmc-ghmr', 'fl-sl1')
    )
    losses = [config['model']['bbox_head'].pop(key) for key in ('loss_cls', 'loss_bbox')]
    assert losses == list(PRESETS['tempered'])
    for key in ('loss_cls', 'loss_bbox'):
        focal['model']['bbox_head'].pop(key, None)
    for name in ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert config[name] == focal[name]
