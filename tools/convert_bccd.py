"""Convert BCCD (github.com/Shenggan/BCCD_Dataset) from Pascal VOC's format to COCO's.

Example:
    git clone https://github.com/Shenggan/BCCD_Dataset
    python tools/convert_bccd.py BCCD_Dataset/BCCD --out data/bccd
"""

import argparse
import sys

from ghm_mmdet.analysis.bccd import convert_bccd


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('voc', help='the folder BCCD of the repository')
    parser.add_argument('--out', default='data/bccd', help='default: %(default)s')
    args = parser.parse_args()
    try:
        sizes = convert_bccd(args.voc, args.out)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    for split, (images, boxes) in sizes.items():
        print(f'{args.out}/{split}.json: {images} images, {boxes} boxes')


if __name__ == '__main__':
    main()
