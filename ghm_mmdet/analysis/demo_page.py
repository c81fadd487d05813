"""The demo's page: detections, loss curve, gradient norms, and the table of AP."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ..hooks.gradient_density import BLUE
from ..reproduce.runs import last_metrics, training_curve
from .figures import GREEN, ORANGE
from .gradient_norms import GradientNormRecord, call_losses, recorded

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

METRICS = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', 'bbox_mAP_s', 'bbox_mAP_m')
HEADINGS = ('AP', 'AP50', 'AP75', 'APs', 'APm')
SCORE_THRESHOLD = 0.4


def write_demo_page(work_dir: str | Path, runs: dict[str, str], ghm: str) -> Path:
    """Write `ap.md`, `page.png` and, for itself, `gradient_norms.png` from finished runs.

    Args:
        work_dir: Folder that holds the runs.
        runs: Heading of each run to the name of its folder in `work_dir`.
        ghm: The folder, one of `runs`, whose detections and gradient norms are drawn.

    Returns:
        The path of `page.png`.

    Raises:
        FileNotFoundError: A run has no evaluation.
    """
    work_dir = Path(work_dir)
    table = ap_table({name: work_dir / run / 'test' for name, run in runs.items()})
    (work_dir / 'ap.md').write_text(table + '\n')
    print(table)

    config, checkpoint = _config_and_checkpoint(work_dir / ghm)
    figure = plt.figure(figsize=(13, 10), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.6, 1])
    _draw_detections(top, config, checkpoint)
    axes = bottom.subplots(1, 3)
    _draw_loss_curve(axes[0], {name: work_dir / run for name, run in runs.items()})
    records = gradient_norms(config, checkpoint)
    _draw_both_gradient_norms(axes[1:], records)
    figure.savefig(work_dir / 'page.png', dpi=100)
    plt.close(figure)

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
    _draw_both_gradient_norms(axes, records)
    figure.savefig(work_dir / 'gradient_norms.png', dpi=100)
    plt.close(figure)
    return work_dir / 'page.png'


def ap_table(tests: dict[str, Path]) -> str:
    """Markdown table of COCO AP, a row for each run of `mim test`."""
    lines = ['| losses | ' + ' | '.join(HEADINGS) + ' |', '|---' * (len(HEADINGS) + 1) + '|']
    for name, folder in tests.items():
        metrics = last_metrics(folder)
        if metrics is None:
            raise FileNotFoundError(f'no evaluation in {folder}: run `mim test` there first')
        lines.append(f'| {name} | ' + ' | '.join(f'{metrics[m]:.3f}' for m in METRICS) + ' |')
    return '\n'.join(lines)


def gradient_norms(
    config: Config, checkpoint: str | Path, batches: int = 20
) -> dict[str, GradientNormRecord]:
    """The gradient norms of a checkpoint on the first training batches of its config."""
    model = init_detector(config, str(checkpoint), device='cpu')
    with recorded(model) as records:
        call_losses(model, config, batches)
    return records


def _config_and_checkpoint(run: Path) -> tuple[Config, Path]:
    config = Config.fromfile(next(run.glob('*.py')))
    return config, Path((run / 'last_checkpoint').read_text().strip())


def _draw_detections(figure: plt.Figure, config: Config, checkpoint: Path) -> None:
    figure.suptitle(f'Ground truth (above) and detections with score > {SCORE_THRESHOLD} (below)')
    model = init_detector(config, str(checkpoint), device='cpu')
    dataset = Runner.build_dataloader(config.val_dataloader).dataset
    visualizer = VISUALIZERS.build(
        dict(
            type='DetLocalVisualizer',
            name='demo_page',
            line_width=2,
            alpha=1.0,
            bbox_color=(255, 255, 255),
            text_color=(255, 255, 255),
        )
    )
    visualizer.dataset_meta = dataset.metainfo
    axes = figure.subplots(2, 5)
    for column, index in enumerate(range(0, len(dataset), len(dataset) // 5)[:5]):
        sample = dataset[index]
        image = sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        found = inference_detector(model, sample['data_samples'].img_path)
        scale = 3
        large = np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))
        for row, shown in enumerate((sample['data_samples'], found)):
            drawn = _enlarged(shown, scale)
            visualizer.add_datasample(
                'page', large, drawn, draw_gt=row == 0, draw_pred=row == 1, show=False,
                pred_score_thr=SCORE_THRESHOLD,
            )  # fmt: skip
            axes[row, column].imshow(visualizer.get_image())
            axes[row, column].axis('off')


def _enlarged(sample: DetDataSample, scale: int) -> DetDataSample:
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


def _draw_loss_curve(axes: Axes, runs: dict[str, Path]) -> None:
    for (name, run), colour in zip(runs.items(), (ORANGE, GREEN, BLUE), strict=False):
        curve = training_curve(run)
        steps = [record['step'] for record in curve]
        axes.plot(steps, [record['loss'] for record in curve], color=colour, label=name)
    axes.set(
        xlabel='iteration',
        ylabel='loss',
        yscale='log',
        title='Training loss, each on its own scale',
    )
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), fontsize='small')


def _draw_both_gradient_norms(axes: Sequence[Axes], records: dict[str, GradientNormRecord]) -> None:
    _draw_gradient_norms(axes[0], records['cls'], 'GHM-C: gradient norm g of classification')
    _draw_gradient_norms(axes[1], records['reg'], 'GHM-R: gradient norm gr of regression')


def _draw_gradient_norms(axes: Axes, record: GradientNormRecord, title: str) -> None:
    edges = np.linspace(0, 1, len(record.examples) + 1)
    for gradient, colour, style, label in (
        (record.gradient, BLUE, '--', 'before harmonizing'),
        (record.harmonized, ORANGE, '-', 'after harmonizing'),
    ):
        share = (gradient / gradient.sum()).numpy()
        axes.stairs(share, edges, color=colour, linestyle=style, linewidth=2, label=label)
    axes.set(xlabel='gradient norm', ylabel='share of the whole gradient', title=title)
    axes.set_yscale('log')
    axes.legend()
