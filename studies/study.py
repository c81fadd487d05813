"""What every study is: trainings, the file that keeps their results, and a command line."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.cli.trainings import add_training_options, launcher_of
from ghm_mmdet.experiments.commands import shell_line
from ghm_mmdet.experiments.experiment import Experiment, RunSettings
from ghm_mmdet.experiments.logs import whole_lines
from ghm_mmdet.experiments.run import run_missing

V = TypeVar('V')

#: For configs that import a module of the clone.
IN_THE_CLONE = (('PYTHONPATH', '.'),)


@dataclass(frozen=True)
class StudySettings(RunSettings):
    """What the trainings of a study share."""

    results: Path | None = None  # file that keeps the results, one JSON line each


@lru_cache(maxsize=1)  # a report asks for every run
def _read(path: Path, *_: int) -> dict[str, dict[str, Any]]:
    return {record['run']: record for record in whole_lines(path)}


@dataclass(frozen=True)
class Training(Experiment):
    """A training of a study, and its line in the file of results."""

    settings: StudySettings
    further: Callable[[], tuple[str, ...]] = tuple  # options that only a training needs

    @property
    def own_options(self) -> tuple[str, ...]:
        return (*self.options, *self.further())

    def kept(self) -> dict[str, Any] | None:
        """The last whole line of this run in the file of results."""
        path = self.settings.results
        if path is None or not path.exists():
            return None
        return _read(path, path.stat().st_mtime_ns, path.stat().st_size).get(self.run)

    def result(self) -> dict[str, float] | None:
        """The metrics, from the file of results or from the folder; None if there are none."""
        kept = self.kept()
        return self.measured() if kept is None else kept['metrics']

    def measured(self) -> dict[str, float] | None:
        """The metrics in the folder."""
        return super().result()

    def missing(self) -> Iterator[list[str]]:
        """The commands; then it writes the line of the file of results, if that is not there."""
        yield from super().missing()
        path, metrics = self.settings.results, self.result()
        if path is None or metrics is None or self.kept() is not None:
            return
        made = dict(config=self.config.name, seed=self.seed, options=list(self.cfg_options))
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.exists() and not path.read_bytes().endswith(b'\n')
        with open(path, 'a', encoding='utf-8') as file:
            line = json.dumps(dict(run=self.run, **made, metrics=metrics))
            file.write('\n' * half + line + '\n')

    def check(self) -> None:
        """Raise ValueError, too, if the file of results has this run with other settings."""
        kept, path = self.kept(), self.settings.results
        if kept is None:
            super().check()
        elif (kept['config'], kept['options']) != (self.config.name, list(self.cfg_options)):
            options = f'{kept["config"]} {" ".join(kept["options"])}'
            raise ValueError(f'{path} holds {self.run} with other settings: {options}')


def study_parser(
    doc: str, work_dir: str, root_variable: str = 'DEMO_ROOT', actions: tuple[str, ...] = ()
) -> ArgumentParser:
    """The options of every study; `actions` are its own, besides plan, run and report."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = 'print the commands; run what is missing; or print the table'
    add('action', choices=['plan', 'run', 'report', *actions], help=what)
    names = 'the runs of these names, without the seed, as warm*; default: all'
    add('--only', nargs='+', metavar='NAME', help=names)
    add('--seeds', type=int, default=2, help='0, 1, ...; default: %(default)s')
    add('--data-root', help=f'default: ${root_variable}, or what the configs name')
    add('--results', type=Path, help='file that keeps the results, a JSON line each')
    add_training_options(parser, work_dir, '0, the CPU')
    defaults = dict(root_variable=root_variable, variables=(), gpus=0)
    parser.set_defaults(work_dir=Path(work_dir), **defaults)
    return parser


def settings_of(args: Namespace) -> StudySettings:
    """The settings that the options of `study_parser` make."""
    names = ('work_dir', 'data_root', 'gpus', 'root_variable', 'results', 'variables')
    shared = {name: getattr(args, name) for name in names}
    return StudySettings(**shared, cfg_options=tuple(args.cfg_options), launcher=launcher_of(args))


@command_line()
def perform(
    args: Namespace,
    variants: Sequence[V],
    experiment: Callable[[V, StudySettings, int], Training],
    table: Callable[[StudySettings, int], str],
) -> None:
    """Print the commands; or run what is missing, and print the table; or print the table.

    `experiment` is of a variant and a seed, `table` of so many seeds.
    """
    settings = settings_of(args)
    runs = [experiment(variant, settings, s) for s in range(args.seeds) for variant in variants]
    names = {run.name for run in runs}
    for pattern in args.only or ():
        if not any(fnmatch(name, pattern) for name in names):
            sys.exit(f'--only {pattern} names none of {", ".join(sorted(names))}')
    chosen = [r for r in runs if any(fnmatch(r.name, p) for p in args.only or ['*'])]
    if args.action == 'plan':
        commands = ((run, command) for run in chosen for command in run.commands())
        print(*(shell_line(each, run.settings.environment) for run, each in commands), sep='\n')
        return
    failures = run_missing(chosen, args.jobs) if args.action == 'run' else {}
    print(table(settings, args.seeds))
    sys.exit(1 if failures else 0)
