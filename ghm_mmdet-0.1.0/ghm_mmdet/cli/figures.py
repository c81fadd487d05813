"""Draw the paper's Figures 1-5 from the gradient norms of a training.

GradientDensityHook leaves their record, `gradient_density.npz`, in the work folder.

Example:
    ghm-mmdet figures work_dirs/mine_ghm/gradient_density.npz --out figures --format svg
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ..visualization import FORMATS
from .places import folder_to_write, place
from .write import in_one_line

HOW_TO_RECORD = (
    'GradientDensityHook writes a record, gradient_density.npz, into the work folder of a '
    'training, its first row after `interval` iterations; the config has it by '
    "custom_hooks = [dict(type='ghm_mmdet.GradientDensityHook')]"
)


def add_options(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    add = parser.add_argument
    add('record', type=place, help='the .npz')
    out = 'folder to write to; what was drawn there from another record is removed'
    add('--out', type=folder_to_write, required=True, help=out)
    add('--rows', type=int, default=1, help='sum the last so many rows; default: %(default)s')
    add('--bins-cls', type=int, default=30, help='M of GHM-C; default: %(default)s')
    add('--bins-reg', type=int, default=10, help='M of GHM-R; default: %(default)s')
    add('--format', choices=FORMATS, default='png', help='of the files; default: %(default)s')


def run(args: Namespace) -> None:
    """Draw the figures, and print their paths; a record that can't be drawn ends with a line."""
    from ..visualization.figures import write_figures
    from ..visualization.record import RECORD_FILE, GradientDensityRecord

    if args.record.is_dir():
        sys.exit(f'{args.record} is a folder: name the record in it, {args.record / RECORD_FILE}')
    if not args.record.exists():
        sys.exit(f'{args.record} is not there. {HOW_TO_RECORD}')
    settings = {name: getattr(args, name) for name in ('rows', 'bins_cls', 'bins_reg')}
    try:
        record = GradientDensityRecord.load(args.record)
    except (OSError, ValueError) as error:
        sys.exit(f'{error}. {HOW_TO_RECORD}')
    with in_one_line(args.record):
        print(*write_figures(record, args.out, args.format, **settings), sep='\n')
