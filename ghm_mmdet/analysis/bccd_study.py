"""The losses on real images: RetinaNet-R18 on BCCD, from random weights and from a warm start."""

import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .paper_tables import METRICS
from .runs import last_metrics, mim_command, shell_line

EPOCHS = {'random weights': 12, 'warm start': 6}
COLUMNS = ('AP50', 'AP60', 'AP70', 'AP75', 'AP80', 'AP90', 'APs', 'APm', 'APl')


@dataclass(frozen=True)
class Variant:
    """A config of `configs/bccd/`, and the options that make a variant of it.

    Attributes:
        start: 'random weights', 12 epochs; or 'warm start', 6 epochs at half the learning rate
            from the weights of 12 epochs of focal loss and smooth L1.
        what: What the report calls it.
        losses: The config, without `retinanet_r18_fpn_` and `_bccd.py`.
        options: `key=value`, as MMDetection's `--cfg-options`.
    """

    start: str
    what: str
    losses: str
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


@dataclass(frozen=True)
class Study:
    """Where and how the runs of the study are made.

    Attributes:
        work_dir: Folder that receives `<variant>-seed<seed>/`.
        seeds: Number of seeds, 0, 1, ...
        data_root: Folder that `tools/convert_bccd.py` wrote. None: BCCD_ROOT or data/bccd/.
        gpus: 0 for the CPU, or 1.
        cfg_options: `key=value` for every run.
    """

    work_dir: Path = Path('work_dirs/bccd')
    seeds: int = 2
    data_root: str | None = None
    gpus: int = 0
    cfg_options: tuple[str, ...] = ()

    def folder(self, variant: Variant, seed: int) -> Path:
        return self.work_dir / f'{variant.name}-seed{seed}'

    @property
    def environment(self) -> dict[str, str]:
        root = self.data_root
        return {} if root is None else {'BCCD_ROOT': os.path.join(root, '')}

    def command(self, variant: Variant, seed: int) -> list[str]:
        """The command line of one training, which goes on from its last checkpoint."""
        epochs = EPOCHS[variant.start]
        names = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
        options = [f'randomness.seed={seed}', *(f'{name}={epochs}' for name in names)]
        if variant.start == 'warm start':
            weights = self.folder(FOCAL, seed) / f'epoch_{EPOCHS[FOCAL.start]}.pth'
            options += [
                'optim_wrapper.optimizer.lr=0.0005',
                'model.init_cfg.type=Pretrained',
                f'model.init_cfg.checkpoint={weights}',
            ]
        return mim_command(
            'train', variant.config, '--resume', '--work-dir', str(self.folder(variant, seed)),
            '--cfg-options', *options, *variant.options, *self.cfg_options, gpus=self.gpus,
        )  # fmt: skip


def plan_bccd(study: Study) -> str:
    """The commands as shell lines."""
    return '\n'.join(
        shell_line(study.command(variant, seed), study.environment)
        for seed in range(study.seeds)
        for variant in VARIANTS
    )


def run_bccd(study: Study, losses: Sequence[str] | None = None) -> list[str]:
    """Train what has no result; go on after a failure.

    Args:
        study: Where and how.
        losses: Names of variants, as `random-weights-fl-sl1`. Default: None, all.

    Returns:
        A line for each run that failed.
    """
    failures = []
    study.work_dir.mkdir(parents=True, exist_ok=True)
    for seed in range(study.seeds):
        for variant in VARIANTS:
            folder = study.folder(variant, seed)
            if (losses is None or variant.name in losses) and last_metrics(folder) is None:
                print(folder.name, flush=True)
                with open(f'{folder}.log', 'a') as log:
                    done = subprocess.run(
                        study.command(variant, seed), stdout=log, stderr=log,
                        env={**os.environ, **study.environment},
                    )  # fmt: skip
                if done.returncode:
                    failures.append(f'{folder.name}: see {folder}.log')
    return failures


def report_bccd(study: Study) -> str:
    """The results as a Markdown table: percent, means over the seeds that were run."""
    lines = [
        f'| start | losses | seeds | AP | lowest and highest | {" | ".join(COLUMNS)} |',
        '|---' * (5 + len(COLUMNS)) + '|',
    ]
    for variant in VARIANTS:
        found = [last_metrics(study.folder(variant, seed)) for seed in range(study.seeds)]
        results = [metrics for metrics in found if metrics is not None]
        cells = [variant.start, variant.what, str(len(results)), *_figures(results)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _figures(results: list[dict[str, float]]) -> list[str]:
    if not results:
        return [''] * (2 + len(COLUMNS))
    aps = [100 * metrics[METRICS['AP']] for metrics in results]
    means = (statistics.mean(100 * m[METRICS[column]] for m in results) for column in COLUMNS)
    spread = f'{min(aps):.1f}, {max(aps):.1f}'
    return [f'{statistics.mean(aps):.1f}', spread, *(f'{mean:.1f}' for mean in means)]
