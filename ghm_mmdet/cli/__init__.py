"""GHM for MMDetection, from the command line.

Examples:
    ghm-mmdet compare configs/mine.py
    ghm-mmdet harmonize configs/mine.py --out configs/mine_ghm.py
    ghm-mmdet config retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco --out my.py
    ghm-mmdet doctor
    ghm-mmdet reproduce plan --table 5
    ghm-mmdet figures work_dirs/mine/gradient_density.npz --out figures
"""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .. import __version__
from . import compare, config, doctor, figures, harmonize, reproduce
from .parser import Parser
from .streams import command_line

#: Each has a docstring, which is its help, `add_options` and `run`. What these import, and so
#: `--help`, needs Python alone; `run` imports the rest.
COMMANDS = dict(
    compare=compare,
    harmonize=harmonize,
    config=config,
    doctor=doctor,
    reproduce=reproduce,
    figures=figures,
)
SET_UP = (
    'in a clone run `make env`, and then the Python in .venv/bin; elsewhere `ghm-mmdet doctor` '
    'says what to install'
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command of `ghm-mmdet`.

    Also in a thread, as a web interface does; one after another, for what is printed goes to the
    standard streams of the process.

    Args:
        arguments: What stands behind `ghm-mmdet`. Default: None, those of this process.

    Raises:
        SystemExit: With status 0 after `--help` and `--version`; else the command failed: with a
            message, which is status 1, or status 1 after what it printed; with status 2 after a
            line on an argument that is wrong; with status 130 if it was interrupted.
    """
    with command_line():
        given = sys.argv[1:] if arguments is None else arguments
        args = build_parser().parse_args(given or ['--help'])
        try:
            args.run(args)
        except ModuleNotFoundError as error:
            sys.exit(f'{error}: {SET_UP}')


def build_parser() -> Parser:
    """The parser of `ghm-mmdet`, with one for each command."""
    missing = None if find_spec('mmengine') else f'MMEngine is not installed: {SET_UP}'
    layout: dict[str, Any] = dict(formatter_class=RawDescriptionHelpFormatter, epilog=missing)
    parser = Parser('ghm-mmdet', description=__doc__, **layout)
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or '').partition('\n')[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__, **layout)
        command.set_defaults(run=module.run)
        module.add_options(command)
    return parser
