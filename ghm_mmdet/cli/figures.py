"""Draw the paper's Figures 1-5 from the gradient norms of a training.

GradientDensityHook leaves their record, `gradient_density.npz`, in the work folder.

Example:
    ghm-mmdet figures work_dirs/mine_ghm/gradient_density.npz --out figures --format svg
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..visualization import FORMATS
from .places import file_to_read, folder_to_write
from .write import in_one_line


def add_options(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    add = parser.add_argument
    add('record', type=file_to_read, help='the .npz')
    add('--out', type=folder_to_write, required=True, help='folder to write to')
    add('--rows', type=int, default=1, help='sum the last so many rows; default: %(default)s')
    add('--bins-cls', type=int, default=30, help='M of GHM-C; default: %(default)s')
    add('--bins-reg', type=int, default=10, help='M of GHM-R; default: %(default)s')
    add('--format', choices=FORMATS, default='png', help='of the files; default: %(default)s')


def run(args: Namespace) -> None:
    """Draw the figures, and print their paths; a record that can't be drawn ends with a line."""
    from ..visualization.figures import write_figures
    from ..visualization.record import GradientDensityRecord

    settings = {name: getattr(args, name) for name in ('rows', 'bins_cls', 'bins_reg')}
    with in_one_line(args.record):
        record = GradientDensityRecord.load(args.record)
        print(*write_figures(record, args.out, args.format, **settings), sep='\n')
