"""Put GHM-C and GHM-R in the place of the losses of an MMDetection config.

Writes a short config that inherits from the original, and prints a line for each loss found:
replaced or kept, and why.

Examples:
    ghm-mmdet harmonize mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --dry-run
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --baseline configs/mine_clip.py
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --preset released
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --no-reg --head RPNHead
"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from dataclasses import fields
from typing import Any

from ..presets import BASELINE_NORM, Options
from .places import config_to_read, file_to_write
from .write import add_out, in_one_line, print_config, write


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument('config', type=config_to_read, help='path, or name as mmdet::retinanet/...')
    add_out(parser)
    where = f'also write what to compare it with: its own losses, clipped at norm {BASELINE_NORM}'
    parser.add_argument('--baseline', type=file_to_write, metavar='FILE', help=where)
    parser.add_argument('--dry-run', action='store_true', help='print, write nothing')
    for option in fields(Options):
        name, what = option.name.replace('_', '-'), option.metadata['help']
        settings: dict[str, Any] = dict(dest=option.name, default=option.default)
        if isinstance(option.default, bool):
            parser.add_argument(f'--{name}', action='store_true', help=what, **settings)
            off = 'keep them' if option.default else argparse.SUPPRESS
            parser.add_argument(f'--no-{name}', action='store_false', help=off, **settings)
        else:
            settings.update(choices=option.metadata['choices'], type=option.metadata['type'])
            parser.add_argument(f'--{name}', help=what, **settings)


def run(args: Namespace) -> None:
    from ..swap.harmonize import baseline_text, harmonized_text

    # The config alone goes to standard output, for those who send it to a file; what a config
    # imports prints, too.
    with in_one_line(args.config), redirect_stdout(sys.stderr):
        options = Options(*(getattr(args, field.name) for field in fields(Options)))
        plan, text = harmonized_text(args.config, args.out, options)
        if args.baseline:
            baseline = baseline_text(args.config, args.baseline, plan)
    said = [comparison(args), plan.summary]
    if args.baseline and not args.dry_run:
        if args.baseline == args.out:
            sys.exit(f'--baseline must be another file than --out, got {args.out}')
        write(args.baseline, baseline, args.force, '--baseline')
        said.insert(0, f'written to {args.baseline}')
    if args.out is not None and not args.dry_run:
        write(args.out, text, args.force)
        print(plan, f'written to {args.out}', *said, sep='\n')
    else:
        print_config(text)
        print(*said, sep='\n', file=sys.stderr)


def comparison(args: Namespace) -> str:
    """With what to compare the harmonized config, and how."""
    clipped = args.baseline or f'its own losses clipped at norm {BASELINE_NORM} (--baseline FILE)'
    how = f'`ghm-mmdet compare {args.config}`'
    return f'compare it with {clipped}, not with {args.config} alone: {how} trains all three'
