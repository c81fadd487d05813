"""Write a smaller copy of a data set in COCO's format: `data/chess` was made by it.

The source holds `images/`, JSON files and a LICENSE. Images become JPEG files, and boxes and areas
are scaled with them.

Example:
    python -m studies.shrink_images photographs data/chess --side 320
"""

from __future__ import annotations

import argparse
import json
import shutil

from PIL import Image

from ghm_mmdet.cli.places import folder_to_read, folder_to_write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=folder_to_read, help='folder of the images')
    parser.add_argument('target', type=folder_to_write, help='folder to write to')
    parser.add_argument('--side', type=int, default=320, help='pixels of the longer side')
    parser.add_argument('--quality', type=int, default=85, help='of the JPEG files')
    args = parser.parse_args()
    (args.target / 'images').mkdir(parents=True)
    shutil.copyfile(args.source / 'LICENSE', args.target / 'LICENSE')
    for path in sorted(args.source.glob('*.json')):
        data = json.loads(path.read_text(encoding='utf-8'))
        shrink(data, args)
        (args.target / path.name).write_text(
            json.dumps(data, separators=(',', ':')) + '\n', encoding='utf-8'
        )


def shrink(data: dict, args: argparse.Namespace) -> None:
    """Write the images of one split and scale its boxes, in place."""
    scales = {}
    for entry in data['images']:
        image = Image.open(args.source / 'images' / entry['file_name']).convert('RGB')
        size = image.size
        image.thumbnail((args.side, args.side), Image.Resampling.LANCZOS)
        image.save(args.target / 'images' / entry['file_name'], quality=args.quality)
        entry['width'], entry['height'] = image.size
        scales[entry['id']] = image.width / size[0], image.height / size[1]
    for box in data['annotations']:
        (across, down), (x, y, width, height) = scales[box['image_id']], box['bbox']
        box['bbox'] = [
            round(value, 2) for value in (x * across, y * down, width * across, height * down)
        ]
        box['area'] = round(box['bbox'][2] * box['bbox'][3], 2)


if __name__ == '__main__':
    main()
