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
from functools import lru_cache, partial
from statistics import fmean
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import jinja2
import numpy as np
from scipy.stats import nct, norm, t

#: How often "ahead" or "behind" may be said where there is no difference.
LEVEL = 0.05
#: "About n more seeds would show a difference of 1 AP", and with which probability.
WORTHWHILE, POWER = 1.0, 0.8
#: MMDetection rounds to 0.1 points. A difference of two has at least this standard deviation, so
#: that two seeds with the same difference are not taken for certainty.
ROUNDING = 0.1 / math.sqrt(6)
#: The states of trainings that are to come.
OPEN = ('running', 'missing')
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
        """'ahead', 'behind' or 'undecided'."""
        return AHEAD if self.low > 0 else BEHIND if self.high < 0 else UNDECIDED

    def __str__(self) -> str:
        interval = f' [{self.low:+.1f}, {self.high:+.1f}]' if self.seeds > 1 else ''
        return f'{self.mean:+.1f}{interval}'


class Row(NamedTuple):
    """An arm in the table.

    Attributes:
        arm: Its name.
        is_baseline: Whether the others are compared with it.
        scores: The metric, AP50 and AP75 at the end of each finished training: by name, by seed.
        differences: In the metric, to each baseline; of the second baseline to the first.
        level: One minus the coverage of the intervals.
        missing: The runs that a verdict takes: its own that failed, and its own and those of its
            baselines that are to come.
    """

    arm: str
    is_baseline: bool
    scores: Mapping[str, Scores]
    differences: dict[str, Difference]
    level: float
    missing: list[dict[str, Any]]

    @property
    def word(self) -> str:
        """One of `WORDS`; 'no verdict' of the first baseline, too."""
        differences = self.differences.values()
        if self.missing or min((difference.seeds for difference in differences), default=0) < 2:
            return NO_VERDICT
        words = {difference.word for difference in differences}
        return AHEAD if words == {AHEAD} else BEHIND if BEHIND in words else UNDECIDED

    @property
    def against(self) -> str:
        """The better baseline, unless the interval to another one decides."""
        found, word = self.differences, self.word
        deciding = [name for name in found if word in (found[name].word, NO_VERDICT)]
        return min(deciding, key=lambda name: (not found[name].seeds, found[name].mean))

    @property
    def more_seeds(self) -> int:
        """How many more would show a difference of 1 AP; 0 where the intervals rule it out."""
        found = self.differences.values()
        if min(d.low for d in found) > -WORTHWHILE and min(d.high for d in found) < WORTHWHILE:
            return 0
        decides = self.differences[self.against]
        return max(1, seeds_to_show(round(decides.spread, 2), self.level) - decides.seeds)


class Verdict(NamedTuple):
    """What is said of a comparison.

    Attributes:
        sentence: The first, in plain words.
        details: Further sentences.
        table: The arms, in the order of the results.
        leading: The arm of the first sentence; None where there are no two to compare.
        classes: Its difference in each class to the baseline that decides, the largest first.
            What is 'ahead' or 'behind' is more than noise.
        keep: The name of the arm whose config to keep; None before there is a verdict.
    """

    sentence: str
    details: list[str]
    table: list[Row]
    leading: Row | None
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
def seeds_to_show(spread: float, level: float = LEVEL) -> int:
    """How many pairs show a true difference of `WORTHWHILE` with the probability `POWER`.

    Args:
        spread: The standard deviation of the paired differences.
        level: Of the two-sided t test.
    """
    # With a known spread it took that many; that it is estimated costs a few more.
    least = ((norm.ppf(1 - level / 2) + norm.ppf(POWER)) * spread / WORTHWHILE) ** 2
    n = max(2, int(least)) + np.arange(20)
    with np.errstate(all='ignore'):  # SciPy 1.10 has NaN for a power of 1, sorted behind it
        power = nct.sf(t.ppf(1 - level / 2, n - 1), n - 1, WORTHWHILE / spread * np.sqrt(n))
    return int(n[np.searchsorted(power, POWER)])


def verdict(results: dict[str, Any]) -> Verdict:
    """What `results.json` of a comparison says.

    A training counts with the last point of its curve. While trainings of an arm or of its
    baselines are to come, nothing is called ahead: who looks after each seed and stops at the
    first lead finds one where there is none. An arm of which a training failed gets no verdict
    from those that finished, which are the lucky ones. A baseline that failed with every seed is
    left out.
    """
    table = judge(results)
    judged = sorted((row for row in table if row.differences), key=_rank)
    if not judged:
        return Verdict('No verdict: there are no two arms to compare.', [], table, None, {}, None)
    first, *rest = judged
    classes = _classes(results, first)
    sentence, *details = TEMPLATES.get_template('sentences.j2').render(
        results=results, first=first, rest=rest, classes=classes, faster=partial(_faster, results),
        beside={name: _difference(results, first, _at(name)) for name in BESIDE},
    ).splitlines()  # fmt: skip
    finished = max(first.differences, key=lambda name: first.differences[name].seeds)
    waits = any(run['state'] in OPEN for run in first.missing)
    ahead = [row.arm for row in judged if row.word == AHEAD and not waits]
    keep = ahead[0] if ahead else None if first.word == NO_VERDICT else finished
    return Verdict(sentence, details, table, first, classes, keep)


def _rank(row: Row) -> tuple[bool, int, float]:
    return row.is_baseline, WORDS.index(row.word), -row.differences[row.against].mean


def judge(results: dict[str, Any]) -> list[Row]:
    """The rows of the table of a verdict."""
    arms, runs = [arm['name'] for arm in results['arms']], results['runs']
    known = [arm for arm in arms if arm in results['baselines']]
    alive = {run['arm'] for run in runs if run['state'] != 'failed'}
    baselines = [arm for arm in known if arm in alive]
    scores = {name: _scores(results, _at(name)) for name in (results['metric'], *BESIDE)}
    deciding, table = scores[results['metric']], []
    for arm in arms:
        level = LEVEL if arm in known else LEVEL / (len(arms) - len(known))
        rivals = baselines[: baselines.index(arm)] if arm in baselines else baselines
        differences = {
            rival: paired_difference(deciding[arm], deciding[rival], level) for rival in rivals
        }
        expected = {(arm, 'failed'), *((name, state) for name in (arm, *rivals) for state in OPEN)}
        missing = [run for run in runs if (run['arm'], run['state']) in expected]
        ends = {name: by_arm[arm] for name, by_arm in scores.items()}
        table.append(Row(arm, arm in known, ends, differences, level, missing))
    return table


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

    Where k of m stand out, their intervals are those of the level times k / m.
    """
    points = [point for run in results['runs'] for point in run['curve']]
    names = dict.fromkeys(name for point in points for name in point.get('classes', ()))
    scores = {name: _scores(results, _at(name, part='classes')) for name in names}
    found: dict[str, Difference] = {}
    k, standing_out = -1, len(names)
    while k != standing_out:
        k = standing_out
        level = row.level * max(k, 1) / max(len(names), 1)
        found = {
            name: paired_difference(by_arm[row.arm], by_arm[row.against], level)
            for name, by_arm in scores.items()
        }
        standing_out = sum(difference.word != UNDECIDED for difference in found.values())
    measured = (item for item in found.items() if item[1].seeds)
    return dict(sorted(measured, key=lambda item: -abs(item[1].mean)))


def _faster(results: dict[str, Any], row: Row) -> tuple[Difference, int] | None:
    """Of an arm that is not ahead at the end, but was on average until then.

    Returns:
        That average difference to the baseline that decides, and the last iteration with a lead,
        0 if it is the end.
    """
    metric = results['metric']
    iterations = {
        tuple(point['iteration'] for point in run['curve']) for run in results['runs']
        if run['state'] == 'done' and run['arm'] in (row.arm, row.against)
    }  # fmt: skip
    shared = min(iterations, default=())
    if row.word not in (UNDECIDED, BEHIND) or len(iterations) > 1 or len(shared) < 2:
        return None
    lead = _difference(results, row, lambda curve: fmean(point[metric] for point in curve[:-1]))
    leads = [i for i in range(len(shared)) if _difference(results, row, _at(metric, i)).mean > 0]
    crossing = 0 if len(shared) - 1 in leads or not leads else shared[leads[-1]]
    return (lead, crossing) if lead.word == AHEAD else None
