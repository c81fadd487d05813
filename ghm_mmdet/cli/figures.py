"""Record a checkpoint's gradient densities, and draw the paper's Figures 1-5 from the record.

Without a checkpoint: from the `gradient_density.npz` that GradientDensityHook leaves in the work
folder of a training.

Examples:
    ghm-mmdet figures configs/mine_ghm.py work_dirs/mine_ghm/epoch_12.pth --out figures
    ghm-mmdet figures work_dirs/mine_ghm/gradient_density.npz --out figures --format svg
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ..visualization import FORMATS, ONE_STAGE, Observed
from .write import one_line

RECORD = 'gradient_density.npz'


def add_options(parser: ArgumentParser) -> None:
    paths = f'a config and its checkpoint, recorded in OUT/{RECORD}; or a record (.npz)'
    parser.add_argument('paths', nargs='+', metavar='PATH', help=paths)
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    add_recording_options(parser)
    add_drawing_options(parser)


def add_recording_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group('recording').add_argument
    add('--batches', type=int, default=50, help='of the training data; default: %(default)s')
    add('--seed', type=int, default=0, help='of the order of the images; default: %(default)s')
    add('--device', default='cpu', help='where the detector runs; default: %(default)s')
    default = ONE_STAGE
    add('--bins', type=int, default=default.bins, help='of the record; default: %(default)s')
    without_own = 'of gr, where the loss has no mu; default: %(default)s'
    add('--mu', type=float, default=default.mu, help=without_own)
    for name in ('loss_cls', 'loss_bbox'):
        add(
            f'--{name.replace("_", "-")}',
            default=getattr(default, name),
            type=lambda path: None if path == 'none' else path,
            help='its path in the detector, or none; default: %(default)s',
        )
    options: dict[str, Any] = dict(nargs='+', default=[], metavar='KEY=VALUE')
    add('--cfg-options', help='settings of the config', **options)


def add_drawing_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group('drawing').add_argument
    add('--rows', type=int, default=1, help='sum the last so many rows; default: %(default)s')
    add('--bins-cls', type=int, default=30, help='M of GHM-C; default: %(default)s')
    add('--bins-reg', type=int, default=10, help='M of GHM-R; default: %(default)s')
    add('--format', choices=FORMATS, default='png', help='of the files; default: %(default)s')


def run(args: Namespace) -> None:
    *config, source = args.paths
    if len(config) > 1 or bool(config) == source.endswith('.npz'):
        sys.exit(f'PATH must be a config and a checkpoint, or a record (.npz), got {args.paths}')
    try:
        if config:
            record(args, config[0], source, args.out / RECORD)
            source = args.out / RECORD
        draw(args, source)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of a file that is missing, broken, or of another kind
        sys.exit(one_line(source, error))


def record(args: Namespace, config: str, checkpoint: str, out: str | Path) -> None:
    """Write the record of a checkpoint, with `add_recording_options`."""
    from ..reproduce.configs import parse_options
    from ..swap import load
    from ..visualization.checkpoint import record_checkpoint

    observed = Observed(args.bins, args.mu, args.loss_cls, args.loss_bbox)
    loaded = load(config)
    loaded.merge_from_dict(parse_options(args.cfg_options))
    made = record_checkpoint(loaded, checkpoint, args.batches, args.seed, args.device, observed)
    made.save(out)
    print(
        f'{made.histogram("cls")[0].sum():,.0f} logits and '
        f'{made.histogram("reg")[0].sum():,.0f} offsets of {made.iteration[-1]} batches '
        f'in {out}'
    )


def draw(args: Namespace, source: str | Path) -> None:
    """Draw a record, with `add_drawing_options`, to the folder `--out`."""
    from ..visualization.figures import write_figures
    from ..visualization.record import GradientDensityRecord

    settings = {name: getattr(args, name) for name in ('rows', 'bins_cls', 'bins_reg')}
    loaded = GradientDensityRecord.load(source)
    print(*write_figures(loaded, args.out, args.format, **settings), sep='\n')
