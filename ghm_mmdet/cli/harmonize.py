"""Put GHM-C and GHM-R in the place of the losses of an MMDetection config.

Writes a short config that inherits from the original, and prints a line for each loss found:
replaced or kept, and why.

Examples:
    ghm-mmdet harmonize mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --dry-run
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py
    ghm-mmdet harmonize configs/mine.py --out configs/small.py --preset small-data
    ghm-mmdet harmonize configs/mine.py --out configs/warm.py --formula floored --warmup 0.5
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py --no-reg --head RPNHead
"""

import json
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..formulas import FORMULAS
from ..presets import PRESETS

if TYPE_CHECKING:
    from ..swap import Plan


def add_options(parser: ArgumentParser) -> None:
    add, yes_or_no = parser.add_argument, BooleanOptionalAction
    add('config', help='path, or name as mmdet::retinanet/...')
    add('--out', type=Path, metavar='FILE', help='where to write the config; default: print it')
    add('--force', action='store_true', help='overwrite FILE, if it exists')
    add('--dry-run', action='store_true', help='print, write nothing')
    add('--json', action='store_true', help='print what is replaced and kept as JSON')
    add('--cls', action=yes_or_no, default=True, help='classification losses')
    add('--reg', action=yes_or_no, default=True, help='regression losses')
    heads = "only heads of this type or place, as RPNHead or 'roi_head.*'; default: all"
    add('--head', metavar='PATTERN', help=heads)
    preset = (
        'small-data: for some hundreds of images and a pretrained backbone; default: %(default)s'
    )
    add('--preset', choices=PRESETS, default='released', help=preset)
    add('--bins', type=int, help="M; default: the preset's, 30 for GHM-C, 10 for GHM-R")
    add('--momentum', type=float, help="alpha; default: the preset's, 0.75 for GHM-C")
    add('--formula', choices=FORMULAS, help="of the harmonizing parameter; default: the preset's")
    add('--batch-density', action='store_true', help='density over all FPN levels (RetinaHead)')
    warmup = 'train with the losses replaced at first: iterations as 500, or their share as 0.5'
    add('--warmup', type=iterations, metavar='ITERS', help=warmup)


def iterations(text: str) -> int | float:
    return float(text) if '.' in text else int(text)


def run(args: Namespace) -> None:
    from ..swap import harmonized_text
    from ..swap.plan import Options

    options = {field.name: getattr(args, field.name) for field in fields(Options)}
    try:
        plan, text = harmonized_text(args.config, args.out or Path('harmonized.py'), **options)
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f'{args.config}: {error}')
    written = args.out is not None and not args.dry_run
    if written:
        _write(args.out, text, args.force)
    if args.json:
        print(json.dumps(plan.to_dict(), default=str, indent=2))
    elif written:
        _print_plan(plan)
        print(f'written to {args.out}')
        print(plan.summary)
    else:
        # The config alone goes to standard output, for those who send it to a file.
        print(text)
        print(plan.summary, file=sys.stderr)


def _write(out: Path, text: str, force: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(out, 'w' if force else 'x') as file:
            file.write(text)
    except FileExistsError:
        sys.exit(f'{out} exists: --force overwrites it')


def _print_plan(plan: 'Plan') -> None:
    """In colour on a terminal, unless NO_COLOR is set."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for loss in plan.losses:
        console.print(str(loss), style='yellow' if loss.ghm is None else 'green')
    for note in plan.notes:
        console.print(note)
