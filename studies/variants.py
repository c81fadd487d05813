"""The variants of "the mini-batch" and of the formula, on one recorded iteration."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from ghm_mmdet.functional import region_harmonizing_parameter
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.visualization.style import BLUE, DPI, GREEN, ORANGE, STYLE

#: Of each level, the finest first.
LINES = ('-', '--', ':')


def harmonizing_of_regions(
    counts: np.ndarray, average: np.ndarray, number: float, formula: str
) -> np.ndarray:
    """β of each unit region from R, S (shape (M,)) and N."""
    arrays = (torch.from_numpy(np.asarray(x)) for x in (counts, average, number))
    return region_harmonizing_parameter(*arrays, formula).numpy()


def gradient_of_regions(counts: np.ndarray, beta: np.ndarray, number: float) -> np.ndarray:
    """`R_j β_j g_j / N`, the gradient norms of each region summed, with g_j in its middle."""
    bins = len(counts)
    return counts * beta * (np.arange(bins) + 0.5) / bins / number


def variants_table(record: dict[str, np.ndarray], loss: str, iteration: int) -> str:
    """What each variant makes of the histograms of a recorded iteration, as a Markdown table.

    The record is that of a `HarmonizingRecorder`, of a training with one density per level.
    """
    rows = record[f'{loss}_iteration'] == iteration
    if not rows.any():
        known = sorted(set(record[f'{loss}_iteration'].tolist()))
        raise ValueError(f'iteration must be one of {known}, got {iteration}')
    counts, average, number = (record[f'{loss}_{x}'][rows] for x in ('counts', 'average', 'number'))
    # A level without examples has N = 1 as a divisor.
    batch = counts.sum(0)
    whole = [(batch, batch, max(batch.sum(), 1.0))]
    levels = list(zip(counts, counts, number, strict=True))
    averaged = list(zip(counts, average, number, strict=True))
    heads = ['density', 'formula', 'N', 'n', 'β of the region with most examples', 'largest β']
    rows = [
        ['per level', 'official, with the moving average', *_cells(averaged, 'official')],
        *(
            [density, formula, *_cells(calls, formula)]
            for density, calls in (('per level', levels), ('whole batch', whole))
            for formula in ('official', 'paper', 'floored')
        ),
    ]
    return markdown_table([*heads, 'gradient, summed'], rows)


def _cells(calls: list[tuple[np.ndarray, np.ndarray, float]], formula: str) -> list[str]:
    """One value for each call of the loss, and the gradient of all of them."""
    columns: list[list[str]] = [[], [], [], []]
    gradient = 0.0
    for counts, average, number in calls:
        beta = harmonizing_of_regions(counts, average, number, formula)
        gradient += gradient_of_regions(counts, beta, number).sum()
        values = (counts.sum(), (counts > 0).sum(), beta[counts.argmax()], beta.max())
        for column, value in zip(columns, values, strict=True):
            column.append(f'{value:.0f}' if value == int(value) else f'{value:.3g}')
    return [*(' / '.join(column) for column in columns), f'{gradient:.2f}']


def draw_averages(
    records: dict[str, dict[str, np.ndarray]], regions: tuple[int, ...] = (0, 5, 14, 24)
) -> Figure:
    """S of some unit regions of GHM-C over the training, a panel for each record by its title."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), dpi=DPI, layout='constrained')
        axes = figure.subplots(1, len(records), sharey=True)
        for panel, (title, record) in zip(axes, records.items(), strict=True):
            average = record['cls_average']
            bins = average.shape[1]
            for region, color in zip(regions, (BLUE, GREEN, ORANGE, 'black'), strict=True):
                label = f'{region / bins:.2f} ≤ g < {(region + 1) / bins:.2f}'
                for level in np.unique(record['cls_level']):
                    rows = record['cls_level'] == level
                    style = dict(color=color, linewidth=1.2, linestyle=LINES[level])
                    x, y = record['cls_iteration'][rows], average[rows, region]
                    panel.plot(x, np.where(y > 0, y, np.nan), label=label, **style)
                    label = None
            panel.set(title=title, xlabel='iteration', yscale='log')
        axes[0].set_ylabel('S, examples in the region')
        figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4)
    return figure
