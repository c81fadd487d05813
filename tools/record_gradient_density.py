"""Record the gradient norms of a finished checkpoint on batches of its training data.

Example:
    python tools/record_gradient_density.py \\
        configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py \\
        work_dirs/demo/retinanet_r18_fpn_ghmc-ghmr_demo/epoch_10.pth \\
        --out work_dirs/demo/record.npz --batches 100
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

try:
    from ghm_mmdet.cli.figures import add_recording_options, record
except ModuleNotFoundError as error:
    sys.exit(f'{error}: run `make env`, then .venv/bin/python {sys.argv[0]}')


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path, or name as mmdet::retinanet/...')
    parser.add_argument('checkpoint', help='of a training with this config')
    parser.add_argument('--out', required=True, help='the .npz to write')
    add_recording_options(parser)
    args = parser.parse_args()
    record(args, args.config, args.checkpoint, args.out)


if __name__ == '__main__':
    main()
