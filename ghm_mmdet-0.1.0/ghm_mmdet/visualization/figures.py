"""The paper's Figures 1-5, from a record of `GradientDensityHook` and the losses' gradients."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..checks import check_choice, check_count
from ..functional import assign_regions, regression_gradient_norm
from . import FORMATS
from .record import KINDS, GradientDensityRecord, in_regions
from .style import BASELINE, BLUE, GHM, RIVAL, STYLE, new_figure, save_figure

SMALLEST_G = 0.01
LARGEST_D = 0.25
#: In the metadata of a figure, before the hash of its record.
SOURCE = 'ghm-mmdet figures of record'


def focal_gradient(g: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """The gradient norm of focal loss for a negative whose CE has g in [0, 1).

    α is left out: it scales positives against negatives and does not depend on g.
    """
    return g**gamma * (g - gamma * (1 - g) * np.log1p(-g))


def region_beta(counts: np.ndarray) -> np.ndarray:
    """β = N / (R M) of each unit region (Eq. 10) from R, shape (M,); NaN where it is empty."""
    return counts.sum() / (np.where(counts > 0, counts, np.nan) * len(counts))


def harmonized(norm: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """β·g or β·gr of gradient norms, which they are after harmonizing; NaN in an empty region.

    `counts` is R, shape (M,).
    """
    regions = assign_regions(torch.from_numpy(norm), len(counts)).numpy()
    return region_beta(counts)[regions] * norm


def contributions(counts: np.ndarray, gradient: np.ndarray, regions: int) -> dict[str, np.ndarray]:
    """The shares of M unit regions in the whole gradient of CE, FL and GHM-C; NaN if empty.

    `counts` and `gradient` are the number of examples of each bin and the sum of their g.
    """
    mean_g = (gradient / counts.clip(1)).clip(1e-12, 1 - 1e-12)
    ce, fl = (in_regions(sums, regions) for sums in (gradient, counts * focal_gradient(mean_g)))
    r = in_regions(counts, regions)
    sums = {'CE': ce, 'FL': fl, 'GHM-C': region_beta(r) * ce}
    return {loss: np.where(r > 0, part / np.nansum(part), np.nan) for loss, part in sums.items()}


def draw_density(axes: Axes, counts: np.ndarray, kind: str) -> None:
    """Figures 2 and 4: the distribution of a gradient norm, g of logits or gr of offsets."""
    is_cls = kind == 'cls'
    norm, examples, yscale = ('g', 'logits', 'log') if is_cls else ('gr', 'offsets', 'linear')
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=BLUE, label=examples)
    axes.set(xlabel=f'gradient norm {norm}', ylabel=f'fraction of the {examples}')
    axes.set(xlim=(0, 1), yscale=yscale)
    axes.legend(loc='upper center')


def draw_curves(axes: Axes, x: np.ndarray, curves: dict[str, np.ndarray], xlabel: str) -> None:
    """A curve over x of each of the baseline, the rival and GHM."""
    for (name, y), line in zip(curves.items(), (BASELINE, RIVAL, GHM)):
        axes.plot(x, y, label=name, **line)
    axes.set(xlabel=xlabel, xlim=(x[0], x[-1]), ylabel='reformulated gradient norm', yscale='log')
    axes.legend()


def draw_gradient_of_classification(axes: Axes, counts: np.ndarray) -> None:
    """Figure 3: the reformulated gradient norm of CE, FL and GHM-C against g (Eqs. 2 and 10)."""
    g = np.linspace(SMALLEST_G, 1 - SMALLEST_G, 1000)
    curves = {'CE': g, 'FL (γ = 2)': focal_gradient(g), 'GHM-C': harmonized(g, counts)}
    draw_curves(axes, g, curves, 'gradient norm g')


def draw_contributions(axes: Axes, shares: dict[str, np.ndarray]) -> None:
    """Figure 1, right: the total contribution of the examples of each unit region."""
    steps = {name: share.repeat(2) for name, share in shares.items()}
    edges = np.linspace(0, 1, len(shares['CE']) + 1).repeat(2)[1:-1]
    draw_curves(axes, edges, steps, 'gradient norm g')
    axes.set_ylabel('share of the whole gradient')


def draw_gradient_of_regression(axes: Axes, counts: np.ndarray, mu: float) -> None:
    """Figure 5: the reformulated gradient norm of SL1, ASL1 and GHM-R against |d|.

    They are those of Eqs. 16, 18 and 19.
    """
    d = np.linspace(0, LARGEST_D, 1000)
    gr = regression_gradient_norm(torch.from_numpy(d), mu).numpy()
    curves = {'SL1 (δ = 1/9)': np.minimum(9 * d, 1), f'ASL1 (μ = {mu:.3g})': gr}
    draw_curves(axes, d, {**curves, 'GHM-R': harmonized(gr, counts)}, '|d|')
    axes.set(yscale='linear', ylim=(0, None))


def figures(
    record: GradientDensityRecord, rows: int = 1, bins_cls: int = 30, bins_reg: int = 10
) -> dict[str, Figure]:
    """Draw the figures that a record has examples for: 1-3 need logits, 4 and 5 offsets.

    Args:
        record: Of `GradientDensityHook`.
        rows: Number of rows to sum, the last ones. Default: 1.
        bins_cls: M of GHM-C, a divisor of the record's bins. Default: 30, the paper's.
        bins_reg: M of GHM-R, a divisor too. Default: 10, the released code's.

    Returns:
        'figure1' to 'figure5' to the figures.

    Raises:
        TypeError, ValueError: A setting is not an int >= 1, an M does not divide the bins, or
            the rows are empty.
    """
    for name, value in (('rows', rows), ('bins_cls', bins_cls), ('bins_reg', bins_reg)):
        check_count(name, value)
    (counts, gradient), (counts_reg, _) = (record.histogram(kind, rows) for kind in KINDS)
    if not counts.any() and not counts_reg.any():
        raise ValueError(f'the last {rows} of {len(record.iteration)} rows hold no examples')
    drawn = {}
    with matplotlib.rc_context(STYLE):
        if counts.any():
            r = in_regions(counts, bins_cls)
            drawn['figure1'], axes = new_figure(7.5, 2.7, columns=3)
            draw_density(axes[0], r, 'cls')
            draw_gradient_of_classification(axes[1], r)
            draw_contributions(axes[2], contributions(counts, gradient, bins_cls))
            drawn['figure2'] = _figure(draw_density, r, 'cls')
            drawn['figure3'] = _figure(draw_gradient_of_classification, r)
        if counts_reg.any():
            r = in_regions(counts_reg, bins_reg)
            drawn['figure4'] = _figure(draw_density, r, 'reg')
            drawn['figure5'] = _figure(draw_gradient_of_regression, r, record.mean_mu(rows))
    return drawn


def _figure(draw: Callable[..., None], *args: object) -> Figure:
    figure, (axes,) = new_figure(5, 3.2)
    draw(axes, *args)
    return figure


def picture(record: GradientDensityRecord) -> np.ndarray:
    """The densities of the last row of a record, as RGB, uint8 of shape (H, W, 3)."""
    counts = {kind: record.histogram(kind)[0] for kind in KINDS}
    drawn = [kind for kind in KINDS if counts[kind].any()]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6 * len(drawn), 2.8, columns=len(drawn))
        for one, kind in zip(axes, drawn):
            draw_density(one, counts[kind], kind)
        figure.suptitle(f'iteration {record.iteration[-1]}')
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_figures(
    record: GradientDensityRecord, out: str | Path, image_format: str = 'png', **settings: int
) -> list[Path]:
    """Write what `figures` draws to a folder as .png or .svg, and return the paths.

    Figures in this folder that were drawn from another record are removed.
    """
    check_choice('image_format', image_format, FORMATS)
    drawn, folder = figures(record, **settings), Path(out)
    source = f'{SOURCE} {sha256(record.sums.tobytes()).hexdigest()}'
    folder.mkdir(parents=True, exist_ok=True)
    for there in folder.glob('figure[1-5].*'):
        content = there.read_bytes()
        if SOURCE.encode() in content and source.encode() not in content:
            there.unlink()
    paths = [folder / f'{name}.{image_format}' for name in drawn]
    for path, figure in zip(paths, drawn.values()):
        save_figure(figure, path, source)
    return paths
