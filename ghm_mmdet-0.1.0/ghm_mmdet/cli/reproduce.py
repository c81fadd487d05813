"""Reproduce the paper's tables.

Examples:
    ghm-mmdet reproduce plan --table 5
    ghm-mmdet reproduce run --table 5 --data-root /data/coco
    ghm-mmdet reproduce status
    ghm-mmdet reproduce report --table 5 --seeds 3 --add "Mine=my_config.py"

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

from ..reproduce import GPUS
from .places import folder_to_read, folder_to_write, place
from .trainings import add_added, add_training_options, launcher_of, number
from .write import in_one_line

ACTIONS = {
    'plan': 'print the commands that fill the tables',
    'run': 'train and test what has no result yet',
    'status': 'print what is done, what runs and what is missing',
    'report': "print the paper's and the measured figures as Markdown",
}


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes to its parser."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for name, what in ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what)
        add = action.add_argument
        add('--table', type=int, nargs='+', help='1 to 7; default: all')
        add('--seeds', type=number, metavar='N', help="0, 1, ... N-1; default: one, the configs'")
        root = 'folder in the layout of COCO; default: $COCO_ROOT or data/coco'
        add('--data-root', type=folder_to_read if name == 'run' else place, help=root)
        add_added(action, 'further rows')
        # A plan is for any machine. The default is not checked, for a report of nothing.
        kinds = dict(run=folder_to_write, plan=place)
        add_training_options(action, 'work_dirs', str(GPUS), kinds.get(name, folder_to_read))
        action.set_defaults(work_dir=Path('work_dirs'), gpus=GPUS)


def run(args: Namespace) -> None:
    """Run the command.

    Raises:
        SystemExit: With a message, if it failed.
    """
    from ..experiments.experiment import RunSettings
    from ..experiments.run import check_gpus, run_missing
    from ..reproduce.paper_runs import paper_runs, plan
    from ..reproduce.report import report, status
    from ..reproduce.tables import tables

    with in_one_line(f'reproduce {args.action}'):
        settings = RunSettings(
            args.work_dir, args.data_root, args.gpus, tuple(args.cfg_options),
            launcher=launcher_of(args),
        )  # fmt: skip
        chosen = tables(args.table, dict(args.add))
        if args.action == 'plan':
            print(plan(chosen, settings, args.seeds))
        elif args.action == 'report':
            print(report(chosen, args.work_dir, args.seeds))
        else:
            runs = paper_runs(chosen, settings, args.seeds)
            if args.action == 'status':
                print(status(runs))
            else:
                check_gpus(settings)
                for training in runs:  # once for all that lack the same data
                    training.check_data()
                if run_missing(runs, args.jobs):
                    sys.exit(1)
