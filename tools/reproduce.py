"""Repeat the paper's tables: print the commands, run what is missing, or report.

Examples:
    python tools/reproduce.py plan --table 5
    python tools/reproduce.py run --table 5 --data-root /data/coco/
    python tools/reproduce.py report --table 5

A rehearsal on a small data set in COCO's layout, on the CPU and without ImageNet weights:
    python tools/reproduce.py run --table 5 --data-root small_coco/ --gpus 0 \\
        --work-dir work_dirs/rehearsal --cfg-options train_cfg.max_epochs=1 \\
        model.backbone.init_cfg=None model.test_cfg.score_thr=0
    python tools/reproduce.py report --table 5 --work-dir work_dirs/rehearsal
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from ghm_mmdet.reproduce.experiment import Settings, run_missing
from ghm_mmdet.reproduce.paper import GPUS, paper_runs, plan
from ghm_mmdet.reproduce.report import report
from ghm_mmdet.reproduce.tables import tables


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('action', choices=['plan', 'run', 'report'])
    add('--table', type=int, nargs='+', help='1 to 7; default: all')
    add('--work-dir', type=Path, default='work_dirs', help='default: %(default)s')
    add('--data-root', help='folder in the layout of COCO, default: $COCO_ROOT or data/coco/')
    add('--gpus', type=int, default=GPUS, help='0: the CPU; default: %(default)s')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    args = parser.parse_args()
    try:
        chosen = tables(args.table)
        settings = Settings(args.work_dir, args.data_root, args.gpus, tuple(args.cfg_options))
    except ValueError as error:
        parser.error(str(error))
    if args.action == 'plan':
        print(plan(chosen, settings))
    elif args.action == 'report':
        print(report(chosen, args.work_dir))
    else:
        sys.exit(1 if run_missing(paper_runs(chosen, settings)) else 0)


if __name__ == '__main__':
    main()
