"""The preflight of a config: what it says of each fault of the data and of the config."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config
from PIL import Image
from torch.utils.data import Dataset

from ghm_mmdet import preflight
from ghm_mmdet.preflight import FAULTS, check_config

CLASSES = ('king', 'queen', 'white rook')
SIZE = 64


def write_image(path: Path, seed: int, **settings: Any) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8)
    image = Image.fromarray(np.kron(pixels, np.ones((8, 8, 1), np.uint8)))
    image.save(path, quality=95, **settings)


def data_set(ann_file: str, **settings: Any) -> dict[str, Any]:
    loads = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    metainfo = dict(classes=CLASSES)
    prefix = dict(img='images/')
    common = dict(type='CocoDataset', ann_file=ann_file, data_prefix=prefix, metainfo=metainfo)
    return dict(**common, pipeline=[*loads, dict(type='PackDetInputs')], **settings)


class Case:
    """Six images to train on and three to validate with, each with a box of every class."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'images').mkdir()
        self.train, self.val = self._annotations(range(6)), self._annotations(range(6, 9))
        keep = dict(filter_empty_gt=True, min_size=32)
        loss = dict(type='FocalLoss', use_sigmoid=True)
        head = dict(type='RetinaHead', num_classes=3, loss_cls=loss, loss_bbox=dict(type='L1Loss'))
        optimizer = dict(type='SGD', lr=0.01)
        self.config = Config(
            dict(
                default_scope='mmdet',
                model=dict(type='RetinaNet', bbox_head=head),
                train_dataloader=dict(
                    batch_size=2,
                    dataset=data_set('train.json', data_root=str(root), filter_cfg=keep),
                ),
                val_dataloader=dict(
                    batch_size=1, dataset=data_set('val.json', data_root=str(root), test_mode=True)
                ),
                val_evaluator=dict(type='CocoMetric', ann_file=str(root / 'val.json')),
                train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1),
                val_cfg=dict(type='ValLoop'),
                optim_wrapper=dict(optimizer=optimizer, clip_grad=dict(max_norm=10)),
                auto_scale_lr=dict(enable=False, base_batch_size=2),
            )
        )

    def _annotations(self, seeds: range) -> dict[str, list]:
        images, boxes = [], []
        for seed in seeds:
            write_image(self.root / f'images/{seed}.jpg', seed)
            images.append(dict(id=seed, file_name=f'{seed}.jpg', width=SIZE, height=SIZE))
            for label in range(len(CLASSES)):
                box = dict(id=10 * seed + label, image_id=seed, category_id=label + 1, iscrowd=0)
                boxes.append(dict(box, bbox=[8.0 * label, 4.0, 20.0, 30.0], area=600.0))
        categories = [dict(id=label, name=name) for label, name in enumerate(CLASSES, 1)]
        return dict(images=images, annotations=boxes, categories=categories)

    @property
    def parts(self) -> list[dict[str, Any]]:
        return [self.config[f'{split}_dataloader'].dataset for split in ('train', 'val')]

    def rename(self, name: str, new: str) -> None:
        """In the metainfo of both data sets."""
        for part in self.parts:
            part.metainfo.classes = [new if x == name else x for x in part.metainfo.classes]

    def image(self, number: int) -> Path:
        return self.root / f'images/{number}.jpg'

    def write(self) -> None:
        for split in ('train', 'val'):
            content = getattr(self, split)
            text = content if isinstance(content, str) else json.dumps(content)
            (self.root / f'{split}.json').write_text(text, encoding='utf-8')

    def faults(self, **options: Any) -> dict[str, str]:
        """What is said, and what to do, by the faults of `preflight.yml`, in the order."""
        self.write()
        return faults_of(self.config, **options)


def faults_of(config: Config, **options: Any) -> dict[str, str]:
    before = copy.deepcopy(config.to_dict())
    found: dict[str, str] = {}
    for finding in check_config(config, **options):
        assert '\n' not in finding.what + finding.remedy
        keys = [key for key in FAULTS if is_of(finding, key)]
        assert len(keys) == 1, finding
        found[keys[0]] = found.get(keys[0], '') + f'{finding.what} -> {finding.remedy}\n'
    assert config.to_dict() == before
    return found


def is_of(finding: preflight.Finding, key: str) -> bool:
    kind, template = next(iter(FAULTS[key].items()))
    pattern = '.*'.join(map(re.escape, re.split(r'\{.*?\}', template)))
    return finding.is_error == (kind == 'error') and bool(re.fullmatch(pattern, finding.what))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_nothing_is_said_of_a_sound_config(case: Case) -> None:
    assert case.faults() == {}


# What is done to the case, and then the faults that are found, each with what is said of it.
Mutation = Callable[[Case], object]
TABLE: dict[str, tuple[Mutation, dict[str, list[str]]]] = {}


def fault(**expected: list[str]) -> Callable[[Mutation], Mutation]:
    """A row of the table: the faults that are found, each with words of what is said."""

    def add(mutation: Mutation) -> Mutation:
        TABLE[mutation.__name__] = mutation, expected
        return mutation

    return add


@fault(
    missing_class=[
        "train.json has no class 'qeen'",
        "val.json has no class 'qeen'",
        "names of the file, 'king', 'queen', 'white rook' (",
    ]
)
def misspelt_class(case: Case) -> None:
    case.rename('queen', 'qeen')


@fault(missing_class=["no class 'whiterook'", "'white rook'", '--cfg-options drops blanks'])
def class_without_its_blank(case: Case) -> None:
    case.parts[0].metainfo.classes = ['king', 'queen', 'whiterook']


@fault(unused_class=["train.json: no box of the classes 'pieces'", 'category 0'])
def category_0_of_a_tool(case: Case) -> None:
    for split in (case.train, case.val):
        split['categories'].insert(0, dict(id=0, name='pieces', supercategory='none'))
    for part in case.parts:
        part.metainfo.classes = ['pieces', *CLASSES]
    case.config.model.bbox_head.num_classes = 4


@fault()
def category_0_that_the_config_leaves_out(case: Case) -> None:
    for split in (case.train, case.val):
        split['categories'].insert(0, dict(id=0, name='pieces', supercategory='none'))


@fault(
    missing_class=["no class 'person', 'bicycle', 'car', and 77 more", "'king', 'queen'"],
)
def default_classes_of_coco(case: Case) -> None:
    for part in case.parts:
        del part['metainfo']


@fault(
    missing_class=["no class 'k', 'i', 'n', and 1 more", "'king', 'queen', 'white rook'"],
)
def classes_that_are_a_string(case: Case) -> None:
    case.parts[0].metainfo.classes = 'king'


@fault(num_classes=['model.bbox_head.num_classes=80 (not 3)', 'without a background'])
def num_classes_of_the_base(case: Case) -> None:
    case.config.model.bbox_head.num_classes = 80


@fault(other_class=["train.json: boxes of the classes 'white rook' are not read"])
def class_that_is_not_wanted(case: Case) -> None:
    for part in case.parts:
        part.metainfo.classes = CLASSES[:2]
    case.config.model.bbox_head.num_classes = 2


@fault(other_labels=['val.json numbers the classes otherwise', 'same order'])
def categories_of_the_validation_in_another_order(case: Case) -> None:
    case.val['categories'].reverse()


@fault(no_image=['train.json: images are missing or damaged: ', '/images/0.jpg', 'data_prefix'])
def missing_image(case: Case) -> None:
    case.image(0).unlink()


@fault(no_image=['val.json: images are missing or damaged', '/images/7.jpg'])
def truncated_image(case: Case) -> None:
    case.image(7).write_bytes(case.image(7).read_bytes()[:-100])


@fault(no_image=['/images/1.jpg', '/images/2.jpg'])
def empty_file_and_text_for_images(case: Case) -> None:
    case.image(1).write_bytes(b'')
    case.image(2).write_text('no image', encoding='utf-8')


@fault(no_image=['/0.jpg', '/1.jpg', '/2.jpg, and 3 more', 'data_prefix'])
def images_beside_the_annotations(case: Case) -> None:
    case.parts[0].data_prefix.img = ''


@fault(other_size=['train.json: width and height', '/images/3.jpg', 'export the file anew'])
def images_of_another_size(case: Case) -> None:
    case.train['images'][3].update(width=2 * SIZE, height=2 * SIZE)


@fault(other_size=['val.json: width and height are not those of the images', '/images/6.jpg'])
def image_a_little_higher(case: Case) -> None:
    case.val['images'][0]['height'] = SIZE + 12


@fault()
def image_higher_by_rounding(case: Case) -> None:
    case.val['images'][0]['height'] = SIZE + 1


@fault(other_size=['/images/0.jpg'])
def image_that_is_turned(case: Case) -> None:
    case.train['images'][0].update(width=SIZE, height=SIZE // 2)
    for box in case.train['annotations'][:3]:
        box['bbox'] = [0, 0, 20, 20]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(case.image(0)).crop((0, 0, SIZE, SIZE // 2)).save(case.image(0), exif=exif)


@fault()
def turned_image_with_the_size_that_it_has_then(case: Case) -> None:
    image_that_is_turned(case)
    case.train['images'][0].update(width=SIZE // 2, height=SIZE)


@fault(no_area=['train.json: boxes 0, 1, 2, and 1 more have no area inside of their image'])
def boxes_without_area_or_outside(case: Case) -> None:
    first, second, third, fourth = case.train['annotations'][:4]
    first['bbox'] = [10, 10, 0, 20]
    second['bbox'] = [SIZE + 1, 10, 20, 20]
    third['area'] = 0
    fourth['bbox'] = [10, -20, 20, 20]


@fault(over_edge=['val.json: boxes 60, 61, 70, and 1 more', '(x, y, width, height)'])
def boxes_over_the_edge(case: Case) -> None:
    for number, box in enumerate([[40, 40, 40, 20], [-10, 0, 20, 20], [], [0, 50, 20, 20]]):
        if box:
            case.val['annotations'][number]['bbox'] = box
    case.val['annotations'][4]['bbox'] = [0, -10, 20, 20]


@fault()
def boxes_over_the_edge_by_rounding(case: Case) -> None:
    case.val['annotations'][0]['bbox'] = [-0.5, -0.5, SIZE + 1, SIZE + 1]


@fault(
    twice=['train.json: ids or names stand there twice: 5 in images', 'number and name them anew']
)
def image_id_twice(case: Case) -> None:
    case.train['images'].append(dict(case.train['images'][5], file_name='4.jpg'))


@fault(twice=['0 in annotations'], not_readable=['AssertionError', 'not unique'])
def annotation_id_twice(case: Case) -> None:
    case.train['annotations'][1]['id'] = 0


@fault(twice=["'king' in categories"], unused_class=["'king'"])
def category_under_two_names(case: Case) -> None:
    for split in (case.train, case.val):
        split['categories'].append(dict(id=9, name='king'))


@fault(lost_box=['boxes 0, 2'])
def boxes_of_no_image_or_category(case: Case) -> None:
    case.train['annotations'][0]['image_id'] = 99
    case.train['annotations'][2]['category_id'] = 0


@fault(not_readable=['train.json can not be read: JSONDecodeError', '"annotations" (id'])
def empty_annotation_file(case: Case) -> None:
    case.train = ''  # type: ignore[assignment]


@fault(no_box=['train.json: no box is left'])
def annotation_file_without_images(case: Case) -> None:
    case.train.update(images=[], annotations=[])


@fault(not_readable=["KeyError: 'categories'", '"categories" (id, name)'])
def json_of_another_format(case: Case) -> None:
    case.train = dict(data_list=[], metainfo={})  # type: ignore[assignment]


@fault(not_readable=['TypeError'])
def json_that_is_a_list(case: Case) -> None:
    case.val = []  # type: ignore[assignment]


@fault(not_readable=["KeyError: 'area'"])
def annotation_without_area(case: Case) -> None:
    del case.train['annotations'][4]['area']


@fault(no_iscrowd=['val.json: boxes 71 have no "iscrowd"', 'CocoMetric'])
def annotations_without_iscrowd(case: Case) -> None:
    del case.val['annotations'][4]['iscrowd']


@fault()
def annotations_of_the_training_without_iscrowd(case: Case) -> None:
    del case.train['annotations'][4]['iscrowd']


@fault()
def class_that_the_validation_has_no_box_of(case: Case) -> None:
    case.val['annotations'] = [x for x in case.val['annotations'] if x['category_id'] < 3]


@fault(no_box=['train.json: no box is left', 'iscrowd=1'])
def crowds_alone(case: Case) -> None:
    for box in case.train['annotations']:
        box['iscrowd'] = 1


@fault(
    no_box=['train.json: no box is left', "filter_cfg={'filter_empty_gt': True, 'min_size': 65}"]
)
def filter_that_leaves_nothing(case: Case) -> None:
    case.parts[0].filter_cfg.min_size = SIZE + 1


@fault(no_box=['val.json: no box is left'])
def validation_without_boxes(case: Case) -> None:
    case.val['annotations'] = []


@fault(no_file=['/train.json does not exist', 'train_dataloader', 'data_root at the top'])
def missing_data_root(case: Case) -> None:
    case.parts[0].data_root = str(case.root / 'nowhere')


@fault(no_file=['/val.json does not exist', 'val_dataloader'], other_file=['/nowhere/val.json'])
def missing_root_of_the_validation(case: Case) -> None:
    case.parts[1].data_root = str(case.root / 'nowhere')
    case.config.val_evaluator.ann_file = str(case.root / 'nowhere/val.json')
    case.parts[1].ann_file = 'other/val.json'


@fault(other_file=['val_evaluator.ann_file=data/coco/annotations/instances_val2017.json'])
def annotation_file_of_the_base_in_the_evaluator(case: Case) -> None:
    case.config.val_evaluator.ann_file = 'data/coco/annotations/instances_val2017.json'


@fault(same_images=['images of the validation are in the training, too', '/images/2.jpg'])
def same_images_in_both(case: Case) -> None:
    case.val['images'][0].update(file_name='2.jpg')


@fault(same_images=['/images/6.jpg'])
def same_image_under_another_name(case: Case) -> None:
    case.image(6).write_bytes(case.image(4).read_bytes())


@fault(some_same_images=['/images/19.jpg'])
def one_image_of_many_in_both(case: Case) -> None:
    case.val = case._annotations(range(6, 20))
    case.image(19).write_bytes(case.image(0).read_bytes())


@fault(alike=['/images/7.jpg', 'split by film'])
def frames_of_a_film(case: Case) -> None:
    film = np.random.default_rng(0).integers(0, 256, (SIZE, 2 * SIZE, 3), np.uint8)
    film = cv2.GaussianBlur(film, (0, 0), 8)
    film = cv2.normalize(film, None, 0, 255, cv2.NORM_MINMAX)
    for frame, image in enumerate((0, 7, 1)):
        write = Image.fromarray(film[:, frame : frame + SIZE])
        write.save(case.image(image), quality=95)


@fault()
def one_of_many_images_that_looks_like_another(case: Case) -> None:
    case.val = case._annotations(range(6, 20))
    frames_of_a_film(case)


@fault()
def same_annotation_file_under_another_name(case: Case) -> None:
    case.config.val_evaluator.ann_file = f'{case.root}/../{case.root.name}/val.json'


@fault(learning_rate=['batches of 16 images', 'yours have 2', 'auto_scale_lr.enable=True'])
def learning_rate_of_another_batch(case: Case) -> None:
    case.config.auto_scale_lr.base_batch_size = 16


@fault()
def learning_rate_that_is_scaled(case: Case) -> None:
    case.config.auto_scale_lr.update(base_batch_size=16, enable=True)


@fault(no_clipping=['clip_grad', 'max_norm=10'])
def no_clipping(case: Case) -> None:
    case.config.optim_wrapper.clip_grad = None


@fault(lacks=['the config has no val_dataloader, val_cfg, val_evaluator'])
def no_validation(case: Case) -> None:
    case.config.update(val_dataloader=None, val_cfg=None, val_evaluator=None)


@fault(late_validation=['val_interval beyond its end, 12'])
def validation_after_the_end(case: Case) -> None:
    case.config.train_cfg.val_interval = 13


@fault(late_validation=['beyond its end, 200'])
def validation_after_the_end_of_iterations(case: Case) -> None:
    case.config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=200, val_begin=201)


@fault(lacks=['the config has no train_dataloader', '2.x'], no_clipping=[])
def config_of_mmdetection_2(case: Case) -> None:
    case.config = Config(dict(data=dict(samples_per_gpu=2), optimizer_config=dict(grad_clip=None)))


@fault(not_readable=["can not be read: KeyError: 'CocoDataSet is not in"])
def misspelt_type(case: Case) -> None:
    case.parts[0].type = 'CocoDataSet'


@fault(not_readable=['TypeError', 'filter_config'])
def misspelt_argument(case: Case) -> None:
    case.parts[0].filter_config = case.parts[0].pop('filter_cfg')


@fault(not_looked_at=['lazy_init'])
def data_set_of_another_kind(case: Case) -> None:
    case.config.train_dataloader.dataset = dict(type='PlainDataset', ann_file='train.json')


@DATASETS.register_module()
class PlainDataset(Dataset):
    """PyTorch's alone."""

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file


@pytest.mark.parametrize('name', TABLE)
def test_fault(name: str, case: Case) -> None:
    mutation, expected = TABLE[name]
    mutation(case)
    found = case.faults()
    assert sorted(found) == sorted(expected)
    for key, words in expected.items():
        for word in words:
            assert word in found[key]


def test_every_fault_is_in_the_table() -> None:
    assert {key for _, expected in TABLE.values() for key in expected} == {*FAULTS} - {'no_gpu'}


def wrapped(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A data set in a wrapper, or in two."""
    return {
        'RepeatDataset': dict(type='RepeatDataset', times=3, dataset=data),
        'ConcatDataset': dict(type='ConcatDataset', datasets=[data, dict(data, indices=3)]),
        'ClassBalancedDataset': dict(
            type='ClassBalancedDataset',
            oversample_thr=0.1,
            dataset=dict(type='RepeatDataset', times=2, dataset=data),
        ),
        'MultiImageMixDataset': dict(type='MultiImageMixDataset', dataset=data, pipeline=[]),
    }[kind]


@pytest.mark.parametrize(
    'kind', ['RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset']
)
def test_wrapped_data_sets(case: Case, kind: str) -> None:
    part = case.parts[0]
    case.config.train_dataloader.dataset = wrapped(kind, part)
    assert case.faults() == {}
    case.image(0).unlink()
    case.train['annotations'][0]['bbox'] = [0, 0, 0, 0]
    found = case.faults()
    assert [*found] == ['no_image', 'no_area']
    assert '/images/0.jpg' in found['no_image']


def write_voc(case: Case, number: int, name: str, size: int = SIZE) -> None:
    box = '<xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax>'
    (case.root / f'voc/Annotations/{number}.xml').write_text(
        f'<annotation><size><width>{size}</width><height>{size}</height></size>'
        f'<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>',
        encoding='utf-8',
    )


def test_data_in_the_layout_of_voc(case: Case) -> None:
    for folder in ('voc', 'voc/Annotations', 'voc/ImageSets'):
        (case.root / folder).mkdir()
    (case.root / 'images').rename(case.root / 'voc/JPEGImages')
    for number in range(9):
        write_voc(case, number, CLASSES[number % 3])
    for split, numbers in (('train', range(6)), ('val', range(6, 9))):
        names = '\n'.join(map(str, numbers))
        (case.root / f'voc/ImageSets/{split}.txt').write_text(names, encoding='utf-8')
        loader = case.config[f'{split}_dataloader']
        loader.dataset = dict(
            type='VOCDataset',
            data_root=str(case.root),
            ann_file=f'voc/ImageSets/{split}.txt',
            data_prefix=dict(sub_data_root='voc/'),
            metainfo=dict(classes=CLASSES),
            pipeline=[dict(type='LoadImageFromFile')],
        )
    case.config.val_evaluator = dict(type='VOCMetric')
    assert faults_of(case.config) == {}

    for number in (1, 4):
        write_voc(case, number, 'qeen')
    write_voc(case, 0, 'king', 2 * SIZE)
    (case.root / 'voc/JPEGImages/2.jpg').unlink()
    (case.root / 'voc/Annotations/8.xml').unlink()
    found = faults_of(case.config)
    assert {*found} == {'unused_class', 'other_size', 'no_image', 'no_file'}
    assert "ImageSets/train.txt: no box of the classes 'queen'" in found['unused_class']
    assert 'voc/JPEGImages/0.jpg' in found['other_size']
    assert 'voc/JPEGImages/2.jpg' in found['no_image']
    assert 'voc/Annotations/8.xml does not exist' in found['no_file']


def test_images_that_opencv_can_not_read(case: Case) -> None:
    """A training loads them by a transform of its own."""
    case.parts[0].pipeline[0] = dict(type='LoadArray')
    case.write()
    for image in case.train['images'][1:]:
        pixels = np.full((SIZE, SIZE, 4), 300 * image['id'], np.uint16)
        np.save(case.root / f'images/{image["id"]}.npy', pixels)
        image['file_name'] = f'{image["id"]}.npy'
    assert case.faults() == {}
    case.train['images'][2]['width'] = 2 * SIZE
    (case.root / 'images/3.npy').write_bytes(b'damaged')
    found = case.faults()
    assert {*found} == {'other_size', 'no_image'}
    assert '/2.npy' in found['other_size']
    assert '/3.npy' in found['no_image']


@TRANSFORMS.register_module()
class LoadArray:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return dict(results, img=np.load(results['img_path']))


def test_boxes_that_are_not_wanted_everywhere(case: Case) -> None:
    """Half-supervised trainings have a part without boxes."""
    case.write()
    content = dict(case.train, annotations=[])
    (case.root / 'unlabelled.json').write_text(json.dumps(content), encoding='utf-8')
    part = case.parts[0]
    unlabelled = dict(part, ann_file='unlabelled.json', filter_cfg=dict(filter_empty_gt=False))
    case.config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, unlabelled])
    assert case.faults() == {}


@pytest.mark.parametrize('gpus', [0, 1, 2])
def test_gpus_that_are_not_there(case: Case, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(preflight, 'device_count', lambda: 1)
    case.config.auto_scale_lr.base_batch_size = 2 * max(gpus, 1)
    found = case.faults(gpus=gpus)
    assert found.keys() == ({'no_gpu'} if gpus == 2 else set())
    if found:
        assert 'more GPUs are asked for than the 1 that PyTorch sees' in found['no_gpu']


def test_batch_of_all_gpus(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, 'device_count', lambda: 8)
    case.config.train_dataloader.batch_size = 1
    case.config.optim_wrapper.accumulative_counts = 2
    case.config.auto_scale_lr.base_batch_size = 16
    assert case.faults(gpus=8) == {}
    assert 'yours have 8' in case.faults(gpus=4)['learning_rate']


def test_negative_number_of_gpus() -> None:
    with pytest.raises(ValueError, match=r'gpus must be >= 0, got -1'):
        check_config(Config(), -1)


def test_a_check_that_fails_itself_is_a_finding(case: Case) -> None:
    case.config.optim_wrapper = ['no dict']
    found = case.faults()
    assert [*found] == ['not_looked_at']
    assert "AttributeError: 'list' object" in found['not_looked_at']


def test_heads_that_do_not_have_the_number_of_classes_by_design(case: Case) -> None:
    loss = dict(type='CrossEntropyLoss')
    heads = case.config.model
    heads.semantic_head = dict(type='FusedSemanticHead', num_classes=183, loss_seg=loss)
    heads.rpn_head = dict(type='RPNHead', loss_cls=loss)
    assert case.faults() == {}
    heads.roi_head = dict(
        bbox_head=[dict(type='BBoxHead', num_classes=n, loss_cls=loss) for n in (3, 4)]
    )
    assert 'model.roi_head.bbox_head.1.num_classes=4' in case.faults()['num_classes']
    case.parts[0].return_classes = True
    assert case.faults() == {}
