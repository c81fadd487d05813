"""Trainings of a study: seeds, options of their own, and a file that keeps the results."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ghm_mmdet.reproduce import experiment as base
from ghm_mmdet.reproduce.processes import end_commands
from ghm_mmdet.reproduce.runs import training_curve, whole_lines
from ghm_mmdet.reproduce.tables import METRICS

#: What MMEngine logs of a training whose gradient is clipped.
NORM = 'grad_norm'


@dataclass(frozen=True)
class StudySettings(base.RunSettings):
    """What the trainings of a study share."""

    results: Path | None = None  # file that keeps the results, one JSON line each


@dataclass(frozen=True)
class Result:
    """What an `Experiment` gave: a line of `StudySettings.results`."""

    run: str
    config: str
    seed: int | None
    options: list[str]
    metrics: dict[str, float]


def read_results(path: Path | None) -> dict[str, Result]:
    """The last whole line of each run of a file of results, none if it is not there."""
    if path is None or not path.exists():
        return {}
    return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1)  # a report asks for every run
def _read(path: Path, *_: int) -> dict[str, Result]:
    return {record['run']: Result(**record) for record in whole_lines(path)}


@dataclass(frozen=True)
class Experiment(base.Experiment):
    """One training; with the seed the name is that of its folder."""

    settings: StudySettings
    seed: int | None = None  # of MMEngine's `randomness`; None: the config's
    further: Callable[[], tuple[str, ...]] = tuple  # options that only a training needs
    starts_from: Experiment | None = None  # the one whose weights it starts from

    @property
    def run(self) -> str:
        """The name of the folder: `<name>-seed<seed>`, or `<name>` without a seed."""
        return self.name if self.seed is None else f'{self.name}-seed{self.seed}'

    @property
    def cfg_options(self) -> tuple[str, ...]:
        """`key=value` of the training, the seed among them."""
        seed = () if self.seed is None else (f'randomness.seed={self.seed}',)
        return (*seed, *self.options, *self.further(), *self.settings.cfg_options)

    def result(self) -> dict[str, float] | None:
        """The metrics, from the file of results or from the folder; None if there are none."""
        kept = self.kept()
        return self.measured() if kept is None else kept.metrics

    def measured(self) -> dict[str, float] | None:
        """The metrics in the folder: 0 where the finished training detects nothing at all.

        With the median norm of the gradient before its clipping, where the training logs it.
        """
        metrics = super().measured()
        if metrics is None and self.is_trained():
            metrics = dict.fromkeys(METRICS.values(), 0.0)
        norms = [record.get(NORM, math.nan) for record in training_curve(self.folder)]
        norms = [norm for norm in norms if math.isfinite(norm)]
        return metrics and {**metrics, **({NORM: statistics.median(norms)} if norms else {})}

    def kept(self) -> Result | None:
        """The last line of the file of results."""
        return read_results(self.settings.results).get(self.run)

    def keep(self) -> None:
        """Write the line of the file of results, if there is a file and the line is not there."""
        path, metrics = self.settings.results, self.result()
        if path is None or metrics is None or self.kept() is not None:
            return
        row = Result(self.run, self.config.name, self.seed, list(self.cfg_options), metrics)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.exists() and not path.read_bytes().endswith(b'\n')
        with open(path, 'a', encoding='utf-8') as file:
            file.write('\n' * half + json.dumps(asdict(row)) + '\n')

    def check(self) -> None:
        """Raise ValueError, too, if the file of results has this run with other settings."""
        kept = self.kept()
        if kept is None:
            super().check()
        elif (kept.config, kept.options) != (self.config.name, list(self.cfg_options)):
            raise ValueError(
                f'{self.settings.results} holds {self.run} with other settings: '
                f'{kept.config} {" ".join(kept.options)}'
            )


def run_missing(experiments: Iterable[Experiment], jobs: int = 1) -> list[str]:
    """As `ghm_mmdet.reproduce.experiment.run_missing`, `jobs` at a time.

    An experiment waits for that which it starts from. On the CPU they share its cores evenly,
    unless OMP_NUM_THREADS is set.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # MIM makes its folder where it is missing, and of two processes that start at once one fails.
    Path('~/.cache/mim').expanduser().mkdir(parents=True, exist_ok=True)
    pending: dict[Path, Future[str | None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for experiment in experiments:
                first = experiment.starts_from and pending.get(experiment.starts_from.folder)
                pending[experiment.folder] = pool.submit(_complete, experiment, threads, first)
            return base.failures_of([future.result() for future in pending.values()])
        except KeyboardInterrupt:
            for future in pending.values():
                future.cancel()
            while not all(future.done() for future in pending.values()):
                end_commands()
                time.sleep(0.1)
            raise


def _complete(experiment: Experiment, threads: int, first: Future | None) -> str | None:
    if first is not None:
        first.result()
    failure = base.complete(experiment, threads)
    if failure is None:
        experiment.keep()
    return failure


def ap_cells(experiments: Iterable[Experiment]) -> list[str | None]:
    """AP of each experiment in percent, and the mean of all, for a table; None where not run."""
    results = [experiment.result() for experiment in experiments]
    aps = [None if metrics is None else 100 * metrics['bbox_mAP'] for metrics in results]
    found = [ap for ap in aps if ap is not None]
    mean = statistics.mean(found) if found and len(found) == len(aps) else None
    return [None if ap is None else f'{ap:.1f}' for ap in (*aps, mean)]
