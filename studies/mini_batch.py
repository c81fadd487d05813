"""What "the mini-batch" should be: one density per FPN level, or one for all of them.

Examples:
    python -m studies.mini_batch run --seeds 2
    python -m studies.mini_batch report --seeds 2
    python -m studies.mini_batch example --iteration 780
    python -m studies.mini_batch figure --out mini_batch.png
The images come from `python -m studies.demo_data --out work_dirs/demo/data`.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from mmengine.config import Config

from ghm_mmdet.reproduce.configs import config_path, load_config
from ghm_mmdet.reproduce.markdown import markdown_table

from .cold_start import FOCAL, GHM
from .command_line import perform, schedule, settings_of, study_parser
from .experiment import Experiment, Settings, ap_cells
from .variants import draw_averages, gradient_of_regions, harmonizing_of_regions, variants_table

BATCH = 'configs/demo/retinanet_r18_fpn_ghmc-ghmr-batch_demo.py'
#: Levels of the demo's FPN: `RetinaHead` adds up as many means, `GHMRetinaHead` has one.
LEVELS = 3
EPOCHS = {'warm-up': 8, 'warm start': 4}
WARMUP_ITERS = 400


@dataclass(frozen=True)
class Variant:
    """A training of the demo.

    From 'warm-up', 8 epochs from random weights the first 4 with focal loss; or from 'warm
    start', 4 more epochs from the weights of 8 epochs of focal loss.
    """

    start: str
    what: str
    config: str
    formula: str | None = None  # of both GHM losses
    scale: int = 1  # of both loss weights
    half: bool = False  # convolutions in float16, with a dynamic loss scale

    @property
    def name(self) -> str:
        words = f'{self.start} {self.what}'.replace(',', '').replace('×', 'x')
        return words.replace(' ', '-')


def _official(start: str) -> tuple[Variant, ...]:
    return (
        Variant(start, 'focal', FOCAL),
        Variant(start, 'per level, official', GHM, 'official'),
        Variant(start, 'batch, official', BATCH, 'official'),
        Variant(start, f'batch, official, weights × {LEVELS}', BATCH, 'official', LEVELS),
    )


VARIANTS = (
    *_official('warm-up'),
    Variant('warm-up', 'per level, official, float16', GHM, 'official', half=True),
    *_official('warm start'),
    Variant('warm start', 'per level, paper', GHM, 'paper'),
    Variant('warm start', 'batch, paper', BATCH, 'paper'),
    Variant('warm start', 'per level, floored', GHM, 'floored'),
    Variant('warm start', 'batch, floored', BATCH, 'floored'),
)
FOCAL_FIRST, PER_LEVEL, WHOLE = VARIANTS[:3]
#: Of a training's folder: what its losses saw.
RECORD = 'harmonizing.npz'


@dataclass(frozen=True)
class MiniBatchTraining(Experiment):
    """A training of `studies/mini_batch_training.py`."""

    variant: Variant = FOCAL_FIRST

    @cached_property
    def wanted(self) -> Config:
        variant = self.variant
        environment = {**os.environ, **self.settings.environment}
        config = load_config(self.config, environment, self.cfg_options)
        config.work_dir = str(self.folder)
        if self.starts_from:
            config.custom_hooks = []
            config.load_from = str(self.starts_from.folder / f'epoch_{EPOCHS["warm-up"]}.pth')
            config.optim_wrapper.optimizer.lr /= 2
        elif variant.formula:
            config.custom_hooks = [dict(type='ghm_mmdet.GHMWarmupHook', iters=WARMUP_ITERS)]
        if variant.formula:
            for loss in (config.model.bbox_head.loss_cls, config.model.bbox_head.loss_bbox):
                loss.formula = variant.formula
                loss.loss_weight *= variant.scale
        if variant.half:
            config.optim_wrapper.type = 'studies.half_precision.ScaledOptimWrapper'
        return config

    def train_command(self) -> list[str]:
        settings = self.settings
        where = (self.name, str(self.seed), str(settings.work_dir), *settings.cfg_options)
        return [sys.executable, '-m', 'studies.mini_batch_training', *where]

    def record(self) -> dict[str, np.ndarray] | None:
        """What the losses saw; None if it was not run."""
        path = self.folder / RECORD
        return dict(np.load(path)) if path.exists() else None


def experiment(variant: Variant, settings: Settings, seed: int) -> MiniBatchTraining:
    options = schedule(EPOCHS[variant.start])
    warm = variant.start == 'warm start'
    first = experiment(FOCAL_FIRST, settings, seed) if warm else None
    config = config_path(variant.config)
    return MiniBatchTraining(variant.name, config, settings, options, seed, first, variant)


def weights(
    record: dict[str, np.ndarray], loss: str, formula: str, since: int
) -> tuple[float, float]:
    """The largest β of an iteration, and the share of its gradient that rare regions take.

    Both are medians over the iterations from `since` on. The rare region of a call is the one
    with the fewest examples among those with any; an iteration's gradient is that of all its
    calls.
    """
    iterations, counts = record[f'{loss}_iteration'], record[f'{loss}_counts']
    average, number = record[f'{loss}_average'], record[f'{loss}_number']
    largest, shares = [], []
    for iteration in np.unique(iterations[iterations >= since]):
        betas, rarest, total = [], 0.0, 0.0
        for call in np.nonzero((iterations == iteration) & (counts.sum(1) > 0))[0]:
            beta = harmonizing_of_regions(counts[call], average[call], number[call], formula)
            part = gradient_of_regions(counts[call], beta, number[call])
            betas.append(beta.max())
            rarest += part[np.where(counts[call] > 0, counts[call], np.inf).argmin()]
            total += part.sum()
        if betas:
            largest.append(max(betas))
            shares.append(rarest / total)
    return float(np.median(largest)), float(np.median(shares))


def table(settings: Settings, seeds: int) -> str:
    """AP, and the weights that explain it."""
    rows = []
    for variant in VARIANTS:
        runs = [experiment(variant, settings, seed) for seed in range(seeds)]
        rows.append([variant.start, variant.what, *ap_cells(runs), *_explaining_cells(runs)])
    heads = ['start', 'density and formula', *(f'AP, seed {s}' for s in range(seeds)), 'mean AP']
    heads += [f'{what}, {loss}' for loss in ('GHM-C', 'GHM-R') for what in ('largest β', 'rarest')]
    return markdown_table(heads, rows)


def _explaining_cells(runs: list[MiniBatchTraining]) -> list[str | None]:
    variant = runs[0].variant
    records = [run.record() for run in runs]
    if variant.formula is None or None in records:
        return [None] * 4
    since = WARMUP_ITERS if variant.start == 'warm-up' else 0
    cells: list[str | None] = []
    for loss in ('cls', 'reg'):
        found = [weights(r, loss, variant.formula, since) for r in records]
        betas, shares = zip(*found, strict=True)
        cells += [f'{statistics.mean(betas):.3g}', f'{statistics.mean(shares):.1%}']
    return cells


def example(settings: Settings, iteration: int) -> str:
    """Each variant on the histograms of one iteration of the training per level, seed 0."""
    record = experiment(PER_LEVEL, settings, 0).record()
    return '\n\n'.join(
        f'{name}, iteration {iteration}:\n\n{variants_table(record, loss, iteration)}'
        for name, loss in (('GHM-C', 'cls'), ('GHM-R', 'reg'))
    )


def write_figure(settings: Settings, path: str) -> None:
    """S over the training of seed 0, with one density per level and with one for all."""
    panels = {'one density per level (— stride 8, -- 16, ⋯ 32)': PER_LEVEL, 'one for all': WHOLE}
    records = {title: experiment(v, settings, 0).record() for title, v in panels.items()}
    draw_averages(records).savefig(path)


def main() -> None:
    parser = study_parser(__doc__, 'work_dirs/mini_batch', actions=('example', 'figure'))
    parser.add_argument('--iteration', type=int, default=780, help='of the example')
    parser.add_argument('--out', default='mini_batch.png', help='of the figure')
    args = parser.parse_args()
    if args.action == 'example':
        print(example(settings_of(args), args.iteration))
    elif args.action == 'figure':
        write_figure(settings_of(args), args.out)
    else:
        perform(args, VARIANTS, experiment, table)


if __name__ == '__main__':
    main()
