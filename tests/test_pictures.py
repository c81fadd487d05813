"""The crops of test images: the same window for each detector, with labels that can be read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from ghm_mmdet.compare import pictures
from ghm_mmdet.compare.pictures import COLOURS, SIDE, densest, draw_crops

from .training import ROOT

CONFIG = ROOT / 'tests/configs/retinanet_iterations.py'


def test_the_window_is_where_most_objects_are() -> None:
    image = Image.new('RGB', (400, 200))
    boxes = [([x, 100, x + 20, 120], 0, None) for x in (10, 300, 310, 340)]
    left, top, side = densest(boxes, image)
    assert side == 5 * 20
    assert left <= 300 and left + side >= 360, 'the three on the right'
    assert 0 <= top <= 100 and top + side <= 200
    assert densest([], image) == (100, 0, 200), 'without objects the middle'
    assert densest([([0, 0, 400, 200], 0, None)], image)[2] == 200, 'no more than the image'


def test_each_detector_has_the_same_crops(
    demo_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stand-in for a detector finds one object of class 2, and one that it doubts."""
    monkeypatch.setenv('DEMO_ROOT', f'{demo_data}/')
    config = Config.fromfile(CONFIG)
    given: list[tuple] = []

    def inference(model: str, path: str) -> SimpleNamespace:
        given.append((model, path))
        boxes = torch.tensor([[60.0, 60.0, 100.0, 100.0]] * 2)
        scores, labels = torch.tensor([0.9, 0.1]), torch.tensor([2, 1])
        found = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return SimpleNamespace(pred_instances=found)

    monkeypatch.setattr(pictures, 'init_detector', lambda *paths, device: f'{paths} {device}')
    monkeypatch.setattr(pictures, 'inference_detector', inference)
    monkeypatch.setattr(pictures, 'densest', lambda boxes, image: (40.0, 40.0, 80.0))
    found = draw_crops(config, {'ghm': (Path('ghm.py'), Path('a.pth'))}, device='cuda')
    assert [*found] == ['ground truth', 'ghm']
    images = {name: [np.array(Image.open(BytesIO(x))) for x in found[name]] for name in found}
    assert [image.shape for of in images.values() for image in of] == [(SIDE, SIDE, 3)] * 6
    assert [model for model, _ in given] == ["('ghm.py', 'a.pth') cuda"] * 3
    for image, (_, path) in zip(images['ghm'], given):
        # 20 to 60 pixels of the crop, six times as large: the edge of the box, and what is in it.
        assert tuple(image[240, 121]) == rgb(COLOURS[2])
        assert not (image == rgb(COLOURS[1])).all(-1).any(), 'the other one is not drawn'
        crop = Image.open(path).convert('RGB').crop((40, 40, 120, 120)).resize((SIDE, SIDE))
        np.testing.assert_array_equal(image[200:300, 200:300], np.array(crop)[200:300, 200:300])
    annotations = Config.fromfile(demo_data / 'annotations/val.json')
    counts = np.bincount([box.image_id for box in annotations.annotations])
    most = {Path(path).name for _, path in given}
    names = {image.id: image.file_name for image in annotations.images}
    chosen = sorted(counts[number] for number, name in names.items() if name in most)
    assert chosen == sorted(counts)[-3:], 'those with the most objects'


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))
