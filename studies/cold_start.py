"""What cures GHM's cold start: variants of the demo's training.

Examples:
    python -m studies.cold_start run --seeds 2 --jobs 2
    python -m studies.cold_start report
"""

from dataclasses import dataclass

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.experiment import Experiment, Settings, ap_cells
from ghm_mmdet.reproduce.markdown import markdown_table

from .command_line import perform, study_parser

FOCAL = 'configs/demo/retinanet_r18_fpn_fl-sl1_demo.py'
GHM = 'configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py'


@dataclass(frozen=True)
class Variant:
    """A config, and the options that make a variant of it."""

    name: str
    what: str
    config: str
    options: tuple[str, ...] = ()


def _cls(**settings: object) -> tuple[str, ...]:
    return tuple(f'model.bbox_head.loss_cls.{k}={v}' for k, v in settings.items())


def _reg(**settings: object) -> tuple[str, ...]:
    return tuple(f'model.bbox_head.loss_bbox.{k}={v}' for k, v in settings.items())


def _both(**settings: object) -> tuple[str, ...]:
    return _cls(**settings) + _reg(**settings)


def _warmup(iters: int) -> tuple[str, ...]:
    return (f'custom_hooks.0.iters={iters}',)


#: 8 epochs of 100 iterations, shorter than the demo's training.
SCHEDULE = ('train_cfg.max_epochs=8', 'train_cfg.val_interval=8', 'param_scheduler.1.T_max=8')
NO_WARMUP = ('custom_hooks=[]',)
VARIANTS = (
    Variant('focal', 'focal loss + smooth L1', FOCAL),
    Variant('ghm', 'GHM-C + GHM-R, no cure', GHM, NO_WARMUP),
    Variant('warmup-100', 'warm-up of 100 iterations', GHM, _warmup(100)),
    Variant('warmup-200', 'warm-up of 200 iterations', GHM, _warmup(200)),
    Variant('warmup-400', 'warm-up of 400 iterations', GHM, _warmup(400)),
    Variant('bound-50', 'β at most 50', GHM, NO_WARMUP + _both(max_beta=50)),
    Variant('bound-10', 'β at most 10', GHM, NO_WARMUP + _both(max_beta=10)),
    Variant(
        'warmup-200-bound-10',
        'warm-up of 200 iterations, β at most 10',
        GHM,
        _warmup(200) + _both(max_beta=10),
    ),
    Variant(
        'warmup-200-paper',
        "warm-up of 200 iterations, formula='paper'",
        GHM,
        _warmup(200) + _both(formula='paper'),
    ),
    Variant(
        'floored',
        "formula='floored'",
        GHM,
        NO_WARMUP + _both(formula='floored'),
    ),
    *(
        Variant(
            f'warmup-{iters}-floored',
            f"warm-up of {iters} iterations, formula='floored'",
            GHM,
            _warmup(iters) + _both(formula='floored'),
        )
        for iters in (100, 200, 400)
    ),
    Variant(
        'warmup-200-slow',
        'warm-up of 200 iterations, momentum 0.99',
        GHM,
        _warmup(200) + _both(momentum=0.99),
    ),
    Variant(
        'warmup-400-bins-10',
        'warm-up of 400 iterations, M = 10 in GHM-C',
        GHM,
        _warmup(400) + _cls(bins=10),
    ),
    Variant(
        'warmup-400-no-average',
        'warm-up of 400 iterations, no moving average',
        GHM,
        _warmup(400) + _both(momentum=0),
    ),
)


def experiment(variant: Variant, settings: Settings, seed: int) -> Experiment:
    options = (*SCHEDULE, *variant.options)
    return Experiment(variant.name, config_path(variant.config), settings, options, seed)


def experiments(settings: Settings, seeds: int) -> list[Experiment]:
    return [experiment(variant, settings, s) for s in range(seeds) for variant in VARIANTS]


def table(settings: Settings, seeds: int) -> str:
    """AP of each seed and its mean."""
    rows = [
        [
            variant.what,
            ' '.join(f'`{option}`' for option in variant.options),
            *ap_cells(experiment(variant, settings, s) for s in range(seeds)),
        ]
        for variant in VARIANTS
    ]
    heads = ['variant', 'options', *(f'seed {s}' for s in range(seeds)), 'mean AP']
    return markdown_table(heads, rows)


if __name__ == '__main__':
    perform(study_parser(__doc__, 'work_dirs/cold_start').parse_args(), experiments, table)
