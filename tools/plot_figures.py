"""Draw the paper's Figures 1-5 from a record of gradient norms.

The record is the `gradient_density.npz` that GradientDensityHook leaves in the work folder of a
training, or the file that tools/record_gradient_density.py writes.

Example:
    python tools/plot_figures.py work_dirs/demo/record.npz --out work_dirs/demo/figures
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

try:
    from ghm_mmdet.cli.figures import add_drawing_options, draw
except ModuleNotFoundError as error:
    sys.exit(f'{error}: run `make env`, then .venv/bin/python {sys.argv[0]}')


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('record', help='the .npz')
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    add_drawing_options(parser)
    args = parser.parse_args()
    draw(args, args.record)


if __name__ == '__main__':
    main()
