"""The training of a row of the paper's tables, and what is tested of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config

from ..experiments.experiment import Experiment, RunSettings
from ..experiments.logs import last_metrics

__all__ = ['PaperRun', 'RunSettings', 'annotation_files']


class PaperRun(Experiment):
    """One training of a row's config, and the evaluation of its last checkpoint."""

    @property
    def test_dev_config(self) -> Path | None:
        """The config of the test-dev submission, where there is one."""
        path = self.config.with_name(f'{self.name}_test-dev.py')
        return path if path.exists() else None

    @property
    def test_folder(self) -> Path:
        """Where the evaluation of the last checkpoint writes its result."""
        return self.folder / 'test' / self.checkpoint.stem

    def test_command(self, checkpoint: Path) -> list[str]:
        """The command that evaluates a checkpoint on val2017."""
        where = str(self.test_folder)
        return self.command('test', '--checkpoint', str(checkpoint), '--work-dir', where)

    @property
    def detections(self) -> Path:
        """The file for COCO's evaluation server."""
        return self.folder / 'test-dev' / f'{self.checkpoint.stem}.bbox.json'

    def test_dev_command(self) -> list[str]:
        """The command that writes the detections on test-dev."""
        prefix = str(self.detections)[: -len('.bbox.json')]
        options = (*self.options, f'test_evaluator.outfile_prefix={prefix}')
        test = replace(self, config=self.test_dev_config or self.config, options=options)
        where = ('--checkpoint', str(self.checkpoint), '--work-dir', prefix)
        return test.command('test', *where)

    def is_trained(self) -> bool:
        """Whether the last checkpoint is there, which is evaluated by itself."""
        return super().is_trained() or self.last_checkpoint == self.checkpoint

    def commands(self) -> list[list[str]]:
        """The training, the evaluation, and the detections on test-dev where they are wanted."""
        commands = [self.train_command(), self.test_command(self.checkpoint)]
        return commands + ([self.test_dev_command()] if self.test_dev_config else [])

    def missing(self) -> Iterator[list[str]]:
        """The commands whose results are not there; detections where the images are listed."""
        if self.result() is None:
            if not self.is_trained():
                self.mend()
                yield self.train_command()
            yield self.test_command(self.checkpoint)
        is_whole = self.detections.exists() and self.detections.read_bytes().endswith(b']')
        if self.result() and self.test_dev_config and not is_whole:
            images = Path(self.wanted.data_root, 'annotations/image_info_test-dev2017.json')
            if images.exists():
                yield self.test_dev_command()
            else:
                print(f'{self.run}: no test-dev submission, {images} is not there', flush=True)

    def result(self) -> dict[str, float] | None:
        """The metrics of the last checkpoint on val2017."""
        return last_metrics(self.test_folder)

    def check(self) -> None:
        """Raise FileNotFoundError, too, if the annotations are not where the config says."""
        self.check_data()
        super().check()

    def check_data(self) -> None:
        """Raise FileNotFoundError if the annotations are not where the config says."""
        for path in annotation_files(self.wanted):
            if not path.exists():
                what = "must name a folder in COCO's layout (annotations/, train2017/, val2017/)"
                raise FileNotFoundError(f'{path} is not there: --data-root {what}')


def annotation_files(config: Config) -> tuple[Path, Path]:
    """The annotations to train on and to evaluate on."""
    dataset = config.train_dataloader.dataset
    return Path(dataset.data_root, dataset.ann_file), Path(config.val_evaluator.ann_file)
