"""What the tables of the studies show of several runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from scipy import stats

from ghm_mmdet.experiments.logs import METRICS, NORM

from .study import Training

COLUMNS = ('AP', 'AP50', 'AP75', 'AP90')


def by_seed(runs: Iterable[Training]) -> dict[int, dict[str, float]]:
    """The metrics of what was run, in percent."""
    found = {run.seed: run.result() for run in runs}
    return {seed: percent(metrics) for seed, metrics in found.items() if metrics is not None}


def percent(metrics: dict[str, float]) -> dict[str, float]:
    """AP by column, and the norm of the gradient, NaN where it is not known."""
    aps = {column: 100 * metrics[METRICS[column]] for column in COLUMNS}
    return aps | {NORM: metrics.get(NORM, math.nan)}


def differences(
    ours: dict[int, dict[str, float]], base: dict[int, dict[str, float]], column: str
) -> list[float]:
    """Of the seeds that both have."""
    return [ours[seed][column] - base[seed][column] for seed in sorted(ours.keys() & base.keys())]


def mean_with_interval(values: Sequence[float]) -> str:
    """The mean, and its 95 % interval by Student's t where there are two values or more."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f'{mean:+.1f}'
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f'{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]'


def interval_of_seeds(paired: Sequence[Sequence[float]]) -> str | None:
    """The 95 % interval of the mean over the sets that comes from the seeds, the sets being given.

    None unless each set has two seeds or more.
    """
    if any(len(of_set) < 2 for of_set in paired):
        return None
    variance = sum(statistics.variance(d) / len(d) for d in paired) / len(paired) ** 2
    mean = statistics.mean(map(statistics.mean, paired))
    seeds = sum(len(d) - 1 for d in paired)
    low, high = stats.t.interval(0.95, seeds, mean, math.sqrt(variance))
    return f'[{low:+.1f}, {high:+.1f}]'


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean and the standard deviation."""
    if len(values) < 2:
        return f'{values[0]:.1f}'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'


def ahead_of(values: Sequence[float]) -> str:
    return f'{sum(value > 0 for value in values)} of {len(values)}'
