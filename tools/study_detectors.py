"""Train six detectors with their own losses and harmonized, and print their AP side by side.

Example:
    python tools/make_demo_data.py --out work_dirs/demo/data
    python tools/study_detectors.py run
    python tools/study_detectors.py report
"""

import argparse

from ghm_mmdet.analysis.detectors import DETECTORS, LOSSES, run_study, study_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('action', choices=['run', 'report'])
    parser.add_argument('--work-dir', default='work_dirs/detectors')
    parser.add_argument('--detectors', nargs='+', choices=[d.name for d in DETECTORS])
    parser.add_argument('--losses', nargs='+', choices=LOSSES)
    parser.add_argument('--seeds', type=int, default=1, help='seeds 0, 1, ...; default: 1')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time; default: 1')
    args = parser.parse_args()
    if args.action == 'run':
        run_study(args.work_dir, args.detectors, args.losses, args.seeds, args.jobs)
    print(study_table(args.work_dir, args.seeds))


if __name__ == '__main__':
    main()
