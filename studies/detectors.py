"""Six detectors with their own losses and harmonized, side by side on the demo's data.

Examples:
    python -m studies.detectors run --seeds 1
    python -m studies.detectors run --seeds 1 --only 'atss*' yolox-floored
    python -m studies.detectors report --seeds 1
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.runs import last_metrics
from ghm_mmdet.swap import harmonized_text

from .command_line import perform, schedule, study_parser
from .experiment import Experiment, Settings, ap_cells

LOSSES = ('original', 'harmonized', 'floored')
#: Iterations of an epoch: 800 images, 8 at a time.
EPOCH = 100


@dataclass(frozen=True)
class Detector:
    """A detector of the study; its config is `configs/demo/detectors/{name}_demo.py`."""

    name: str
    what: str
    #: Options to evaluate checkpoints of its original losses with, where MMDetection can't.
    inference: tuple[str, ...] = ()
    epochs: int = 6

    @property
    def config(self) -> Path:
        return config_path(f'configs/demo/detectors/{self.name}_demo.py')

    @property
    def warmup(self) -> int:
        """Iterations, half of the training, for which the original losses train instead of GHM."""
        return self.epochs * EPOCH // 2


DETECTORS = (
    Detector('faster-rcnn_r18_fpn', 'Faster R-CNN'),
    Detector('cascade-rcnn_r18_fpn', 'Cascade R-CNN', epochs=3),
    Detector('atss_r18_fpn', 'ATSS', epochs=3),
    Detector('fcos_r18_fpn', 'FCOS'),
    Detector('yolox', 'YOLOX', epochs=4),
    # Inference reads `loss_cls` of a head, and SSDHead has none.
    Detector('ssd_r18', 'SSD', inference=('model.bbox_head.type=ghm_mmdet.GHMSSDHead',)),
)
NO_VALIDATION = ('val_dataloader=None', 'val_cfg=None', 'val_evaluator=None')
#: A detector and its losses.
VARIANTS = tuple(product(DETECTORS, LOSSES))


@dataclass(frozen=True)
class DetectorTraining(Experiment):
    """A training of a detector, and where it has no validation a test of the last checkpoint."""

    variant: tuple[Detector, str] = VARIANTS[0]

    def check(self) -> None:
        detector, losses = self.variant
        if losses != 'original':
            self.config.parent.mkdir(parents=True, exist_ok=True)
            formula = 'official' if losses == 'harmonized' else losses
            write_harmonized(detector, self.config, formula)
        super().check()

    def commands(self) -> list[list[str]]:
        detector, losses = self.variant
        if losses != 'original' or not detector.inference:
            return super().commands()
        checkpoint = self.folder / f'epoch_{detector.epochs}.pth'
        test = self.command(
            'test', '--checkpoint', str(checkpoint), '--work-dir', str(self.folder / 'test'),
            options=(*detector.inference, *self.settings.cfg_options),
        )  # fmt: skip
        return [self.train_command(), test]

    def measured(self) -> dict[str, float] | None:
        return super().measured() or last_metrics(self.folder / 'test')


def write_harmonized(detector: Detector, out: Path, formula: str = 'official') -> None:
    """Write the config with GHM losses, after a warm-up with the losses they replace."""
    options = dict(warmup=detector.warmup, formula=formula)
    out.write_text(harmonized_text(str(detector.config), out, **options)[1])


def experiment(variant: tuple[Detector, str], settings: Settings, seed: int) -> DetectorTraining:
    detector, losses = variant
    name, config, options = f'{detector.name}-{losses}', detector.config, schedule(detector.epochs)
    if losses != 'original':
        config = settings.work_dir / f'{name}-seed{seed}.py'
    elif detector.inference:
        options += NO_VALIDATION
    return DetectorTraining(name, config, settings, options, seed, variant=variant)


def table(settings: Settings, seeds: int) -> str:
    """Mean AP over the seeds, in percent."""
    rows = []
    for detector in DETECTORS:
        means = [
            ap_cells(experiment((detector, losses), settings, s) for s in range(seeds))[-1]
            for losses in LOSSES
        ]
        rows.append([detector.what, detector.epochs * EPOCH, *means])
    heads = ['original losses', 'harmonized', "formula='floored'"]
    return markdown_table(['detector', 'iterations', *heads], rows)


if __name__ == '__main__':
    args = study_parser(__doc__, 'work_dirs/detectors').parse_args()
    perform(args, VARIANTS, experiment, table)
