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

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config
from scipy import stats

from ghm_mmdet.presets import MAX_NORM
from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.tables import METRICS
from ghm_mmdet.swap import harmonize
from ghm_mmdet.swap.writer import difference
from ghm_mmdet.visualization.style import BLUE, ORANGE, new_figure

from .command_line import IN_THE_CLONE, iterations, perform, settings_of, study_parser
from .experiment import Experiment, StudySettings

CONFIG = 'studies/configs/retinanet_lite0_fpn_fl-sl1_chess.py'
RESULTS = Path('studies/results/real_images.jsonl')
FIGURE = Path('docs/images/real_images.png')
#: The settings were chosen on the first four, and confirmed on the others.
SELECTION = ('chess', 'bccd', 'pears', 'deeppcb')
CONFIRMATION = ('cards', 'fruit', 'aquarium', 'ships')
LEARNT = (*SELECTION, *CONFIRMATION)
#: At 320 pixels neither loss learns cherries: they are in no mean.
SETS = (*LEARNT, 'cherries')
ITERATIONS = {'1x': 200, '2x': 400, '3x': 600}
#: The learning rates of SGD, which trains for 2x; 0.0025 is MMDetection's 0.01 for 16 images.
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
COLUMNS = ('AP', 'AP50', 'AP75', 'AP90')
#: Those whose differences are shown.
PAIRED = ('AP', 'AP50', 'AP75')
FOCAL, RELEASED, PRESET, CLIPPED = 'focal', 'released', 'preset', 'focal-clipped'


@dataclass(frozen=True)
class Losses:
    """What takes the place of focal loss and smooth L1."""

    what: str
    harmonized: dict[str, object] | None = None  # arguments of `harmonize`
    options: tuple[str, ...] = ()  # `key=value`


TEMPERED = dict(preset='tempered')
CLS, REG = 'model.bbox_head.loss_cls', 'model.bbox_head.loss_bbox'
LOSSES = {
    FOCAL: Losses('focal loss + smooth L1'),
    PRESET: Losses("GHM-C + GHM-R, preset 'tempered'", TEMPERED),
    RELEASED: Losses('GHM-C + GHM-R, released settings', dict(preset='released')),
    CLIPPED: Losses(
        'focal loss + smooth L1, gradient clipped as with the preset',
        options=(f'optim_wrapper.clip_grad.max_norm={MAX_NORM["tempered"]}',),
    ),
    # Focal loss tuned as well, and the parts of the preset.
    'focal-w4': Losses('focal loss of weight 4 + smooth L1', options=(f'{CLS}.loss_weight=4.0',)),
    'ghmc': Losses('the preset, GHM-C + smooth L1', TEMPERED | dict(reg=False)),
    'ghmr': Losses('the preset, focal loss + GHM-R', TEMPERED | dict(cls=False)),
    'ghmr-official': Losses(
        "the preset, GHM-R with formula='official'", TEMPERED, (f'{REG}.formula=official',)
    ),
}
WHOLE, PARTS = tuple(LOSSES)[:4], tuple(LOSSES)[4:]
COMPARED = (PRESET, RELEASED)


@dataclass(frozen=True)
class Variant:
    """A set, its losses, the length of the training, and its optimizer."""

    set: str
    losses: str
    length: str = '1x'
    sgd: float | None = None  # the learning rate of SGD; None: AdamW

    @property
    def name(self) -> str:
        sgd = f'-sgd{self.sgd}' if self.sgd else ''
        return f'{self.set}-{self.losses}{sgd}-{self.length}'


#: Length and optimizer of a training.
REGIMES = (('1x', None), ('3x', None), *(('2x', rate) for rate in RATES))
OF_PARTS = (('1x', None), ('2x', RATES[0]))
VARIANTS = (
    *(Variant(name, losses, *regime) for regime, name, losses in product(REGIMES, SETS, WHOLE)),
    *(
        Variant(name, losses, *regime)
        for regime, name, losses in product(OF_PARTS, SELECTION, PARTS)
    ),
)


def base_of(regime: tuple[str, float | None]) -> str:
    """What is compared with; above MMDetection's rate focal loss needs the clipping, too."""
    _, sgd = regime
    return CLIPPED if sgd and sgd > RATES[0] else FOCAL


def train_file(data: Path) -> str:
    """The annotations to train on; BCCD has them in two parts and as a whole."""
    return next(name for name in ('trainval.json', 'train.json') if (data / name).exists())


def experiment(variant: Variant, settings: StudySettings, seed: int) -> Experiment:
    settings = in_set(settings, variant.set)
    options = (
        *of_set(settings.data_root),
        *iterations(ITERATIONS[variant.length]),
        *of_losses(variant.losses, clipped=variant.sgd is None),
        *of_sgd(variant.sgd),
    )
    return Experiment(variant.name, config_path(CONFIG), settings, options, seed)


def in_set(settings: StudySettings, name: str) -> StudySettings:
    """With the folder of a set below `--data-root`."""
    return replace(settings, data_root=str(Path(settings.data_root or 'data', name)))


@cache
def of_set(data_root: str, heads: tuple[str, ...] = ('model.bbox_head',)) -> tuple[str, ...]:
    """The classes of a set, and its annotations; none where the data are not there."""
    data = Path(data_root)
    if not (data / 'test.json').exists():
        return ()
    names = [
        c['name']
        for c in json.loads((data / 'test.json').read_text(encoding='utf-8'))['categories']
    ]
    classes = f'[{",".join(names)}]'
    return (
        *(f'{head}.num_classes={len(names)}' for head in heads),
        *(f'{split}_dataloader.dataset.metainfo.classes={classes}' for split in ('train', 'val')),
        f'train_dataloader.dataset.ann_file={train_file(data)}',
    )


@cache
def of_losses(name: str, clipped: bool) -> tuple[str, ...]:
    """The options that `harmonize` comes to, and those of the losses' own."""
    losses = LOSSES[name]
    if losses.harmonized is None:
        return losses.options
    harmonized = harmonized_options(config_path(CONFIG), clipped, **losses.harmonized)
    return (*harmonized, *losses.options)


def of_sgd(rate: float | None) -> tuple[str, ...]:
    """SGD as MMDetection's schedules have it."""
    if rate is None:
        return ()
    optimizer = 'optim_wrapper.optimizer'
    settings = dict(_delete_=True, type='SGD', lr=rate, momentum=0.9, weight_decay=0.0001)
    return tuple(f'{optimizer}.{key}={value}' for key, value in settings.items())


@cache
def harmonized_options(config: Path, clipped: bool = True, **arguments: Any) -> tuple[str, ...]:
    """What `harmonize` does to a config, as `key=value`; if not `clipped`, to one that does not
    clip the gradient, as MMDetection's with SGD.
    """
    given = Config.fromfile(config)
    original = given.to_dict()
    if not clipped:
        given.optim_wrapper.clip_grad = None
    return tuple(options_between(original, harmonize(given, **arguments).to_dict()))


def options_between(original: dict, new: dict, prefix: str = '') -> Iterator[str]:
    """Differences as `key=value`, those of lists by index."""
    for key, value in difference(original, new).items():
        yield from _options_of(value, original.get(key), f'{prefix}{key}')


def _options_of(value: object, original: object, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        inner = original if isinstance(original, dict) else {}
        for key, each in value.items():
            yield from _options_of(each, inner.get(key), f'{name}.{key}')
    elif isinstance(value, list) and isinstance(original, list):
        for index, (before, after) in enumerate(zip(original, value, strict=True)):
            yield from options_between(before, after, f'{name}.{index}.')
    else:
        yield f'{name}={value}'


# What the results say.


Results = defaultdict[Variant, dict[int, dict[str, float]]]


def results(settings: StudySettings, seeds: int) -> Results:
    """The metrics in percent, by variant and seed, of what was run; nothing of other variants."""
    found: Results = defaultdict(dict)
    for variant in VARIANTS:
        found[variant] = by_seed(experiment(variant, settings, seed) for seed in range(seeds))
    return found


def by_seed(runs: Iterable[Experiment]) -> dict[int, dict[str, float]]:
    """The metrics of what was run, in percent."""
    found = {run.seed: run.result() for run in runs}
    return {seed: percent(metrics) for seed, metrics in found.items() if metrics is not None}


def percent(metrics: dict[str, float]) -> dict[str, float]:
    """AP by column."""
    return {column: 100 * metrics[METRICS[column]] for column in COLUMNS}


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
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return f'{mean:+.1f} [{low:+.1f}, {high:+.1f}]'


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


def table_of_sets(found: Results) -> str:
    """A row for each set, regime and losses."""
    rows = []
    for name, regime, losses in product(SETS, REGIMES, WHOLE):
        runs = found[Variant(name, losses, *regime)]
        if runs:
            base = found[Variant(name, base_of(regime), *regime)]
            rows.append([name, *_named(regime), LOSSES[losses].what, *_cells(runs, base)])
    return markdown_table(['set', 'optimizer', 'iterations', 'losses', *_HEADS], rows)


def _named(regime: tuple[str, float | None]) -> tuple[str, int]:
    length, sgd = regime
    return 'AdamW' if sgd is None else f'SGD, {sgd}', ITERATIONS[length]


_HEADS = ['seeds', *COLUMNS, *(f'{column}, paired difference' for column in PAIRED)]


def _cells(runs: dict, base: dict) -> list[object]:
    columns = [mean_and_spread([run[c] for run in runs.values()]) for c in COLUMNS]
    paired = [differences(runs, base, c) if runs != base else [] for c in PAIRED]
    return [len(runs), *columns, *(mean_with_interval(d) if d else None for d in paired)]


def table_over_sets(found: Results) -> str:
    """The mean difference from `base_of` the regime over the sets; a set is the unit.

    "Of the seeds alone" is for these sets, the other intervals are for sets as these.
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
            row = [LOSSES[losses].what, *_named(regime), sets, *intervals, of_seeds, *ahead]
            rows.append(row)
    heads = ['AP, of the seeds alone', 'sets ahead in AP', 'runs ahead']
    return markdown_table(['losses', 'optimizer', 'iterations', 'sets', *PAIRED, *heads], rows)


def ahead_of(values: Sequence[float]) -> str:
    return f'{sum(value > 0 for value in values)} of {len(values)}'


def of_sets(
    found: Results, losses: str, regime: tuple[str, float | None], sets: Sequence[str]
) -> dict[str, list[list[float]]]:
    """By column, the paired differences of each set that has any."""
    base = base_of(regime)
    runs = [(found[Variant(s, losses, *regime)], found[Variant(s, base, *regime)]) for s in sets]
    return {c: [d for pair in runs if (d := differences(*pair, c))] for c in PAIRED}


def table_of_rates(found: Results) -> str:
    """AP by the learning rate of SGD, the mean over the sets of the selection."""
    rows = []
    for losses in WHOLE:
        cells = [_mean_of_sets(found, losses, ('2x', rate)) for rate in RATES]
        if any(cells):
            rows.append([LOSSES[losses].what, *cells])
    return markdown_table(['losses, AP with SGD', *map(str, RATES)], rows)


def _mean_of_sets(found: Results, losses: str, regime: tuple[str, float | None]) -> str | None:
    runs = [found[Variant(name, losses, *regime)] for name in SELECTION]
    if not all(runs):
        return None
    return f'{statistics.mean(map(mean_ap, runs)):.1f}'


def mean_ap(runs: dict[int, dict[str, float]]) -> float:
    """Over the seeds."""
    return statistics.mean(run['AP'] for run in runs.values())


def table_of_best_rates(found: Results) -> str:
    """AP of SGD by set, each at its best rate of those run; in the last rows the mean difference.

    Focal loss has the better of its two clippings.
    """
    rows, gains = [], {}
    for name in LEARNT:
        focal = _best_rate(found, name, (FOCAL, CLIPPED))
        preset = _best_rate(found, name, (PRESET,))
        if focal and preset:
            gains[name] = preset[0] - focal[0]
            shown = [f'{ap:.1f} ({rate})' for ap, rate in (focal, preset)]
            rows.append([name, *shown, f'{gains[name]:+.1f}'])
    for what, sets in (('mean', LEARNT), ('mean, confirmed on', CONFIRMATION)):
        if of_these := [gains[name] for name in sets if name in gains]:
            rows.append([what, None, None, mean_with_interval(of_these)])
    heads = ['set', 'focal loss, AP (rate)', 'preset, AP (rate)', 'difference']
    return markdown_table(heads, rows)


def _best_rate(found: Results, name: str, losses: Sequence[str]) -> tuple[float, float] | None:
    """The highest mean of AP over the seeds, and its rate."""
    runs = [(found[Variant(name, each, '2x', rate)], rate) for each in losses for rate in RATES]
    return max(((mean_ap(run), rate) for run, rate in runs if run), default=None)


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
    made = (table_over_sets, table_of_best_rates, table_of_rates, table_of_parts, table_of_sets)
    return '\n\n'.join(make(found) for make in made)


def draw_differences(found: Results) -> Figure:
    """A dot for the paired difference of each seed, by set and regime; a bar for the mean.

    Of SGD, only MMDetection's rate.
    """
    regimes = [r for r in REGIMES if base_of(r) == FOCAL and of_sets(found, PRESET, r, SETS)['AP']]
    names = [n for n in SETS if any(of_sets(found, PRESET, r, [n])['AP'] for r in regimes)]
    figure, panels = new_figure(4.5 * len(regimes), 3.2, columns=len(regimes))
    for axes in panels[1:]:
        axes.sharex(panels[0])
    for axes, regime in zip(panels, regimes):
        for row, name in enumerate(reversed(names)):
            for values in of_sets(found, PRESET, regime, [name])['AP']:
                axes.scatter(values, [row] * len(values), color=BLUE, alpha=0.6)
                axes.scatter(statistics.mean(values), row, c=ORANGE, marker='|', s=250, lw=3)
        axes.axvline(0, color='gray', linewidth=1)
        axes.update_datalim([(0, 0)])
        axes.autoscale_view()
        axes.set_yticks(range(len(names)), reversed(names))
        axes.set_ylim(-0.5, len(names) - 0.5)
        optimizer, number = _named(regime)
        title, x = f'{optimizer}, {number} iterations', 'AP, the preset minus focal loss'
        axes.set(title=title, xlabel=x)
    return figure


def main() -> None:
    parser = study_parser(__doc__, 'work_dirs/real_images', 'REAL_ROOT', actions=('figure',))
    parser.set_defaults(results=RESULTS, variables=IN_THE_CLONE)
    args = parser.parse_args()
    if args.action == 'figure':
        draw_differences(results(settings_of(args), args.seeds)).savefig(FIGURE)
        print(f'written to {FIGURE}')
        sys.exit()
    perform(args, VARIANTS, experiment, table)


if __name__ == '__main__':
    main()
