"""The figures' curves against the equations and the losses, and what every figure must have."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from ghm_mmdet.cli import main
from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss
from ghm_mmdet.visualization.figures import (
    authentic_smooth_l1_gradient,
    contributions,
    cross_entropy_gradient,
    figures,
    focal_gradient,
    harmonized,
    smooth_l1_gradient,
    write_figures,
)
from ghm_mmdet.visualization.record import GradientDensityRecord, in_regions

from .processes import execute
from .reference import asl1_gradient, region_counts, sigmoid
from .training import ROOT

BINS, MU = 600, 0.02
RNG = np.random.default_rng(0)
LOGITS = np.concatenate([RNG.normal(-4, 2, 5000), RNG.normal(1, 2, 300)])
OFFSETS = RNG.laplace(0, 0.03, 2000)
G = sigmoid(LOGITS)
GR = np.abs(asl1_gradient(OFFSETS, MU))


def histogram(g: np.ndarray) -> np.ndarray:
    return np.stack([np.histogram(g, BINS, (0, 1), weights=w)[0] for w in (None, g)])


@pytest.fixture
def record() -> GradientDensityRecord:
    """Two rows, of which the last is LOGITS and OFFSETS."""
    record = GradientDensityRecord.empty(BINS, MU)
    for iteration in (100, 200):
        sums = torch.from_numpy(np.stack([histogram(G), histogram(GR)]) * iteration / 200)
        record.append(iteration, sums)
    return record


def test_gradients_equal_their_formulas() -> None:
    g = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(cross_entropy_gradient(g), g, rtol=1e-12)
    # d/dx of -p^γ log(1 - p), p = sigmoid(x), which is g for a negative.
    focal = g**3 - 2 * g**2 * (1 - g) * np.log(1 - g)
    np.testing.assert_allclose(focal_gradient(g, gamma=2.0), focal, rtol=1e-12)
    d = np.linspace(0, 0.5, 101)
    np.testing.assert_allclose(smooth_l1_gradient(d), np.minimum(9 * d, 1), rtol=1e-12)
    np.testing.assert_allclose(
        authentic_smooth_l1_gradient(d, MU), asl1_gradient(d, MU), rtol=1e-12
    )


@pytest.mark.parametrize('kind', ['cls', 'reg'])
def test_ghm_curve_is_the_gradient_of_the_loss(kind: str) -> None:
    """At the measured g: N times what autograd gives for GHM of those very logits or offsets."""
    settings = dict(formula='paper', reduction='sum')
    if kind == 'cls':
        g, bins, plain = G, 30, cross_entropy_gradient(G)
        x = torch.tensor(LOGITS[:, None], requires_grad=True)
        background = torch.ones(len(x), dtype=torch.long)
        ghm_c_loss(x, background, bins=bins, **settings).backward()
    else:
        g, bins, plain = GR, 10, authentic_smooth_l1_gradient(OFFSETS, MU)
        x = torch.tensor(OFFSETS, requires_grad=True)
        ghm_r_loss(x, torch.zeros_like(x), mu=MU, bins=bins, **settings).backward()
    curve = harmonized(plain, g, in_regions(histogram(g)[0], bins))
    np.testing.assert_allclose(curve, x.grad.flatten().abs().numpy(), rtol=1e-9)


def test_contributions_equal_sums_over_the_examples() -> None:
    shares = contributions(*histogram(G), regions=30)
    region = np.minimum((G * 30).astype(int), 29)
    counts = region_counts(G, 30, np.ones(len(G), bool))
    focal = G**3 - 2 * G**2 * (1 - G) * np.log1p(-G)
    expected = {'CE': G, 'FL': focal, 'GHM-C': len(G) / (counts[region] * 30) * G}
    for name, values in expected.items():
        sums = np.bincount(region, values, minlength=30)
        # FL is taken at the mean g of a bin of 1/600.
        np.testing.assert_allclose(shares[name], sums / sums.sum(), rtol=5e-3, err_msg=name)


def test_every_figure_has_labels_and_a_legend(record: GradientDensityRecord) -> None:
    drawn = figures(record)
    assert list(drawn) == [f'figure{i}' for i in range(1, 6)]
    assert [len(figure.axes) for figure in drawn.values()] == [3, 1, 1, 1, 1]
    expected = {
        'figure2': {'logits'},
        'figure3': {'CE', 'FL (γ = 2)', 'GHM-C'},
        'figure4': {'offsets'},
        'figure5': {'SL1 (δ = 1/9)', 'ASL1 (μ = 0.02)', 'GHM-R'},
    }
    for name, figure in drawn.items():
        for axes in figure.axes:
            assert axes.get_xlabel() and axes.get_ylabel()
            texts = {text.get_text() for text in axes.get_legend().get_texts()}
            assert texts == expected.get(name, texts)
    assert [axes.get_yscale() for axes in drawn['figure1'].axes] == ['log'] * 3


def test_drawn_density_is_the_records(record: GradientDensityRecord) -> None:
    drawn = figures(record, bins_cls=20)
    values, edges, _ = drawn['figure2'].axes[0].patches[0].get_data()
    np.testing.assert_allclose(values, np.histogram(G, 20, (0, 1))[0] / len(G))
    np.testing.assert_allclose(edges, np.linspace(0, 1, 21))


def test_backend_stays_the_users() -> None:
    """In a process of its own: what is imported and drawn here leaves matplotlib's choice alone."""
    code = """
import matplotlib
matplotlib.use('svg')
from ghm_mmdet.visualization.figures import figures
from ghm_mmdet.visualization.record import GradientDensityRecord
figures(GradientDensityRecord.load('docs/records/demo.npz'))
print(matplotlib.get_backend())
"""
    assert execute(code)[:2] == (0, 'svg\n')


def test_rows_are_summed(record: GradientDensityRecord) -> None:
    counts, gradient = record.histogram('cls', rows=2)
    np.testing.assert_allclose((counts.sum(), gradient.sum()), (1.5 * len(G), 1.5 * G.sum()))


def test_figures_without_an_m_that_divides_are_an_error(record: GradientDensityRecord) -> None:
    with pytest.raises(ValueError, match='must divide the 600 bins of the record, got 7'):
        figures(record, bins_reg=7)
    with pytest.raises(ValueError, match='bins_cls must be >= 1, got 0'):
        figures(record, bins_cls=0)
    with pytest.raises(ValueError, match='the last 1 of 0 rows hold no examples'):
        figures(record.until(0))
    with pytest.raises(ValueError, match="image_format must be one of 'png', 'svg', got 'bmp'"):
        write_figures(record, 'anywhere', 'bmp')


def test_only_what_was_recorded_is_drawn(record: GradientDensityRecord) -> None:
    record.sums[:, 0] = 0
    assert list(figures(record)) == ['figure4', 'figure5']


def test_command_draws_the_record_of_the_documentation(tmp_path: Path) -> None:
    """docs/figures.md shows what the command makes of docs/records/demo.npz."""
    main(['figures', str(ROOT / 'docs/records/demo.npz'), '--out', str(tmp_path)])
    names = [f'figure{i}.png' for i in range(1, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    page = (ROOT / 'docs/figures.md').read_text(encoding='utf-8')
    for name in names:
        shown = ROOT / 'docs/images' / name
        assert f'(images/{name})' in page
        assert shown.stat().st_size < 60_000
        again, there = (matplotlib.image.imread(path) for path in (tmp_path / name, shown))
        # Another version of matplotlib may lay out a text otherwise.
        assert abs(again.mean() - there.mean()) < 0.01
