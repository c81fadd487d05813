"""Draw the demo's page and print its table of AP, from the runs of `make demo`.

The page shows detections, the loss curve and the gradient norms.

Example:
    python -m studies.demo_page --work-dir work_dirs/demo
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.functional import assign_regions, harmonizing_parameter
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.runs import last_metrics, training_curve
from ghm_mmdet.reproduce.tables import METRICS
from ghm_mmdet.visualization.checkpoint import call_losses
from ghm_mmdet.visualization.observer import (
    classification_examples,
    regression_examples,
    sum_regions,
)
from ghm_mmdet.visualization.style import BLUE, GREEN, ORANGE, new_figure

#: The run whose detections and gradient norms are drawn.
GHM = 'retinanet_r18_fpn_ghmc-ghmr_demo'
#: The heading of each run to its folder.
RUNS = {
    'GHM-C + GHM-R, after a focal warm-up': GHM,
    "the same, formula='floored'": 'retinanet_r18_fpn_ghmc-ghmr-floored_demo',
    'focal loss + smooth L1': 'retinanet_r18_fpn_fl-sl1_demo',
}
COLUMNS = ('AP', 'AP50', 'AP75', 'APs', 'APm')
SCORE_THRESHOLD = 0.4
REGIONS = 30


def write_demo_page(work_dir: str | Path) -> Path:
    """Write `ap.md`, `page.png`, whose path it returns, and `gradient_norms.png` beside the runs.

    Raises:
        FileNotFoundError: A run has no evaluation.
    """
    work_dir = Path(work_dir)
    runs = {name: work_dir / run for name, run in RUNS.items()}
    table = ap_table({name: run / 'test' for name, run in runs.items()})
    (work_dir / 'ap.md').write_text(table + '\n')
    print(table)

    config = Config.fromfile(next((work_dir / GHM).glob('*.py')))
    checkpoint = Path((work_dir / GHM / 'last_checkpoint').read_text().strip())
    page = Figure(figsize=(13, 10), layout='constrained')
    top, bottom = page.subfigures(2, 1, height_ratios=[1.6, 1])
    _draw_detections(top, config, checkpoint)
    loss_axes, *norm_axes = bottom.subplots(1, 3)
    _draw_loss_curve(loss_axes, runs)
    norms = gradient_norms(config, checkpoint)
    _draw_gradient_norms(norm_axes, norms)
    page.savefig(work_dir / 'page.png', dpi=100)

    figure, norm_axes = new_figure(9, 3.2, columns=2)
    _draw_gradient_norms(norm_axes, norms)
    figure.savefig(work_dir / 'gradient_norms.png', dpi=100)
    return work_dir / 'page.png'


def ap_table(tests: dict[str, Path]) -> str:
    """Markdown table of COCO AP in percent, a row for each run of `mim test`."""
    rows = []
    for name, folder in tests.items():
        metrics = last_metrics(folder)
        if metrics is None:
            raise FileNotFoundError(f'no evaluation in {folder}: run `mim test` there first')
        rows.append([name, *(f'{100 * metrics[METRICS[c]]:.1f}' for c in COLUMNS)])
    return markdown_table(['losses', *COLUMNS], rows)


def gradient_norms(
    config: Config, checkpoint: str | Path, batches: int = 20
) -> dict[type, torch.Tensor]:
    """What the GHM losses of a checkpoint see on the first training batches of its config.

    β is that of each call alone, without the moving average.

    Returns:
        `GHMC` and `GHMR` to the sums of g and of β·g in each unit region, float64 (2, REGIONS).
    """
    model = init_detector(config, str(checkpoint), device='cpu')
    sums = {kind: torch.zeros(2, REGIONS, dtype=torch.float64) for kind in (GHMC, GHMR)}

    def add(loss: GHMC | GHMR, args: tuple) -> None:
        is_cls = isinstance(loss, GHMC)
        examples = classification_examples if is_cls else partial(regression_examples, mu=loss.mu)
        g, valid = examples(*args[:3])
        beta, _ = harmonizing_parameter(
            g, valid, valid.sum().float(), bins=loss.bins, density=loss.density,
            formula=loss.formula, max_beta=loss.max_beta,
        )  # fmt: skip
        regions = assign_regions(g, REGIONS, valid)
        both = (g, beta.double() * g.double())
        sums[type(loss)] += torch.stack([sum_regions(norm, regions, REGIONS) for norm in both])

    for module in model.modules():
        if isinstance(module, (GHMC, GHMR)):
            module.register_forward_pre_hook(add)
    call_losses(model, config, batches)
    return sums


def _draw_detections(figure: FigureBase, config: Config, checkpoint: Path) -> None:
    figure.suptitle(f'Ground truth (above) and detections with score > {SCORE_THRESHOLD} (below)')
    model = init_detector(config, str(checkpoint), device='cpu')
    dataset = Runner.build_dataloader(config.val_dataloader).dataset
    white = (255, 255, 255)
    settings = dict(line_width=2, alpha=1.0, bbox_color=white, text_color=white)
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='demo_page', **settings))
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
    axes.set(xlabel='iteration', ylabel='loss', yscale='log')
    axes.set_title('Training loss, each on its own scale')
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), fontsize='small')


def _draw_gradient_norms(both: list[Axes], norms: dict[type, torch.Tensor]) -> None:
    titles = ('GHM-C: gradient norm g of classification', 'GHM-R: gradient norm gr of regression')
    before = dict(color=BLUE, linestyle='--', label='before harmonizing')
    after = dict(color=ORANGE, linestyle='-', label='after harmonizing')
    edges = np.linspace(0, 1, REGIONS + 1)
    for axes, title, kind in zip(both, titles, (GHMC, GHMR), strict=True):
        for sums, line in zip(norms[kind], (before, after), strict=True):
            axes.stairs((sums / sums.sum()).numpy(), edges, linewidth=2, **line)
        axes.set(xlabel='gradient norm', ylabel='share of the whole gradient', title=title)
        axes.set_yscale('log')
        axes.legend()


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    page = write_demo_page(parser.parse_args().work_dir)
    print(f'pictures: {page}')


if __name__ == '__main__':
    main()
