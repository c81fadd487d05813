"""What mitigates GHM's cold start: variants of the demo's training.

Examples:
    python -m studies.cold_start run --seeds 2 --jobs 2
    python -m studies.cold_start report
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table

from .command_line import perform, schedule, study_parser
from .experiment import Experiment, Settings, ap_cells
from .real_images import harmonized_options

RESULTS = Path('studies/results/cold_start.jsonl')
FOCAL = 'configs/demo/retinanet_r18_fpn_fl-sl1_demo.py'
GHM = 'configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py'


@dataclass(frozen=True)
class Variant:
    """The options that make a variant of a config."""

    name: str
    what: str
    options: tuple[str, ...] = ()
    config: str = GHM


def _both(**settings: object) -> tuple[str, ...]:
    losses = ('loss_cls', 'loss_bbox')
    return tuple(f'model.bbox_head.{x}.{k}={v}' for x in losses for k, v in settings.items())


def _warmup(iters: int) -> tuple[str, ...]:
    return (f'custom_hooks.0.iters={iters}',)


TEN_BINS = ('model.bbox_head.loss_cls.bins=10',)
NO_WARMUP = ('custom_hooks=[]',)
PAPER, FLOORED = _both(formula='paper'), _both(formula='floored')
SLOW, NO_AVERAGE = _both(momentum=0.99), _both(momentum=0)
#: `name`, `what`, `options`.
MITIGATIONS = (
    ('ghm', 'GHM-C + GHM-R, no warm-up', NO_WARMUP),
    ('warmup-100', 'warm-up of 100 iterations', _warmup(100)),
    ('warmup-200', 'warm-up of 200 iterations', _warmup(200)),
    ('warmup-400', 'warm-up of 400 iterations', _warmup(400)),
    ('warmup-200-paper', "warm-up of 200 iterations, formula='paper'", _warmup(200) + PAPER),
    ('floored', "formula='floored'", NO_WARMUP + FLOORED),
    ('warmup-100-floored', "warm-up of 100 iterations, formula='floored'", _warmup(100) + FLOORED),
    ('warmup-200-floored', "warm-up of 200 iterations, formula='floored'", _warmup(200) + FLOORED),
    ('warmup-400-floored', "warm-up of 400 iterations, formula='floored'", _warmup(400) + FLOORED),
    ('warmup-200-slow', 'warm-up of 200 iterations, momentum 0.99', _warmup(200) + SLOW),
    ('warmup-400-bins-10', 'warm-up of 400 iterations, M = 10 in GHM-C', _warmup(400) + TEN_BINS),
    (
        'warmup-400-no-average',
        'warm-up of 400 iterations, no moving average',
        _warmup(400) + NO_AVERAGE,
    ),
)
SMALL_DATA = tuple(harmonized_options(config_path(FOCAL), preset='tempered'))
VARIANTS = (
    Variant('tempered', "preset 'small-data', no warm-up", SMALL_DATA, FOCAL),
    Variant('focal', 'focal loss + smooth L1', config=FOCAL),
    *(Variant(*mitigation) for mitigation in MITIGATIONS),
)
#: Of 100 iterations, fewer than the demo's.
EPOCHS = 8


def experiment(variant: Variant, settings: Settings, seed: int) -> Experiment:
    options = schedule(EPOCHS) + variant.options
    return Experiment(variant.name, config_path(variant.config), settings, options, seed)


def table(settings: Settings, seeds: int) -> str:
    """AP of each seed in percent, and its mean."""
    rows = [
        [variant.what, *ap_cells(experiment(variant, settings, s) for s in range(seeds))]
        for variant in VARIANTS
    ]
    heads = ['AP', *(f'seed {s}' for s in range(seeds)), 'mean']
    return markdown_table(heads, rows)


if __name__ == '__main__':
    parser = study_parser(__doc__, 'work_dirs/cold_start')
    parser.set_defaults(results=RESULTS)
    args = parser.parse_args()
    perform(args, VARIANTS, experiment, table)
