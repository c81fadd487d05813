"""Experiments: one training each, and where its result lies."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.config import Config

from . import logs
from .commands import mim_command
from .configs import differences, load_config

#: In the folder of a training: what the commands leave that ended well, and MMEngine's pointer.
FINISHED, LAST_CHECKPOINT = 'finished', 'last_checkpoint'


@dataclass(frozen=True)
class RunSettings:
    """What experiments share."""

    work_dir: Path = Path('work_dirs')  # receives a folder of each experiment
    data_root: str | None = None  # folder of the data; None: what the configs name
    gpus: int = 0  # of each training; 0: the CPU
    cfg_options: tuple[str, ...] = ()  # `key=value`, as MMDetection's `--cfg-options`
    root_variable: str = 'COCO_ROOT'  # the configs take `data_root` by it from the environment
    variables: tuple[tuple[str, str], ...] = ()  # further ones of the commands' environment
    launcher: tuple[str, ...] = ()  # options of MIM; without any, PyTorch's of several GPUs

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


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@dataclass(frozen=True)
class Experiment:
    """One training of a config, and where its result lies, in a folder of its name.

    What else leads to a result overrides `commands`.
    """

    name: str
    config: Path
    settings: RunSettings
    options: tuple[str, ...] = ()  # `key=value` of its own
    seed: int | None = None  # of MMEngine's `randomness`; None: the config's
    after: Experiment | None = None  # the one that must be over before it

    @property
    def run(self) -> str:
        """The name of the folder: `<name>-seed<seed>`, or `<name>` without a seed."""
        return self.name if self.seed is None else f'{self.name}-seed{self.seed}'

    @property
    def folder(self) -> Path:
        """Where the training writes its checkpoints and logs."""
        return self.settings.work_dir / self.run

    @property
    def log(self) -> Path:
        """The file that receives what the commands print."""
        return self.settings.work_dir / f'{self.run}.log'

    @property
    def lock(self) -> FileLock:
        """Held by the process that runs it, and by the commands that this has started."""
        return FileLock(self.settings.work_dir / f'{self.run}.lock')

    @property
    def own_options(self) -> tuple[str, ...]:
        """`key=value` that this experiment has and others have not, but for the seed."""
        return self.options

    @property
    def cfg_options(self) -> tuple[str, ...]:
        """`key=value` of the training, the seed among them."""
        seed = () if self.seed is None else (f'randomness.seed={self.seed}',)
        return (*seed, *self.own_options, *self.settings.cfg_options)

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

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest in the folder, wherever that was moved; None without any."""
        pointer = self.folder / LAST_CHECKPOINT
        if not pointer.exists():
            return None
        return self.folder / Path(pointer.read_text(encoding='utf-8').strip()).name

    def is_trained(self) -> bool:
        """Whether all commands have ended well."""
        return (self.folder / FINISHED).exists()

    def is_running(self) -> bool:
        """Whether a process runs it."""
        lock = self.lock
        with suppress(Timeout):
            if os.path.exists(lock.lock_file):
                lock.acquire(timeout=0)
                lock.release()
            return False
        return True

    def command(self, verb: str, *args: str) -> list[str]:
        """A command line of MIM: `train` or `test`, and further arguments."""
        gpus = self.settings.gpus
        launcher = self.settings.launcher or (('--launcher', 'pytorch') if gpus > 1 else ())
        overrides = ('--cfg-options', *self.cfg_options) if self.cfg_options else ()
        return mim_command(verb, self.config, *launcher, *args, *overrides, gpus=gpus)

    def train_command(self) -> list[str]:
        """It resumes from the last checkpoint in the folder, where there is one."""
        # Resuming forgets `load_from`, the weights to begin with.
        begins = self.wanted.get('load_from') and self.last_checkpoint is None
        resume = () if begins else ('--resume',)
        return self.command('train', *resume, '--work-dir', str(self.folder))

    def commands(self) -> list[list[str]]:
        """What leads to the result."""
        return [self.train_command()]

    def prepare(self) -> None:
        """Write what the config needs."""

    def missing(self) -> Iterator[list[str]]:
        """The commands that are still to be run, each asked for when the one before has run."""
        if self.result() is None and not self.mend():
            yield from self.commands()
            (self.folder / FINISHED).touch()

    def mend(self) -> bool:
        """Make a folder fit to go on in, wherever its last writer was killed.

        Returns:
            Whether there is nothing to go on with: the training was evaluated at its end.
        """
        pointer, last = self.folder / LAST_CHECKPOINT, self.last_checkpoint
        if last == self.checkpoint:
            logged = map(_written, self.folder.glob('*/vis_data/scalars.json'))
            if self.wanted.get('val_cfg') is None or max(logged, default=0) > _written(last):
                (self.folder / FINISHED).touch()
                return True
            # It would not be evaluated any more: the training goes on with the one before.
            last.unlink()
            last = max(self.folder.glob('*.pth'), key=_written, default=last)
        if last is not None:
            pointer.write_text(str(last), encoding='utf-8') if last.is_file() else pointer.unlink()
        return False

    def watch(self) -> None:
        """Called while a command runs: raise what is to end it."""

    def result(self) -> dict[str, float] | None:
        """The metrics of what has come to its end: 0 where it detects nothing at all.

        With the median norm of the gradient before its clipping, where the training logs it.
        """
        if not self.is_trained():
            return None
        metrics = logs.last_metrics(self.folder) or dict.fromkeys(logs.METRICS.values(), 0.0)
        norms = logs.gradient_norms(self.folder)
        return {**metrics, **({logs.NORM: statistics.median(norms)} if norms else {})}

    def check(self) -> None:
        """Raise ValueError if what is there under this name was made with other settings."""
        recorded, was = self.folder / self.config.name, None
        with logs.left_out(recorded):
            was = Config.fromfile(recorded) if recorded.exists() else None
        if was is not None and (found := differences(was, self.wanted)):
            shown = ', '.join(f'{k}: {was!r}, now {now!r}' for k, was, now in found[:5])
            where = f'{self.folder} holds a run with other settings ({shown})'
            raise ValueError(f'{where}: choose another --work-dir, or remove it')
