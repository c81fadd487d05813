"""GHM where people train: RetinaNet from ImageNet weights on nine sets of real photographs.

Examples:
    python -m studies.real_images run --data-root data --seeds 3 --jobs 2 --only '*-1x'
    python -m studies.real_images run --data-root data --seeds 1 --jobs 2 --only '*-sgd0.0025-*'
    python -m studies.real_images report --seeds 3
    python -m studies.real_images figure --seeds 3
--data-root holds a folder of each set in COCO's format: images/, train.json (or trainval.json),
test.json. Without the data, report and figure read the results kept in the repository.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from mmengine.fileio import load

from ghm_mmdet.experiments.logs import NORM
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.visualization.style import BLUE, GHM, ORANGE, RIVAL, new_figure, save_figure

from .label_noise import with_noise
from .means import (
    COLUMNS,
    ahead_of,
    by_seed,
    differences,
    interval_of_seeds,
    mean_and_spread,
    mean_with_interval,
)  # fmt: skip
from .options import Losses, in_set, iterations, of_set, train_file
from .study import IN_THE_CLONE, StudySettings, Training, perform, settings_of, study_parser

CONFIG = 'studies/configs/retinanet_lite0_fpn_fl-sl1_chess.py'
RESULTS = Path('studies/results/real_images.jsonl')
IMAGES = Path('docs/images')
#: The settings were chosen on the first four, and confirmed on the others.
SELECTION = ('chess', 'bccd', 'pears', 'deeppcb')
CONFIRMATION = ('cards', 'fruit', 'aquarium', 'ships')
LEARNT = (*SELECTION, *CONFIRMATION)
#: At 320 pixels neither loss learns cherries: they are in no mean.
SETS = (*LEARNT, 'cherries')
ITERATIONS = {'1x': 200, '2x': 400, '3x': 600, '6x': 1200, '12x': 2400}
#: The sets that are trained to the end, and how long.
TO_THE_END, LENGTHS = ('chess', 'bccd', 'cards', 'fruit'), ('1x', '3x', '6x', '12x')
ADAMW, SGD = 'AdamW', 'SGD'
#: The learning rates of each; the first is that of the other tables. SGD's is MMDetection's 0.01
#: for 16 images.
RATES = {ADAMW: (5e-4, 1.25e-4, 2.5e-4, 1e-3, 2e-3), SGD: (0.0025, 0.005, 0.01, 0.02, 0.025, 0.05)}
#: Those whose differences are shown.
PAIRED = ('AP', 'AP50', 'AP75')
LOSSES = {
    name: Losses(**{**fields, 'options': tuple(fields.get('options', ()))})
    for name, fields in load(Path(__file__).with_name('losses.yml')).items()
}
FOCAL, PRESET, RELEASED, CLIPPED, NORMALIZED, PRESET_NORMALIZED, PRESET_LOWEST = [*LOSSES][:7]
WHOLE, PARTS, SCALED = tuple(LOSSES)[:7], tuple(LOSSES)[7:-1], [*LOSSES][-1]
COMPARED = (PRESET, PRESET_NORMALIZED, PRESET_LOWEST, RELEASED)
#: Each with every norm at which the gradient is clipped.
FOCALS, PRESETS = (FOCAL, CLIPPED, NORMALIZED), (PRESET, PRESET_NORMALIZED, PRESET_LOWEST)


class Regime(NamedTuple):
    """The length of a training, its optimizer and its learning rate."""

    length: str = '1x'
    optimizer: str = ADAMW
    rate: float = RATES[ADAMW][0]

    @property
    def is_base_rate(self) -> bool:
        """Whether the rate is that of the config, or MMDetection's of SGD."""
        return self.rate == RATES[self.optimizer][0]


#: Both losses with the gradient clipped at one norm; with SGD, `harmonize` clips `PRESET` at 10.
ALIKE = (
    (ADAMW, 35, FOCAL, PRESET),
    (ADAMW, 10, CLIPPED, PRESET_NORMALIZED),
    (ADAMW, 2, NORMALIZED, PRESET_LOWEST),
    (SGD, 10, CLIPPED, PRESET),
    (SGD, 2, NORMALIZED, PRESET_LOWEST),
)


class Variant(NamedTuple):
    """A set, its losses, how they are trained, and what is wrong with the labels."""

    set: str
    losses: str
    regime: Regime
    noise: str | None = None

    @property
    def name(self) -> str:
        length, optimizer, rate = self.regime
        is_config = optimizer == ADAMW and self.regime.is_base_rate
        how = None if is_config else f'{optimizer.lower()}{rate}'
        return '-'.join(filter(None, (self.set, self.noise, self.losses, how, length)))


BY_ADAMW = tuple(Regime('1x', ADAMW, rate) for rate in RATES[ADAMW])
BY_SGD = tuple(Regime('2x', SGD, rate) for rate in RATES[SGD])
LONGER = tuple(Regime(length) for length in LENGTHS[1:])
REGIMES = (BY_ADAMW[0], *LONGER, *BY_ADAMW[1:], *BY_SGD)
OF_PARTS = (BY_ADAMW[0], BY_SGD[0])
#: Two sets where the preset is behind with SGD at 0.01, and two where it is not.
SCALED_ON = ('ships', 'cards', 'chess', 'bccd')
VARIANTS = (
    *(
        Variant(name, losses, regime)
        for regime, name, losses in product(REGIMES, SETS, WHOLE)
        if losses != PRESET_NORMALIZED or regime.optimizer == ADAMW
    ),
    *(
        Variant(name, losses, regime)
        for regime, name, losses in product(OF_PARTS, SELECTION, PARTS)
    ),
    *(Variant(name, SCALED, regime) for regime, name in product(BY_SGD, SCALED_ON)),
)


def base_of(losses: str, regime: Regime) -> str:
    """What is compared with; above MMDetection's rate focal loss needs the clipping, too."""
    if losses in (PRESET_NORMALIZED, PRESET_LOWEST):
        return NORMALIZED
    return FOCAL if regime.optimizer == ADAMW or regime.is_base_rate else CLIPPED


def experiment(
    variant: Variant, settings: StudySettings, seed: int, losses: Mapping[str, Losses] = LOSSES
) -> Training:
    settings, config = in_set(settings, variant.set), config_path(CONFIG)

    def options() -> tuple[str, ...]:
        data = Path(settings.data_root)
        labels = ()
        if variant.noise is not None:
            file = with_noise(data / train_file(data), variant.noise, seed)
            labels = (f'train_dataloader.dataset.ann_file={file.name}',)
        return (
            *of_set(settings.data_root),
            *labels,
            *iterations(ITERATIONS[variant.regime.length]),
            *losses[variant.losses].of(config, clipped=variant.regime.optimizer == ADAMW),
            *of_optimizer(variant.regime),
        )

    return Training(variant.name, config, settings, seed=seed, further=options)


def of_optimizer(regime: Regime) -> tuple[str, ...]:
    """The learning rate; SGD as MMDetection's schedules have it."""
    settings: dict[str, object] = {}
    if regime.optimizer == SGD:
        settings = dict(
            _delete_=True, type='SGD', lr=regime.rate, momentum=0.9, weight_decay=0.0001
        )
    elif not regime.is_base_rate:
        settings = dict(lr=regime.rate)
    return tuple(f'optim_wrapper.optimizer.{key}={value}' for key, value in settings.items())


# What the results say.


Results = defaultdict[Variant, dict[int, dict[str, float]]]


def results(settings: StudySettings, seeds: int) -> Results:
    """The metrics in percent, by variant and seed, of what was run; nothing of other variants."""
    found: Results = defaultdict(dict)
    for variant in VARIANTS:
        found[variant] = by_seed(experiment(variant, settings, seed) for seed in range(seeds))
    return found


def table_of_sets(found: Results) -> str:
    """A row for each set, regime and losses."""
    rows = []
    for name, regime, losses in product(SETS, REGIMES, WHOLE):
        runs = found[Variant(name, losses, regime)]
        if runs:
            base = found[Variant(name, base_of(losses, regime), regime)]
            rows.append([name, *_named(regime), LOSSES[losses].what, *_cells(runs, base)])
    return markdown_table(['set', 'optimizer', 'iterations', 'losses', *_HEADS], rows)


def _named(regime: Regime) -> tuple[str, int]:
    return f'{regime.optimizer}, {regime.rate}', ITERATIONS[regime.length]


_HEADS = ['seeds', *COLUMNS, *(f'{column}, paired difference' for column in PAIRED)]


def _cells(runs: dict, base: dict) -> list[object]:
    columns = [mean_and_spread([run[c] for run in runs.values()]) for c in COLUMNS]
    paired = [differences(runs, base, c) if runs != base else [] for c in PAIRED]
    return [len(runs), *columns, *(mean_with_interval(d) if d else None for d in paired)]


def table_over_sets(found: Results) -> str:
    """The mean difference from `base_of` the losses over the sets; a set is the unit.

    "Of the seeds alone" is for these sets, the other intervals are for sets as these. The norm of
    the gradient, before its clipping, is that of these losses over that of the others.
    """
    rows = []
    groups = {'all': LEARNT, 'chosen on': SELECTION, 'confirmed on': CONFIRMATION}
    for losses, regime, group in product(COMPARED, REGIMES, groups):
        paired = of_sets(found, losses, regime, groups[group])
        if paired['AP']:
            means = {c: [*map(statistics.mean, paired[c])] for c in PAIRED}
            intervals = map(mean_with_interval, means.values())
            sets = f'{group}, {len(paired["AP"])}'
            ahead = ahead_of(means['AP']), ahead_of([*chain(*paired['AP'])])
            of_seeds = interval_of_seeds(paired['AP'])
            norm = ratio_of_norms(found, losses, regime, groups[group])
            row = [LOSSES[losses].what, *_named(regime), sets, *intervals, of_seeds, *ahead, norm]
            rows.append(row)
    heads = ['AP, of the seeds alone', 'sets ahead in AP', 'runs ahead', 'norm of the gradient']
    return markdown_table(['losses', 'optimizer', 'iterations', 'sets', *PAIRED, *heads], rows)


def ratio_of_norms(found: Results, losses: str, regime: Regime, sets: Sequence[str]) -> str | None:
    """The geometric mean over the sets, of those where it is known, and the range."""
    ratios = []
    for name in sets:
        ours, base = (found[Variant(name, x, regime)] for x in (losses, base_of(losses, regime)))
        ratios += [ours[s][NORM] / base[s][NORM] for s in ours.keys() & base.keys()]
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    if not ratios:
        return None
    return f'{statistics.geometric_mean(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})'


def of_sets(
    found: Results, losses: str, regime: Regime, sets: Sequence[str]
) -> dict[str, list[list[float]]]:
    """By column, the paired differences of each set that has any."""
    base = base_of(losses, regime)
    runs = [(found[Variant(s, losses, regime)], found[Variant(s, base, regime)]) for s in sets]
    return {c: [d for pair in runs if (d := differences(*pair, c))] for c in PAIRED}


def table_of_rates(found: Results, regimes: Sequence[Regime]) -> str:
    """AP by the learning rate of an optimizer, the mean over the sets that have every run.

    Each has the best of its clippings at each rate of each set.
    """
    by_rate = _run_with_both(found, sorted(regimes, key=lambda r: r.rate))
    if not by_rate:
        return ''
    of_losses = {LOSSES[each[0]].what: each for each in (FOCALS, PRESETS)}
    sets = _with_every_rate(found, by_rate)
    rows = []
    for what, losses in of_losses.items() if sets else ():
        means = [statistics.mean(_ap_of(found, n, losses, r) for n in sets) for r in by_rate]
        near = [r.rate for r, mean in zip(by_rate, means) if mean >= max(means) - 1]
        cells = [f'{mean:.1f}' for mean in means]
        rows.append([what, len(sets), *cells, ', '.join(map(str, near))])
    heads = [f'losses, AP with {by_rate[0].optimizer}', 'sets', *(r.rate for r in by_rate)]
    return markdown_table([*map(str, heads), 'within 1 AP of the best'], rows)


def table_of_clippings(found: Results) -> str:
    """AP by the norm at which the gradient is clipped: the mean, of what was run on every set."""
    rows = []
    for losses, regime in product((*FOCALS, *PRESETS), (*BY_ADAMW, *BY_SGD)):
        aps = _aps(found, LEARNT, (losses,), regime)
        if len(aps) == len(LEARNT):
            mean = f'{statistics.mean(aps):.1f}'
            rows.append([LOSSES[losses].what, *_named(regime), mean])
    return markdown_table(['losses', 'optimizer', 'iterations', 'AP, mean over the sets'], rows)


def _run_with_both(found: Results, regimes: Sequence[Regime]) -> list[Regime]:
    """Those by which as many sets as by any were trained with both losses.

    Others are there to show that the best rate of a set lies between two that are worse.
    """
    sets = {regime: len(_with_every_rate(found, [regime])) for regime in regimes}
    return [regime for regime in regimes if 0 < sets[regime] == max(sets.values())]


def _with_every_rate(found: Results, regimes: Sequence[Regime]) -> list[str]:
    """The sets that were trained with both losses at each rate."""
    both = FOCALS, PRESETS
    return [
        name
        for name in LEARNT
        if all(_ap_of(found, name, each, r) is not None for each in both for r in regimes)
    ]


def _ap_of(found: Results, name: str, losses: Sequence[str], regime: Regime) -> float | None:
    """The mean of AP over the seeds; of several losses, the highest."""
    runs = [found[Variant(name, each, regime)] for each in losses]
    return max((mean_ap(run) for run in runs if run), default=None)


def mean_ap(runs: dict[int, dict[str, float]]) -> float:
    """Over the seeds."""
    return statistics.mean(run['AP'] for run in runs.values())


def table_of_best_rates(found: Results, regimes: Sequence[Regime]) -> str:
    """By set, each loss at its best rate of those run, by AP; in the last rows the mean difference.

    Each has the best of its clippings. The last row has each loss at the one rate
    that is best in the mean over the sets, of the rates that were run with both.
    """
    rows, gains = [], {}
    for name, (focal, preset) in _best_of_both(found, FOCALS, PRESETS, regimes).items():
        gains[name] = {c: preset[0][c] - focal[0][c] for c in PAIRED}
        shown = [f'{means["AP"]:.1f} ({rate})' for means, rate in (focal, preset)]
        rows.append([name, *shown, *(f'{gain:+.1f}' for gain in gains[name].values())])
    for what, sets in (('mean', LEARNT), ('mean, confirmed on', CONFIRMATION)):
        if of_these := [gains[name] for name in sets if name in gains]:
            means = (mean_with_interval([gain[c] for gain in of_these]) for c in PAIRED)
            rows.append([what, None, None, *means])
    tried = _run_with_both(found, regimes)
    if len(tried) > 1 and (sets := _with_every_rate(found, tried)):
        focal, preset = (
            max((_aps(found, sets, each, r) for r in tried), key=statistics.mean)
            for each in (FOCALS, PRESETS)
        )
        shown = [f'{statistics.mean(aps):.1f}' for aps in (focal, preset)]
        gain = mean_with_interval([ours - theirs for theirs, ours in zip(focal, preset)])
        rows.append([f'the one best rate, {len(sets)} sets', *shown, gain, None, None])
    heads = ['focal loss, AP (rate)', 'preset, AP (rate)', 'difference', *PAIRED[1:]]
    return markdown_table([f'set, {regimes[0].optimizer}', *heads], rows)


def table_of_best_rates_by_norm(found: Results) -> str:
    """The mean difference over the sets, each loss at its best rate of each set by AP."""
    rows = []
    for optimizer, norm, focal, preset in ALIKE:
        regimes = BY_ADAMW if optimizer == ADAMW else BY_SGD
        best = _best_of_both(found, (focal,), (preset,), regimes).values()
        if gains := [ours[0]['AP'] - theirs[0]['AP'] for theirs, ours in best]:
            rows.append([optimizer, norm, len(gains), mean_with_interval(gains), ahead_of(gains)])
    heads = ['both clipped at norm', 'sets', 'AP, each at its best rate', 'sets ahead']
    return markdown_table(['optimizer', *heads], rows)


def _aps(found: Results, sets: Sequence[str], losses: Sequence[str], regime: Regime) -> list[float]:
    return [ap for name in sets if (ap := _ap_of(found, name, losses, regime)) is not None]


#: Metrics, and the learning rate.
AtRate = tuple[dict[str, float], float]


def _best_of_both(
    found: Results, focals: Sequence[str], presets: Sequence[str], regimes: Sequence[Regime]
) -> dict[str, tuple[AtRate, AtRate]]:
    """By set that was trained with both, focal loss and the preset, each at its best rate."""
    best = {n: [_best_rate(found, n, each, regimes) for each in (focals, presets)] for n in LEARNT}
    return {n: (focal, preset) for n, (focal, preset) in best.items() if focal and preset}


def _best_rate(
    found: Results, name: str, losses: Sequence[str], regimes: Sequence[Regime]
) -> AtRate | None:
    """The means over the seeds where that of AP is highest, and its rate."""
    runs = ((found[Variant(name, each, r)], r.rate) for r in regimes for each in losses)
    means = (
        ({c: statistics.mean(run[c] for run in of_seeds.values()) for c in COLUMNS}, rate)
        for of_seeds, rate in runs
        if of_seeds
    )
    return max(means, key=lambda of_rate: (of_rate[0]['AP'], of_rate[1]), default=None)


def table_of_lengths(found: Results) -> str:
    """AP by the length of the training, of the sets that are trained to the end.

    The last rows are of the mean over these sets, by the seeds that all of them have.
    """
    names, rows = _trained_to_the_end(found), []
    groups = {name: [name] for name in names} | ({'mean': names} if names else {})
    compared = (FOCAL, PRESET, NORMALIZED, PRESET_NORMALIZED)
    for (what, sets), losses in product(groups.items(), compared):
        by_length = ([found[Variant(n, losses, Regime(x))] for n in sets] for x in LENGTHS)
        cells = [mean_and_spread(aps) if (aps := _over(runs)) else None for runs in by_length]
        if any(cells):
            rows.append([what, LOSSES[losses].what, *cells])
    heads = [f'{ITERATIONS[length]} iterations' for length in LENGTHS]
    return markdown_table(['set, AP with AdamW', 'losses', *heads], rows)


def _over(sets: Sequence[dict[int, dict[str, float]]]) -> list[float]:
    """The mean of AP over the sets, by each seed that all of them have."""
    seeds = set.intersection(*map(set, sets))
    return [statistics.mean(runs[seed]['AP'] for runs in sets) for seed in sorted(seeds)]


def _trained_to_the_end(found: Results) -> list[str]:
    """The sets that the preset was trained on for longer than the other tables have."""
    return [n for n in TO_THE_END if any(found[Variant(n, PRESET, r)] for r in LONGER[1:])]


def table_of_parts(found: Results) -> str:
    """The difference from focal loss on each set of the selection, and its mean over the sets."""
    rows = []
    for regime, losses in product(OF_PARTS, (PRESET, *PARTS)):
        paired = of_sets(found, losses, regime, SELECTION)
        if len(paired['AP']) == len(SELECTION):
            means = {c: [*map(statistics.mean, paired[c])] for c in PAIRED}
            seeds = min(map(len, paired['AP']))
            over_sets = [statistics.mean(means[c]) for c in PAIRED]
            cells = [f'{value:+.1f}' for value in (*means['AP'], *over_sets)]
            rows.append([LOSSES[losses].what, _named(regime)[0], seeds, *cells])
    heads = [f'AP, {name}' for name in SELECTION]
    heads = ['losses', 'optimizer', 'seeds', *heads, *(f'{c}, mean' for c in PAIRED)]
    return markdown_table(heads, rows)


def table(settings: StudySettings, seeds: int) -> str:
    found = results(settings, seeds)
    tables = [table_over_sets(found)]
    for regimes in (BY_ADAMW, BY_SGD):
        tables += [table_of_best_rates(found, regimes), table_of_rates(found, regimes)]
    tables += [
        table_of_best_rates_by_norm(found),
        table_of_clippings(found),
        table_of_lengths(found),
        table_of_parts(found),
        table_of_sets(found),
    ]
    return '\n\n'.join(tables)


#: The panels of the picture of differences: losses against those of `base_of`.
PANELS = {
    'AdamW, gradient clipped at norm 35': (PRESET, BY_ADAMW[0]),
    'AdamW, gradient clipped at norm 2/10': (PRESET_NORMALIZED, BY_ADAMW[0]),
    "SGD, MMDetection's learning rate": (PRESET, BY_SGD[0]),
}


def draw_differences(found: Results) -> Figure:
    """A dot for the paired difference of each seed, by set; a bar for the mean over the seeds."""
    panels = {title: p for title, p in PANELS.items() if of_sets(found, *p, LEARNT)['AP']}
    names = [n for n in LEARNT if any(of_sets(found, *p, [n])['AP'] for p in panels.values())]
    figure, all_axes = new_figure(4.5 * len(panels), 3.2, columns=len(panels))
    for axes in all_axes[1:]:
        axes.sharex(all_axes[0])
    for axes, (title, panel) in zip(all_axes, panels.items()):
        for row, name in enumerate(reversed(names)):
            for values in of_sets(found, *panel, [name])['AP']:
                axes.scatter(values, [row] * len(values), color=BLUE, alpha=0.6)
                axes.scatter(statistics.mean(values), row, c=ORANGE, marker='|', s=250, lw=3)
        axes.axvline(0, color='gray', linewidth=1)
        axes.update_datalim([(0, 0)])
        axes.autoscale_view()
        axes.set_yticks(range(len(names)), reversed(names))
        axes.set_ylim(-0.5, len(names) - 0.5)
        axes.set(title=title, xlabel='AP, the preset minus focal loss')
    return figure


def draw_lengths(found: Results) -> Figure:
    """AP of both losses over the length of the training, a panel for each set."""
    names = _trained_to_the_end(found)
    figure, panels = new_figure(2.6 * max(len(names), 1), 2.6, columns=max(len(names), 1))
    regimes = [Regime(length) for length in LENGTHS]
    often_clipped = dict(alpha=0.6, linestyle=':', markerfacecolor='white')
    lines = {FOCAL: RIVAL, PRESET: GHM}
    lines |= {NORMALIZED: RIVAL | often_clipped, PRESET_NORMALIZED: GHM | often_clipped}
    for axes, name in zip(panels, names):
        for losses, line in lines.items():
            aps = [(ITERATIONS[r.length], found[Variant(name, losses, r)]) for r in regimes]
            if points := [(length, mean_ap(runs)) for length, runs in aps if runs]:
                axes.plot(*zip(*points), marker='o', label=LOSSES[losses].what, **line)
        axes.set(title=name, xlabel='iterations', xscale='log')
        ticks = [ITERATIONS[length] for length in LENGTHS]
        axes.set_xticks(ticks, map(str, ticks), fontsize='small')
        axes.minorticks_off()
    panels[0].set_ylabel('AP')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=2)
    return figure


FIGURES = {'real_images.png': draw_differences, 'lengths.png': draw_lengths}


def main() -> None:
    parser = study_parser(__doc__, 'work_dirs/real_images', 'REAL_ROOT', actions=('figure',))
    parser.set_defaults(results=RESULTS, variables=IN_THE_CLONE)
    args = parser.parse_args()
    if args.action == 'figure':
        found = results(settings_of(args), args.seeds)
        for name, draw in FIGURES.items():
            save_figure(draw(found), IMAGES / name)
            print(f'written to {IMAGES / name}')
        sys.exit()
    perform(args, VARIANTS, experiment, table)


if __name__ == '__main__':
    main()
