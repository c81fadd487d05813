"""The losses on real images: RetinaNet-R18 on BCCD, from random weights and from a warm start.

Examples:
    python -m studies.bccd run --seeds 2 --only 'random-weights-*'
    python -m studies.bccd report
The data: `python tools/convert_bccd.py`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.tables import METRICS

from .command_line import perform, schedule, study_parser
from .experiment import Experiment, Settings

EPOCHS = {'random weights': 12, 'warm start': 6}
COLUMNS = ('AP50', 'AP60', 'AP70', 'AP75', 'AP80', 'AP90', 'APs', 'APm', 'APl')


@dataclass(frozen=True)
class Variant:
    """A config of `configs/bccd/`, and the options that make a variant of it.

    From 'random weights', 12 epochs; or from a 'warm start', 6 epochs at half the learning rate
    from the weights of 12 epochs of focal loss and smooth L1.
    """

    start: str
    what: str
    losses: str  # the config, without `retinanet_r18_fpn_` and `_bccd.py`
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        suffix = '-no-warm-up' if self.options == NO_WARMUP and self.start != 'warm start' else ''
        return f'{self.start}-{self.losses}{suffix}'.replace(' ', '-')

    @property
    def config(self) -> str:
        return f'configs/bccd/retinanet_r18_fpn_{self.losses}_bccd.py'


NO_WARMUP = ('custom_hooks=[]',)
LOSSES = (
    ('cross entropy + smooth L1', 'ce-sl1'),
    ('focal loss + smooth L1', 'fl-sl1'),
    ('GHM-C + smooth L1', 'ghmc-sl1'),
    ('GHM-C + ASL1', 'ghmc-asl1'),
    ('GHM-C + GHM-R', 'ghmc-ghmr'),
    ('GHM-C + GHM-R, whole batch', 'ghmc-ghmr-batch'),
    ("GHM-C + GHM-R, formula='paper'", 'ghmc-ghmr-paper'),
    ("GHM-C + GHM-R, formula='floored'", 'ghmc-ghmr-floored'),
)
VARIANTS = (
    *(Variant('random weights', what, losses) for what, losses in LOSSES),
    Variant('random weights', 'GHM-C + GHM-R, no warm-up', 'ghmc-ghmr', NO_WARMUP),
    *(Variant('warm start', what, losses, NO_WARMUP) for what, losses in LOSSES),
)
FOCAL = next(v for v in VARIANTS if v.losses == 'fl-sl1')


def experiment(variant: Variant, settings: Settings, seed: int) -> Experiment:
    """The training of a variant; a warm start continues that of focal loss."""
    options = [*schedule(EPOCHS[variant.start])]
    first = None
    if variant.start == 'warm start':
        first = experiment(FOCAL, settings, seed)
        options += [
            'optim_wrapper.optimizer.lr=0.0005',
            'model.init_cfg.type=Pretrained',
            f'model.init_cfg.checkpoint={first.folder}/epoch_{EPOCHS[FOCAL.start]}.pth',
        ]
    options += variant.options
    config = config_path(variant.config)
    return Experiment(variant.name, config, settings, tuple(options), seed, first)


def table(settings: Settings, seeds: int) -> str:
    """Percent, means over the seeds that were run."""
    rows = []
    for variant in VARIANTS:
        found = (experiment(variant, settings, seed).result() for seed in range(seeds))
        results = [metrics for metrics in found if metrics is not None]
        columns = {c: [100 * metrics[METRICS[c]] for metrics in results] for c in ('AP', *COLUMNS)}
        figures: list[str | None] = [None] * (2 + len(COLUMNS))
        if results:
            figures = [f'{statistics.mean(values):.1f}' for values in columns.values()]
            figures.insert(1, f'{min(columns["AP"]):.1f}, {max(columns["AP"]):.1f}')
        rows.append([variant.start, variant.what, len(results), *figures])
    heads = ['start', 'losses', 'seeds', 'AP', 'lowest and highest', *COLUMNS]
    return markdown_table(heads, rows)


if __name__ == '__main__':
    args = study_parser(__doc__, 'work_dirs/bccd', 'BCCD_ROOT').parse_args()
    perform(args, VARIANTS, experiment, table)
