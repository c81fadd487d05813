"""Run the tests on a GPU, and what they cost: one file to send.

Example:
    python -m benchmarks.gpu_check --out work_dirs/gpu-check.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from ghm_mmdet.cli.places import file_to_write, write_text

SUITES = ('kernels', 'compiled_kernels', 'parity', 'equations', 'edge_cases', 'robustness')
COMMANDS = {
    'Tests': ['pytest', '-q', '-m', '', *(f'tests/test_{suite}.py' for suite in SUITES)],
    'Kernels': ['benchmarks.kernels'],
    'Losses': ['benchmarks.losses', '--device', 'cuda'],
    'Losses in float16': ['benchmarks.losses', '--device', 'cuda', '--dtype', 'float16'],
    'A training iteration': ['benchmarks.losses', 'iteration', '--device', 'cuda'],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path('work_dirs/gpu-check.md')
    parser.add_argument('--out', type=file_to_write, default=default, help='default: %(default)s')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit('gpu-check needs a CUDA device and a PyTorch that is built for it')
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    texts = [f'# {name}, compute capability {capability}, torch {torch.__version__}']
    failed = []
    for title, command in COMMANDS.items():
        print(f'{title}: python -m {" ".join(command)}', flush=True)
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-m', *command], capture_output=True, text=True
        )
        if done.returncode:
            failed.append(title)
        # Of tests and errors the end says what failed.
        output = done.stdout if title != 'Tests' else '\n'.join(done.stdout.splitlines()[-40:])
        errors = done.stderr[-4000:] if done.returncode else ''
        texts.append(f'## {title}\n\n{output}\n\n{errors}'.rstrip())
        write_text(args.out, '\n\n'.join(texts) + '\n')
    print(f'written to {args.out}' + (f'; failed: {", ".join(failed)}' if failed else ''))
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
