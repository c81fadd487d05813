"""Repeat the paper's tables, or test MMDetection's published GHM checkpoints.

Examples:
    ghm-mmdet reproduce plan --table 5
    ghm-mmdet reproduce run --table 5 --data-root /data/coco
    ghm-mmdet reproduce report --table 5
    ghm-mmdet reproduce zoo checkpoints/*.pth --data-root /data/coco

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

from ..reproduce.tables import GPUS, tables

ACTIONS = {
    'plan': 'print the commands that fill the tables',
    'run': 'train and test what has no result yet',
    'report': "print the paper's and the measured figures as Markdown",
}
ZOO = "test MMDetection's published GHM checkpoints through this package's classes"


def add_options(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for name, what in ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument('--table', type=int, nargs='+', help='1 to 7; default: all')
        _add_settings(action, 'work_dirs', GPUS)
    zoo = actions.add_parser('zoo', help=ZOO, description=ZOO)
    files = 'files of the published checkpoints, under their published names'
    zoo.add_argument('checkpoints', nargs='+', type=Path, metavar='CHECKPOINT', help=files)
    _add_settings(zoo, 'work_dirs/zoo', 1)


def _add_settings(parser: ArgumentParser, work_dir: str, gpus: int) -> None:
    """Those of `ghm_mmdet.reproduce.experiment.Settings`."""
    add = parser.add_argument
    add('--work-dir', type=Path, default=work_dir, help='of all runs; default: %(default)s')
    add('--data-root', help='folder in the layout of COCO; default: $COCO_ROOT or data/coco')
    add('--gpus', type=int, default=gpus, help='number; 0: the CPU; default: %(default)s')
    add(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings of every config'
    )


def run(args: Namespace) -> None:
    from ..reproduce.experiment import Settings, run_missing
    from ..reproduce.paper import paper_runs, plan
    from ..reproduce.report import report
    from ..reproduce.zoo import zoo_report, zoo_tests

    is_zoo = args.action == 'zoo'
    try:
        settings = Settings(args.work_dir, args.data_root, args.gpus, tuple(args.cfg_options))
        chosen = [] if is_zoo else tables(args.table)
        runs = zoo_tests(args.checkpoints, settings) if is_zoo else paper_runs(chosen, settings)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    failures = run_missing(runs) if args.action in ('run', 'zoo') else []
    if args.action == 'plan':
        print(plan(chosen, settings))
    elif args.action == 'report':
        print(report(chosen, args.work_dir))
    elif is_zoo:
        print(zoo_report(runs))
    if failures:
        sys.exit(1)
