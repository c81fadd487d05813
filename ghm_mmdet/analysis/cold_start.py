"""What cures GHM's cold start: variants of the demo's training, and their table."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .runs import ap_cells, last_metrics, mim

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


def run_study(
    work_dir: str | Path, names: list[str] | None = None, seeds: int = 2, jobs: int = 1
) -> None:
    """Train each variant from random weights with each seed, those without a result.

    Args:
        work_dir: Folder that receives `<variant>-seed<seed>/`.
        names: Names of the variants. Default: None, all.
        seeds: Seeds 0, 1, ... Default: 2.
        jobs: Runs at a time; the cores are shared evenly. Default: 1.
    """
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}

    def train(variant: Variant, seed: int) -> None:
        run = work_dir / f'{variant.name}-seed{seed}'
        if last_metrics(run):
            return
        options = ('--cfg-options', f'randomness.seed={seed}', *SCHEDULE, *variant.options)
        with open(work_dir / f'{run.name}.log', 'w') as log:
            mim('train', variant.config, '--work-dir', str(run), *options,
                env=env, stdout=log, stderr=log)  # fmt: skip
        print(f'{run.name}: AP {last_metrics(run)["bbox_mAP"]:.3f}', flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        pending = [
            pool.submit(train, variant, seed)
            for seed in range(seeds)
            for variant in VARIANTS
            if names is None or variant.name in names
        ]
        for future in pending:
            future.result()


def study_table(work_dir: str | Path, seeds: int = 2) -> str:
    """The results as a Markdown table: AP of each seed and its mean, empty where not run."""
    lines = [
        '| variant | options | ' + ' | '.join(f'seed {s}' for s in range(seeds)) + ' | mean AP |',
        '|---|---|' + '---|' * (seeds + 1),
    ]
    for variant in VARIANTS:
        cells = ap_cells(Path(work_dir, f'{variant.name}-seed{s}') for s in range(seeds))
        options = ' '.join(f'`{option}`' for option in variant.options)
        lines.append(f'| {variant.what} | {options} | {" | ".join(cells)} |')
    return '\n'.join(lines)
