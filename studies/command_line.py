"""What the studies' command lines share: plan, run what is missing, report."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.experiments.commands import shell_line
from ghm_mmdet.experiments.run import run_missing

from .experiment import Experiment, StudySettings

V = TypeVar('V')

#: For configs that import a module of the clone.
IN_THE_CLONE = (('PYTHONPATH', '.'),)


def schedule(epochs: int) -> tuple[str, ...]:
    """Options of a training of so many epochs, with an evaluation at its end."""
    names = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
    return tuple(f'{name}={epochs}' for name in names)


def iterations(number: int) -> tuple[str, ...]:
    """As `schedule`, of a training that counts iterations."""
    names = ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
    return tuple(f'{name}={number}' for name in names)


def study_parser(
    doc: str, work_dir: str, root_variable: str = 'DEMO_ROOT', actions: tuple[str, ...] = ()
) -> ArgumentParser:
    """The options of every study; `actions` are its own, besides plan, run and report."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.set_defaults(root_variable=root_variable, variables=())
    add = parser.add_argument
    what = 'print the commands; run what is missing; or print the table'
    add('action', choices=['plan', 'run', 'report', *actions], help=what)
    add('--work-dir', type=Path, default=work_dir, help='default: %(default)s')
    names = 'the runs of these names, without the seed, as warm*; default: all'
    add('--only', nargs='+', metavar='NAME', help=names)
    add('--seeds', type=int, default=2, help='0, 1, ...; default: %(default)s')
    add('--jobs', type=int, default=1, help='at a time; default: %(default)s')
    add('--data-root', help=f'default: ${root_variable}, or what the configs name')
    add('--gpus', type=int, default=0, help='default: %(default)s, the CPU')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    add('--results', type=Path, help='file that keeps the results, a JSON line each')
    return parser


def settings_of(args: Namespace) -> StudySettings:
    """The settings that the options of `study_parser` make."""
    names = ('work_dir', 'data_root', 'gpus', 'root_variable', 'results', 'variables')
    shared = {name: getattr(args, name) for name in names}
    return StudySettings(**shared, cfg_options=tuple(args.cfg_options))


@command_line()
def perform(
    args: Namespace,
    variants: Sequence[V],
    experiment: Callable[[V, StudySettings, int], Experiment],
    table: Callable[[StudySettings, int], str],
) -> None:
    """Print the commands; or run what is missing, and print the table; or print the table.

    `experiment` is of a variant and a seed, `table` of so many seeds.
    """
    settings = settings_of(args)
    chosen = [experiment(variant, settings, s) for s in range(args.seeds) for variant in variants]
    if args.only:
        names = {experiment.name for experiment in chosen}
        for pattern in args.only:
            if not any(fnmatch(name, pattern) for name in names):
                sys.exit(f'--only {pattern} names none of {", ".join(sorted(names))}')
        chosen = [e for e in chosen if any(fnmatch(e.name, pattern) for pattern in args.only)]
    if args.action == 'plan':
        for experiment in chosen:
            for command in experiment.commands():
                print(shell_line(command, experiment.settings.environment))
        return
    failures = run_missing(chosen, args.jobs) if args.action == 'run' else []
    print(table(settings, args.seeds))
    sys.exit(1 if failures else 0)
