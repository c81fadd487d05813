"""The demo: focal loss and GHM on real photographs, from ImageNet weights, and a page of results.

It trains the two side by side, unless that is done, and draws detections beside the ground truth,
the table of AP, the loss curves, and the gradient norms before and after harmonizing.

Examples:
    python -m studies.demo --work-dir work_dirs/demo
    python -m studies.demo --work-dir work_dirs/quick --iterations 20
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets import CocoDataset
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from mmengine.structures import InstanceData

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.experiments.logs import METRICS, training_curve
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.experiments.run import run_missing
from ghm_mmdet.functional import assign_regions, count_regions, harmonizing_parameter
from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.visualization.observer import (
    classification_examples,
    regression_examples,
    sum_regions,
)
from ghm_mmdet.visualization.style import BLUE, ORANGE

from .command_line import IN_THE_CLONE, iterations
from .experiment import Experiment, StudySettings

#: The heading of each run to its config, `studies/configs/retinanet_lite0_fpn_{}_chess.py`.
RUNS = {'focal loss + smooth L1': 'fl-sl1', 'GHM-C + GHM-R': 'ghmc-ghmr-tempered'}
GHM = 'GHM-C + GHM-R'
COLOURS = dict(zip(RUNS, (BLUE, ORANGE), strict=True))
COLUMNS = ('AP', 'AP50', 'AP75', 'AP90')
SCORE_THRESHOLD = 0.4
REGIONS = 30
IMAGES = 4


def experiments(work_dir: Path, number: int | None = None) -> dict[str, Experiment]:
    """The two trainings by their headings; `number` of iterations, or the configs'."""
    options = () if number is None else iterations(number)
    settings = StudySettings(work_dir, variables=IN_THE_CLONE)
    path = 'studies/configs/retinanet_lite0_fpn_{}_chess.py'
    return {
        heading: Experiment(name, config_path(path.format(name)), settings, options)
        for heading, name in RUNS.items()
    }


def draw_page(runs: dict[str, Experiment], models: dict[str, tuple]) -> Figure:
    """The page of finished trainings and their detectors."""
    page = Figure(figsize=(15, 11.5), layout='constrained')
    top, bottom = page.subfigures(2, 1, height_ratios=[2.2, 1])
    draw_detections(top, models)
    table, losses, *norms = bottom.subplots(1, 4)
    draw_table(table, runs)
    draw_curves(losses, runs)
    draw_gradient_norms(norms, gradient_norms(*models[GHM]))
    return page


def trained(run: Experiment) -> tuple[Config, torch.nn.Module]:
    """The config of a finished run, and its detector."""
    config = Config.fromfile(run.folder / run.config.name)
    checkpoint = (run.folder / 'last_checkpoint').read_text(encoding='utf-8').strip()
    return config, init_detector(config, checkpoint, device='cpu')


def draw_detections(figure: FigureBase, models: dict[str, tuple]) -> None:
    """A row of ground truth, and one of the detections of each model."""
    dataset = Runner.build_dataloader(next(iter(models.values()))[0].val_dataloader).dataset
    white = (255, 255, 255)
    settings = dict(line_width=2, alpha=1.0, bbox_color=None, text_color=white)
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='demo', **settings))
    visualizer.dataset_meta = dataset.metainfo
    axes = figure.subplots(1 + len(models), IMAGES)
    for column, index in enumerate(fullest(dataset)):
        sample = dataset[index]['data_samples']
        image = np.ascontiguousarray(dataset[index]['inputs'].permute(1, 2, 0).numpy()[..., ::-1])
        found = (inference_detector(model, sample.img_path) for _, model in models.values())
        for row, shown in enumerate((sample, *found)):
            scale = 3
            large = np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))
            visualizer.add_datasample(
                'page', large, enlarged(shown, scale), draw_gt=row == 0, draw_pred=row > 0,
                show=False, pred_score_thr=SCORE_THRESHOLD,
            )  # fmt: skip
            axes[row, column].imshow(visualizer.get_image())
            axes[row, column].set(xticks=[], yticks=[])
    for row, heading in enumerate(('ground truth', *models)):
        axes[row, 0].set_ylabel(heading, fontsize=13)
    figure.suptitle(
        f'The test images with the most pieces; detections with a score above {SCORE_THRESHOLD}'
    )


def fullest(dataset: CocoDataset) -> list[int]:
    """The images with the most objects; many have a single one."""
    counts = [len(dataset.get_data_info(index)['instances']) for index in range(len(dataset))]
    return sorted(range(len(dataset)), key=counts.__getitem__, reverse=True)[:IMAGES]


def enlarged(sample: DetDataSample, scale: int) -> DetDataSample:
    """A copy whose boxes are `scale` times as large."""
    larger = DetDataSample()
    for name in ('gt_instances', 'pred_instances'):
        if name in sample:
            instances = getattr(sample, name)
            boxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes))
            fields = dict(labels=instances.labels, bboxes=boxes * scale)
            if 'scores' in instances:
                fields['scores'] = instances.scores
            setattr(larger, name, InstanceData(**fields))
    return larger


def cells(runs: dict[str, Experiment]) -> list[list[str]]:
    """Heading and AP of each run, in percent."""
    return [
        [heading, *(f'{100 * (run.result() or {})[METRICS[c]]:.1f}' for c in COLUMNS)]
        for heading, run in runs.items()
    ]


def draw_table(axes: Axes, runs: dict[str, Experiment]) -> None:
    """AP of each run."""
    axes.axis('off')
    table = axes.table(cells(runs), colLabels=['losses', *COLUMNS], loc='center')
    table.auto_set_column_width(range(1 + len(COLUMNS)))
    table.scale(1, 1.8)
    axes.set_title('AP on the test images, %, one seed')


def draw_curves(axes: Axes, runs: dict[str, Experiment]) -> None:
    """The losses of each run over their first: the values of different losses do not compare."""
    for heading, run in runs.items():
        curve = training_curve(run.folder)
        steps = [record['step'] for record in curve]
        for loss, style in (('loss_cls', '-'), ('loss_bbox', '--')):
            values = [record[loss] / curve[0][loss] for record in curve]
            label = f'{heading.split(" + ")[style == "--"]}'
            axes.plot(steps, values, style, color=COLOURS[heading], label=label)
    axes.set(xlabel='iteration', yscale='log', title='loss, over its first value')
    axes.legend()


def gradient_norms(
    config: Config, model: torch.nn.Module, batches: int = 20
) -> dict[type, np.ndarray]:
    """What the GHM losses of a detector see on the first training batches.

    β is that of each call alone, without the moving average.

    Returns:
        `GHMC` and `GHMR` to the sums of g and of β·g in each unit region, float64 (2, REGIONS).
    """
    sums = {kind: np.zeros((2, REGIONS)) for kind in (GHMC, GHMR)}

    def add(loss: GHMC | GHMR, args: tuple, _: object) -> None:
        if isinstance(loss, GHMC):
            g, valid = classification_examples(*args[:3])
        else:
            g, valid = regression_examples(*args[:3], mu=loss.current_mu)
        own = assign_regions(g, loss.bins, valid)
        of_regions = harmonizing_parameter(
            count_regions(own, loss.bins), valid.sum().float(), bins=loss.bins, formula=loss.formula
        )
        beta = torch.nn.functional.pad(of_regions, (0, 1))[own]  # 0 where not valid
        regions = assign_regions(g, REGIONS, valid)
        sums[type(loss)] += [sum_regions(norm, regions, REGIONS) for norm in (g, beta * g)]

    losses = (m for m in model.modules() if isinstance(m, (GHMC, GHMR)))
    hooks = [loss.register_forward_hook(add) for loss in losses]
    model.train()
    set_random_seed(0)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    for batch in islice(loader, batches):
        with torch.no_grad():
            model(**model.data_preprocessor(batch, training=True), mode='loss')
    for hook in hooks:
        hook.remove()
    return sums


def draw_gradient_norms(both: list[Axes], norms: dict[type, np.ndarray]) -> None:
    """The shares of the unit regions in the gradient, of GHM-C and of GHM-R, before and after."""
    before = dict(color=BLUE, linestyle='--', label='before harmonizing')
    after = dict(color=ORANGE, linestyle='-', label='after harmonizing')
    edges = np.linspace(0, 1, REGIONS + 1)
    for axes, kind, what in zip(both, norms, ('GHM-C: g', 'GHM-R: gr'), strict=True):
        for sums, line in zip(norms[kind], (before, after), strict=True):
            axes.stairs(sums / sums.sum(), edges, linewidth=2, **line)
        title = f'{what}, share of the gradient'
        axes.set(xlabel='gradient norm', title=title, yscale='log')
        axes.legend()


@command_line()
def main() -> None:
    """Train what is missing, then write the page, the pictures and the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--work-dir', type=Path, default='work_dirs/demo', help='default: %(default)s')
    add('--iterations', type=int, help='of each training; default: 200, what the configs say')
    args = parser.parse_args()
    runs = experiments(args.work_dir, args.iterations)
    if run_missing(runs.values(), jobs=len(runs)):
        sys.exit(1)
    table = markdown_table(['losses', *COLUMNS], cells(runs))
    (args.work_dir / 'ap.md').write_text(table + '\n', encoding='utf-8')
    models = {heading: trained(run) for heading, run in runs.items()}
    draw_page(runs, models).savefig(args.work_dir / 'page.png', dpi=100)
    pictures = Figure(figsize=(13, 7.2), layout='constrained')
    draw_detections(pictures, models)
    pictures.savefig(args.work_dir / 'detections.jpg', dpi=90)
    print(table, f'pictures: {args.work_dir / "page.png"}', sep='\n\n')


if __name__ == '__main__':
    main()
