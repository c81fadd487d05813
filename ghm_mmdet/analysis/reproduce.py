"""The runs behind the paper's tables: their commands, and running those that are missing."""

import copy
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmengine.config import Config, DictAction

from .paper_tables import Table
from .runs import last_metrics, mim_command, shell_line

PACKAGE = Path(__file__).parent.parent
#: What says how a run was started, not what was trained.
NOT_SETTINGS = {'work_dir', 'launcher', 'resume', 'load_from'}
#: The batch of 16 that the configs are for, 2 images on each.
GPUS = 8
#: The table whose rows differ in one number, and its key.
GRID_TABLE = 1
GRID_KEY = 'model.bbox_head.loss_cls.bins'


@dataclass(frozen=True)
class Settings:
    """What all runs share.

    Attributes:
        work_dir: Folder that receives a folder of each run.
        data_root: Folder in COCO's layout. None: what the configs say, COCO_ROOT or data/coco/.
        gpus: Number of GPUs, 0 for the CPU. Other than 8, the learning rate is scaled to the
            batch (`auto_scale_lr`).
        cfg_options: `key=value` for every run, as MMDetection's `--cfg-options`.
    """

    work_dir: Path = Path('work_dirs')
    data_root: str | None = None
    gpus: int = GPUS
    cfg_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise ValueError(f'gpus must be >= 0, got {self.gpus}')
        for option in self.cfg_options:
            if '=' not in option:
                raise ValueError(f'cfg_options must be key=value, got {option!r}')

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the commands need."""
        variables = {}
        if self.data_root is not None:
            variables['COCO_ROOT'] = os.path.join(self.data_root, '')
        if self.gpus == 0:
            variables['CUDA_VISIBLE_DEVICES'] = '-1'
        return variables

    @property
    def options(self) -> tuple[str, ...]:
        scaled = ('auto_scale_lr.enable=True',) if self.gpus != GPUS else ()
        return scaled + self.cfg_options

    def command(self, verb: str, config: Path, *args: str, options: tuple[str, ...] = ()) -> list:
        """A command line of MIM with everything that the runs share."""
        launcher = ('--launcher', 'pytorch') if self.gpus > 1 else ()
        options = self.options + options
        cfg_options = ('--cfg-options', *options) if options else ()
        return mim_command(verb, config, *launcher, *args, *cfg_options, gpus=self.gpus)


@dataclass(frozen=True)
class Run:
    """One training of a config, and the evaluation of its last checkpoint."""

    name: str
    settings: Settings

    @property
    def folder(self) -> Path:
        return self.settings.work_dir / self.name

    @property
    def config(self) -> Path:
        return config_path(self.name)

    @property
    def test_dev_config(self) -> Path | None:
        """The config of the test-dev submission, where there is one."""
        path = config_path(f'{self.name}_test-dev')
        return path if path.exists() else None

    def wanted(self) -> Config:
        """The config that the commands of this run train."""
        parser = ArgumentParser()
        parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
        options = self.settings.options
        arguments = ['--cfg-options', *options] if options else []
        coco_root = {**os.environ, **self.settings.environment}.get('COCO_ROOT')
        config = copy.deepcopy(_read(self.config, coco_root))
        config.merge_from_dict(parser.parse_args(arguments).cfg_options)
        return config

    def last_checkpoint(self, config: Config) -> Path:
        """Where the training of this config ends."""
        loop = config.train_cfg
        by_epoch = 'max_epochs' in loop
        name = f'epoch_{loop.max_epochs}.pth' if by_epoch else f'iter_{loop.max_iters}.pth'
        return self.folder / name

    def train_command(self) -> list[str]:
        """It goes on from the last checkpoint in the folder, where there is one."""
        work_dir = ('--work-dir', str(self.folder))
        return self.settings.command('train', self.config, '--resume', *work_dir)

    def test_folder(self, checkpoint: Path) -> Path:
        return self.folder / 'test' / checkpoint.stem

    def test_command(self, checkpoint: Path) -> list[str]:
        work_dir = ('--work-dir', str(self.test_folder(checkpoint)))
        return self.settings.command(
            'test', self.config, '--checkpoint', str(checkpoint), *work_dir
        )

    def detections(self, checkpoint: Path) -> Path:
        """The file for COCO's evaluation server."""
        return self.folder / 'test-dev' / f'{checkpoint.stem}.bbox.json'

    def test_dev_command(self, checkpoint: Path) -> list[str]:
        prefix = self.detections(checkpoint).with_suffix('').with_suffix('')
        return self.settings.command(
            'test', self.test_dev_config, '--checkpoint', str(checkpoint),
            '--work-dir', str(prefix), options=(f'test_evaluator.outfile_prefix={prefix}',),
        )  # fmt: skip


def config_path(name: str) -> Path:
    """A config of `configs/ghm/`, in the installed package or in the repository."""
    installed = PACKAGE / '.mim'
    path = (installed if installed.exists() else PACKAGE.parent) / 'configs/ghm' / f'{name}.py'
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def runs_of(tables: Iterable[Table], settings: Settings) -> list[Run]:
    """The runs of the tables, each once."""
    names = dict.fromkeys(row.run for table in tables for row in table.rows)
    return [Run(name, settings) for name in names]


def plan(tables: Iterable[Table], settings: Settings) -> str:
    """The commands that fill the tables, as shell lines, each run once."""
    lines: list[str] = []
    planned: set[str] = set()
    for table in tables:
        lines.append(f'\n# Table {table.number}: {table.title}')
        grid = table.number == GRID_TABLE
        if grid:
            lines.append('# All trainings, one after the other.')
            lines.append(shell_line(_grid_search(table, settings), settings.environment))
        for row in table.rows:
            if row.run in planned:
                lines.append(f'# {row.method}: {row.run}, see above')
                continue
            planned.add(row.run)
            lines.append(f'# {row.method}')
            commands = _commands(Run(row.run, settings), trained_by_grid_search=grid)
            lines += [shell_line(command, settings.environment) for command in commands]
    return '\n'.join(lines).strip()


def _commands(run: Run, trained_by_grid_search: bool) -> list[list[str]]:
    config = run.wanted()
    checkpoint = run.last_checkpoint(config)
    if trained_by_grid_search:
        # Where `mim gridsearch` puts the training of one value.
        bins = config.model.bbox_head.loss_cls.bins
        folder = f'{_grid_folder(run.settings)}_search_{GRID_KEY}_{bins}'
        return [run.test_command(Path(folder, checkpoint.name))]
    commands = [run.train_command(), run.test_command(checkpoint)]
    return commands + ([run.test_dev_command(checkpoint)] if run.test_dev_config else [])


def _grid_search(table: Table, settings: Settings) -> list[str]:
    runs = runs_of([table], settings)
    bins = [str(run.wanted().model.bbox_head.loss_cls.bins) for run in runs]
    return settings.command(
        'gridsearch', runs[0].config, '--work-dir', str(_grid_folder(settings)),
        '--search-args', f'--{GRID_KEY} {" ".join(bins)}',
    )  # fmt: skip


def _grid_folder(settings: Settings) -> Path:
    return settings.work_dir / 'retinanet_r50_fpn_ghmc-noema'


def run_missing(tables: Iterable[Table], settings: Settings) -> list[str]:
    """Train and test what has no result; go on after a failure.

    A training that was cut off goes on from its last checkpoint.

    Returns:
        A line for each run that failed.
    """
    failures = []
    for run in runs_of(tables, settings):
        try:
            _complete(run)
        except (subprocess.CalledProcessError, FileNotFoundError, ValueError) as error:
            failures.append(f'{run.name}: {_reason(error)}')
            print(f'FAILED {failures[-1]}', flush=True)
    return failures


def _complete(run: Run) -> None:
    config = run.wanted()
    check_data(config)
    check_recorded(run, config)
    checkpoint = run.last_checkpoint(config)
    if last_metrics(run.test_folder(checkpoint)) is None:
        if not is_trained(run, checkpoint):
            _execute(run, run.train_command())
        _execute(run, run.test_command(checkpoint))
        if last_metrics(run.test_folder(checkpoint)) is None:
            raise ValueError('the test gave no result: the detector found nothing at all')
    else:
        print(f'{run.name}: its result is there', flush=True)
    if run.test_dev_config and not run.detections(checkpoint).exists():
        images = Path(config.data_root, 'annotations/image_info_test-dev2017.json')
        if images.exists():
            _execute(run, run.test_dev_command(checkpoint))
        else:
            print(f'{run.name}: no test-dev submission, {images} is not there', flush=True)


def check_data(config: Config) -> None:
    """Whether the annotations are where the config says.

    Raises:
        FileNotFoundError: They are not.
    """
    for annotations in annotation_files(config):
        if not annotations.exists():
            raise FileNotFoundError(
                f'{annotations} is not there: --data-root must name a folder in the layout of COCO '
                '(annotations/, train2017/, val2017/)'
            )


def annotation_files(config: Config) -> tuple[Path, Path]:
    """The annotations to train on and to evaluate on."""
    dataset = config.train_dataloader.dataset
    return Path(dataset.data_root, dataset.ann_file), Path(config.val_evaluator.ann_file)


def check_recorded(run: Run, config: Config) -> None:
    """Whether what the folder of a run holds was trained as `config` says.

    Raises:
        ValueError: It was trained with other settings.
    """
    path = run.folder / f'{run.name}.py'
    if path.exists():
        different = differences(Config.fromfile(path), config)
        if different:
            shown = ', '.join(f'{k}: {was!r}, now {now!r}' for k, was, now in different[:5])
            raise ValueError(
                f'{run.folder} holds a run with other settings ({shown}): '
                'choose another --work-dir, or remove it'
            )


def differences(recorded: Config, other: Config) -> list[tuple[str, object, object]]:
    """The settings in which two configs differ: dotted key, value here, value there."""
    ours, theirs = (dict(_settings(c.to_dict())) for c in (recorded, other))
    return [
        (key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if key.split('.')[0] not in NOT_SETTINGS and ours.get(key) != theirs.get(key)
    ]


def _settings(value: object, prefix: str = '') -> Iterator[tuple[str, object]]:
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, (list, tuple))
        else None
    )  # fmt: skip
    if not items:
        yield prefix, value
        return
    for key, inner in items:
        yield from _settings(inner, f'{prefix}.{key}' if prefix else str(key))


def is_trained(run: Run, checkpoint: Path) -> bool:
    """Whether the training reached `checkpoint` and wrote it to its end."""
    pointer = run.folder / 'last_checkpoint'
    return pointer.exists() and Path(pointer.read_text().strip()).name == checkpoint.name


def _execute(run: Run, command: list[str]) -> None:
    print(f'{run.name}: {shell_line(command, run.settings.environment)}', flush=True)
    subprocess.run(command, check=True, env={**os.environ, **run.settings.environment})


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        verb = error.cmd[error.cmd.index('mim') + 1]
        return f'mim {verb} ended with exit status {error.returncode}'
    return str(error)


@cache
def _read(path: Path, coco_root: str | None) -> Config:
    # Cached: for each base in MMDetection, MMEngine reads all of its metafiles, a second of work.
    # MMEngine logs the use of COCO_ROOT; what `plan` and `report` print goes into files.
    before = os.environ.get('COCO_ROOT')
    try:
        _set_coco_root(coco_root)
        with redirect_stdout(sys.stderr):
            return Config.fromfile(path)
    finally:
        _set_coco_root(before)


def _set_coco_root(value: str | None) -> None:
    if value is None:
        os.environ.pop('COCO_ROOT', None)
    else:
        os.environ['COCO_ROOT'] = value
