"""Reproduce the paper's tables.

Examples:
    ghm-mmdet reproduce plan --table 5
    ghm-mmdet reproduce run --table 5 --data-root /data/coco
    ghm-mmdet reproduce report --table 5

A rehearsal on a small data set in COCO's layout, on the CPU and without ImageNet weights:
    ghm-mmdet reproduce run --table 5 --data-root small_coco --gpus 0 \\
        --work-dir work_dirs/rehearsal --cfg-options train_cfg.max_epochs=1 \\
        model.backbone.init_cfg=None model.test_cfg.score_thr=0
    ghm-mmdet reproduce report --table 5 --work-dir work_dirs/rehearsal
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ..reproduce import GPUS
from .places import folder_to_read, folder_to_write, place
from .write import in_one_line

ACTIONS = {
    'plan': 'print the commands that fill the tables',
    'run': 'train and test what has no result yet',
    'report': "print the paper's and the measured figures as Markdown",
}


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes to its parser."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for name, what in ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument('--table', type=int, nargs='+', help='1 to 7; default: all')
        add = action.add_argument
        # A plan is for any machine. The default is not checked, for a report of nothing.
        kind = dict(plan=place, run=folder_to_write, report=folder_to_read)[name]
        add('--work-dir', type=kind, default=Path('work_dirs'), help='default: %(default)s')
        root = 'folder in the layout of COCO; default: $COCO_ROOT or data/coco'
        add('--data-root', type=folder_to_read if name == 'run' else place, help=root)
        add('--gpus', type=int, default=GPUS, help='number; 0: the CPU; default: %(default)s')
        options: dict[str, Any] = dict(nargs='+', default=[], metavar='KEY=VALUE')
        add('--cfg-options', help='settings of every config', **options)


def run(args: Namespace) -> None:
    """Run the command.

    Raises:
        SystemExit: With a message, if it failed.
    """
    from ..reproduce.experiment import RunSettings, run_missing
    from ..reproduce.paper_runs import paper_runs, plan
    from ..reproduce.report import report
    from ..reproduce.tables import tables

    with in_one_line(f'reproduce {args.action}'):
        settings = RunSettings(args.work_dir, args.data_root, args.gpus, tuple(args.cfg_options))
        chosen = tables(args.table)
        runs = paper_runs(chosen, settings)
        if args.action == 'plan':
            print(plan(chosen, settings))
        elif args.action == 'report':
            print(report(chosen, args.work_dir))
        else:
            for run in runs:  # once for all that lack the same data
                run.check_data()
            if run_missing(runs):
                sys.exit(1)
