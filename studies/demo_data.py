"""Write the demo's data set, in COCO's layout: small shapes on cluttered backgrounds.

Example:
    python -m studies.demo_data --out work_dirs/demo/data

A detector sees a few objects of 12 to 40 pixels among thousands of anchors on lines, blobs
and noise, so that easy negatives outnumber positives by hundreds: the imbalance GHM is about.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import cv2
import numpy as np

from ghm_mmdet.cli.places import folder_to_write

CLASSES = ('disk', 'square', 'triangle')
IMAGE_SIZE = 160


def write_demo_data(
    out: str | Path, num_train: int = 800, num_val: int = 200, seed: int = 0
) -> Path:
    """Write `annotations/{train,val}.json`, `train/` and `val/` to the folder `out`, and return it.

    The same seed writes the same files.
    """
    out = Path(out)
    (out / 'annotations').mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in (('train', num_train), ('val', num_val)):
        (out / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for image_id in range(1, count + 1):
            image, objects = draw_image(rng)
            name = f'{image_id:06d}.png'
            cv2.imwrite(str(out / split / name), image)
            images.append(dict(id=image_id, file_name=name, width=IMAGE_SIZE, height=IMAGE_SIZE))
            for category_id, (x, y, w, h) in objects:
                where = dict(image_id=image_id, bbox=[x, y, w, h], area=w * h, iscrowd=0)
                annotations.append(dict(id=len(annotations) + 1, category_id=category_id, **where))
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (out / 'annotations' / f'{split}.json').write_text(json.dumps(content), encoding='utf-8')
    return out


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, tuple]]]:
    """One image, uint8 (H, W, 3), and its objects as (category_id, (x, y, w, h)) in pixels."""
    image = _background(rng)
    objects: list[tuple[int, tuple]] = []
    for _ in range(rng.integers(2, 7)):
        box = _free_box(rng, [box for _, box in objects])
        if box is not None:
            category_id = int(rng.integers(1, len(CLASSES) + 1))
            _draw_shape(image, category_id, box, _contrasting_colour(rng, image, box))
            objects.append((category_id, box))
    noise = rng.normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), objects


def _background(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(40, 216, (5, 5, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(15, 30)):
        start, end = rng.integers(0, IMAGE_SIZE, (2, 2)).tolist()
        colour = rng.integers(0, 256, 3).tolist()
        cv2.line(image, start, end, colour, int(rng.integers(1, 3)))
    for _ in range(rng.integers(40, 80)):
        centre = rng.integers(0, IMAGE_SIZE, 2).tolist()
        cv2.circle(image, centre, int(rng.integers(1, 4)), rng.integers(0, 256, 3).tolist(), -1)
    return image


def _free_box(rng: np.random.Generator, taken: list[tuple]) -> tuple | None:
    for _ in range(20):
        size = int(rng.integers(12, 41))
        x, y = rng.integers(2, IMAGE_SIZE - size - 2, 2).tolist()
        beside = (
            x > tx + w or tx > x + size or y > ty + h or ty > y + size for tx, ty, w, h in taken
        )
        if all(beside):
            return x, y, size, size
    return None


def _contrasting_colour(rng: np.random.Generator, image: np.ndarray, box: tuple) -> list[int]:
    x, y, w, h = box
    behind = image[y : y + h, x : x + w].mean((0, 1))
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - behind).sum() > 180:
            return colour.tolist()


def _draw_shape(image: np.ndarray, category_id: int, box: tuple, colour: list[int]) -> None:
    x, y, w, h = box
    name = CLASSES[category_id - 1]
    if name == 'disk':
        cv2.ellipse(image, ((x + (w - 1) / 2, y + (h - 1) / 2), (w - 1, h - 1), 0), colour, -1)
    elif name == 'square':
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), colour, -1)
    else:
        corners = np.array([[x + w // 2, y], [x, y + h - 1], [x + w - 1, y + h - 1]])
        cv2.fillPoly(image, [corners], colour)


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--out', type=folder_to_write, default='work_dirs/demo/data', help='default: %(default)s')
    add('--num-train', type=int, default=800, help='images; default: %(default)s')
    add('--num-val', type=int, default=200, help='images; default: %(default)s')
    add('--seed', type=int, default=0, help='default: %(default)s')
    args = parser.parse_args()
    out = write_demo_data(args.out, args.num_train, args.num_val, args.seed)
    print(f'{args.num_train} + {args.num_val} images in {out}')


if __name__ == '__main__':
    main()
