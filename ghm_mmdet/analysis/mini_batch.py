"""What "the mini-batch" should be: one density per FPN level, or one for all of them."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..losses import GHMC, GHMR
from .cold_start import FOCAL, GHM
from .half_precision import ScaledOptimWrapper, predict_in_half, round_convolutions
from .readings import (
    draw_averages,
    gradient_of_regions,
    harmonizing_of_regions,
    readings_table,
)
from .runs import ap_cells, last_metrics

BATCH = 'configs/demo/retinanet_r18_fpn_ghmc-ghmr-batch_demo.py'
#: Levels of the demo's FPN: `RetinaHead` adds up as many means, `GHMRetinaHead` has one.
LEVELS = 3
EPOCHS = {'warm-up': 8, 'warm start': 4}
WARMUP_ITERS = 400
RECORD_INTERVAL = 20


@dataclass(frozen=True)
class Variant:
    """A training of the demo.

    Attributes:
        start: 'warm-up', 8 epochs from random weights of which focal loss leads for 4; or
            'warm start', 4 more epochs from the weights of 8 epochs of focal loss.
        what: What the report calls it.
        config: Path of the config.
        formula: Of both GHM losses; None for focal loss.
        scale: Factor of both loss weights.
        half: Convolutions in float16, with a dynamic loss scale.
    """

    start: str
    what: str
    config: str
    formula: str | None = None
    scale: int = 1
    half: bool = False

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


class HarmonizingRecorder(Hook):
    """Keeps R, S and N of every call of the GHM losses, at intervals.

    After training `record` holds for each loss ('cls', 'reg'), one row per call: 'iteration',
    'level' (the number of the call within its iteration), 'counts' R, 'average' S, 'number' N.
    """

    def __init__(self, interval: int = RECORD_INTERVAL) -> None:
        self.interval = interval
        self.rows: dict[str, list[tuple]] = {'cls': [], 'reg': []}
        self._recording = False

    def before_train(self, runner: Runner) -> None:
        for loss in runner.model.modules():
            if isinstance(loss, (GHMC, GHMR)):
                name = 'cls' if isinstance(loss, GHMC) else 'reg'
                loss.statistics = self._recorded(loss.statistics, name, runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        self._recording = runner.iter % self.interval == 0

    def _recorded(self, statistics_of: Callable, name: str, runner: Runner) -> Callable:
        def record(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            result = statistics_of(*args, **kwargs)
            if self._recording:
                counts, average, number = (x.double().cpu().numpy().copy() for x in result)
                rows = self.rows[name]
                level = sum(row[0] == runner.iter for row in rows[-LEVELS:])
                rows.append((runner.iter, level, counts, average, number))
            return result

        return record

    def record(self) -> dict[str, np.ndarray]:
        """The rows as arrays, `<loss>_<what>`."""
        names = ('iteration', 'level', 'counts', 'average', 'number')
        return {
            f'{loss}_{name}': np.array(column)
            for loss, rows in self.rows.items()
            for name, column in zip(names, zip(*rows, strict=True), strict=False)
        }


def config_of(variant: Variant, seed: int, work_dir: Path) -> Config:
    """The config of one training of the study.

    Args:
        variant: One of `VARIANTS`.
        seed: Of MMEngine's `randomness`.
        work_dir: Folder of the study.
    """
    epochs = EPOCHS[variant.start]
    config = Config.fromfile(variant.config)
    config.work_dir = str(run_folder(work_dir, variant, seed))
    config.randomness.seed = seed
    config.train_cfg.max_epochs = config.train_cfg.val_interval = epochs
    config.param_scheduler[1].T_max = epochs
    if variant.start == 'warm start':
        config.custom_hooks = []
        config.load_from = str(run_folder(work_dir, FOCAL_FIRST, seed) / 'epoch_8.pth')
        config.optim_wrapper.optimizer.lr /= 2
    elif variant.formula:
        config.custom_hooks = [dict(type='ghm_mmdet.GHMWarmupHook', iters=WARMUP_ITERS)]
    if variant.formula:
        for loss in (config.model.bbox_head.loss_cls, config.model.bbox_head.loss_bbox):
            loss.formula = variant.formula
            loss.loss_weight *= variant.scale
    if variant.half:
        config.optim_wrapper.type = ScaledOptimWrapper
    return config


def train(variant: Variant, seed: int, work_dir: Path) -> None:
    """Train one variant, and keep what its losses saw in `harmonizing.npz`.

    Args:
        variant, seed, work_dir: As `config_of`.
    """
    runner = Runner.from_cfg(config_of(variant, seed, work_dir))
    if variant.half:
        round_convolutions(runner.model)
        predict_in_half(runner.model.bbox_head)
    recorder = HarmonizingRecorder()
    runner.register_hook(recorder)
    runner.train()
    np.savez_compressed(Path(runner.work_dir, 'harmonizing.npz'), **recorder.record())


def run_folder(work_dir: Path, variant: Variant, seed: int) -> Path:
    return Path(work_dir, f'{variant.name}-seed{seed}')


def run_study(work_dir: str | Path, seeds: int = 2) -> None:
    """Train each variant with each seed, those without a result, one after the other.

    Args:
        work_dir: Folder that receives `<variant>-seed<seed>/`.
        seeds: Seeds 0, 1, ... Default: 2.
    """
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for variant in VARIANTS:
            run = run_folder(work_dir, variant, seed)
            if not last_metrics(run):
                command = [sys.executable, '-m', __name__, variant.name, str(seed), str(work_dir)]
                with open(f'{run}.log', 'w') as log:
                    subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ)
            print(f'{run.name}: AP {last_metrics(run)["bbox_mAP"]:.3f}', flush=True)


def largest_beta(record: dict[str, np.ndarray], loss: str, formula: str, since: int) -> float:
    """The median, over iterations from `since` on, of the largest β of the iteration."""
    return float(np.median(_per_iteration(record, loss, formula, since)[0]))


def share_of_rarest(record: dict[str, np.ndarray], loss: str, formula: str, since: int) -> float:
    """The median share of an iteration's gradient that its rarest regions take.

    The rarest region of a call is the one with the fewest examples among those with any. A
    region's part of the gradient is `R_j β_j g_j / N` with g_j in its middle, and an
    iteration's gradient that of all its calls.
    """
    return float(np.median(_per_iteration(record, loss, formula, since)[1]))


def _per_iteration(
    record: dict[str, np.ndarray], loss: str, formula: str, since: int
) -> tuple[np.ndarray, np.ndarray]:
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
    return np.array(largest), np.array(shares)


def study_table(work_dir: str | Path, seeds: int = 2) -> str:
    """The results as a Markdown table, empty where not run."""
    heads = [f'seed {s}' for s in range(seeds)] + ['mean AP']
    heads += [f'{what}, {loss}' for loss in ('GHM-C', 'GHM-R') for what in ('largest β', 'share')]
    lines = [
        '| start | density and formula | ' + ' | '.join(heads) + ' |',
        '|---|---|' + '---|' * len(heads),
    ]
    for variant in VARIANTS:
        cells = ap_cells(run_folder(work_dir, variant, s) for s in range(seeds))
        cells += _explaining_cells(work_dir, variant, seeds)
        lines.append(f'| {variant.start} | {variant.what} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def example(work_dir: str | Path, iteration: int) -> str:
    """Each reading of the histograms of one iteration of the training per level, seed 0."""
    record = _record(work_dir, PER_LEVEL, 0)
    return '\n\n'.join(
        f'{name}, iteration {iteration}:\n\n{readings_table(record, loss, iteration)}'
        for name, loss in (('GHM-C', 'cls'), ('GHM-R', 'reg'))
    )


def write_figure(work_dir: str | Path, path: str | Path) -> None:
    """S over the training of seed 0, with one density per level and with one for all."""
    titles = {'one density per level (— stride 8, -- 16, ⋯ 32)': PER_LEVEL, 'one for all': WHOLE}
    records = {title: _record(work_dir, variant, 0) for title, variant in titles.items()}
    draw_averages(records).savefig(path)


def _record(work_dir: str | Path, variant: Variant, seed: int) -> dict[str, np.ndarray]:
    return dict(np.load(run_folder(work_dir, variant, seed) / 'harmonizing.npz'))


def _explaining_cells(work_dir: str | Path, variant: Variant, seeds: int) -> list[str]:
    files = [run_folder(work_dir, variant, s) / 'harmonizing.npz' for s in range(seeds)]
    if variant.formula is None or not all(file.exists() for file in files):
        return [''] * 4
    records = [_record(work_dir, variant, s) for s in range(seeds)]
    since = WARMUP_ITERS if variant.start == 'warm-up' else 0
    cells = []
    for loss in ('cls', 'reg'):
        beta = statistics.mean(largest_beta(r, loss, variant.formula, since) for r in records)
        share = statistics.mean(share_of_rarest(r, loss, variant.formula, since) for r in records)
        cells += [f'{beta:.3g}', f'{share:.1%}']
    return cells


if __name__ == '__main__':
    _name, _seed, _work_dir = sys.argv[1:]
    train(next(v for v in VARIANTS if v.name == _name), int(_seed), Path(_work_dir))
