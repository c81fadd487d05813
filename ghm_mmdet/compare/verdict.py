"""Which arm of a comparison is ahead, judged from the AP of trainings that share seeds.

Differences are paired by seed, and their intervals are Student's t with n - 1 degrees of freedom.
An arm is *ahead* if its interval to every baseline lies above zero: that holds against the better
baseline whichever it is, so nothing is won by choosing it after a look at the same seeds. It is
*behind* if one of the intervals lies below zero, and *undecided* otherwise. Where several arms are
compared with the baselines, they share the 5 % (Bonferroni), so that more arms do not make it more
likely that one of them is called ahead by chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import fmean
from typing import Any, NamedTuple, Optional

import jinja2
import numpy as np
from scipy.stats import nct, t

#: How often "ahead" or "behind" may be said where there is no difference.
LEVEL = 0.05
#: "About n more seeds would show a difference of 1 AP", and with which probability.
WORTHWHILE, POWER = 1.0, 0.8
#: MMDetection rounds to 0.1 points. A difference of two has at least this standard deviation, so
#: that two seeds with the same difference are not taken for certainty.
ROUNDING = 0.1 / math.sqrt(6)
#: What stands beside the metric that decides.
BESIDE = ('AP50', 'AP75')
#: Of several arms, the one with the first of these words has the first sentence.
WORDS = AHEAD, NO_VERDICT, UNDECIDED, BEHIND = 'ahead', 'no verdict', 'undecided', 'behind'
#: The words of the sentences and of the pages.
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader('ghm_mmdet', 'compare'), trim_blocks=True, lstrip_blocks=True,
    autoescape=lambda name: name is not None and 'html' in name,
)  # fmt: skip

Scores = Mapping[int, float]
#: Reads a number from the points of a curve; None where it was not measured.
Read = Callable[[Sequence[Mapping[str, Any]]], Optional[float]]


class Difference(NamedTuple):
    """A mean difference of paired values, in points, with its interval.

    Attributes:
        mean: NaN without a pair.
        low, high: The ends of the interval; infinite with fewer than two pairs.
        spread: The standard deviation of the differences; NaN with fewer than two pairs.
        seeds: The number of pairs.

    Examples:
        >>> str(paired_difference({0: 41.0, 1: 43.5, 2: 42.0}, {0: 40.0, 1: 41.5, 2: 40.5}))
        '+1.5 [+0.3, +2.7]'
    """

    mean: float
    low: float
    high: float
    spread: float
    seeds: int

    @property
    def word(self) -> str:
        """One of `WORDS`; 'no verdict' with fewer than two pairs."""
        if self.seeds < 2:
            return NO_VERDICT
        return AHEAD if self.low > 0 else BEHIND if self.high < 0 else UNDECIDED

    def __str__(self) -> str:
        interval = f' [{self.low:+.1f}, {self.high:+.1f}]' if self.seeds > 1 else ''
        return f'{self.mean:+.1f}{interval}'


@dataclass(frozen=True)
class Row:
    """An arm in the table.

    Attributes:
        arm: Its name.
        is_baseline: Whether the others are compared with it.
        scores: The metric, AP50 and AP75 at the end of each finished training: by name, by seed.
        differences: In the metric, to each baseline; of the second baseline to the first.
        level: One minus the coverage of the intervals.
        failed: How many of its trainings failed.
        to_come: How many of its trainings and of those it is compared with are not over.
    """

    arm: str
    is_baseline: bool
    scores: Mapping[str, Scores]
    differences: dict[str, Difference]
    level: float
    failed: int
    to_come: int

    @property
    def word(self) -> str:
        """One of `WORDS`."""
        words = {difference.word for difference in self.differences.values()}
        if self.failed or self.to_come or NO_VERDICT in words:
            return NO_VERDICT
        return AHEAD if words == {AHEAD} else BEHIND if BEHIND in words else UNDECIDED

    @property
    def against(self) -> str:
        """The better baseline, unless the interval to another one decides."""
        found, word = self.differences, self.word
        return min(found, key=lambda name: (found[name].word != word, found[name].mean))

    @property
    def more_seeds(self) -> int:
        """How many more would show a difference of 1 AP; 0 where the intervals rule it out."""
        _, lows, highs, spreads, seeds = zip(*self.differences.values())
        if min(lows) > -WORTHWHILE and min(highs) < WORTHWHILE:
            return 0
        total: int = seeds_to_show(WORTHWHILE, round(max(spreads), 2), self.level)
        return max(1, total - min(seeds))


@dataclass(frozen=True)
class Verdict:
    """What is said of a comparison.

    Attributes:
        sentence: The first, in plain words.
        details: Further sentences.
        table: The arms, in the order of the results.
        classes: The difference in each class, the largest first, of the arm and the baseline of
            the first sentence. What is 'ahead' or 'behind' is more than noise.
        keep: The name of the arm whose config to keep; None before there is a verdict.
    """

    sentence: str
    details: list[str]
    table: list[Row]
    classes: dict[str, Difference]
    keep: str | None


def paired_difference(scores: Scores, baseline: Scores, level: float = LEVEL) -> Difference:
    """The mean difference over the seeds that both have, with its (1 - level) interval."""
    pairs = [scores[seed] - baseline[seed] for seed in scores if seed in baseline]
    n = len(pairs)
    if n < 2:
        return Difference(pairs[0] if pairs else math.nan, -math.inf, math.inf, math.nan, n)
    mean, spread = fmean(pairs), max(float(np.std(pairs, ddof=1)), ROUNDING)
    half = _quantile(1 - level / 2, n - 1) * spread / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, spread, n)


_quantile = lru_cache(maxsize=None)(t.ppf)


@lru_cache(maxsize=None)
def seeds_to_show(difference: float, spread: float, level: float = LEVEL) -> int:
    """About how many pairs show a true difference with the probability `POWER`.

    Args:
        difference: In points.
        spread: The standard deviation of the paired differences.
        level: Of the two-sided t test.
    """
    n = np.unique(np.geomspace(2, 1e6, 600).astype(int))  # below 40 every number
    power = nct.sf(t.ppf(1 - level / 2, n - 1), n - 1, difference / spread * np.sqrt(n))
    return int(n[np.searchsorted(power, POWER)])


def verdict(results: dict[str, Any]) -> Verdict:
    """What `results.json` of a comparison says.

    A training counts with the last point of its curve. While trainings of an arm or of its
    baselines are to come, nothing is called ahead: who looks after each seed and stops at the
    first lead finds one where there is none. An arm of which a training failed gets no verdict
    from those that finished, which are the lucky ones. A baseline that failed with every seed is
    left out.
    """
    table = _table(results)
    judged = sorted((row for row in table if row.differences), key=_rank)
    if not judged:
        return Verdict('No verdict: there are no two arms to compare.', [], table, {}, None)
    first, *rest = judged
    classes = _classes(results, first)
    sentence, *details = TEMPLATES.get_template('sentences.j2').render(
        results=results, first=first, rest=rest, classes=classes, faster=partial(_faster, results),
        gain=next((row for row in rest if row.is_baseline and row.word == AHEAD), None),
        beside={name: _difference(results, first, _at(name)) for name in BESIDE},
    ).splitlines()  # fmt: skip
    finished = max(first.differences, key=lambda name: first.differences[name].seeds)
    ahead = [row.arm for row in judged if row.word == AHEAD]
    keep = ahead[0] if ahead else None if first.word == NO_VERDICT else finished
    return Verdict(sentence, details, table, classes, keep)


def _table(results: dict[str, Any]) -> list[Row]:
    arms, seeds = [arm['name'] for arm in results['arms']], len(results['seeds'])
    failed = Counter(run['arm'] for run in results['runs'] if run['state'] == 'failed')
    done = Counter(run['arm'] for run in results['runs'] if run['state'] == 'done')
    known = [arm for arm in arms if arm in results['baselines']]
    baselines = [arm for arm in known if failed[arm] < seeds]
    scores = {name: _scores(results, _at(name)) for name in (results['metric'], *BESIDE)}
    deciding = scores[results['metric']]
    table = []
    for arm in arms:
        level = LEVEL if arm in known else LEVEL / (len(arms) - len(known))
        rivals = baselines[: baselines.index(arm)] if arm in baselines else baselines
        differences = {
            rival: paired_difference(deciding[arm], deciding[rival], level) for rival in rivals
        }
        to_come = sum(seeds - done[name] - failed[name] for name in (arm, *rivals))
        ends = {name: by_arm[arm] for name, by_arm in scores.items()}
        table.append(Row(arm, arm in known, ends, differences, level, failed[arm], to_come))
    return table


def _rank(row: Row) -> tuple[bool, int, float]:
    return row.is_baseline, WORDS.index(row.word), -row.differences[row.against].mean


def _scores(results: dict[str, Any], read: Read) -> dict[str, dict[int, float]]:
    """What is read from the curves of the finished trainings, by arm, by seed."""
    found: dict[str, dict[int, float]] = {arm['name']: {} for arm in results['arms']}
    for run in results['runs']:
        value = read(run['curve']) if run['state'] == 'done' and run['curve'] else None
        if value is not None:
            found[run['arm']][run['seed']] = value
    return found


def _at(key: str, point: int = -1, part: str | None = None) -> Read:
    return lambda curve: (curve[point].get(part, {}) if part else curve[point]).get(key)


def _difference(results: dict[str, Any], row: Row, read: Read) -> Difference:
    scores = _scores(results, read)
    return paired_difference(scores[row.arm], scores[row.against], row.level)


def _classes(results: dict[str, Any], row: Row) -> dict[str, Difference]:
    """By Benjamini and Hochberg: of the classes that stand out, 5 % are wrong on average.

    Where k of m stand out, the intervals are those of the level times k / m.
    """
    points = [point for run in results['runs'] for point in run['curve']]
    names = dict.fromkeys(name for point in points for name in point.get('classes', ()))
    scores = {name: _scores(results, _at(name, part='classes')) for name in names}
    found: dict[str, Difference] = {}
    for k in range(len(names), 0, -1):
        level = row.level * k / len(names)
        found = {
            name: paired_difference(by_arm[row.arm], by_arm[row.against], level)
            for name, by_arm in scores.items()
        }
        if sum(difference.word in (AHEAD, BEHIND) for difference in found.values()) >= k:
            break
    measured = (item for item in found.items() if item[1].seeds)
    return dict(sorted(measured, key=lambda item: -abs(item[1].mean)))


def _faster(results: dict[str, Any], row: Row) -> tuple[Difference, int] | None:
    """Of an arm that is not ahead at the end, but was on average until then.

    Returns:
        That average difference to the baseline that decides, and the last iteration with a lead,
        0 if it is the end.
    """
    metric = results['metric']
    iterations, *others = {
        tuple(point['iteration'] for point in run['curve']) for run in results['runs']
        if run['state'] == 'done' and run['arm'] in (row.arm, row.against)
    }  # fmt: skip
    if row.word in (AHEAD, NO_VERDICT) or others or len(iterations) < 2:
        return None
    lead = _difference(results, row, lambda curve: fmean(point[metric] for point in curve[:-1]))
    leads = [
        iteration for i, iteration in enumerate(iterations)
        if _difference(results, row, _at(metric, i)).mean > 0
    ]  # fmt: skip
    if lead.word != AHEAD:
        return None
    return lead, leads[-1] if leads[-1] < iterations[-1] else 0
