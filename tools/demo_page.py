"""Draw the demo's page and print its table of AP, from the runs of `make demo`.

Example:
    python tools/demo_page.py --work-dir work_dirs/demo
"""

import argparse

from ghm_mmdet.analysis.demo_page import write_demo_page

GHM = 'retinanet_r18_fpn_ghmc-ghmr_demo'
RUNS = {
    'GHM-C + GHM-R, after a focal warm-up': GHM,
    "the same, formula='floored'": 'retinanet_r18_fpn_ghmc-ghmr-floored_demo',
    'focal loss + smooth L1': 'retinanet_r18_fpn_fl-sl1_demo',
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    args = parser.parse_args()
    page = write_demo_page(args.work_dir, RUNS, GHM)
    print(f'pictures: {page}')


if __name__ == '__main__':
    main()
