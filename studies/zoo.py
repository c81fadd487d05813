"""MMDetection's published GHM checkpoints, tested through this package's classes.

Example:
    python -m studies.zoo checkpoints/*.pth --data-root data/coco
The files keep their published names. It takes COCO's val2017 and one GPU.
"""

from __future__ import annotations

import hashlib
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mmengine.fileio import load

from ghm_mmdet.cli.places import file_to_read, folder_to_read, folder_to_write
from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.experiments.experiment import Experiment, RunSettings
from ghm_mmdet.experiments.logs import last_metrics
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.experiments.run import run_missing
from ghm_mmdet.reproduce.report import COCO_IMAGES, number_of_images

#: What makes MMDetection's config one of this package's classes.
OWN_CLASSES = (
    'model.bbox_head.loss_cls.type=ghm_mmdet.GHMC',
    'model.bbox_head.loss_bbox.type=ghm_mmdet.GHMR',
)
ANNOTATIONS = 'annotations/instances_val2017.json'
WHAT_IT_CHECKS = (
    'This checks config, loading, inference and metric. It does not check the losses: a test '
    'computes none.'
)


@dataclass(frozen=True)
class Published:
    """A model of MMDetection's zoo: its name, its config, its file, and its AP in percent."""

    name: str
    config: Path
    file: str
    ap: float

    @property
    def digest(self) -> str:
        """With what the SHA-256 of the file begins, by its name."""
        return Path(self.file).stem.rpartition('-')[2]


def published() -> list[Published]:
    """What the installed MMDetection says of its GHM models.

    Raises:
        ModuleNotFoundError: MMDetection is not installed.
    """
    spec = find_spec('mmdet')
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError('MMDetection is not installed')
    files = Path(spec.submodule_search_locations[0], '.mim')
    return [
        Published(
            model['Name'],
            files / model['Config'],
            model['Weights'].rpartition('/')[2],
            model['Results'][0]['Metrics']['box AP'],
        )
        for model in load(files / 'configs/ghm/metafile.yml')['Models']
    ]


@dataclass(frozen=True)
class ZooTest(Experiment):
    """The evaluation of a published checkpoint on val2017."""

    checkpoint: Path = Path()

    def commands(self) -> list[list[str]]:
        """The evaluation."""
        where = str(self.folder)
        return [self.command('test', '--checkpoint', str(self.checkpoint), '--work-dir', where)]

    def result(self) -> dict[str, float] | None:
        """The metrics of the evaluation."""
        return last_metrics(self.folder)

    @property
    def annotations(self) -> Path:
        """The ground truth that the config names."""
        return Path(self.wanted.test_evaluator.ann_file)

    def check(self) -> None:
        """Raise FileNotFoundError, too, if the annotations are not where the config says."""
        if not self.annotations.exists():
            raise FileNotFoundError(
                f'{self.annotations} is not there: --data-root must name a folder in the layout '
                'of COCO (annotations/, val2017/)'
            )
        super().check()


def zoo_tests(checkpoints: Iterable[Path], settings: RunSettings) -> list[ZooTest]:
    """The tests of published checkpoints, each with MMDetection's config and this package's losses.

    Args:
        checkpoints: Their files, under the names that they are published by.
        settings: Without `data_root`, $COCO_ROOT or data/coco.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file has another name.
    """
    models = {model.file: model for model in published()}
    root = Path(settings.data_root or os.environ.get('COCO_ROOT', 'data/coco'))
    options = (
        *OWN_CLASSES,
        f'test_dataloader.dataset.data_root={root}',
        f'test_evaluator.ann_file={root / ANNOTATIONS}',
    )
    tests = []
    for checkpoint in checkpoints:
        if checkpoint.name not in models:
            allowed = ', '.join(models)
            raise ValueError(f'checkpoint must be named as one of {allowed}, got {checkpoint}')
        if not checkpoint.exists():
            raise FileNotFoundError(f'{checkpoint} is not there')
        model = models[checkpoint.name]
        test = ZooTest(model.name, model.config, settings, options, checkpoint=checkpoint)
        tests.append(test)
    return tests


def zoo_report(tests: Iterable[ZooTest]) -> str:
    """Published and measured AP of every model in Markdown, in percent; empty where not tested."""
    tested = {test.name: test for test in tests}
    rows, notes = [], []
    for model in published():
        row, test = [model.name, f'{model.ap:.1f}', None, None], tested.get(model.name)
        metrics = None if test is None else test.result()
        if metrics is not None:
            ap = 100 * metrics['bbox_mAP']
            row[2:] = f'{ap:.1f}', f'{ap - model.ap:+.1f}'
            notes += _notes(test, model)
        rows.append(row)
    table = markdown_table(['model', 'AP published', 'AP measured', 'difference'], rows)
    return '\n\n'.join([table, *dict.fromkeys(notes), WHAT_IT_CHECKS])


def _notes(test: ZooTest, model: Published) -> list[str]:
    """Why the figures can not be compared, if so."""
    notes = []
    if not test.annotations.exists():
        notes.append(f'**Whether this is COCO can not be told**: {test.annotations} is not there.')
    elif (images := number_of_images(test.annotations)) != COCO_IMAGES[1]:
        notes.append(f'**Not COCO**: evaluated on {images} images ({test.annotations}).')
    if not hashlib.sha256(test.checkpoint.read_bytes()).hexdigest().startswith(model.digest):
        notes.append(
            f'**Not the published weights**: the SHA-256 of {test.checkpoint} does not begin with '
            f'{model.digest}, as its name says.'
        )
    return notes


@command_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Test the checkpoints, and print the report.

    Args:
        arguments: Default: None, those of this process.

    Raises:
        SystemExit: With status 1 if a test failed, or a message if none could start.
    """
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('checkpoints', nargs='+', type=file_to_read, metavar='CHECKPOINT', help='published files')
    add('--work-dir', type=folder_to_write, default='work_dirs/zoo', help='default: %(default)s')
    root = 'folder in the layout of COCO; default: $COCO_ROOT or data/coco'
    add('--data-root', type=folder_to_read, help=root)
    add('--gpus', type=int, default=1, help='number; 0: the CPU; default: %(default)s')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='of every config')
    args = parser.parse_args(arguments)
    try:
        settings = RunSettings(args.work_dir, args.data_root, args.gpus, tuple(args.cfg_options))
        tests = zoo_tests(args.checkpoints, settings)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    failures = run_missing(tests)
    print(zoo_report(tests))
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
