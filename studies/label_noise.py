"""Wrong labels in the training annotations of a data set in COCO's format.

Examples:
    python -m studies.label_noise data/chess/train.json --kind classes --seed 0

Writes `<stem>-<kind>-<seed>.json` beside the file. The test annotations stay as they are.
"""

from __future__ import annotations

import json
import os
import random
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

Box = dict
#: The share of the boxes that is wrong, or the standard deviation of a corner over the side.
SHARES = {'bogus': 0.3, 'missing': 0.4, 'classes': 0.4, 'corners': 0.15}


def bogus(data: dict, share: float, rng: random.Random) -> list[Box]:
    """Boxes of nothing beside the others: the size and class of one, somewhere in an image."""
    boxes, images = data['annotations'], data['images']
    last = max(box['id'] for box in boxes)
    added = []
    for index in range(round(share * len(boxes))):
        like, image = rng.choice(boxes), rng.choice(images)
        w, h = min(like['bbox'][2], image['width']), min(like['bbox'][3], image['height'])
        corner = rng.uniform(0, image['width'] - w), rng.uniform(0, image['height'] - h)
        added.append(_box_like(like, [*corner, w, h], id=last + 1 + index, image_id=image['id']))
    return [*boxes, *added]


def missing(data: dict, share: float, rng: random.Random) -> list[Box]:
    """Without a share of the boxes."""
    left_out = _chosen(data, share, rng)
    return [box for box in data['annotations'] if box['id'] not in left_out]


def classes(data: dict, share: float, rng: random.Random) -> list[Box]:
    """A share of the boxes has another class, each other one as likely."""
    wrong, names = _chosen(data, share, rng), [c['id'] for c in data['categories']]
    return [
        dict(box, category_id=rng.choice([c for c in names if c != box['category_id']]))
        if box['id'] in wrong
        else box
        for box in data['annotations']
    ]


def corners(data: dict, share: float, rng: random.Random) -> list[Box]:
    """Each corner is moved by a normal distribution, `share` of the side its deviation."""
    moved = []
    for box in data['annotations']:
        x, y, w, h = box['bbox']
        x1, x2 = sorted((x + rng.gauss(0, share) * w, x + w + rng.gauss(0, share) * w))
        y1, y2 = sorted((y + rng.gauss(0, share) * h, y + h + rng.gauss(0, share) * h))
        moved.append(_box_like(box, [x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)]))
    return moved


KINDS: dict[str, Callable[[dict, float, random.Random], list[Box]]] = dict(
    bogus=bogus, missing=missing, classes=classes, corners=corners
)


def _chosen(data: dict, share: float, rng: random.Random) -> set[int]:
    ids = sorted(box['id'] for box in data['annotations'])
    return set(rng.sample(ids, round(share * len(ids))))


def _box_like(box: Box, bbox: list[float], **others: int) -> Box:
    polygon = {k: v for k, v in box.items() if k != 'segmentation'}
    return dict(polygon, bbox=bbox, area=bbox[2] * bbox[3], **others)


def with_noise(path: Path, kind: str, seed: int) -> Path:
    """The file with wrong labels, written where it is missing."""
    file = path.with_name(f'{path.stem}-{kind}-{seed}.json')
    if not file.exists():
        data = json.loads(path.read_text(encoding='utf-8'))
        noisy = KINDS[kind](data, SHARES[kind], random.Random(f'{kind} {seed}'))
        part = file.with_suffix(f'.{os.getpid()}')  # Another training may want it, too.
        part.write_text(json.dumps(dict(data, annotations=noisy)), encoding='utf-8')
        os.replace(part, file)
    return file


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path)
    parser.add_argument('--kind', choices=[*KINDS], required=True)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    print(f'written to {with_noise(args.file, args.kind, args.seed)}')


if __name__ == '__main__':
    main()
