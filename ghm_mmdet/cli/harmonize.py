"""Put GHM-C and GHM-R in the place of the losses of an MMDetection config.

Writes a short config that inherits from the original, and prints a line for each loss found:
replaced or kept, and why.

Examples:
    ghm-mmdet harmonize mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --dry-run
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --preset released
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --no-reg --head RPNHead
"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import Any

from ..formulas import FORMULAS
from ..presets import PRESETS, Options
from .write import add_out, one_line, print_config, write


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument('config', help='path, or name as mmdet::retinanet/...')
    add_out(parser)
    parser.add_argument('--dry-run', action='store_true', help='print, write nothing')
    read_as: dict[str, dict[str, Any]] = dict(
        preset=dict(choices=PRESETS),
        bins=dict(type=int),
        momentum=dict(type=float),
        formula=dict(choices=FORMULAS),
    )
    for option in fields(Options):
        name, what = option.name.replace('_', '-'), option.metadata['help']
        settings: dict[str, Any] = dict(dest=option.name, default=option.default)
        if isinstance(option.default, bool):
            parser.add_argument(f'--{name}', action='store_true', help=what, **settings)
            off = 'keep them' if option.default else argparse.SUPPRESS
            parser.add_argument(f'--no-{name}', action='store_false', help=off, **settings)
        else:
            parser.add_argument(f'--{name}', help=what, **settings, **read_as.get(name, {}))


def run(args: Namespace) -> None:
    from ..swap import harmonized_text

    options = {field.name: getattr(args, field.name) for field in fields(Options)}
    try:
        plan, text = harmonized_text(args.config, args.out, **options)
    except Exception as error:  # of a config, which is code: whatever it raises
        sys.exit(one_line(args.config, error))
    written = args.out is not None and not args.dry_run
    if written:
        write(args.out, text, args.force)
        print(plan, f'written to {args.out}', plan.summary, sep='\n')
    else:
        # The config alone goes to standard output, for those who send it to a file.
        print_config(text)
        print(plan.summary, file=sys.stderr)
