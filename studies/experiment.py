"""Trainings of a study, and the file that keeps their results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ghm_mmdet.experiments import experiment as base
from ghm_mmdet.experiments.logs import whole_lines


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
    """One training, and the line of it in the file of results."""

    settings: StudySettings
    further: Callable[[], tuple[str, ...]] = tuple  # options that only a training needs

    @property
    def own_options(self) -> tuple[str, ...]:
        return (*self.options, *self.further())

    def kept(self) -> Result | None:
        """The last line of the file of results."""
        return read_results(self.settings.results).get(self.run)

    def result(self) -> dict[str, float] | None:
        """The metrics, from the file of results or from the folder; None if there are none."""
        kept = self.kept()
        return self.measured() if kept is None else kept.metrics

    def measured(self) -> dict[str, float] | None:
        """The metrics in the folder."""
        return super().result()

    def missing(self) -> Iterator[list[str]]:
        """The commands; then it writes the line of the file of results, if that is not there."""
        yield from super().missing()
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


def ap_cells(experiments: Iterable[Experiment]) -> list[str | None]:
    """AP of each experiment in percent, and the mean of all, for a table; None where not run."""
    results = [experiment.result() for experiment in experiments]
    aps = [None if metrics is None else 100 * metrics['bbox_mAP'] for metrics in results]
    found = [ap for ap in aps if ap is not None]
    mean = statistics.mean(found) if found and len(found) == len(aps) else None
    return [None if ap is None else f'{ap:.1f}' for ap in (*aps, mean)]
