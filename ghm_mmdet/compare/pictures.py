"""The same crops of test images, with their objects, and with what each detector finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image, ImageDraw, ImageFont

#: How many, the pixels of their sides, and the score from which on a detection is drawn.
CROPS, SIDE, SCORE = 3, 480, 0.3
#: Colours of the classes, in turns; white letters can be read on each.
COLOURS = ('#c0392b', '#1e7b34', '#2c5aa0', '#a04000', '#7d3c98', '#00716b', '#7e5109', '#922b5e')
#: Boxes (x1, y1, x2, y2) in pixels, each with its class and, of a detection, its score.
Boxes = List[Tuple[Any, int, Any]]
#: Left, top and side of a square in an image.
Window = Tuple[float, float, float]


def draw_crops(
    config: Config, detectors: Mapping[str, tuple[Path, Path | None]], device: str = 'cpu'
) -> dict[str, list[bytes]]:
    """PNG images of the crops: the objects under 'ground truth', and what each detector finds.

    Args:
        config: Whose validation images are taken, those with the most objects.
        detectors: By name, the config and the checkpoint of each.
        device: That they run on. Default: 'cpu'.
    """
    init_default_scope(config.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(config.val_dataloader.dataset)
    infos = map(dataset.get_data_info, range(len(dataset)))
    fullest = sorted(infos, key=lambda info: -len(info['instances']))[:CROPS]
    images = [Image.open(info['img_path']).convert('RGB') for info in fullest]
    found: dict[str, list[Boxes]] = {
        'ground truth': [
            [(each['bbox'], each['bbox_label'], None) for each in info['instances']]
            for info in fullest
        ]
    }
    windows = [densest(*each) for each in zip(found['ground truth'], images)]
    for name, (of_detector, checkpoint) in detectors.items():
        model = init_detector(str(of_detector), str(checkpoint), device=device)
        samples = (inference_detector(model, info['img_path']) for info in fullest)
        instances = (sample.pred_instances.cpu().numpy() for sample in samples)
        found[name] = [
            [box for box in zip(each.bboxes, each.labels, each.scores) if box[2] >= SCORE]
            for each in instances
        ]
    classes = dataset.metainfo['classes']
    return {
        name: [_png(*each, classes) for each in zip(images, windows, of_images)]
        for name, of_images in found.items()
    }


def densest(boxes: Boxes, image: Image.Image) -> Window:
    """A square of five objects' size, around the one with the most others."""
    size = np.array(image.size)
    corners = np.array([box for box, *_ in boxes] or [[0, 0, *size]], dtype=float)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    width = float(np.median(np.sqrt((corners[:, 2:] - corners[:, :2]).prod(1))))
    side = min(*size, max(64, 5 * width))
    beside = (np.abs(centres[:, None] - centres) < side / 2).all(-1).sum(1)
    left, top = np.clip(centres[beside.argmax()] - side / 2, 0, size - side)
    return float(left), float(top), float(side)


def _png(image: Image.Image, window: Window, boxes: Boxes, classes: Sequence[str]) -> bytes:
    left, top, side = window
    crop = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    draw, font, signs = ImageDraw.Draw(crop), ImageFont.load_default(14), []
    for box, label, score in boxes:
        corners = (np.array(box) - [left, top, left, top]) * SIDE / side
        if (np.abs(corners[:2] + corners[2:] - SIDE) <= SIDE).all():  # its centre lies within
            colour = COLOURS[label % len(COLOURS)]
            draw.rectangle([*corners], outline=colour, width=2)
            text = classes[label] + ('' if score is None else f' {score:.2f}')
            signs.append(((max(corners[0], 2), max(corners[1] - 16, 0)), text, colour))
    for corner, text, colour in signs:
        place = draw.textbbox(corner, text, font=font)
        draw.rectangle(place, fill=colour)
        draw.text(place[:2], text, fill='white', font=font, anchor='lt')
    file = BytesIO()
    crop.save(file, 'PNG')
    return file.getvalue()
