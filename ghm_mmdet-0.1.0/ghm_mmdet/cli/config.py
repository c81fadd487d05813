"""List the configs of the paper's tables, or write one to start from.

What is written inherits from MMDetection's own configs alone, so that it can lie anywhere.

Examples:
    ghm-mmdet config
    ghm-mmdet config retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco --out my.py
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .parser import did_you_mean
from .write import add_out, print_config, write


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes to its parser."""
    parser.add_argument('name', nargs='?', metavar='NAME', help='a config; default: list them')
    add_out(parser)


def run(args: Namespace) -> None:
    """Run the command.

    Raises:
        SystemExit: With a message, if it failed.
    """
    from ..reproduce.configs import shipped_configs, stand_alone

    shipped = {path.stem: path for path in shipped_configs()}
    if args.name is None:
        if args.out is not None:
            sys.exit('--out needs NAME, the config to write')
        print(listed(shipped))
        return
    name = Path(args.name).name
    path = shipped.get(name[:-3] if name.endswith('.py') else name)
    if path is None:
        hint = did_you_mean(name, shipped)
        sys.exit(f'NAME must be one that `ghm-mmdet config` lists, got {args.name!r}{hint}')
    text = stand_alone(path)
    if args.out is None:
        print_config(text)
    else:
        write(args.out, text, args.force)
        print(f'written to {args.out}')


def listed(shipped: dict[str, Path]) -> str:
    """A line for each config: its name, the paper's tables with it, and the paper's AP."""
    from ..reproduce.tables import TABLES

    numbers: dict[str, list[str]] = {}
    aps: dict[str, str] = {}
    for table in TABLES:
        for row in table.rows:
            numbers.setdefault(row.run, []).append(str(table.number))
            aps[row.run] = str(row.paper[0])
    width = max(map(len, shipped))
    lines = [f'{"config":<{width}}  table    AP of the paper']
    for name in shipped:
        lines.append(f'{name:<{width}}  {", ".join(numbers.get(name, [])):<7}  {aps.get(name, "")}')
    return '\n'.join(line.rstrip() for line in lines)
