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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config
from scipy import stats

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.tables import METRICS
from ghm_mmdet.swap import harmonize
from ghm_mmdet.swap.writer import difference
from ghm_mmdet.visualization.style import BLUE, ORANGE, new_figure

from .command_line import IN_THE_CLONE, iterations, perform, settings_of, study_parser
from .experiment import Experiment, Settings
from .spoil_labels import write_spoilt

CONFIG = 'studies/configs/retinanet_lite0_fpn_fl-sl1_chess.py'
#: With neck and head in bfloat16, for a CPU that computes with it: AdamW on these sets.
BFLOAT16 = 'studies/configs/real_images.py'
BFLOAT16_SETS = ('chess', 'bccd', 'pears', 'deeppcb', 'cherries', 'cards')
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
#: The percentages of spoilt boxes, and the sets that are spoilt.
SPOILT, SPOILT_SETS = (20, 40), ('chess', 'bccd')
COLUMNS = ('AP', 'AP50', 'AP75', 'AP90')
#: Those whose differences are shown.
PAIRED = ('AP', 'AP75')
FOCAL, RELEASED, PRESET = 'focal', 'released', 'preset'


@dataclass(frozen=True)
class Losses:
    """What takes the place of focal loss and smooth L1."""

    what: str
    harmonized: dict[str, object] | None = None  # arguments of `harmonize`
    options: tuple[str, ...] = ()  # `key=value`


RELEASED_SETTINGS, TEMPERED = dict(preset='released'), dict(preset='tempered')
CLS, REG = 'model.bbox_head.loss_cls', 'model.bbox_head.loss_bbox'
LR = 'optim_wrapper.optimizer.lr'
LOSSES = {
    FOCAL: Losses('focal loss + smooth L1'),
    'ce': Losses(
        'cross entropy + smooth L1',
        options=(f'{CLS}._delete_=True', f'{CLS}.type=CrossEntropyLoss', f'{CLS}.use_sigmoid=True'),
    ),
    RELEASED: Losses('GHM-C + GHM-R, released settings', RELEASED_SETTINGS),
    PRESET: Losses("GHM-C + GHM-R, preset 'tempered'", TEMPERED),
    # Focal loss tuned as well.
    'focal-lr2': Losses(
        'focal loss + smooth L1, twice the learning rate', options=(f'{LR}=0.001',)
    ),
    'focal-w2': Losses('focal loss of weight 2 + smooth L1', options=(f'{CLS}.loss_weight=2.0',)),
    'focal-w4': Losses('focal loss of weight 4 + smooth L1', options=(f'{CLS}.loss_weight=4.0',)),
    'focal-box2': Losses('focal loss + smooth L1 of weight 2', options=(f'{REG}.loss_weight=2.0',)),
    # What each part of the preset does.
    'ghmc': Losses('the preset, GHM-C + smooth L1', TEMPERED | dict(reg=False)),
    'ghmr': Losses('the preset, focal loss + GHM-R', TEMPERED | dict(cls=False)),
    'ghmc-floored': Losses(
        "the preset, GHM-C with formula='floored'", TEMPERED, (f'{CLS}.formula=floored',)
    ),
    'ghmc-official': Losses(
        "the preset, GHM-C with formula='official'", TEMPERED, (f'{CLS}.formula=official',)
    ),
    'cls5': Losses(
        'the preset, GHM-C of 5 times the weight', TEMPERED, (f'{CLS}.loss_weight=5.0',)
    ),
    'fixed': Losses('the preset, μ = 0.02', TEMPERED, (f'{REG}.mu_momentum=None',)),
}
COMPARED, ABLATIONS = tuple(LOSSES)[1:4], tuple(LOSSES)[4:]
#: Those of AdamW in bfloat16 have both weights divided by 5, a factor that AdamW ignores.
DIVIDED = (f'{CLS}.loss_weight=0.2', f'{REG}.loss_weight=2.0')
ABLATED = SELECTION[:3]


@dataclass(frozen=True)
class Variant:
    """A set, its losses, the length of the training, and the percentage of spoilt boxes."""

    set: str
    losses: str
    length: str = '1x'
    spoilt: int = 0
    sgd: float | None = None  # the learning rate of SGD; None: AdamW

    @property
    def name(self) -> str:
        spoilt = f'-spoilt{self.spoilt}' if self.spoilt else ''
        sgd = f'-sgd{self.sgd}' if self.sgd else ''
        return f'{self.set}-{self.losses}{spoilt}{sgd}-{self.length}'

    @property
    def bfloat16(self) -> bool:
        return self.sgd is None and self.set in BFLOAT16_SETS

    @property
    def config(self) -> str:
        return BFLOAT16 if self.bfloat16 else CONFIG


VARIANTS = (
    *(
        Variant(name, losses, length)
        for length, name, losses in product(('1x', '3x'), SETS, (FOCAL, PRESET, RELEASED))
    ),
    *(
        Variant(name, losses, '2x', sgd=rate)
        for rate, name, losses in product(RATES, LEARNT, (FOCAL, PRESET, RELEASED, 'cls5'))
    ),
    *(Variant(name, 'ce') for name in SETS),
    *(Variant(name, losses) for name, losses in product(ABLATED, ABLATIONS)),
    *(
        Variant(name, losses, spoilt=share)
        for name, share, losses in product(SPOILT_SETS, SPOILT, (FOCAL, PRESET))
    ),
)


@dataclass(frozen=True)
class Training(Experiment):
    """A training on a set, whose labels it spoils first where the variant says so."""

    variant: Variant = Variant('chess', FOCAL)
    original: Path = Path()  # the folder of the set

    def check(self) -> None:
        if self.variant.spoilt and self.result() is None:
            out = Path(self.settings.data_root or '')
            write_spoilt(self.original, train_file(self.original), self.variant.spoilt / 100, out)
        super().check()


def train_file(data: Path) -> str:
    """The annotations to train on; BCCD has them in two parts and as a whole."""
    return next(name for name in ('trainval.json', 'train.json') if (data / name).exists())


def experiment(variant: Variant, settings: Settings, seed: int) -> Training:
    original = Path(settings.data_root or 'data', variant.set)
    folder = original
    if variant.spoilt:
        folder = settings.work_dir / 'data' / f'{variant.set}-spoilt{variant.spoilt}'
    settings = replace(settings, data_root=str(folder))
    options = (
        *of_set(original),
        *iterations(ITERATIONS[variant.length]),
        *of_losses(variant.losses, divided=variant.bfloat16),
        *of_sgd(variant.sgd),
    )
    config = config_path(variant.config)
    return Training(
        variant.name, config, settings, options, seed, variant=variant, original=original
    )


def of_set(data: Path) -> tuple[str, ...]:
    """The classes of a set, and its annotations; none where the data are not there."""
    if not (data / 'test.json').exists():
        return ()
    names = [c['name'] for c in json.loads((data / 'test.json').read_text())['categories']]
    classes = f'[{",".join(names)}]'
    return (
        f'model.bbox_head.num_classes={len(names)}',
        *(f'{split}_dataloader.dataset.metainfo.classes={classes}' for split in ('train', 'val')),
        f'train_dataloader.dataset.ann_file={train_file(data)}',
    )


@cache
def of_losses(name: str, divided: bool) -> tuple[str, ...]:
    """The options that `harmonize` comes to, and those of the losses' own."""
    losses = LOSSES[name]
    if losses.harmonized is None:
        return losses.options
    options = harmonized_options(config_path(CONFIG), **losses.harmonized)
    if divided and losses.harmonized is not RELEASED_SETTINGS:
        weights = dict(option.split('=') for option in DIVIDED)
        options = tuple(f'{key}={weights.get(key, value)}' for key, value in map(split, options))
    return (*options, *losses.options)


def split(option: str) -> list[str]:
    return option.split('=', 1)


def of_sgd(rate: float | None) -> tuple[str, ...]:
    """SGD as MMDetection's schedules have it."""
    if rate is None:
        return ()
    optimizer = 'optim_wrapper.optimizer'
    settings = dict(_delete_=True, type='SGD', lr=rate, momentum=0.9, weight_decay=0.0001)
    return tuple(f'{optimizer}.{key}={value}' for key, value in settings.items())


def harmonized_options(config: Path, **arguments: Any) -> tuple[str, ...]:
    """What `harmonize` does to a config, as `key=value`."""
    original = Config.fromfile(config)
    new = harmonize(original, **arguments)
    return tuple(options_between(original.to_dict(), new.to_dict()))


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


def results(settings: Settings, seeds: int) -> Results:
    """The metrics in percent, by variant and seed, of what was run; nothing of other variants."""
    found: Results = defaultdict(dict)
    for variant, seed in product(VARIANTS, range(seeds)):
        if (metrics := experiment(variant, settings, seed).result()) is not None:
            found[variant][seed] = percent(metrics)
    return found


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
    """A row for each set, length and losses."""
    rows = []
    for name, length, losses in product(SETS, ITERATIONS, (FOCAL, *COMPARED)):
        runs = found[Variant(name, losses, length)]
        if runs:
            base = found[Variant(name, FOCAL, length)]
            rows.append([name, length, LOSSES[losses].what, *_cells(runs, base)])
    return markdown_table(['set', 'length', 'losses', *_HEADS], rows)


_HEADS = ['seeds', *COLUMNS, *(f'{column}, paired difference' for column in PAIRED)]


def _cells(runs: dict, base: dict) -> list[object]:
    columns = [mean_and_spread([run[c] for run in runs.values()]) for c in COLUMNS]
    paired = [differences(runs, base, c) if runs != base else [] for c in PAIRED]
    return [len(runs), *columns, *(mean_with_interval(d) if d else None for d in paired)]


def table_over_sets(found: Results) -> str:
    """The mean difference from focal loss over the sets; a set is the unit.

    "Of the seeds alone" is for these sets, the other intervals are for sets as these.
    """
    rows = []
    groups = {'all': SETS, 'chosen on': SELECTION, 'confirmed on': CONFIRMATION}
    for losses, length, group in product(COMPARED, ITERATIONS, groups):
        paired = of_sets(found, losses, length, groups[group])
        if paired['AP']:
            means = {c: [*map(statistics.mean, paired[c])] for c in PAIRED}
            intervals = map(mean_with_interval, means.values())
            sets = f'{group}, {len(paired["AP"])}'
            ahead = ahead_of(means['AP']), ahead_of([*chain(*paired['AP'])])
            of_seeds = interval_of_seeds(paired['AP'])
            rows.append([LOSSES[losses].what, length, sets, *intervals, of_seeds, *ahead])
    heads = ['AP, of the seeds alone', 'sets ahead in AP', 'runs ahead']
    return markdown_table(['losses', 'length', 'sets', *PAIRED, *heads], rows)


def ahead_of(values: Sequence[float]) -> str:
    return f'{sum(value > 0 for value in values)} of {len(values)}'


def of_sets(
    found: Results, losses: str, length: str, sets: Sequence[str]
) -> dict[str, list[list[float]]]:
    """By column, the paired differences of each set that has any."""
    runs = [(found[Variant(s, losses, length)], found[Variant(s, FOCAL, length)]) for s in sets]
    return {c: [d for pair in runs if (d := differences(*pair, c))] for c in PAIRED}


def table_of_parts(found: Results) -> str:
    """The difference from focal loss on each set of the selection, and its mean over the sets."""
    rows = []
    for losses in (PRESET, *ABLATIONS):
        paired = of_sets(found, losses, '1x', SELECTION)
        if len(paired['AP']) == len(SELECTION):
            means = {c: [*map(statistics.mean, paired[c])] for c in PAIRED}
            seeds = min(map(len, paired['AP']))
            over_sets = [statistics.mean(means[c]) for c in PAIRED]
            cells = [f'{value:+.1f}' for value in (*means['AP'], *over_sets)]
            rows.append([LOSSES[losses].what, seeds, *cells])
    heads = [f'AP, {name}' for name in SELECTION]
    return markdown_table(['losses', 'seeds', *heads, *(f'{c}, mean' for c in PAIRED)], rows)


def table_of_spoilt_labels(found: Results) -> str:
    """AP on clean labels after a training on spoilt ones."""
    rows = []
    sets = [s for s in SPOILT_SETS if any(found[Variant(s, FOCAL, spoilt=x)] for x in SPOILT)]
    for name, share, losses in product(sets, (0, *SPOILT), (FOCAL, PRESET)):
        runs = found[Variant(name, losses, spoilt=share)]
        if runs:
            base = found[Variant(name, FOCAL, spoilt=share)]
            rows.append([name, f'{share} %', LOSSES[losses].what, *_cells(runs, base)])
    return markdown_table(['set', 'spoilt', 'losses', *_HEADS], rows)


def table(settings: Settings, seeds: int) -> str:
    found = results(settings, seeds)
    made = (table_over_sets, table_of_parts, table_of_sets, table_of_spoilt_labels)
    return '\n\n'.join(make(found) for make in made)


def draw_differences(found: Results) -> Figure:
    """A dot for the paired difference of each seed, by set and length; a bar for the mean."""
    figure, panels = new_figure(9, 3.2, columns=len(ITERATIONS))
    panels[1].sharex(panels[0])
    for axes, length in zip(panels, ITERATIONS, strict=True):
        for row, name in enumerate(reversed(SETS)):
            for values in of_sets(found, PRESET, length, [name])['AP']:
                axes.scatter(values, [row] * len(values), color=BLUE, alpha=0.6)
                axes.scatter(statistics.mean(values), row, c=ORANGE, marker='|', s=250, lw=3)
        axes.axvline(0, color='gray', linewidth=1)
        axes.set_yticks(range(len(SETS)), reversed(SETS))
        axes.set_ylim(-0.5, len(SETS) - 0.5)
        axes.set(title=f'{ITERATIONS[length]} iterations', xlabel='AP, the preset minus focal loss')
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
