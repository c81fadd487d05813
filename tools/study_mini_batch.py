"""Compare one gradient density per FPN level with one for all, on the demo's images.

Example: python tools/study_mini_batch.py run --seeds 2
         python tools/study_mini_batch.py report --seeds 2
         python tools/study_mini_batch.py example --iteration 780
         python tools/study_mini_batch.py figure --out mini_batch.png
The images come from `python tools/make_demo_data.py --out work_dirs/demo/data`.
"""

import argparse

from ghm_mmdet.analysis.mini_batch import example, run_study, study_table, write_figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('action', choices=['run', 'report', 'example', 'figure'])
    parser.add_argument('--work-dir', default='work_dirs/mini_batch')
    parser.add_argument('--seeds', type=int, default=2, help='number of seeds, from 0 on')
    parser.add_argument('--iteration', type=int, default=780, help='of the example')
    parser.add_argument('--out', default='mini_batch.png', help='of the figure')
    args = parser.parse_args()
    if args.action == 'run':
        run_study(args.work_dir, args.seeds)
    elif args.action == 'example':
        print(example(args.work_dir, args.iteration))
    elif args.action == 'figure':
        write_figure(args.work_dir, args.out)
    else:
        print(study_table(args.work_dir, args.seeds))


if __name__ == '__main__':
    main()
