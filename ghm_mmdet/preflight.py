"""What a training would read, looked at before its first hour is spent.

Each data set of the loaders is built as MMEngine's runner builds it, without its wrappers, and each
of its images is decoded at an eighth of its size.

A check yields faults, each with the thing that has it; `preflight.yml` has what is said of them.
"""

from __future__ import annotations

import os
import sys
from collections import ChainMap, Counter, defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Tuple

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.fileio import get, load
from mmengine.registry import DATASETS
from rich.progress import track
from torch.cuda import device_count

from .data_files import read_yaml
from .swap.find import find_heads, several

FAULTS = read_yaml(Path(__file__).with_name('preflight.yml'))
TRAIN, VAL = 'train_dataloader', 'val_dataloader'
#: Images look alike whose gray levels, of 256, differ by less on average at 16 x 16 pixels.
ALIKE = 3
#: The part of the validation that makes more than a few images.
SHARE = 0.1

Entry = Dict[str, Any]
#: Names of faults, each with the thing that has it.
Faults = Iterator[Tuple[str, object]]


class Finding(NamedTuple):
    """What is wrong with the data or the config, and what to do.

    Attributes:
        is_error: True if the training would fail, or learn or measure something else than is
            wanted. False for a doubt, with which it may start.
        what: One line that names the file or the place in the config, and what is wrong there.
        remedy: One line.
    """

    is_error: bool
    what: str
    remedy: str


def check_config(config: Config, gpus: int | None = None) -> list[Finding]:
    """What is wrong with a config and its data, errors first.

    Where there is a terminal, a bar shows how many images are read.

    Args:
        config: Of a training with MMDetection 3.x. It is not changed.
        gpus: How many the training will run on, 0 for the CPU. Default: None, not known: they are
            not looked for, and the learning rate is compared with the batch of one process.

    Returns:
        The findings; an empty list if all is well. A check that fails itself is a finding.

    Raises:
        ValueError: `gpus` is less than 0.
    """
    if gpus is not None and gpus < 0:
        raise ValueError(f'gpus must be >= 0, got {gpus}')
    loaders = {key: config.get(key) or dict(datasets=[]) for key in (TRAIN, VAL)}
    parts = [Part(key, x, config) for key in loaders for x in _unwrapped(loaders[key])]
    checks = [*((part, part.faults()) for part in parts), (config, _faults_of_splits(parts))]
    checks.append((config, _faults_of_settings(config, parts, gpus or 0)))
    findings: list[Finding] = []
    for of, faults in checks:
        things = defaultdict(list)
        try:
            for fault, thing in faults:
                things[fault].append(str(thing))
        except FileNotFoundError as error:
            things['no_file'].append(str(error.filename or error))
        except Exception as error:
            is_read = of is not config and 'lazy_init' not in str(error)
            line = ' '.join(f'{type(error).__name__}: {error}'.split())
            things['not_readable' if is_read else 'not_looked_at'].append(line)
        findings += [_finding(fault, names, of) for fault, names in things.items()]
    return sorted(findings, key=lambda finding: not finding.is_error)


def _finding(fault: str, names: list[str], of: Part | Config) -> Finding:
    """What is said of all things with one fault."""
    more = [f'and {len(names) - 3} more'] if len(names) > 3 else []
    said = dict(names=', '.join(names[:3] + more), of=of)
    return Finding('error' in FAULTS[fault], *(x.format(**said) for x in FAULTS[fault].values()))


def _unwrapped(settings: Entry) -> list[Entry]:
    """The data sets of a loader, out of their wrappers."""
    inner = [settings['dataset']] if 'dataset' in settings else settings.get('datasets')
    return [settings] if inner is None else [x for one in inner for x in _unwrapped(one)]


class Part:
    """A data set of a loader, out of its wrappers."""

    def __init__(self, loader: str, settings: Entry, config: Config) -> None:
        self.settings = dict(settings, lazy_init=True, _scope_=config.get('default_scope'))
        self.loader, self.backend = loader, settings.get('backend_args')
        self.file = os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '')
        #: The classes of the config, and those of the labels 0, 1, ...
        self.classes: list[str] = []
        self.labels: list[str] = []
        #: What num_classes of a head is to be; 0 where it is another number by design.
        self.number = 0
        #: Each image at 16 x 16 pixels, by its path.
        self.looks: dict[str, Any] = {}

    def faults(self) -> Faults:
        """Of its annotations and images, as a training reads them."""
        dataset = DATASETS.build(self.settings)
        self.classes = self.labels = [*(dataset.metainfo.get('classes') or ())]
        if not self.settings.get('return_classes'):  # to a head that reads them as text
            self.number = len(dataset.metainfo.get('thing_classes') or self.classes)
        if type(dataset).load_data_list is CocoDataset.load_data_list:
            yield from self._faults_of_coco(load(self.file, 'json', backend_args=self.backend))
        dataset.serialize_data = False  # which fails where no image is left
        with redirect_stdout(StringIO()):  # pycocotools prints
            dataset.full_init()
        boxes = (box for image in dataset.data_list for box in image['instances'])
        learnt = {box['bbox_label'] for box in boxes if not box.get('ignore_flag')}
        if learnt and self.loader == TRAIN:
            unused = (name for label, name in enumerate(self.labels) if label not in learnt)
            yield from (('unused_class', repr(name)) for name in unused)
        keeps_empty = (dataset.filter_cfg or {}).get('filter_empty_gt') is False
        if not learnt and len(self.labels) >= len(self.classes) and not keeps_empty:
            yield 'no_box', dataset.filter_cfg
        self.load = dataset.pipeline.transforms[0]
        for image in track(dataset.data_list, self.loader, disable=not sys.stdout.isatty()):
            yield from self._faults_of_image(image)

    def _faults_of_coco(self, content: Entry) -> Faults:
        """What `CocoDataset` leaves out, or takes for something else, without a word."""
        names = {category['id']: category['name'] for category in content['categories']}
        used = {names.get(box['category_id']) for box in content['annotations']}
        known = [name for name in names.values() if name in used]
        self.known = ', '.join(map(repr, known))
        self.labels = [name for name in names.values() if name in self.classes]  # in its own order
        missing = [name for name in self.classes if name not in self.labels]
        others = [name for name in known if name not in self.classes and not missing]
        yield from (('missing_class', repr(name)) for name in missing)
        yield from (('other_class', repr(name)) for name in others)
        for key, name in dict(images='id', annotations='id', categories='name').items():
            counts = Counter(entry[name] for entry in content[key])
            yield from (('twice', f'{x!r} in {key}') for x, number in counts.items() if number > 1)
        images = {image['id']: image for image in content['images']}
        for box in content['annotations']:
            if fault := _fault_of_box(box, images.get(box['image_id']), names):
                yield fault, box['id']
            elif self.loader == VAL and 'iscrowd' not in box:
                yield 'no_iscrowd', box['id']

    def _faults_of_image(self, image: Entry) -> Faults:
        path = image['img_path']
        try:
            data = np.frombuffer(get(path, self.backend), np.uint8)
            picture = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
            if picture is None:  # not for OpenCV, but a training may load it
                picture = np.uint8(self.load(dict(image))['img'][::8, ::8, :1])
        except Exception:
            yield 'no_image', path
        else:
            self.looks[path] = cv2.resize(picture, (16, 16))
            height, width = (8 * pixels for pixels in picture.shape[:2])
            if max(abs(image['height'] - height), abs(image['width'] - width)) >= 8:
                yield 'other_size', path


def _fault_of_box(box: Entry, image: Entry | None, categories: Entry) -> str | None:
    if image is None or box['category_id'] not in categories:
        return 'lost_box'
    x, y, width, height = box['bbox']
    across = min(x + width, image['width']) - max(x, 0)
    down = min(y + height, image['height']) - max(y, 0)
    if box['area'] <= 0 or not min(across, down) >= 1:
        return 'no_area'
    return 'over_edge' if width - across > 1 or height - down > 1 else None


def _faults_of_splits(parts: list[Part]) -> Faults:
    """Images of the validation that a training has seen."""
    looks = ((part.looks for part in parts if part.loader == key) for key in (TRAIN, VAL))
    train, val = (ChainMap(*some) for some in looks)
    known = {look.tobytes() for look in train.values()}
    same = [path for path, look in val.items() if look.tobytes() in known]
    fault = 'same_images' if len(same) > SHARE * len(val) else 'some_same_images'
    yield from ((fault, path) for path in same)
    levels = np.array([*train.values()], np.int16).reshape(-1, 16, 16)
    sample = [*val.items()][:: len(val) // 100 + 1] if train and not same else []
    alike = [path for path, look in sample if np.abs(levels - look).mean((1, 2)).min() < ALIKE]
    yield from (('alike', path) for path in alike if len(alike) > SHARE * len(sample))


def _faults_of_settings(config: Config, parts: list[Part], gpus: int) -> Faults:
    """What does not fit the data sets, or one another."""
    read = [part for part in parts if 0 < len(part.classes) <= len(part.labels)]
    yield from (('other_labels', part.file) for part in read if part.labels != read[0].labels)
    for head in find_heads(config.get('model') or {}) if read and read[0].number else ():
        number = head.config.get('num_classes')
        if number not in (None, read[0].number) and 'semantic_head' not in head.path:
            yield 'num_classes', f'{head.where}.num_classes={number} (not {read[0].number})'
    needed = (TRAIN, VAL, 'val_cfg', 'val_evaluator')
    yield from (('lacks', key) for key in needed if config.get(key) is None)
    files = {os.path.realpath(part.file) for part in parts if part.loader == VAL}
    wanted = [evaluator.get('ann_file') for evaluator in several(config.get('val_evaluator'))]
    yield from (('other_file', x) for x in wanted if x and os.path.realpath(x) not in files)
    keys = (TRAIN, 'train_cfg', 'optim_wrapper', 'auto_scale_lr')
    loader, loop, wrapper, scaling = (config.get(key) or {} for key in keys)
    end = loop.get('max_epochs') or loop.get('max_iters') or 1
    if max(loop.get('val_begin', 1), loop.get('val_interval', 1)) > end:
        yield 'late_validation', end
    if not wrapper.get('clip_grad'):
        yield 'no_clipping', ''
    batch = loader.get('batch_size', 1) * max(gpus, 1) * wrapper.get('accumulative_counts', 1)
    if scaling.get('base_batch_size', batch) != batch and not scaling.get('enable'):
        yield 'learning_rate', batch
    if gpus > device_count():
        yield 'no_gpu', device_count()
