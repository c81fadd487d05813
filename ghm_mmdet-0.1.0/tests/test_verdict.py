"""The verdict of a comparison: its arithmetic against SciPy, its words, and how often it errs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ghm_mmdet.compare.verdict import Row, paired_difference, seeds_to_show, verdict
from studies import verdicts

MISSING = None
NAN = 'the loss is NaN since iteration 40'


def comparison(
    metric: str = 'AP', seeds: int = 0, failed: tuple = (), running: tuple = (), **scores: list
) -> dict[str, Any]:
    """Results of arms by name; a score for each seed, or a curve of them, or of dicts."""
    seeds = seeds or max(map(len, scores.values()))
    runs = []
    for arm, of_arm in scores.items():
        for seed, score in enumerate(of_arm):
            state = 'missing' if score is MISSING else 'done'
            state = 'failed' if (arm, seed) in failed else state
            state = 'running' if (arm, seed) in running else state
            curve = [] if score is MISSING else score if isinstance(score, list) else [score]
            points = [p if isinstance(p, dict) else {metric: p} for p in curve]
            points = [{'iteration': 100 * i, **point} for i, point in enumerate(points, 1)]
            why = NAN if state == 'failed' else None
            runs.append(dict(arm=arm, seed=seed, state=state, why=why, curve=points))
    settings = {'clipped': {'optim_wrapper.clip_grad.max_norm': 2}}
    arms = [dict(name=arm, what=arm, settings=settings.get(arm, {})) for arm in scores]
    baselines = ['original', 'clipped']
    return dict(metric=metric, baselines=baselines, arms=arms, seeds=list(range(seeds)), runs=runs)


def said(**scores: Any) -> str:
    return verdict(comparison(**scores)).sentence


def row(arm: str, **scores: Any) -> Row:
    return next(row for row in verdict(comparison(**scores)).table if row.arm == arm)


# Arithmetic.


@pytest.mark.parametrize('level', [0.05, 0.05 / 3])
@pytest.mark.parametrize('n', [2, 3, 5, 10])
def test_interval_is_students(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    scores, baseline = rng.normal(40, 2, (2, n)).round(1)
    found = paired_difference(dict(enumerate(scores)), dict(enumerate(baseline)), level)
    differences = scores - baseline
    low, high = stats.t.interval(1 - level, n - 1, differences.mean(), stats.sem(differences))
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.spread == pytest.approx(differences.std(ddof=1))
    assert found.seeds == n
    p = stats.ttest_rel(scores, baseline).pvalue
    assert (found.word != 'undecided') == (p < level)


def test_only_pairs_count() -> None:
    """In whatever order; a seed that one arm lacks is left out."""
    found = paired_difference({0: 41.0, 3: 40.0, 1: 42.0, 7: 90.0}, {1: 40.0, 0: 40.0, 9: 0.0})
    assert found == paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0})
    assert (found.mean, found.seeds) == (1.5, 2)


def test_less_than_two_pairs_decide_nothing() -> None:
    one = paired_difference({0: 41.0}, {0: 40.0})
    assert (str(one), one.word, one.low, one.high) == ('+1.0', 'undecided', -math.inf, math.inf)
    none = paired_difference({0: 41.0}, {1: 40.0})
    assert math.isnan(none.mean) and none.seeds == 0


def test_equal_differences_are_as_sure_as_their_rounding() -> None:
    """AP is given to 0.1, a uniform error of variance 0.1² / 12 in each of the two."""
    for difference, word in ((0.1, 'undecided'), (0.3, 'undecided'), (0.4, 'ahead')):
        scores = {0: 40 + difference, 1: 41 + difference}
        found = paired_difference(scores, {0: 40.0, 1: 41.0})
        half = stats.t.ppf(0.975, 1) * math.sqrt(2 * 0.1**2 / 12) / math.sqrt(2)
        assert found.high - found.mean == pytest.approx(half)
        assert found.word == word


@pytest.mark.parametrize('level', [0.05, 0.05 / 9])
@pytest.mark.parametrize('spread', [0.04, 0.3, 0.7, 1.4, 2.0, 6.0])
def test_seeds_to_show_one_point(spread: float, level: float) -> None:
    """The first number of pairs that has a power of 80 %, by the noncentral t of each."""
    n, power = 2, 0.0
    while power < 0.8:
        critical = stats.t.ppf(1 - level / 2, n - 1)
        power = 1 - stats.nct.cdf(critical, n - 1, math.sqrt(n) / spread)
        n += 1
    assert seeds_to_show(spread, level) == n - 1


def test_power_by_drawing() -> None:
    n = seeds_to_show(1.4)
    drawn = np.random.default_rng(0).normal(1, 1.4, (20_000, n))
    p = stats.ttest_1samp(drawn, 0, axis=1).pvalue
    assert np.mean((p < 0.05) & (drawn.mean(1) > 0)) == pytest.approx(0.81, abs=0.02)


# What decides.

ORIGINAL, CLIPPED = [50.0, 52.0, 51.0], [52.0, 51.0, 53.0]


def plus(scores: list[float], *differences: float) -> list[float]:
    return [round(score + difference, 1) for score, difference in zip(scores, differences)]


@pytest.mark.parametrize(
    ('ghm', 'word', 'against'),
    [
        ([54.2, 53.9, 55.0], 'ahead', 'clipped'),
        # Of clipped by 0.9, 1.1, 1.0, of original by 2.9, 0.1, 3.0.
        ([52.9, 52.1, 54.0], 'undecided', 'original'),
        ([52.5, 51.0, 52.9], 'undecided', 'clipped'),
        ([51.0, 50.1, 51.9], 'behind', 'clipped'),
        # Of original by 1.0, 1.1, 0.9, of clipped by 3.0, 0.1, 2.9.
        ([49.0, 50.9, 50.1], 'behind', 'original'),
    ],
)
def test_all_baselines_must_be_beaten(ghm: list[float], word: str, against: str) -> None:
    """Ahead is ahead of both, behind is behind one; the sentence names the one that decides."""
    found = verdict(comparison(original=ORIGINAL, clipped=CLIPPED, ghm=ghm))
    assert (found.leading.word, found.leading.against) == (word, against)
    assert found.sentence.startswith(f'ghm against {against}')
    p = {
        name: stats.ttest_rel(ghm, scores, alternative=side).pvalue
        for name, scores in (('original', ORIGINAL), ('clipped', CLIPPED))
        for side in ('greater' if word != 'behind' else 'less',)
    }
    significant = [name for name in p if p[name] < 0.025]
    assert len(significant) >= {'ahead': 2, 'undecided': 0, 'behind': 1}[word]


def test_better_baseline_is_named_where_there_are_two() -> None:
    both = said(original=ORIGINAL, clipped=CLIPPED, ghm=[54.2, 53.9, 55.0])
    assert both.startswith('ghm against clipped, the better baseline: ')
    assert said(original=ORIGINAL, ghm=[54.2, 53.9, 55.0]).startswith('ghm against original: ')
    # The other one decides.
    decided = said(original=ORIGINAL, clipped=CLIPPED, ghm=[52.9, 52.1, 54.0])
    assert decided.startswith('ghm against original: ')


def test_several_arms_share_the_error() -> None:
    """What is ahead alone, with p between 5 % / 3 and 5 %, is undecided beside two more."""
    ghm = plus(CLIPPED, 1.0, 1.8, 1.4)
    p = stats.ttest_rel(ghm, CLIPPED).pvalue
    assert 0.05 / 3 < p < 0.05
    baselines = dict(original=plus(CLIPPED, -9, -9.1, -8.9), clipped=CLIPPED)
    assert row('ghm', **baselines, ghm=ghm).word == 'ahead'
    three = dict(ghm=ghm, mine=plus(CLIPPED, 0, 1, -1), released=plus(CLIPPED, 0, -1, 1))
    shared = row('ghm', **baselines, **three)
    assert shared.word == 'undecided'
    difference = np.subtract(ghm, CLIPPED)
    expected = stats.t.interval(1 - 0.05 / 3, 2, difference.mean(), stats.sem(difference))
    assert shared.differences['clipped'][1:3] == pytest.approx(expected)
    # The clipping is compared with the original alone.
    assert row('clipped', **baselines, **three).level == 0.05


def test_arm_of_the_first_sentence() -> None:
    """The best that is ahead; then what has no verdict yet, undecided, behind."""
    arms = dict(
        behind=plus(CLIPPED, -5, -5.1, -4.9),
        undecided=plus(CLIPPED, 1, -1, 2),
        ahead=plus(CLIPPED, 5, 5.1, 4.9),
        best=plus(CLIPPED, 7, 7.1, 6.9),
        missing=[60.0, 61.0, MISSING],
    )
    order = ['best', 'ahead', 'missing', 'undecided', 'behind']
    baselines = dict(original=plus(CLIPPED, 0, 1, 0), clipped=CLIPPED)
    while order:
        found = verdict(comparison(**baselines, **{arm: arms[arm] for arm in reversed(order)}))
        assert found.leading.arm == order[0]
        starts = [sentence.split()[0] for sentence in (found.sentence, *found.details)]
        assert starts == [*order, 'clipped']
        order.pop(0)


# Words.


@pytest.mark.parametrize(
    ('scores', 'sentence'),
    [
        (
            dict(original=[50.0, 52.0, 51.0], ghm=[52.0, 54.5, 53.0]),
            'ghm against original: +2.2 [+1.4, +2.9] AP over 3 seeds, ahead.',
        ),
        (
            dict(original=[50.0, 52.0, 51.0], ghm=[48.0, 49.5, 49.0]),
            'ghm against original: -2.2 [-2.9, -1.4] AP over 3 seeds, behind.',
        ),
        (
            dict(original=[50.0, 52.0, 51.0], ghm=[49.0, 53.0, 52.0]),
            'ghm against original: +0.3 [-2.5, +3.2] AP over 3 seeds, undecided: about 10 more '
            'seeds would show a difference of 1 AP.',
        ),
        (
            dict(original=[50.0, 52.0, 51.0], ghm=[50.2, 52.0, 50.9]),
            'ghm against original: +0.0 [-0.3, +0.4] AP over 3 seeds, undecided: a difference of '
            '1 AP is ruled out.',
        ),
        (
            dict(original=[50.0, 52.0, 51.0], ghm=[50.9, 52.1, 51.0], metric='mAP'),
            'ghm against original: +0.3 [-0.9, +1.6] mAP over 3 seeds, undecided: about 2 more '
            'seeds would show a difference of 1 mAP.',
        ),
        (
            dict(original=[50.0, 51.0, 52.0], clipped=[53.0, 54.5, 55.3], ghm=[54.1, 55.4, 56.3]),
            'Set optim_wrapper.clip_grad.max_norm=2: +3.3 [+2.6, +3.9] AP; ghm beside it: '
            '+1.0 [+0.8, +1.2] AP over 3 seeds, ahead.',
        ),
        (
            dict(original=[50.0, 51.0, 52.0], clipped=[53.0, 54.5, 55.3], ghm=[52.0, 53.7, 54.4]),
            'Set optim_wrapper.clip_grad.max_norm=2: +3.3 [+2.6, +3.9] AP; ghm beside it: '
            '-0.9 [-1.1, -0.7] AP over 3 seeds, behind, not worth it.',
        ),
        (
            dict(original=[50.0, 51.0, 52.0], clipped=[53.0, 54.5, 55.3], ghm=[52.0, 55.5, 55.3]),
            'Set optim_wrapper.clip_grad.max_norm=2: +3.3 [+2.6, +3.9] AP; ghm beside it: '
            '+0.0 [-2.5, +2.5] AP over 3 seeds, undecided: about 7 more seeds would show a '
            'difference of 1 AP.',
        ),
        (
            dict(original=[50.0], clipped=[53.0], ghm=[54.0]),
            'ghm against clipped: no verdict, which takes two seeds or more, better three, with '
            'AP in every arm; so far +1.0 AP over 1 seed.',
        ),
        (
            dict(original=[50.0, 51.0], ghm=[[], []]),
            'ghm against original: no verdict, which takes two seeds or more, better three, with '
            'AP in every arm.',
        ),
        (
            dict(original=[50.0, 51.0, MISSING], ghm=[55.0, 56.2, MISSING]),
            'ghm against original: no verdict, 2 of 6 trainings are to come; so far '
            '+5.1 [+3.8, +6.4] AP over 2 seeds.',
        ),
        (
            dict(original=[50.0, 51.0, 52.0], ghm=[55.0, 56.2, 57.0], running=(('original', 2),)),
            'ghm against original: no verdict, 1 of 6 trainings is to come; so far '
            '+5.1 [+3.8, +6.4] AP over 2 seeds.',
        ),
        (
            dict(original=[50.0, 51.0, 52.0], ghm=[55.0, 56.1, 57.0], failed=(('ghm', 1),)),
            'ghm against original: no verdict, 1 of the 3 trainings of ghm failed '
            f'(seed 1: {NAN}); where both finished +5.0 [+4.6, +5.4] AP over 2 seeds.',
        ),
        (
            dict(original=[50.0, 51.0], clipped=[53.0, 54.0]),
            'clipped against original: +3.0 [+2.6, +3.4] AP over 2 seeds, ahead.',
        ),
        (dict(original=[50.0, 51.0]), 'No verdict: there are no two arms to compare.'),
        (dict(ghm=[50.0], mine=[51.0]), 'No verdict: there are no two arms to compare.'),
    ],
)
def test_sentence(scores: dict[str, Any], sentence: str) -> None:
    assert said(**scores) == sentence


def test_details_tell_of_the_others() -> None:
    """Except of the clipping's gain, which the first sentence has."""
    ghm, mine = plus(CLIPPED, 3, 3.1, 2.9), plus(CLIPPED, -3, -3.1, -2.9)
    gaining = verdict(
        comparison(original=plus(CLIPPED, -2, -2.1, -1.9), clipped=CLIPPED, ghm=ghm, mine=mine)
    )
    assert gaining.sentence.startswith(
        'Set optim_wrapper.clip_grad.max_norm=2: +2.0 [+1.8, +2.2] AP; '
    )
    assert gaining.details == [
        'mine against clipped, the better baseline: -3.0 [-3.4, -2.6] AP over 3 seeds, behind.'
    ]
    idle = verdict(comparison(original=plus(CLIPPED, 0, 0.1, -0.1), clipped=CLIPPED, ghm=ghm))
    assert idle.details == [
        'clipped against original: +0.0 [-0.2, +0.2] AP over 3 seeds, undecided: a difference of '
        '1 AP is ruled out.'
    ]


def test_clipping_that_is_not_shown_to_help_is_not_advised() -> None:
    """The mean gain of 3.3 is not more than noise in three seeds."""
    scores = dict(original=[1.8, 4.8, 4.1], clipped=[4.1, 7.5, 9.0], ghm=[4.5, 6.4, 7.1])
    found = verdict(comparison(**scores))
    assert found.sentence == (
        'ghm against clipped, the better baseline: -0.9 [-3.8, +2.0] AP over 3 seeds, undecided: '
        'about 10 more seeds would show a difference of 1 AP.'
    )
    assert found.details[0].startswith(
        'clipped against original: +3.3 [-0.2, +6.8] AP over 3 seeds'
    )


# Trainings that are not there.


@pytest.mark.parametrize(
    ('ghm', 'advice'),
    [
        # The intervals to clipped, [-0.5, 0.5], and to original, above 8.
        (plus(CLIPPED, 0.2, -0.2, 0), 'a difference of 1 AP is ruled out.'),
        # [-1.5, 0.5]; a spread of 0.4 takes 4 seeds.
        (plus(CLIPPED, -0.9, -0.5, -0.1), 'about 1 more seed would show a difference of 1 AP.'),
        # [-0.2, 1.2]; a spread of 0.3 takes 3, which are there.
        (plus(CLIPPED, 0.2, 0.5, 0.8), 'about 1 more seed would show a difference of 1 AP.'),
    ],
)
def test_advice_is_of_the_baseline_that_decides(ghm: list[float], advice: str) -> None:
    found = verdict(comparison(original=plus(CLIPPED, -9, -7, -11), clipped=CLIPPED, ghm=ghm))
    assert found.sentence.endswith(f', undecided: {advice}')


def test_survivors_give_no_verdict() -> None:
    """Where its losses diverge, the seeds in which they do not are no sample."""
    scores = dict(
        original=[50.0, 51.0, 52.0], clipped=[50.0, 51.0, 52.1], ghm=[60.0, MISSING, 62.0]
    )
    assert row('ghm', **scores, failed=(('ghm', 1),)).word == 'no verdict'
    # Those of a baseline can only make it better.
    lost = comparison(**{**scores, 'ghm': [60.0, 61.0, 62.1]}, failed=(('original', 1),))
    found = verdict(lost)
    assert found.leading.word == 'ahead'
    assert [found.leading.differences[name].seeds for name in ('original', 'clipped')] == [2, 3]


def test_baseline_that_always_fails_is_left_out() -> None:
    scores = dict(original=[MISSING, MISSING], clipped=[50.0, 51.0], ghm=[53.0, 54.2])
    failed = (('original', 0), ('original', 1))
    found = verdict(comparison(**scores, failed=failed))
    assert found.sentence == 'ghm against clipped: +3.1 [+1.8, +4.4] AP over 2 seeds, ahead.'
    assert found.details == [
        'original against clipped: no verdict, 2 of the 2 trainings of original failed '
        f'(seed 0: {NAN}).'
    ]
    both = verdict(comparison(original=[MISSING], ghm=[50.0], failed=(('original', 0),)))
    assert both.sentence == 'No verdict: there are no two arms to compare.'


def test_nothing_is_called_ahead_before_all_have_run() -> None:
    scores = dict(
        original=plus(CLIPPED, 0, 0.1, -0.1), clipped=CLIPPED, ghm=plus(CLIPPED, 5, 5, 5.1),
        mine=[1.0, 1.0, MISSING],
    )  # fmt: skip
    assert row('ghm', **scores).word == 'ahead'
    for arm, seed in (('original', 2), ('clipped', 0), ('ghm', 1)):
        assert row('ghm', **scores, running=((arm, seed),)).word == 'no verdict'
    assert row('mine', **scores).word == 'no verdict'


def test_last_point_counts_and_null_is_no_score() -> None:
    curves = [[40.0, 60.0, 50.0], [45.0, 51.0]]
    assert row('original', original=curves, ghm=[1.0, 2.0]).scores['AP'] == {0: 50.0, 1: 51.0}
    nulls = [{'AP': None, 'AP50': 3.0}, 51.0]
    assert row('original', original=nulls, ghm=[1.0, 2.0]).scores == {
        'AP': {1: 51.0}, 'AP50': {0: 3.0}, 'AP75': {}
    }  # fmt: skip
    assert row('ghm', original=nulls, ghm=[55.0, 56.0]).word == 'no verdict'
    # Who detects nothing has an AP of zero.
    assert row('ghm', original=[0.0, 0.0], ghm=[1.0, 1.0]).differences['original'].mean == 1.0


# What is beside it.


def test_other_metrics_are_compared_with_the_same_baseline() -> None:
    def points(*values: tuple[float, float]) -> list[dict[str, float]]:
        return [{'AP': ap, 'AP50': ap50, 'AP75': 10.0} for ap, ap50 in values]

    found = verdict(
        comparison(
            original=points((40.0, 70.0), (41.0, 70.0), (42.0, 71.0)),
            clipped=points((50.0, 70.0), (51.0, 70.5), (52.0, 71.0)),
            ghm=points((53.0, 69.0), (54.1, 70.1), (55.0, 71.2)),
        )
    )
    low, high = stats.t.interval(0.95, 2, np.mean([-1, -0.4, 0.2]), stats.sem([-1, -0.4, 0.2]))
    assert f'AP50: ghm -0.4 [{low:+.1f}, {high:+.1f}] against clipped.' in found.details
    assert 'AP75: ghm +0.0 [-0.1, +0.1] against clipped.' in found.details
    assert found.table[2].scores['AP50'] == {0: 69.0, 1: 70.1, 2: 71.2}


def of_classes(**classes: np.ndarray) -> list[dict[str, Any]]:
    """A point for each seed, in which AP tells nothing."""
    n = len(next(iter(classes.values())))
    return [
        {'AP': 50.0 + i, 'classes': {name: float(ap[i]) for name, ap in classes.items()}}
        for i in range(n)
    ]


@pytest.mark.parametrize(('count', 'seeds'), [(1, 3), (12, 3), (80, 5)])
def test_classes_by_benjamini_and_hochberg(count: int, seeds: int) -> None:
    """By the definition: the largest k with p of rank k <= 5 % k / m; the intervals follow it."""
    rng = np.random.default_rng(count)
    names = [f'class {i}' for i in range(count)]
    theirs, ours = rng.normal(40, 2, (2, count, seeds)).round(1)
    ours[: (count + 1) // 2] += 12
    found = verdict(
        comparison(
            original=of_classes(**dict(zip(names, theirs))),
            ghm=of_classes(**dict(zip(names, ours))),
        )
    )
    p = stats.ttest_rel(ours, theirs, axis=1).pvalue
    ranks = [k for k, of_rank in enumerate(np.sort(p), 1) if of_rank <= 0.05 * k / count]
    k = max(ranks, default=1)
    named = {name for name, difference in found.classes.items() if difference.word != 'undecided'}
    assert named == {names[i] for i in np.argsort(p)[: len(ranks) and k]}
    assert len(named) > count / 4
    means = [abs(difference.mean) for difference in found.classes.values()]
    assert means == sorted(means, reverse=True)
    difference = ours[0] - theirs[0]
    interval = stats.t.interval(
        1 - 0.05 * k / count, seeds - 1, difference.mean(), stats.sem(difference)
    )
    assert found.classes['class 0'][1:3] == pytest.approx(interval)
    listed = [f'{name} {d}' for name, d in found.classes.items() if name in named][:5]
    sentence = f'{len(named)} of {count} classes differ by more than noise: {", ".join(listed)}.'
    assert (sentence in found.details) == (count > 1)


def test_no_class_is_named_without_a_verdict_or_a_difference() -> None:
    theirs, ours = np.array([40.0, 41.0, 42.0]), np.array([60.0, 61.0, 62.1])
    scores = dict(original=of_classes(a=theirs, b=theirs), ghm=of_classes(a=ours, b=theirs))
    assert verdict(comparison(**scores)).details == [
        '1 of 2 classes differ by more than noise: a +20.0 [+19.8, +20.2].'
    ]
    assert verdict(comparison(**scores, running=(('ghm', 0),))).details == []
    scores['ghm'] = of_classes(a=theirs[::-1], b=theirs)
    assert verdict(comparison(**scores)).details == ['0 of 2 classes differ by more than noise.']
    # One class has the AP that decides.
    alone = dict(original=of_classes(a=theirs), ghm=of_classes(a=ours))
    assert verdict(comparison(**alone)).details == []


def test_class_that_no_image_has_is_left_out() -> None:
    points = of_classes(king=np.array([40.0, 41.0]))
    for point in points:
        point['classes']['queen'] = None
    assert list(verdict(comparison(original=points, ghm=points)).classes) == ['king']


# Curves.

STEADY = [[10.0, 20.0, 30.0, 40.0], [11.0, 21.0, 31.0, 41.0], [12.0, 22.0, 32.0, 42.0]]


def shifted(*leads: float, noise: float = 0.1) -> list[list[float]]:
    return [
        [value + lead + (seed - 1) * noise for value, lead in zip(curve, leads)]
        for seed, curve in enumerate(STEADY)
    ]


def test_faster_not_higher() -> None:
    """The mean until the end of 6.0, with leads that differ by 0.1 among the seeds."""
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    average = f'(+3.0 [{3 - half:+.1f}, {3 + half:+.1f}] on average before the end).'
    behind = said(original=STEADY, ghm=shifted(6, 4, -1, -2))
    assert behind.endswith(f', behind; faster, not higher: ahead until iteration 200 {average}')
    undecided = said(original=STEADY, ghm=shifted(6, 2, 1, 0))
    assert undecided.endswith(
        ': a difference of 1 AP is ruled out; faster, not higher: ahead until iteration 300 '
        + average
    )
    # It still leads at the end, by no more than noise.
    leading = said(original=STEADY, ghm=shifted(6, 2, 1, 0.1))
    assert leading.endswith(f' is ruled out; faster {average}')


@pytest.mark.parametrize(
    ('ghm', 'why'),
    [
        (shifted(6, 4, 2, 3), 'higher, too'),
        (shifted(6, 4, 2, -1, noise=9), 'noise'),
        (shifted(-6, -4, -2, -1), 'slower'),
        ([curve[-1:] for curve in shifted(6, 4, 2, -1)], 'one validation'),
        ([curve[:3] for curve in shifted(60, 60, -50, -1)], 'another length'),
    ],
)
def test_not_faster(ghm: list[list[float]], why: str) -> None:
    assert 'faster' not in said(original=STEADY, ghm=ghm), why


# The config to keep.


@pytest.mark.parametrize(
    ('ghm', 'clipped', 'failed', 'keep'),
    [
        (plus(CLIPPED, 3, 3.1, 3), CLIPPED, (), 'ghm'),
        (plus(CLIPPED, 0, 1, -1), CLIPPED, (), 'clipped'),
        (plus(CLIPPED, -3, -3.1, -3), CLIPPED, (), 'clipped'),
        (plus(CLIPPED, -9, -8, -10), plus(CLIPPED, -9, -10, -8), (), 'original'),
        (plus(CLIPPED, -9, -8, -10), plus(CLIPPED, -9, -10, -8), (('original', 2),), 'clipped'),
        (plus(CLIPPED, 3, 3.1, 3), CLIPPED, (('ghm', 0),), 'clipped'),
        (plus(CLIPPED, -9, -8, -10), plus(CLIPPED, -9, -10, -8), (('ghm', 2),), None),
        ([MISSING] * 3, plus(CLIPPED, -9, -10, -8), (), None),
        ([MISSING] * 3, CLIPPED, (), None),
        ([55.0], [54.0], (), None),
    ],
)
def test_config_to_keep(ghm: list, clipped: list, failed: tuple, keep: str | None) -> None:
    """What is ahead, else the first baseline, unless that fails where the other does not."""
    original = plus(CLIPPED, -9, -9, -9.1)[: len(ghm)]
    results = comparison(original=original, clipped=clipped, ghm=ghm, failed=failed)
    assert verdict(results).keep == keep


# Drawn at random.


def test_nothing_is_rarely_called_ahead() -> None:
    """Of 5,000 comparisons of equal arms at most 5 %, and four standard errors of that."""
    most = 0.05 + 4 * math.sqrt(0.05 * 0.95 / 5000)
    for arms in (3, 5):
        for seeds in (2, 3, 10):
            others, clipping, behind = verdicts.arms_said(5000, arms, 0, 0, 0.5, 1.0, seeds).mean(0)
            assert others + clipping < most and behind < most
    certain = verdicts.arms_said(50, 3, 2, 3, 0.7, 0.5, 5).mean(0)
    assert certain.tolist() == [1, 1, 0]


def test_study_knows_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of all trials at once is what is said of each."""
    monkeypatch.setattr(verdicts, 'CHECKED', 100)
    for arms in (3, 5):
        verdicts.arms_said(100, arms, 1, 1, 0.5, 0.5, 3)
    monkeypatch.setattr(verdicts, 'ROUNDING', 5.0)
    with pytest.raises(AssertionError):
        verdicts.arms_said(100, 3, 1, 1, 0.5, 0.5, 3)


def test_study_prints_its_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr('sys.argv', ['verdicts', '--trials', '2'])
    monkeypatch.setattr(verdicts, 'SPREADS', (1.0,))
    verdicts.main()
    tables = [part for part in capsys.readouterr().out.split('\n\n') if part.startswith('|')]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count('|') for line in table.strip().splitlines()}) == 1
