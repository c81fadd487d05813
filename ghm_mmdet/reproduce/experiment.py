"""Experiments: one training each, run where the result is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from .configs import differences, load_config
from .processes import run_command
from .runs import last_metrics, left_out, mim_command, shell_line


@dataclass(frozen=True)
class RunSettings:
    """What the experiments of a study share."""

    work_dir: Path = Path('work_dirs')  # receives a folder of each experiment
    data_root: str | None = None  # folder of the data; None: what the configs name
    gpus: int = 0  # 0: the CPU
    cfg_options: tuple[str, ...] = ()  # `key=value`, as MMDetection's `--cfg-options`
    root_variable: str = 'COCO_ROOT'  # the configs take `data_root` by it from the environment
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
class Experiment:
    """One training of a config, and where its result lies, in a folder of its name.

    What else leads to a result overrides `commands`.
    """

    name: str
    config: Path
    settings: RunSettings
    options: tuple[str, ...] = ()  # `key=value` of its own

    @property
    def run(self) -> str:
        """The name of the folder."""
        return self.name

    @property
    def folder(self) -> Path:
        """Where the training writes its checkpoints and logs."""
        return self.settings.work_dir / self.run

    @property
    def log(self) -> Path:
        """The file that receives what the commands print."""
        return self.settings.work_dir / f'{self.run}.log'

    @property
    def cfg_options(self) -> tuple[str, ...]:
        """`key=value` of the training."""
        return (*self.options, *self.settings.cfg_options)

    @cached_property
    def wanted(self) -> Config:
        """The config that the training of this experiment reads."""
        environment = {**os.environ, **self.settings.environment}
        return load_config(self.config, environment, self.cfg_options)

    @cached_property
    def checkpoint(self) -> Path:
        """Where the training ends."""
        loop = self.wanted.train_cfg
        end = f'epoch_{loop.max_epochs}' if 'max_epochs' in loop else f'iter_{loop.max_iters}'
        return self.folder / f'{end}.pth'

    def is_trained(self) -> bool:
        """Whether the training reached its end and wrote the last checkpoint whole."""
        pointer = self.folder / 'last_checkpoint'
        if not pointer.exists():
            return False
        last = Path(pointer.read_text(encoding='utf-8').strip())
        return last.name == self.checkpoint.name

    def command(
        self,
        verb: str,
        *args: str,
        config: Path | None = None,
        options: Sequence[str] | None = None,
    ) -> list[str]:
        """A command line of MIM.

        Args:
            verb: `train` or `test`.
            *args: Further arguments of MIM's command.
            config: Default: None, that of the training.
            options: `key=value`. Default: None, those of the training.
        """
        gpus = self.settings.gpus
        if options is None:
            options = self.cfg_options
        launcher = ('--launcher', 'pytorch') if gpus > 1 else ()
        overrides = ('--cfg-options', *options) if options else ()
        config = config or self.config
        return mim_command(verb, config, *launcher, *args, *overrides, gpus=gpus)

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
        """The metrics; None if there are none."""
        return self.measured()

    def measured(self) -> dict[str, float] | None:
        """The metrics in the folder."""
        return last_metrics(self.folder)

    def check(self) -> None:
        """Raise ValueError if what is there under this name was made with other settings."""
        recorded = self.folder / self.config.name
        was = None
        with left_out(recorded):
            was = Config.fromfile(recorded) if recorded.exists() else None
        if was is not None and (found := differences(was, self.wanted)):
            shown = ', '.join(f'{k}: {was!r}, now {now!r}' for k, was, now in found[:5])
            where = f'{self.folder} holds a run with other settings ({shown})'
            raise ValueError(f'{where}: choose another --work-dir, or remove it')


def run_missing(experiments: Iterable[Experiment]) -> list[str]:
    """Run what has no result, one after the other; go on after a failure.

    An interrupted training resumes from its last checkpoint. What the commands print goes to
    the experiment's `log`; here, a line says that it has finished.

    Returns:
        A line for each experiment that failed.

    Raises:
        KeyboardInterrupt: By Ctrl-C; the training that ran is ended.
    """
    threads = os.cpu_count() or 1
    return failures_of(complete(experiment, threads) for experiment in experiments)


def failures_of(outcomes: Iterable[str | None]) -> list[str]:
    """Print, and return, those that are not None."""
    failures = [line for line in outcomes if line]
    if failures:
        print(f'{len(failures)} failed:', *failures, sep='\n', flush=True)
    return failures


def complete(experiment: Experiment, threads: int) -> str | None:
    """Run what is missing of an experiment; the line that says why it failed."""
    try:
        experiment.check()
        ran = False
        for command in experiment.missing():
            ran = True
            _execute(experiment, command, threads)
        metrics = experiment.result()
        if metrics is None:
            raise ValueError('no result: the detector found nothing at all')
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


def _execute(experiment: Experiment, command: list[str], threads: int) -> None:
    environment = experiment.settings.environment
    variables = {**os.environ, **environment}
    if experiment.settings.gpus == 0:
        variables.setdefault('OMP_NUM_THREADS', str(threads))
    experiment.log.parent.mkdir(parents=True, exist_ok=True)
    _say(f'{experiment.run}: {_words(command)}, see {experiment.log}')
    with open(experiment.log, 'a', encoding='utf-8') as log:
        print(shell_line(command, environment), file=log, flush=True)
        run_command(command, log, variables)


def _say(line: str) -> None:
    # In one piece: threads print, too.
    print(f'{line}\n', end='', flush=True)


def _words(command: list[str]) -> str:
    """What a command `python -m ...` does, as `mim train`."""
    return ' '.join(command[2:4])
