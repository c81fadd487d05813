"""How often the verdict of `ghm-mmdet compare` is right, on trainings whose truth is known.

AP is drawn from a normal distribution around each arm's true AP, in part the same for all arms of
a seed, and rounded to 0.1 points as MMDetection rounds it. Prints tables in Markdown.

Examples:
    python -m studies.verdicts --trials 500
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import t

from ghm_mmdet.compare.verdict import AHEAD, BEHIND, LEVEL, ROUNDING, UNDECIDED, judge
from ghm_mmdet.experiments.markdown import markdown_table

RNG = np.random.default_rng(0)
ARMS = ('original', 'clipped', 'ghm', 'released', 'mine')
SEEDS = (2, 3, 5, 10)
SPREADS = (0.5, 1.0, 2.0, 3.0)
#: Of so many trials of each cell what `words` says is compared with what `judge` does.
CHECKED = 5


def results(ap: np.ndarray) -> dict[str, Any]:
    """What a comparison would have written, of AP of shape (arms, seeds)."""
    seeds, arms = list(range(ap.shape[1])), ARMS[: len(ap)]
    runs = [
        {'arm': arm, 'seed': seed, 'state': 'done', 'curve': [{'iteration': 1, 'AP': value}]}
        for arm, values in zip(arms, ap.tolist()) for seed, value in enumerate(values)
    ]  # fmt: skip
    named = [{'name': arm, 'settings': {}} for arm in arms]
    return dict(metric='AP', baselines=ARMS[:2], seeds=seeds, arms=named, runs=runs)


def draw(
    trials: int, truth: Sequence[float], seeds: int, spread: float, shared: float = 0.0
) -> np.ndarray:
    """AP of shape (trials, arms, seeds).

    `shared` is the share of the variance that the arms of a seed have in common.
    """
    common, own = (RNG.standard_normal((trials, n, seeds)) for n in (1, len(truth)))
    noise = spread * (shared**0.5 * common + (1 - shared) ** 0.5 * own)
    return np.round(40 + np.reshape(truth, (-1, 1)) + noise, 1)


def words(ap: np.ndarray) -> np.ndarray:
    """What `judge` says of each arm but the first: the same rule, of all trials at once.

    Args:
        ap: Shape (trials, arms, seeds).

    Returns:
        Shape (trials, arms - 1).
    """
    (_, arms, n), found = ap.shape, []
    for arm in range(1, arms):
        level = LEVEL / (arms - 2) if arm > 1 else LEVEL
        difference = ap[:, [arm]] - ap[:, : min(arm, 2)]
        spread = np.maximum(difference.std(-1, ddof=1), ROUNDING)
        half = t.ppf(1 - level / 2, n - 1) * spread / np.sqrt(n)
        low, high = (difference.mean(-1) + sign * half for sign in (-1, 1))
        undecided = np.where((high < 0).any(1), BEHIND, UNDECIDED)
        found.append(np.where((low > 0).all(1), AHEAD, undecided))
    found = np.transpose(found)
    for one, said in zip(ap[:CHECKED], found):
        assert [row.word for row in judge(results(one))[1:]] == said.tolist()
    return found


def arms_said(
    trials: int, arms: int, lead: float, gain: float, shared: float, spread: float, seeds: int
) -> np.ndarray:
    """Whether any arm is ahead of the baselines; the clipping, of the original; any arm behind.

    The clipping gives a `gain`, ghm leads further, and other arms have the clipping's AP.
    """
    truth = [0, gain, gain + lead, *[gain] * (arms - 3)]
    found = words(draw(trials, truth, seeds, spread, shared))
    of_others = [(found[:, 1:] == word).any(1) for word in (AHEAD, BEHIND)]
    return np.stack([of_others[0], found[:, 0] == AHEAD, of_others[1]], 1)


def look_said(trials: int, lead: float, spread: float, until: int) -> np.ndarray:
    """Whether ghm is ahead at any look, of one after each seed from the second on."""
    ap = draw(trials, [0, 3, 3 + lead], until, spread)
    looks = [words(ap[:, :, :n])[:, 1] == AHEAD for n in range(2, until + 1)]
    return np.any(looks, 0)[:, None]


def advice_said(trials: int, lead: float, spread: float, seeds: int) -> np.ndarray:
    """Whether ghm is ahead, where undecided after as many more as advised; the seeds / 100."""
    found = []
    for ap in draw(1 + trials // 10, [0, 3, 3 + lead], 400, spread):
        row = judge(results(ap[:, :seeds]))[2]
        total = seeds + (row.more_seeds if row.word == UNDECIDED else 0)
        found.append((judge(results(ap[:, :total]))[2].word == AHEAD, total / 100))
    return np.array(found)


def table(
    said: Callable[..., np.ndarray], trials: int, settings: Mapping[str, Sequence[float]],
    columns: Sequence[int] = SEEDS,
) -> str:  # fmt: skip
    """The means of what is said, in percent; a row for each of the settings."""
    rows = []
    for row in product(*settings.values()):
        cells = (said(trials, *row, column).mean(0) for column in columns)
        rows.append([*row, *(' / '.join(f'{100 * share:.1f}' for share in cell) for cell in cells)])
    return f'{str(said.__doc__).splitlines()[0]}\n\n{markdown_table([*settings, *columns], rows)}\n'


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('--trials', type=int, default=5000, help='of each cell; default: 5000')
    trials = parser.parse_args().trials
    rest = {'clipping gives': (0, 3), 'shared': (0, 0.7), 'spread': SPREADS}
    print(table(arms_said, trials, {'arms': (3, 5), 'ghm leads by': (0, 0.5, 1, 2), **rest}))
    leads = {'ghm leads by': (0, 1), 'spread': SPREADS}
    print(table(look_said, trials, leads))
    print(table(advice_said, trials, leads, SEEDS[1:3]))


if __name__ == '__main__':
    main()
