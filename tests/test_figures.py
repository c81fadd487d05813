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
    region_beta,
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
    """Two rows, of which the last is LOGITS and OFFSETS; the first, of half, has another μ."""
    record = GradientDensityRecord.empty(BINS)
    for iteration, mu in ((100, 4 * MU), (200, MU)):
        sums = np.stack([histogram(G), histogram(GR)]) * iteration / 200
        record.append(iteration, sums, mu)
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


def test_an_empty_region_has_no_beta() -> None:
    """Elsewhere it is N / (R M), Eqs. 9 and 10."""
    beta = region_beta(np.array([6.0, 0, 2, 0]))
    np.testing.assert_array_equal(beta, [8 / 24, np.nan, 8 / 8, np.nan])
    curve = harmonized(np.array([0.5, 0.5]), np.array([0.1, 0.3]), np.array([6.0, 0, 2, 0]))
    np.testing.assert_array_equal(curve, [0.5 * 8 / 24, np.nan])


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
    scales = {name: figure.axes[-1].get_yscale() for name, figure in drawn.items()}
    assert list(scales.values()) == ['log', 'log', 'log', 'linear', 'linear']
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
    """μ is the mean over the offsets: of those of the first row, one third, 0.08."""
    counts, gradient = record.histogram('cls', rows=2)
    np.testing.assert_allclose((counts.sum(), gradient.sum()), (1.5 * len(G), 1.5 * G.sum()))
    assert record.mean_mu() == MU
    assert record.mean_mu(rows=2) == pytest.approx((4 * MU + 2 * MU) / 3)
    [axes] = figures(record, rows=2)['figure5'].axes
    assert axes.get_legend().get_texts()[1].get_text() == 'ASL1 (μ = 0.04)'
    record.append(300, np.zeros((2, 2, BINS)), float('nan'))
    assert np.isnan(record.mean_mu())
    assert record.mean_mu(rows=2) == MU


def test_a_file_holds_the_record(record: GradientDensityRecord, tmp_path: Path) -> None:
    record.save(tmp_path / 'record.npz')
    read = GradientDensityRecord.load(tmp_path / 'record.npz')
    assert read.bins == BINS
    assert read.iteration.dtype == np.int64
    for name in ('iteration', 'mu', 'edges'):
        np.testing.assert_array_equal(getattr(read, name), getattr(record, name))
    np.testing.assert_array_equal(read.sums[:, :, 0], record.sums[:, :, 0].astype(int))
    np.testing.assert_array_equal(read.sums[:, :, 1], record.sums[:, :, 1])
    assert [path.name for path in tmp_path.iterdir()] == ['record.npz']


def test_a_file_with_one_mu_is_read(record: GradientDensityRecord, tmp_path: Path) -> None:
    record.save(tmp_path / 'record.npz')
    with np.load(tmp_path / 'record.npz') as file:
        np.savez(tmp_path / 'scalar.npz', **{**file, 'mu': 0.5})
    read = GradientDensityRecord.load(tmp_path / 'scalar.npz')
    assert read.mu.tolist() == [0.5, 0.5]
    read.append(300, read.sums[0], MU)
    assert read.mu.tolist() == [0.5, 0.5, MU]


def test_until_takes_its_own_iteration(record: GradientDensityRecord) -> None:
    for iteration, rows in ((99, []), (100, [100]), (199, [100]), (200, [100, 200])):
        kept = record.until(iteration)
        assert kept.iteration.tolist() == rows
        assert kept.mu.tolist() == [4 * MU, MU][: len(rows)]
        np.testing.assert_array_equal(kept.sums, record.sums[: len(rows)])


@pytest.mark.parametrize(
    'settings',
    [dict(rows=2), dict(bins_cls=20), dict(bins_reg=5), dict(image_format='svg')],
    ids=lambda settings: next(iter(settings)),
)
def test_options_of_the_command(
    settings: dict, record: GradientDensityRecord, tmp_path: Path
) -> None:
    """Each draws what the function draws, which is not what it draws without."""
    (option, value), path = next(iter(settings.items())), tmp_path / 'record.npz'
    record.save(path)
    option = dict(image_format='format').get(option, option).replace('_', '-')
    main(['figures', str(path), '--out', str(tmp_path / 'drawn'), f'--{option}', str(value)])
    drawn, expected, without = (
        {path.name: path.read_bytes() for path in paths}
        for paths in (
            (tmp_path / 'drawn').iterdir(),
            write_figures(GradientDensityRecord.load(path), tmp_path / 'expected', **settings),
            write_figures(GradientDensityRecord.load(path), tmp_path / 'without'),
        )
    )
    assert drawn == expected != without


def test_figures_without_an_m_that_divides_are_an_error(record: GradientDensityRecord) -> None:
    with pytest.raises(ValueError, match='must divide the 600 bins of the record, got 7'):
        figures(record, bins_reg=7)
    with pytest.raises(ValueError, match='bins_cls must be >= 1, got 0'):
        figures(record, bins_cls=0)
    with pytest.raises(ValueError, match='rows must be >= 1, got 0'):
        figures(record, rows=0)
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
    page = (ROOT / 'docs/figures.md').read_text()
    for name in names:
        shown = ROOT / 'docs/images' / name
        assert f'(images/{name})' in page
        assert shown.stat().st_size < 60_000
        again, there = (matplotlib.image.imread(path) for path in (tmp_path / name, shown))
        # Another version of matplotlib may lay out a text otherwise.
        assert abs(again.mean() - there.mean()) < 0.01
