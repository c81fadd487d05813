"""How often the verdict of `ghm-mmdet compare` is right, on trainings whose truth is known.

AP is drawn from a normal distribution around each arm's true AP, in part the same for all arms of
a seed, and rounded to 0.1 points as MMDetection rounds it. Prints tables in Markdown.

Examples:
    python -m studies.verdicts --trials 200
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ghm_mmdet.compare.verdict import AHEAD, BEHIND, UNDECIDED, judge, verdict
from ghm_mmdet.reproduce.markdown import markdown_table

ARMS = ('original', 'clipped', 'ghm', 'released', 'mine')
SEEDS = (2, 3, 5, 10)
SPREADS = (0.5, 1.0, 2.0, 3.0)
LOOKS = ('3', '10', 'after each from 2 to 10, until it is ahead', '3, and as many more as advised')
CLASS_SPREAD = 3.0


def results(ap: np.ndarray, classes: np.ndarray | None = None) -> dict[str, Any]:
    """What a comparison would have written.

    Args:
        ap: Shape (arms, seeds, validations), in percent.
        classes: Shape (arms, seeds, C), at the end.
    """
    runs = []
    for arm, seed in product(range(len(ap)), range(ap.shape[1])):
        curve = [{'iteration': i, 'AP': value} for i, value in enumerate(ap[arm, seed].tolist())]
        curve[-1]['classes'] = {} if classes is None else dict(enumerate(classes[arm, seed]))
        runs.append({'arm': ARMS[arm], 'seed': seed, 'state': 'done', 'curve': curve})
    arms = [{'name': name, 'settings': {}} for name in ARMS[: len(ap)]]
    seeds = list(range(ap.shape[1]))
    return dict(metric='AP', baselines=ARMS[:2], seeds=seeds, arms=arms, runs=runs)


def draw(
    rng: np.random.Generator, truth: Any, seeds: int, spread: float = 1.0, shared: float = 0.0
) -> np.ndarray:
    """AP of shape (arms, seeds, V) around a truth of shape (arms,) or (arms, V).

    `shared` is the share of the variance that the arms of a seed have in common.
    """
    truth = 40 + np.reshape(truth, (len(truth), 1, -1))
    common, own = (rng.standard_normal((n, seeds, truth.shape[-1])) for n in (1, len(truth)))
    return np.round(truth + spread * (shared**0.5 * common + (1 - shared) ** 0.5 * own), 1)


def arms_said(
    rng: np.random.Generator, arms: int, lead: float, gain: float, shared: float, spread: float,
    seeds: int,
) -> Sequence[float]:  # fmt: skip
    """Whether any arm is ahead of the baselines; the clipping, of the original; any arm behind.

    The clipping gives a `gain`, ghm leads further, and other arms have the clipping's AP.
    """
    truth = [0, gain, gain + lead, *[gain] * (arms - 3)]
    rows = judge(results(draw(rng, truth, seeds, spread, shared)))
    _, clipped, *others = (row.word for row in rows)
    return AHEAD in others, clipped == AHEAD, BEHIND in others


def look_said(rng: np.random.Generator, lead: float, spread: float, look: str) -> Sequence[float]:
    """Whether ghm is ahead, and a hundredth of the number of seeds."""
    ap = draw(rng, [0, 3, 3 + lead], 500, spread)
    for n in dict(zip(LOOKS, ([3], [10], range(2, 11), [3])))[look]:
        row = judge(results(ap[:, :n]))[2]
        if row.word == AHEAD:
            break
    if look == LOOKS[3] and row.word == UNDECIDED:
        n += row.more_seeds
        row = judge(results(ap[:, :n]))[2]
    return row.word == AHEAD, n / 100


def classes_said(rng: np.random.Generator, lead: float, count: int, seeds: int) -> Sequence[float]:
    """Whether a class stands out, and how many of the half that leads, and of the other, do."""
    classes = rng.normal(40, CLASS_SPREAD, (3, seeds, count))
    classes[2, :, : count // 2] += lead
    found = verdict(results(draw(rng, [0, 0, 0], seeds), classes.round(1))).classes
    named = np.array([found[name].word in (AHEAD, BEHIND) for name in range(count)])
    return named.any(), *named.reshape(2, -1).mean(1)


def curves_said(rng: np.random.Generator, lead: float, seeds: int) -> Sequence[float]:
    """Whether ghm, which leads until the fifth of ten validations, is called faster."""
    early = np.where(np.arange(10) < 5, 1, -0.2)
    found = verdict(results(draw(rng, np.outer((0, 0, lead), early), seeds)))
    return ('faster' in found.sentence,)


def table(
    said: Callable[..., Sequence[float]], trials: int, settings: Mapping[str, Sequence[float]],
    columns: Sequence[Any] = SEEDS,
) -> str:  # fmt: skip
    """The means of what is said, in percent; a row for each of the settings."""
    rng, rows = np.random.default_rng(0), []
    for row in product(*settings.values()):
        cells = (np.mean([said(rng, *row, column) for _ in range(trials)], 0) for column in columns)
        rows.append([*row, *(' / '.join(f'{100 * share:.1f}' for share in cell) for cell in cells)])
    return f'{said.__doc__}\n\n{markdown_table([*settings, *columns], rows)}\n'


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('--trials', type=int, default=2000, help='of each cell; default: 2000')
    trials = parser.parse_args().trials
    rest = {'clipping gives': (0, 3), 'shared': (0, 0.7), 'spread': SPREADS}
    print(table(arms_said, trials, {'arms': (3, 5), 'ghm leads by': (0,), **rest}))
    print(table(arms_said, trials // 2, {'arms': (3,), 'ghm leads by': (0.5, 1, 2), **rest}))
    print(table(look_said, trials, {'ghm leads by': (0, 1), 'spread': SPREADS[:3]}, LOOKS))
    halves = {'half leads by': (0, 4, 8), 'classes': (2, 12, 80)}
    print(table(classes_said, 1 + trials // 10, halves))
    print(table(curves_said, trials, {'early lead': (0, 1, 5)}))


if __name__ == '__main__':
    main()
