"""Six detectors with their own losses and harmonized, side by side on the demo's data."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..swap import harmonized_text, losses_found
from .runs import ap_cells, last_metrics, mim

CONFIGS = 'configs/demo/detectors'
LOSSES = ('original', 'harmonized', 'floored')
#: Iterations of an epoch: 800 images, 8 at a time.
EPOCH = 100


@dataclass(frozen=True)
class Detector:
    """A detector of the study.

    Attributes:
        name: Of its config in `configs/demo/detectors/`, without `_demo.py`.
        what: What the report calls it.
        inference: Options with which checkpoints of its original losses are evaluated; empty
            if MMDetection can.
        epochs: Of its training.
    """

    name: str
    what: str
    inference: tuple[str, ...] = ()
    epochs: int = 6

    @property
    def config(self) -> str:
        return f'{CONFIGS}/{self.name}_demo.py'

    @property
    def warmup(self) -> int:
        """Iterations, half of the training, for which the original losses lead GHM."""
        return self.epochs * EPOCH // 2

    @property
    def options(self) -> tuple[str, ...]:
        epochs = self.epochs
        names = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
        return tuple(f'{name}={epochs}' for name in names)


DETECTORS = (
    Detector('faster-rcnn_r18_fpn', 'Faster R-CNN'),
    Detector('cascade-rcnn_r18_fpn', 'Cascade R-CNN', epochs=3),
    Detector('atss_r18_fpn', 'ATSS', epochs=3),
    Detector('fcos_r18_fpn', 'FCOS'),
    Detector('yolox', 'YOLOX', epochs=4),
    # Inference reads `loss_cls` of a head, and SSDHead has none.
    Detector('ssd_r18', 'SSD', inference=('model.bbox_head.type=ghm_mmdet.GHMSSDHead',)),
)
NO_VALIDATION = ('val_dataloader=None', 'val_cfg=None', 'val_evaluator=None')


def run_folder(work_dir: str | Path, detector: Detector, losses: str, seed: int) -> Path:
    return Path(work_dir, f'{detector.name}-{losses}-seed{seed}')


def write_harmonized(detector: Detector, out: Path, formula: str = 'official') -> None:
    """Write the config with GHM losses, after a warm-up with the losses they replace."""
    options = dict(warmup=detector.warmup, formula=formula)
    out.write_text(harmonized_text(detector.config, out, **options)[1])


def run_study(
    work_dir: str | Path,
    names: list[str] | None = None,
    losses: list[str] | None = None,
    seeds: int = 1,
    jobs: int = 1,
) -> None:
    """Train the detectors from random weights, those without a result.

    Args:
        work_dir: Folder that receives `<detector>-<losses>-seed<seed>/`.
        names: Names of the detectors. Default: None, all.
        losses: 'original'; 'harmonized'; 'floored', which is harmonized with that formula.
            Default: None, all.
        seeds: Seeds 0, 1, ... Default: 1.
        jobs: Runs at a time; the cores are shared evenly. Default: 1.
    """
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    env = {'OMP_NUM_THREADS': str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ}

    def run(detector: Detector, which: str, seed: int) -> None:
        folder = run_folder(work_dir, detector, which, seed)
        if not last_metrics(folder):
            with open(f'{folder}.log', 'w') as log:
                _train(detector, which, seed, folder, env=env, stdout=log, stderr=log)
        print(f'{folder.name}: AP {last_metrics(folder)["bbox_mAP"]:.3f}', flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        pending = [
            pool.submit(run, detector, which, seed)
            for seed in range(seeds)
            for detector in DETECTORS
            for which in losses or LOSSES
            if names is None or detector.name in names
        ]
        for future in pending:
            future.result()


def _train(detector: Detector, losses: str, seed: int, folder: Path, **popen: object) -> None:
    config = Path(detector.config)
    options = [f'randomness.seed={seed}', *detector.options]
    evaluate_later = losses == 'original' and detector.inference
    if losses != 'original':
        config = folder.with_name(f'{detector.name}-{losses}.py')
        write_harmonized(detector, config, 'official' if losses == 'harmonized' else losses)
    elif evaluate_later:
        options += NO_VALIDATION
    mim('train', config, '--work-dir', str(folder), '--cfg-options', *options, **popen)
    if evaluate_later:
        checkpoint = (folder / 'last_checkpoint').read_text()
        mim('test', config, '--checkpoint', checkpoint, '--work-dir', str(folder),
            '--cfg-options', *detector.inference, **popen)  # fmt: skip


def study_table(work_dir: str | Path, seeds: int = 1) -> str:
    """The results as a Markdown table: mean AP over the seeds, empty where not run."""
    lines = [
        "| detector | iterations | original losses | harmonized | formula='floored' | replaced |",
        '|---|---|---|---|---|---|',
    ]
    for detector in DETECTORS:
        cells = [
            ap_cells(run_folder(work_dir, detector, losses, s) for s in range(seeds))[-1]
            for losses in LOSSES
        ]
        cells.append('<br>'.join(_replaced(detector)))
        iterations = detector.epochs * EPOCH
        lines.append(f'| {detector.what} | {iterations} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _replaced(detector: Detector) -> list[str]:
    return [
        f'`{found.where.removeprefix("model.")}`: {found.loss} → {found.ghm["type"]}'
        for found in losses_found(detector.config).replaced
    ]
