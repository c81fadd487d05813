"""Time and memory of the losses at RetinaNet's shapes, as Markdown tables.

Examples:
    python tools/benchmark_losses.py --logits 12.1e6 --threads 2 --json losses.json
    python tools/benchmark_losses.py scaling --logits 12.1e6 --threads 2
    python tools/benchmark_losses.py iteration --image-size 320 --threads 2
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from ghm_mmdet.analysis.loss_benchmark import (
    benchmark,
    format_table,
    machine,
    scaling,
    training_iteration,
)

DTYPES = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = ['losses', 'scaling', 'iteration']
    parser.add_argument('mode', nargs='?', choices=modes, default='losses')
    parser.add_argument(
        '--logits', type=lambda s: int(float(s)), help='scale the shapes to as many; default: all'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument('--bins', type=int, default=30, help='M of GHM-C; default: 30')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--warm-up', type=int, default=3, help='rounds that are not counted')
    parser.add_argument('--threads', type=int, help='of PyTorch on the CPU')
    parser.add_argument('--image-size', type=int, default=320, help='of `iteration`')
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    repeat = dict(rounds=args.rounds, warm_up=args.warm_up)
    if args.mode == 'losses':
        result, text = benchmark(args.logits, device, DTYPES[args.dtype], args.bins, **repeat)
    else:
        if args.mode == 'scaling':
            tables = scaling(device, args.logits or 32_256_000, **repeat)
        else:
            rows = training_iteration(args.image_size, device, **repeat)
            tables = {f'RetinaNet-R50, 2 images of {args.image_size} px': rows}
        result = dict(machine=machine(device), tables={
            name: [asdict(row) for row in rows] for name, rows in tables.items()
        })  # fmt: skip
        text = '\n\n'.join(format_table(name, rows) for name, rows in tables.items())
    print(machine(device), text, sep='\n\n')
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
