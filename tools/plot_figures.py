"""Draw the paper's Figures 1-5 from a record of gradient norms.

The record is the `gradient_density.npz` that GradientDensityHook leaves in the work folder of a
training, or the file that tools/record_gradient_density.py writes.

Example:
    python tools/plot_figures.py work_dirs/demo/record.npz --out work_dirs/demo/figures
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from ghm_mmdet.visualization.figures import write_figures
from ghm_mmdet.visualization.record import GradientDensityRecord
from ghm_mmdet.visualization.style import FORMATS


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('record', help='the .npz')
    add('--out', required=True, help='folder to write to')
    add('--rows', type=int, default=1, help='sum the last so many rows; default: %(default)s')
    add('--bins-cls', type=int, default=30, help='M of GHM-C; default: %(default)s')
    add('--bins-reg', type=int, default=10, help='M of GHM-R; default: %(default)s')
    add('--format', choices=FORMATS, default='png', help='default: %(default)s')
    args = vars(parser.parse_args())
    record, out, image_format = (args.pop(name) for name in ('record', 'out', 'format'))
    paths = write_figures(GradientDensityRecord.load(record), out, image_format, **args)
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    main()
