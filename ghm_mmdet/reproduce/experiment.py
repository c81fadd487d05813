"""Experiments: one training each, run where the result is missing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from .configs import differences, load_config
from .runs import last_metrics, mim_command, shell_line


@dataclass(frozen=True)
class Settings:
    """What the experiments of a study share."""

    work_dir: Path = Path('work_dirs')  # receives a folder of each experiment
    data_root: str | None = None  # folder of the data; None: what the configs name
    gpus: int = 0  # 0: the CPU
    cfg_options: tuple[str, ...] = ()  # `key=value`, as MMDetection's `--cfg-options`
    root_variable: str = 'COCO_ROOT'  # the configs take `data_root` by it from the environment
    results: Path | None = None  # file that keeps the results, one JSON line each
    variables: tuple[tuple[str, str], ...] = ()  # further ones of the commands' environment

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise ValueError(f'gpus must be >= 0, got {self.gpus}')
        for option in self.cfg_options:
            if '=' not in option:
                raise ValueError(f'cfg_options must be key=value, got {option!r}')

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the commands need."""
        variables = dict(self.variables)
        if self.data_root is not None:
            variables[self.root_variable] = os.path.join(self.data_root, '')
        if self.gpus == 0:
            variables['CUDA_VISIBLE_DEVICES'] = '-1'
        return variables


@dataclass(frozen=True)
class Result:
    """What an `Experiment` gave, by `last_metrics`: a line of `Settings.results`."""

    run: str
    config: str
    seed: int | None
    options: list[str]
    metrics: dict[str, float]


def read_results(path: Path | None) -> list[Result]:
    """The lines of a file of results, none if it is not there."""
    if path is None or not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Experiment:
    """One training of a config, and where its result lies.

    With the seed the name is that of its folder. A study whose training is another command
    overrides `commands`.
    """

    name: str
    config: Path
    settings: Settings
    options: tuple[str, ...] = ()  # `key=value` of its own
    seed: int | None = None  # of MMEngine's `randomness`; None: the config's
    starts_from: Experiment | None = None  # the one whose weights it starts from

    @property
    def run(self) -> str:
        return self.name if self.seed is None else f'{self.name}-seed{self.seed}'

    @property
    def folder(self) -> Path:
        return self.settings.work_dir / self.run

    @property
    def log(self) -> Path:
        return self.settings.work_dir / f'{self.run}.log'

    @property
    def cfg_options(self) -> tuple[str, ...]:
        seed = () if self.seed is None else (f'randomness.seed={self.seed}',)
        return (*seed, *self.options, *self.settings.cfg_options)

    @cached_property
    def wanted(self) -> Config:
        """The config that the training of this experiment reads."""
        environment = {**os.environ, **self.settings.environment}
        return load_config(self.config, environment, self.cfg_options)

    def command(
        self, verb: str, *args: str, config: Path | None = None, options: tuple | None = None
    ) -> list[str]:
        """A command line of MIM; without `config` and `options`, with those of the training."""
        gpus = self.settings.gpus
        if gpus > 1:
            args = ('--launcher', 'pytorch', *args)
        if options := self.cfg_options if options is None else options:
            args = (*args, '--cfg-options', *options)
        return mim_command(verb, config or self.config, *args, gpus=gpus)

    def train_command(self) -> list[str]:
        """It resumes from the last checkpoint in the folder, where there is one."""
        return self.command('train', '--resume', '--work-dir', str(self.folder))

    def commands(self) -> list[list[str]]:
        """What leads to the result."""
        return [self.train_command()]

    def missing(self) -> Iterator[list[str]]:
        """The commands that are still to be run, each asked for when the one before has run."""
        if self.result() is None:
            yield from self.commands()

    def result(self) -> dict[str, float] | None:
        """The metrics, from the file of results or from the folder; None if there are none."""
        kept = self.kept()
        return self.measured() if kept is None else kept.metrics

    def kept(self) -> Result | None:
        """The last line of the file of results."""
        rows = {row.run: row for row in read_results(self.settings.results)}
        return rows.get(self.run)

    def measured(self) -> dict[str, float] | None:
        """The metrics in the folder."""
        return last_metrics(self.folder)

    def keep(self, metrics: dict[str, float]) -> None:
        """Write the line of the file of results, if there is a file and the line is not there."""
        path = self.settings.results
        if path is None or self.kept() is not None:
            return
        row = Result(self.run, self.config.name, self.seed, list(self.cfg_options), metrics)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'a') as file:
            file.write(json.dumps(asdict(row)) + '\n')

    def check(self) -> None:
        """Raise ValueError if what is there under this name was made with other settings."""
        kept, recorded = self.kept(), self.folder / self.config.name
        if kept is not None:
            if (kept.config, kept.options) != (self.config.name, list(self.cfg_options)):
                raise ValueError(
                    f'{self.settings.results} holds {self.run} with other settings: '
                    f'{kept.config} {" ".join(kept.options)}'
                )
        elif recorded.exists() and (found := differences(Config.fromfile(recorded), self.wanted)):
            shown = ', '.join(f'{k}: {was!r}, now {now!r}' for k, was, now in found[:5])
            raise ValueError(
                f'{self.folder} holds a run with other settings ({shown}): '
                'choose another --work-dir, or remove it'
            )


def run_missing(experiments: Iterable[Experiment], jobs: int = 1) -> list[str]:
    """Run what has no result; go on after a failure.

    An interrupted training resumes from its last checkpoint. What the commands print goes to
    the experiment's `log`; here, a line says that it has finished.

    Args:
        experiments: One after the other; an experiment waits for that which it starts from.
        jobs: Experiments at a time. On the CPU they share its cores evenly, unless
            OMP_NUM_THREADS is set. Default: 1.

    Returns:
        A line for each experiment that failed.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    pending: dict[Path, Future[str | None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for experiment in experiments:
            first = experiment.starts_from and pending.get(experiment.starts_from.folder)
            pending[experiment.folder] = pool.submit(_complete, experiment, threads, first)
        try:
            failures = [line for future in pending.values() if (line := future.result())]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        print(f'{len(failures)} failed:', *failures, sep='\n', flush=True)
    return failures


def _complete(experiment: Experiment, threads: str, first: Future | None) -> str | None:
    """Run what is missing of an experiment; the line that says why it failed."""
    if first is not None:
        first.result()
    try:
        experiment.check()
        ran = False
        for command in experiment.missing():
            ran = True
            _execute(experiment, command, threads)
        metrics = experiment.result()
        if metrics is None:
            raise ValueError('no result: the detector found nothing at all')
        experiment.keep(metrics)
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, subprocess.CalledProcessError):
            ended = f'ended with exit status {error.returncode}'
            reason = f'{_words(error.cmd)} {ended}, see {experiment.log}'
        _say(f'FAILED {experiment.run}: {reason}')
        return f'{experiment.run}: {reason}'
    there = '' if ran else ', its result is there'
    _say(f'{experiment.run}: AP {100 * metrics["bbox_mAP"]:.1f}{there}')
    return None


def _execute(experiment: Experiment, command: list[str], threads: str) -> None:
    environment = experiment.settings.environment
    variables = {**os.environ, **environment}
    if experiment.settings.gpus == 0:
        variables.setdefault('OMP_NUM_THREADS', threads)
    experiment.log.parent.mkdir(parents=True, exist_ok=True)
    _say(f'{experiment.run}: {_words(command)}, see {experiment.log}')
    with open(experiment.log, 'a') as log:
        print(shell_line(command, environment), file=log, flush=True)
        subprocess.run(command, check=True, stdout=log, stderr=log, env=variables)


def _say(line: str) -> None:
    # In one piece: threads print, too.
    print(f'{line}\n', end='', flush=True)


def _words(command: list[str]) -> str:
    """What a command `python -m ...` does, as `mim train`."""
    return ' '.join(command[2:4])


def ap_cells(experiments: Iterable[Experiment]) -> list[str | None]:
    """AP of each experiment in percent, and the mean of all, for a table; None where not run."""
    results = [experiment.result() for experiment in experiments]
    aps = [None if metrics is None else 100 * metrics['bbox_mAP'] for metrics in results]
    found = [ap for ap in aps if ap is not None]
    mean = statistics.mean(found) if found and len(found) == len(aps) else None
    return [None if ap is None else f'{ap:.1f}' for ap in (*aps, mean)]
