"""Write the demo's data set: small shapes on cluttered backgrounds, in COCO's layout.

Example:
    python tools/make_demo_data.py --out work_dirs/demo/data
"""

import argparse

from ghm_mmdet.analysis.demo_data import write_demo_data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', default='work_dirs/demo/data', help='default: %(default)s')
    parser.add_argument('--num-train', type=int, default=800, help='images; default: %(default)s')
    parser.add_argument('--num-val', type=int, default=200, help='images; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    args = parser.parse_args()
    out = write_demo_data(args.out, args.num_train, args.num_val, args.seed)
    print(f'{args.num_train} + {args.num_val} images in {out}')


if __name__ == '__main__':
    main()
