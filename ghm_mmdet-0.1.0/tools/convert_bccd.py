"""Convert BCCD (github.com/Shenggan/BCCD_Dataset) from Pascal VOC's format to COCO's.

Example:
    git clone https://github.com/Shenggan/BCCD_Dataset
    python tools/convert_bccd.py BCCD_Dataset/BCCD --out data/bccd
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

try:
    from ghm_mmdet.cli.places import folder_to_read, folder_to_write
except ModuleNotFoundError as error:
    sys.exit(f'{error}: run `make env`, then .venv/bin/python {sys.argv[0]}')

CLASSES = ('RBC', 'WBC', 'Platelets')
FOLDER = 'BCCD_Dataset/BCCD'
SPLITS = ('train', 'val', 'trainval', 'test')


def convert_bccd(voc: str | Path, out: str | Path) -> dict[str, tuple[int, int]]:
    """Write `train.json`, `val.json`, `trainval.json` and `test.json`, and a link to the images.

    Args:
        voc: The folder `BCCD` of the public repository, with `Annotations/` and so on.
        out: Folder that receives the files, and `images`, a link to `JPEGImages/`.

    Returns:
        The number of images and of boxes of each split. A box without area is left out.

    Raises:
        FileNotFoundError: `voc` is not in that layout.
        ValueError: An object of another class, or `images` in `out` is something else.
    """
    voc, out = Path(voc), Path(out)
    lists = {split: voc / f'ImageSets/Main/{split}.txt' for split in SPLITS}
    for path in (*lists.values(), voc / 'JPEGImages'):
        if not path.exists():
            raise FileNotFoundError(f'{path} is not there: voc must be the folder {FOLDER}')
    out.mkdir(parents=True, exist_ok=True)
    images, link = voc / 'JPEGImages', out / 'images'
    if not (link.exists() or link.is_symlink()):
        link.symlink_to(images.resolve(), target_is_directory=True)
    elif link.resolve() != images.resolve():
        raise ValueError(f'{link} is there and is not a link to {images}: remove it')
    sizes = {}
    for split, path in lists.items():
        content = _coco(voc, path.read_text(encoding='utf-8').split())
        (out / f'{split}.json').write_text(json.dumps(content), encoding='utf-8')
        sizes[split] = (len(content['images']), len(content['annotations']))
    return sizes


def _coco(voc: Path, names: list[str]) -> dict[str, list]:
    images, annotations = [], []
    for image_id, name in enumerate(names):
        root = ET.parse(voc / f'Annotations/{name}.xml').getroot()
        size = {side: int(root.findtext(f'size/{side}')) for side in ('width', 'height')}
        images.append(dict(id=image_id, file_name=f'{name}.jpg', **size))
        for item in root.iter('object'):
            sides = ('xmin', 'ymin', 'xmax', 'ymax')
            x1, y1, x2, y2 = (float(item.findtext(f'bndbox/{side}')) for side in sides)
            if x2 <= x1 or y2 <= y1:
                continue
            label = item.findtext('name')
            if label not in CLASSES:
                raise ValueError(
                    f'{name} has an object of class {label!r}, not of {", ".join(CLASSES)}'
                )
            box = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), iscrowd=0)
            ids = dict(id=len(annotations) + 1, image_id=image_id)
            annotations.append(dict(**ids, category_id=CLASSES.index(label) + 1, **box))
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('voc', type=folder_to_read, help='the folder BCCD of the repository')
    add('--out', type=folder_to_write, default='data/bccd', help='default: %(default)s')
    args = parser.parse_args()
    try:
        sizes = convert_bccd(args.voc, args.out)
    except (OSError, ValueError, ET.ParseError) as error:
        sys.exit(str(error))
    for split, (images, boxes) in sizes.items():
        print(f'{args.out}/{split}.json: {images} images, {boxes} boxes')


if __name__ == '__main__':
    main()
