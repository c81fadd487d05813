"""Spoil a share of the boxes of a COCO data set: shifted, dropped, false ones added.

A third each of the chosen boxes is shifted and rescaled, dropped, or joined by a false box of its
size. The folder written has the images and the test annotations of the original.

Example:
    python -m studies.spoil_labels data/chess --share 0.2 --out work_dirs/chess-spoilt
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

#: A shifted box moves by up to this share of its sides, and its sides change by up to this factor.
SHIFT, SCALE = 0.5, 1.5


def spoil(content: dict, share: float, seed: int = 0) -> dict:
    """The annotations with a share of their boxes spoilt.

    Args:
        content: Of a COCO annotation file. It is not changed.
        share: Of the boxes, in [0, 1].
        seed: Of the choice of boxes, and of what becomes of each.

    Raises:
        ValueError: `share` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f'share must be in [0, 1], got {share}')
    draw = random.Random(seed)
    images = {image['id']: image for image in content['images']}
    classes = [category['id'] for category in content['categories']]
    annotations = content['annotations']
    chosen = draw.sample(range(len(annotations)), round(share * len(annotations)))
    how = {index: position % 3 for position, index in enumerate(chosen)}
    kept, false = [], []
    for index, annotation in enumerate(annotations):
        image = images[annotation['image_id']]
        if how.get(index) == 0:
            annotation = annotation | _box(_shifted(annotation['bbox'], image, draw))
        if how.get(index) == 2:
            box = _elsewhere(annotation['bbox'], image, draw)
            false.append(annotation | _box(box) | dict(category_id=draw.choice(classes)))
        if how.get(index) != 1:
            kept.append(annotation)
    spoilt = [annotation | dict(id=number) for number, annotation in enumerate([*kept, *false], 1)]
    return content | dict(annotations=spoilt)


def _shifted(box: list[float], image: dict, draw: random.Random) -> list[float]:
    """A box about the same place, cut at the edges of the image; at least a pixel is left."""
    x, y, width, height = box
    x += draw.uniform(-SHIFT, SHIFT) * width
    y += draw.uniform(-SHIFT, SHIFT) * height
    width *= SCALE ** draw.uniform(-1, 1)
    height *= SCALE ** draw.uniform(-1, 1)
    left, right = max(x, 0), min(x + width, image['width'])
    top, bottom = max(y, 0), min(y + height, image['height'])
    return [left, top, max(right - left, 1), max(bottom - top, 1)]


def _elsewhere(box: list[float], image: dict, draw: random.Random) -> list[float]:
    """A box of the same size, anywhere in the image."""
    _, _, width, height = box
    x = draw.uniform(0, max(image['width'] - width, 0))
    return [x, draw.uniform(0, max(image['height'] - height, 0)), width, height]


def _box(box: list[float]) -> dict:
    return dict(bbox=box, area=box[2] * box[3], segmentation=[])


def write_spoilt(data: Path, train: str, share: float, out: Path) -> None:
    """A folder as `data`, with spoilt boxes in the annotation file `train`."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / 'images').exists():
        (out / 'images').symlink_to((data / 'images').resolve())
    shutil.copy(data / 'test.json', out)
    spoilt = spoil(json.loads((data / train).read_text()), share)
    (out / train).write_text(json.dumps(spoilt))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('data', type=Path, help='folder with images/, the annotation files')
    add('--share', type=float, required=True, help='of the boxes, 0 to 1')
    add('--train', default='train.json', help='the file to spoil; default: %(default)s')
    add('--out', type=Path, required=True, help='folder to write')
    args = parser.parse_args()
    write_spoilt(args.data, args.train, args.share, args.out)


if __name__ == '__main__':
    main()
