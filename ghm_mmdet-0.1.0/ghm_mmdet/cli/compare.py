"""Say whether GHM helps on your data: train a config with and without it, and compare.

The config as it is and clipped are the baselines, for a part of what GHM gains may be the step. The
seeds are paired, and run one after another. Kill it at any moment and start it again: it goes on.
Started twice over one folder, on two nodes, the trainings are shared.

Examples:
    ghm-mmdet compare my_config.py --dry-run
    ghm-mmdet compare my_config.py --seeds 3
    ghm-mmdet compare my_config.py --arms original clipped ghm released --gpus 2
    ghm-mmdet compare my_config.py --add mine=my_losses.py --work-dir work_dirs/mine
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .places import config_to_read
from .trainings import add_added, add_training_options, launcher_of, number
from .write import in_one_line

#: Those of `ghm_mmdet.compare.arms`, which needs MMEngine.
ARMS = ('original', 'clipped', 'ghm', 'released')


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes to its parser."""
    add = parser.add_argument
    what = 'path, or name as mmdet::retinanet/...'
    add('config', type=config_to_read, metavar='CONFIG', help=what)
    add('--seeds', type=number, default=3, metavar='N', help='0, 1, ... N-1; default: 3')
    what = 'default: original clipped ghm'
    add('--arms', nargs='+', choices=ARMS, default=ARMS[:3], metavar='ARM', help=what)
    add_added(parser, 'further arms')
    add_training_options(parser, 'work_dirs/compare_<CONFIG>', '1, where there is one')
    add('--dry-run', action='store_true', help='print what would run, write nothing')


def run(args: Namespace) -> None:
    """Run the command.

    Raises:
        SystemExit: With a message or a status, if it failed.
    """
    import torch

    from ..compare.compare import Comparison
    from ..experiments.experiment import RunSettings

    name = Path(args.config.rpartition('::')[2]).stem
    with in_one_line(f'compare {args.config}'):
        gpus = min(1, torch.cuda.device_count()) if args.gpus is None else args.gpus
        settings = RunSettings(
            args.work_dir or Path(f'work_dirs/compare_{name}'), gpus=gpus,
            cfg_options=tuple(args.cfg_options), launcher=launcher_of(args),
        )  # fmt: skip
        comparison = Comparison(args.config, args.arms, dict(args.add), args.seeds, settings)
        findings = comparison.findings()
        for finding in findings:
            word = 'ERROR' if finding.is_error else 'doubt'
            print(f'{word}: {finding.what}: {finding.remedy}', file=sys.stderr)
        print(comparison.plan(commands=args.dry_run), flush=True)
        if any(finding.is_error for finding in findings):
            sys.exit(1)
        if not args.dry_run and not comparison.run(args.jobs):
            sys.exit(1)
