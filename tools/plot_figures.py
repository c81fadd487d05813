"""Draw the paper's Figures 1-5 from a record of gradient norms.

The record is the `gradient_density.npz` that GradientDensityHook leaves in the work folder of a
training, or the file that tools/record_gradient_density.py writes.

Example:
    python tools/plot_figures.py work_dirs/demo/record.npz --out work_dirs/demo/figures
"""

import argparse

from ghm_mmdet.visualization.figures import write_figures
from ghm_mmdet.visualization.record import GradientDensityRecord
from ghm_mmdet.visualization.style import FORMATS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('record', help='the .npz')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument('--rows', type=int, default=1,
                        help='sum so many rows, the last ones; default: %(default)s')  # fmt: skip
    parser.add_argument('--bins-cls', type=int, default=30,
                        help='M of GHM-C; default: %(default)s')  # fmt: skip
    parser.add_argument('--bins-reg', type=int, default=10,
                        help='M of GHM-R; default: %(default)s')  # fmt: skip
    parser.add_argument('--format', choices=FORMATS, default='png', help='default: %(default)s')
    args = parser.parse_args()
    paths = write_figures(
        GradientDensityRecord.load(args.record), args.out, args.format, rows=args.rows,
        bins_cls=args.bins_cls, bins_reg=args.bins_reg,
    )  # fmt: skip
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    main()
