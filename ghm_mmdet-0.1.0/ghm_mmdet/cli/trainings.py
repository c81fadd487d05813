"""What the commands that train take."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .places import file_to_read, folder_to_write

#: Options of MIM for Slurm, as it has them.
SLURM = {'partition': str, 'gpus-per-node': int, 'cpus-per-task': int, 'srun-args': str}


def number(text: str) -> int:
    """An int >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'must be an int >= 1, got {text!r}')
    return int(text)


def named_config(text: str) -> tuple[str, Path]:
    """`NAME=CONFIG`."""
    name, is_named, path = text.partition('=')
    if not (name and is_named):
        raise ArgumentTypeError(f'must be NAME=CONFIG, got {text!r}')
    return name, file_to_read(path)


def add_training_options(
    parser: ArgumentParser, work_dir: str, gpus: str, kind: Callable[[str], Path] = folder_to_write
) -> None:
    """Where, on what and how many at a time; `kind` reads the place."""
    add = parser.add_argument
    add('--work-dir', type=kind, metavar='DIR', help=f'of all trainings; default: {work_dir}')
    add('--gpus', type=int, metavar='N', help=f'of each training; 0: the CPU; default: {gpus}')
    add('--jobs', type=number, default=1, metavar='N', help='trainings at a time; default: 1')
    launchers = ('none', 'pytorch', 'slurm')
    add('--launcher', choices=launchers, help="MIM's; default: pytorch for several GPUs")
    for name, kind in SLURM.items():
        add(f'--{name}', type=kind, help="MIM's, with --launcher slurm")
    options: dict[str, Any] = dict(nargs='+', default=[], metavar='KEY=VALUE')
    add('--cfg-options', help='settings of every config', **options)


def add_added(parser: ArgumentParser, what: str) -> None:
    """Configs of one's own."""
    settings: dict[str, Any] = dict(nargs='+', default=[], metavar='NAME=CONFIG')
    parser.add_argument('--add', type=named_config, help=what, **settings)


def launcher_of(args: Namespace) -> tuple[str, ...]:
    """The options of MIM that choose a launcher."""
    names = ('launcher', *SLURM)
    given = {name: getattr(args, name.replace('-', '_')) for name in names}
    return tuple(word for k, v in given.items() if v is not None for word in (f'--{k}', str(v)))
