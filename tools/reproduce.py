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

The study on BCCD (tools/convert_bccd.py), in work_dirs/bccd:
    python tools/reproduce.py run --study bccd --seeds 2 --gpus 0
    python tools/reproduce.py report --study bccd
"""

import argparse
import sys
from pathlib import Path

from ghm_mmdet.analysis.bccd_study import VARIANTS, Study, plan_bccd, report_bccd, run_bccd
from ghm_mmdet.analysis.paper_report import report
from ghm_mmdet.analysis.paper_tables import tables
from ghm_mmdet.analysis.reproduce import Settings, plan, run_missing


def study(args: argparse.Namespace) -> str | None:
    """The study on BCCD; what to exit with."""
    options = tuple(args.cfg_options)
    chosen = Study(args.work_dir / args.study, args.seeds, args.data_root, args.gpus, options)
    if args.action == 'run':
        failures = run_bccd(chosen, args.losses)
        return '\n'.join([f'{len(failures)} failed:', *failures]) if failures else None
    print(plan_bccd(chosen) if args.action == 'plan' else report_bccd(chosen))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('action', choices=['plan', 'run', 'report'])
    parser.add_argument('--table', type=int, nargs='+', help='1 to 7; default: all')
    parser.add_argument('--study', choices=['bccd'], help='this instead of the tables')
    parser.add_argument('--seeds', type=int, default=2, help='of the study; default: %(default)s')
    parser.add_argument(
        '--losses', nargs='+', metavar='NAME', choices=[v.name for v in VARIANTS],
        help='of the study: its runs, as random-weights-fl-sl1; default: all',
    )  # fmt: skip
    parser.add_argument('--work-dir', type=Path, default='work_dirs', help='default: %(default)s')
    parser.add_argument(
        '--data-root',
        help='folder in the layout of COCO, default: $COCO_ROOT or data/coco/; of the study, '
        'default: $BCCD_ROOT or data/bccd/',
    )
    parser.add_argument('--gpus', type=int, default=8, help='0 for the CPU; default: %(default)s')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run'
    )
    args = parser.parse_args()
    if args.study:
        sys.exit(study(args))
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
        failures = run_missing(chosen, settings)
        if failures:
            sys.exit('\n'.join([f'{len(failures)} failed:', *failures]))


if __name__ == '__main__':
    main()
