"""Train the variants against GHM's cold start on the demo's data, and print their table.

Example:
    python tools/study_cold_start.py run --seeds 2 --jobs 2
    python tools/study_cold_start.py report
"""

import argparse

from ghm_mmdet.analysis.cold_start import VARIANTS, run_study, study_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('action', choices=['run', 'report'])
    parser.add_argument('--work-dir', default='work_dirs/cold_start')
    parser.add_argument('--variants', nargs='+', choices=[v.name for v in VARIANTS])
    parser.add_argument('--seeds', type=int, default=2, help='seeds 0, 1, ...; default: 2')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time; default: 1')
    args = parser.parse_args()
    if args.action == 'run':
        run_study(args.work_dir, args.variants, args.seeds, args.jobs)
    print(study_table(args.work_dir, args.seeds))


if __name__ == '__main__':
    main()
