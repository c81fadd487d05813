"""The paper's Figures 1-5, from a record of `GradientDensityHook` and the losses' gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.losses.smooth_l1_loss import smooth_l1_loss
from scipy.special import logit
from torch import Tensor

from ..checks import check_choice, check_count
from ..functional import paper
from . import FORMATS
from .record import KINDS, GradientDensityRecord, in_regions
from .style import BASELINE, BLUE, GHM, RIVAL, STYLE, new_figure, save_figure

SMALLEST_G = 0.01
LARGEST_D = 0.25


def gradient_norm(loss: Callable[..., Tensor], x: np.ndarray, **settings: float) -> np.ndarray:
    """The gradient norm of an elementwise `loss(x, target)` at target 0, float64 as `x`."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = loss(leaf, torch.zeros_like(leaf), reduction='none', **settings)
    return torch.autograd.grad(value.sum(), leaf)[0].abs().numpy()


def cross_entropy_gradient(g: np.ndarray) -> np.ndarray:
    """Eq. 2 of a negative whose gradient norm is g."""
    return gradient_norm(F.binary_cross_entropy_with_logits, logit(g))


def focal_gradient(g: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """The gradient norm of focal loss for a negative whose CE has g in (0, 1).

    α is left out: it scales positives against negatives and does not depend on g.
    """
    return gradient_norm(py_sigmoid_focal_loss, logit(g), gamma=gamma, alpha=0.0)


def smooth_l1_gradient(d: np.ndarray, delta: float = 1 / 9) -> np.ndarray:
    """Eq. 16."""
    return gradient_norm(smooth_l1_loss, d, beta=delta)


def authentic_smooth_l1_gradient(d: np.ndarray, mu: float) -> np.ndarray:
    """Eq. 18."""
    return gradient_norm(lambda d, _, reduction: paper.authentic_smooth_l1(d, mu), d)


def region_beta(counts: np.ndarray) -> np.ndarray:
    """β of each unit region (Eq. 10) from R, shape (M,); NaN where a region is empty."""
    r = torch.from_numpy(counts)
    beta = paper.harmonizing_parameter(r, r.sum(), bins=len(r), formula='paper').numpy()
    return np.where(counts > 0, beta, np.nan)


def harmonized(gradient: np.ndarray, norm: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The gradient norms after harmonizing: β(norm) times the gradient, NaN in an empty region.

    `norm`, g or gr of each, decides the region; `counts` is R, shape (M,).
    """
    regions = paper.assign_regions(torch.from_numpy(norm), len(counts)).numpy()
    return region_beta(counts)[regions] * gradient


def contributions(counts: np.ndarray, gradient: np.ndarray, regions: int) -> dict[str, np.ndarray]:
    """The shares of M unit regions in the whole gradient of CE, FL and GHM-C; NaN if empty.

    `counts` and `gradient` are the number of examples of each bin and the sum of their g.
    """
    mean_g = (gradient / counts.clip(1)).clip(1e-12, 1 - 1e-12)
    r = in_regions(counts, regions)
    sums = {
        'CE': in_regions(gradient, regions),
        'FL': in_regions(counts * focal_gradient(mean_g), regions),
    }
    sums['GHM-C'] = region_beta(r) * sums['CE']
    return {loss: np.where(r > 0, part / np.nansum(part), np.nan) for loss, part in sums.items()}


def draw_density(axes: Axes, counts: np.ndarray, kind: str, yscale: str = 'log') -> None:
    """Figures 2 and 4: the distribution of a gradient norm, g of logits or gr of offsets."""
    norm, examples = ('g', 'logits') if kind == 'cls' else ('gr', 'offsets')
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=BLUE, label=examples)
    axes.set(xlabel=f'gradient norm {norm}', ylabel=f'fraction of the {examples}')
    axes.set(xlim=(0, 1), yscale=yscale)
    axes.legend(loc='upper center')


def draw_gradient_of_classification(axes: Axes, counts: np.ndarray) -> None:
    """Figure 3: the reformulated gradient norm of CE, FL and GHM-C against g."""
    g = np.linspace(SMALLEST_G, 1 - SMALLEST_G, 1000)
    cross_entropy = cross_entropy_gradient(g)
    axes.plot(g, cross_entropy, label='CE', **BASELINE)
    axes.plot(g, focal_gradient(g), label='FL (γ = 2)', **RIVAL)
    axes.plot(g, harmonized(cross_entropy, g, counts), label='GHM-C', **GHM)
    axes.set(xlabel='gradient norm g', ylabel='reformulated gradient norm')
    axes.set(xlim=(0, 1), yscale='log')
    axes.legend()


def draw_contributions(axes: Axes, shares: dict[str, np.ndarray]) -> None:
    """Figure 1, right: the total contribution of the examples of each unit region."""
    for (name, share), line in zip(shares.items(), (BASELINE, RIVAL, GHM)):
        axes.stairs(share, np.linspace(0, 1, len(share) + 1), baseline=None, label=name, **line)
    axes.set(xlabel='gradient norm g', ylabel='share of the whole gradient')
    axes.set(xlim=(0, 1), yscale='log')
    axes.legend()


def draw_gradient_of_regression(axes: Axes, counts: np.ndarray, mu: float) -> None:
    """Figure 5: the reformulated gradient norm of SL1, ASL1 and GHM-R against |d|."""
    d = np.linspace(0, LARGEST_D, 1000)
    asl1 = authentic_smooth_l1_gradient(d, mu)
    gr = paper.regression_gradient_norm(torch.from_numpy(d), mu).numpy()
    axes.plot(d, smooth_l1_gradient(d), label='SL1 (δ = 1/9)', **BASELINE)
    axes.plot(d, asl1, label=f'ASL1 (μ = {mu:.3g})', **RIVAL)
    axes.plot(d, harmonized(asl1, gr, counts), label='GHM-R', **GHM)
    axes.set(xlabel='|d|', ylabel='reformulated gradient norm', xlim=(0, LARGEST_D))
    axes.set_ylim(bottom=0)
    axes.legend()


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
    drawn = {}
    (counts, gradient), (counts_reg, _) = (record.histogram(kind, rows) for kind in KINDS)
    if not counts.any() and not counts_reg.any():
        raise ValueError(f'the last {rows} of {len(record.iteration)} rows hold no examples')
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
            drawn['figure4'] = _figure(draw_density, r, 'reg', 'linear')
            drawn['figure5'] = _figure(draw_gradient_of_regression, r, record.mean_mu(rows))
    return drawn


def _figure(draw: Callable[..., None], *args: object) -> Figure:
    figure, (axes,) = new_figure(5, 3.2)
    draw(axes, *args)
    return figure


def write_figures(
    record: GradientDensityRecord, out: str | Path, image_format: str = 'png', **settings: int
) -> list[Path]:
    """Write what `figures` draws to a folder as .png or .svg, and return the paths."""
    check_choice('image_format', image_format, FORMATS)
    paths = []
    for name, figure in figures(record, **settings).items():
        paths.append(Path(out, f'{name}.{image_format}'))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, paths[-1])
    return paths
