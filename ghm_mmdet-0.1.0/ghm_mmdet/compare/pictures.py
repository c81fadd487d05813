"""The same crops of test images, with their objects, and with what each detector finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Tuple

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


#: Left, top and side of a square in an image.
Window = Tuple[float, float, float]


class Labelled(NamedTuple):
    """A box (x1, y1, x2, y2) in pixels, its class, and the score of a detection."""

    box: np.ndarray
    label: int
    score: float | None = None


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
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    fullest = sorted(infos, key=lambda info: -len(info['instances']))[:CROPS]
    truths = [
        [Labelled(np.array(each['bbox']), each['bbox_label']) for each in info['instances']]
        for info in fullest
    ]
    images = [Image.open(info['img_path']).convert('RGB') for info in fullest]
    windows = [densest(truth, image.size) for truth, image in zip(truths, images)]
    found = {'ground truth': truths}
    for name, (of_detector, checkpoint) in detectors.items():
        model = init_detector(str(of_detector), str(checkpoint), device=device)
        samples = (inference_detector(model, info['img_path']) for info in fullest)
        found[name] = [[*_detections(sample.pred_instances.numpy())] for sample in samples]
    return {
        name: [_png(*each, dataset.metainfo['classes']) for each in zip(images, windows, of_images)]
        for name, of_images in found.items()
    }


def _detections(instances: Any) -> Iterable[Labelled]:
    for box, label, score in zip(instances.bboxes, instances.labels, instances.scores):
        if score >= SCORE:
            yield Labelled(box, int(label), float(score))


def densest(truth: list[Labelled], size: tuple[int, int]) -> Window:
    """A square of five objects' size, around the one with the most others."""
    boxes = np.array([each.box for each in truth]).reshape(-1, 4)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    side = min(*size, max(64, 5 * float(np.median(sides)) if len(sides) else 0))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 if len(boxes) else np.array(size)[None] / 2
    beside = (np.abs(centres[:, None] - centres) < side / 2).all(-1).sum(1)
    corner = np.clip(centres[beside.argmax()] - side / 2, 0, np.array(size) - side)
    return float(corner[0]), float(corner[1]), float(side)


def _png(
    image: Image.Image,
    window: Window,
    labelled: list[Labelled],
    classes: tuple[str, ...],
) -> bytes:
    left, top, side = window
    crop = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    draw, font, signs = ImageDraw.Draw(crop), ImageFont.load_default(14), []
    for box, label, score in labelled:
        box = (box - [left, top, left, top]) * SIDE / side
        if (np.abs(box[:2] + box[2:] - SIDE) <= SIDE).all():  # its centre lies within
            colour = COLOURS[label % len(COLOURS)]
            draw.rectangle([*box], outline=colour, width=2)
            text = classes[label] + ('' if score is None else f' {score:.2f}')
            signs.append(((max(box[0], 2), max(box[1] - 16, 0)), text, colour))
    for corner, text, colour in signs:
        place = draw.textbbox(corner, text, font=font)
        draw.rectangle(place, fill=colour)
        draw.text(place[:2], text, fill='white', font=font, anchor='lt')
    file = BytesIO()
    crop.save(file, 'PNG')
    return file.getvalue()
