"""GHM from random weights: generated images, BCCD, and six detectors; without a warm-up.

Examples:
    python -m studies.demo_data --out work_dirs/demo/data
    python tools/convert_bccd.py ...
    python -m studies.random_weights run --seeds 2 --jobs 2
    python -m studies.random_weights report --seeds 3
Without the data, report reads the results kept in the repository.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ghm_mmdet.experiments.logs import last_metrics
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.reproduce.configs import config_path

from .options import harmonized_options, schedule
from .study import StudySettings, Training, perform, study_parser

RESULTS = Path('studies/results/random_weights.jsonl')
LOSSES = {
    'original': 'its own losses',
    'tempered': "preset 'tempered'",
    'released': 'released settings',
}
HALF_WIDTH = (
    'model.backbone.stem_channels=32',
    'model.backbone.base_channels=32',
    'model.neck.in_channels=[32,64,128,256]',
)


@dataclass(frozen=True)
class Detector:
    """A detector with the losses of MMDetection, and how long it trains."""

    name: str
    what: str
    config: str
    epochs: int
    options: tuple[str, ...] = ()
    #: Options to evaluate checkpoints of its own losses with, where MMDetection can't.
    inference: tuple[str, ...] = ()


_DETECTORS = 'configs/demo/detectors'
DETECTORS = (
    Detector('generated', 'RetinaNet', 'configs/demo/retinanet_r18_fpn_fl-sl1_demo.py', 8),
    Detector(
        'bccd', 'RetinaNet, BCCD', 'configs/bccd/retinanet_r18_fpn_fl-sl1_bccd.py', 12, HALF_WIDTH
    ),
    Detector('faster-rcnn', 'Faster R-CNN', f'{_DETECTORS}/faster-rcnn_r18_fpn_demo.py', 6),
    Detector('cascade-rcnn', 'Cascade R-CNN', f'{_DETECTORS}/cascade-rcnn_r18_fpn_demo.py', 3),
    Detector('atss', 'ATSS', f'{_DETECTORS}/atss_r18_fpn_demo.py', 3),
    Detector('fcos', 'FCOS', f'{_DETECTORS}/fcos_r18_fpn_demo.py', 6),
    Detector('yolox', 'YOLOX', f'{_DETECTORS}/yolox_demo.py', 4),
    # Inference reads `loss_cls` of a head, and SSDHead has none.
    Detector(
        'ssd', 'SSD', f'{_DETECTORS}/ssd_r18_demo.py', 6,
        inference=('model.bbox_head.type=ghm_mmdet.GHMSSDHead',),
    ),
)  # fmt: skip
NO_VALIDATION = ('val_dataloader=None', 'val_cfg=None', 'val_evaluator=None')
#: A detector and its losses.
VARIANTS = tuple(product(DETECTORS, LOSSES))


@dataclass(frozen=True)
class WithTest(Training):
    """A training, and where it has no validation a test of the last checkpoint."""

    detector: Detector = DETECTORS[0]

    def commands(self) -> list[list[str]]:
        if self.validates:
            return super().commands()
        where = ('--checkpoint', str(self.checkpoint), '--work-dir', str(self.folder / 'test'))
        inference = replace(self, options=self.detector.inference, seed=None)
        test = inference.command('test', *where)
        return [self.train_command(), test]

    def measured(self) -> dict[str, float] | None:
        return super().measured() if self.validates else last_metrics(self.folder / 'test')

    @property
    def validates(self) -> bool:
        return not set(NO_VALIDATION) <= set(self.options)


def experiment(variant: tuple[Detector, str], settings: StudySettings, seed: int) -> WithTest:
    detector, losses = variant
    config = config_path(detector.config)
    options = (*schedule(detector.epochs), *detector.options)
    if losses != 'original':
        options += harmonized_options(config, preset=losses)
    elif detector.inference:
        options += NO_VALIDATION
    name = f'{detector.name}-{losses}'
    return WithTest(name, config, settings, options, seed, detector=detector)


def table(settings: StudySettings, seeds: int) -> str:
    """AP of each seed in percent, and its mean."""
    rows = []
    for detector, losses in VARIANTS:
        runs = [experiment((detector, losses), settings, seed) for seed in range(seeds)]
        cells = ap_cells(runs)
        if any(cells):
            rows.append([detector.what, LOSSES[losses], *cells])
    heads = ['detector', 'losses', *(f'seed {s}' for s in range(seeds)), 'mean']
    return markdown_table(heads, rows)


def ap_cells(runs: Iterable[Training]) -> list[str | None]:
    """AP of each run in percent, and the mean of all, for a table; None where not run."""
    results = (run.result() for run in runs)
    aps = [None if metrics is None else 100 * metrics['bbox_mAP'] for metrics in results]
    mean = None if None in aps else statistics.mean(aps)
    return [None if ap is None else f'{ap:.1f}' for ap in (*aps, mean)]


if __name__ == '__main__':
    parser = study_parser(__doc__, 'work_dirs/random_weights')
    parser.set_defaults(results=RESULTS)
    perform(parser.parse_args(), VARIANTS, experiment, table)
