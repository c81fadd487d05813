"""One training of `studies/mini_batch.py`, which starts it; it keeps what its losses saw."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor, nn

from ghm_mmdet.functional.paper import Statistics
from ghm_mmdet.losses import GHMC, GHMR

from .experiment import Settings
from .half_precision import predict_in_half, round_convolutions
from .mini_batch import LEVELS, RECORD, VARIANTS, experiment

RECORD_INTERVAL = 20
#: The key of a checkpoint under which it keeps the rows so far.
ROWS = 'harmonizing'


def on_statistics(loss: nn.Module, keep: Callable[[Tensor, Tensor, Tensor], None]) -> None:
    """Let each call of a GHM loss hand R, S and N to `keep`; only here is it known how."""
    summed, seen = loss.summed, []

    def summed_and_seen(statistics: Statistics) -> Statistics:
        seen.append(summed(statistics))
        return seen[-1]

    def keep_statistics(module: nn.Module, args: tuple, value: Tensor) -> None:
        counts, _, num_examples, *_ = seen.pop()
        keep(counts, module.acc_sum if module.momentum > 0 else counts, num_examples)

    loss.summed = summed_and_seen
    loss.register_forward_hook(keep_statistics)


class HarmonizingRecorder(Hook):
    """Keeps R, S and N of every call of the GHM losses, at intervals.

    After training `record` holds for each loss ('cls', 'reg'), one row per call: 'iteration',
    'level' (the number of the call within its iteration), 'counts' R, 'average' S, 'number' N.
    """

    def __init__(self, interval: int = RECORD_INTERVAL) -> None:
        self.interval = interval
        self.rows: dict[str, list[tuple]] = {'cls': [], 'reg': []}

    def before_train(self, runner: Runner) -> None:
        for loss in runner.model.modules():
            if isinstance(loss, (GHMC, GHMR)):
                rows = self.rows['cls' if isinstance(loss, GHMC) else 'reg']
                on_statistics(loss, partial(self._keep, runner, rows))

    def _keep(self, runner: Runner, rows: list[tuple], *statistics: Tensor) -> None:
        if runner.iter % self.interval == 0:
            level = sum(row[0] == runner.iter for row in rows[-LEVELS:])
            arrays = (x.double().cpu().numpy().copy() for x in statistics)
            rows.append((runner.iter, level, *arrays))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[ROWS] = self.rows

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.rows = checkpoint.get(ROWS, self.rows)

    def record(self) -> dict[str, np.ndarray]:
        """The rows as arrays, `<loss>_<what>`."""
        names = ('iteration', 'level', 'counts', 'average', 'number')
        return {
            f'{loss}_{name}': np.array(column)
            for loss, rows in self.rows.items()
            for name, column in zip(names, zip(*rows, strict=True), strict=False)
        }


def train(name: str, seed: int, settings: Settings) -> None:
    """Train a variant of this name, from its last checkpoint on where there is one."""
    variant = next(v for v in VARIANTS if v.name == name)
    training = experiment(variant, settings, seed)
    config = training.wanted
    if training.folder.exists() and find_latest_checkpoint(training.folder):
        config.resume, config.load_from = True, None
    runner = Runner.from_cfg(config)
    if variant.half:
        round_convolutions(runner.model)
        predict_in_half(runner.model.bbox_head)
    recorder = HarmonizingRecorder()
    runner.register_hook(recorder)
    runner.train()
    np.savez_compressed(training.folder / RECORD, **recorder.record())


if __name__ == '__main__':
    _name, _seed, _work_dir, *_options = sys.argv[1:]
    train(_name, int(_seed), Settings(Path(_work_dir), cfg_options=tuple(_options)))
