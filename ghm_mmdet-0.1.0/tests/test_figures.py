"""The figures' curves against the equations and the losses, and what every figure must have."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmdet.models.losses import SmoothL1Loss
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ghm_mmdet import AuthenticSmoothL1Loss
from ghm_mmdet.cli import main
from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss
from ghm_mmdet.visualization.figures import (
    contributions,
    figures,
    harmonized,
    picture,
    region_beta,
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


def make_record() -> GradientDensityRecord:
    """Two rows, of which the last is LOGITS and OFFSETS; the first, of half, has another μ."""
    record = GradientDensityRecord.empty(BINS)
    for iteration, mu in ((100, 4 * MU), (200, MU)):
        sums = np.stack([histogram(G), histogram(GR)]) * iteration / 200
        record.append(iteration, sums, mu)
    return record


@pytest.fixture
def record() -> GradientDensityRecord:
    return make_record()


@pytest.fixture(scope='module')
def drawn() -> dict[str, Figure]:
    return figures(make_record())


def gradient_of(loss: Callable[..., Tensor], x: np.ndarray, **settings: float) -> np.ndarray:
    """By autograd, of an elementwise loss at target 0, in absolute value."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    loss(leaf, torch.zeros_like(leaf), **settings).sum().backward()
    return leaf.grad.abs().numpy()


def test_curves_are_the_gradients_of_the_losses(drawn: dict[str, Figure]) -> None:
    """Figures 3 and 5 against autograd of what MMDetection and this package train with."""
    g, (ce, focal, _) = lines_of(drawn['figure3'].axes[0])
    x = np.log(g / (1 - g))
    reduction = dict(reduction='none')
    expected = gradient_of(binary_cross_entropy_with_logits, x, **reduction)
    np.testing.assert_allclose(ce, expected, rtol=1e-9)
    expected = gradient_of(py_sigmoid_focal_loss, x, gamma=2.0, alpha=0.0, **reduction)
    np.testing.assert_allclose(focal, expected, rtol=1e-9)
    d, (smooth_l1, asl1, _) = lines_of(drawn['figure5'].axes[0])
    expected = gradient_of(SmoothL1Loss(beta=1 / 9, **reduction), d)
    np.testing.assert_allclose(smooth_l1, expected, rtol=1e-9)
    expected = gradient_of(AuthenticSmoothL1Loss(mu=MU, **reduction), d)
    np.testing.assert_allclose(asl1, expected, rtol=1e-9)
    assert (d[0], d[-1], g[0], g[-1]) == (0, 0.25, 0.01, 0.99)


def lines_of(axes: Axes) -> tuple[np.ndarray, list[np.ndarray]]:
    """x, which all lines share, and y of each."""
    return axes.lines[0].get_xdata(), [line.get_ydata() for line in axes.lines]


def test_curves_of_ghm_are_beta_times_the_gradient(drawn: dict[str, Figure]) -> None:
    """β = N / (R M) of the region that the gradient norm lies in, Eqs. 10 and 19."""
    for name, bins, norms in (('figure3', 30, G), ('figure5', 10, GR)):
        _, (norm, *_) = lines_of(drawn[name].axes[0])
        if name == 'figure5':
            norm = lines_of(drawn[name].axes[0])[1][1]
        r = np.histogram(norms, bins, (0, 1))[0].astype(float)
        r[r == 0] = np.nan
        beta = len(norms) / (r * bins)
        region = np.minimum((norm * bins).astype(int), bins - 1)
        np.testing.assert_allclose(lines_of(drawn[name].axes[0])[1][2], beta[region] * norm)


def test_steps_are_the_contributions(drawn: dict[str, Figure]) -> None:
    """Figure 1, right: the share of a region from its lower edge to its upper one."""
    axes = drawn['figure1'].axes[2]
    x, lines = lines_of(axes)
    edges = np.linspace(0, 1, 31)
    np.testing.assert_allclose(x, np.stack([edges[:-1], edges[1:]], 1).ravel())
    expected = contributions(*histogram(G), regions=30)
    for share, line in zip(expected.values(), lines):
        np.testing.assert_allclose(line.reshape(30, 2), np.stack([share, share], 1))
    assert axes.get_ylabel() == 'share of the whole gradient'


@pytest.mark.parametrize('kind', ['cls', 'reg'])
def test_ghm_curve_is_the_gradient_of_the_loss(kind: str) -> None:
    """At the measured g: N times what autograd gives for GHM of those very logits or offsets."""
    settings = dict(formula='paper', reduction='sum')
    if kind == 'cls':
        norm, bins = G, 30
        x = torch.tensor(LOGITS[:, None], requires_grad=True)
        background = torch.ones(len(x), dtype=torch.long)
        ghm_c_loss(x, background, bins=bins, **settings).backward()
    else:
        norm, bins = GR, 10
        x = torch.tensor(OFFSETS, requires_grad=True)
        ghm_r_loss(x, torch.zeros_like(x), mu=MU, bins=bins, **settings).backward()
    curve = harmonized(norm, in_regions(histogram(norm)[0], bins))
    np.testing.assert_allclose(curve, x.grad.flatten().abs().numpy(), rtol=1e-9)


def test_an_empty_region_has_no_beta() -> None:
    """Elsewhere it is N / (R M), Eqs. 9 and 10."""
    beta = region_beta(np.array([6.0, 0, 2, 0]))
    np.testing.assert_array_equal(beta, [8 / 24, np.nan, 8 / 8, np.nan])
    curve = harmonized(np.array([0.1, 0.3]), np.array([6.0, 0, 2, 0]))
    np.testing.assert_allclose(curve, [0.1 * 8 / 24, np.nan])


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


def test_every_figure_has_labels_and_a_legend(drawn: dict[str, Figure]) -> None:
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
    for name in ('iteration', 'mu', 'training', 'settings'):
        np.testing.assert_array_equal(getattr(read, name), getattr(record, name))
    np.testing.assert_array_equal(read.sums[:, :, 0], record.sums[:, :, 0].astype(int))
    np.testing.assert_array_equal(read.sums[:, :, 1], record.sums[:, :, 1])
    assert [path.name for path in tmp_path.iterdir()] == ['record.npz']


def test_a_record_says_its_training_and_settings(
    record: GradientDensityRecord, tmp_path: Path
) -> None:
    replace(record, training='one', settings='interval=3').save(tmp_path / 'record.npz')
    read = GradientDensityRecord.load(tmp_path / 'record.npz')
    assert (read.training, read.settings) == ('one', 'interval=3')
    assert (read.until(100).training, read.until(100).settings) == ('one', 'interval=3')
    with np.load(tmp_path / 'record.npz') as file:
        np.testing.assert_allclose(file['edges'], np.linspace(0, 1, BINS + 1))
        assert file['version'] == 2 and file['cls_counts'].dtype == np.int64


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


def test_figures_of_another_record_are_removed(
    record: GradientDensityRecord, tmp_path: Path
) -> None:
    """Those of this one stay, in the other format too, and what others put there."""

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    both = record.sums.copy()
    record.sums[:, 0] = 0
    (tmp_path / 'figure5.pdf').write_bytes(b'of a paper')
    write_figures(record, tmp_path)
    write_figures(record, tmp_path, 'svg', rows=2)
    assert names() == [
        'figure4.png', 'figure4.svg', 'figure5.pdf', 'figure5.png', 'figure5.svg',
    ]  # fmt: skip
    png = tmp_path / 'figure5.png'
    png.write_bytes(png.read_bytes().replace(b'ghm-mmdet figures', b'somebody elses it'))
    record.sums = both
    record.sums[:, 1] = 0
    written = write_figures(record, tmp_path, 'svg')
    assert [path.name for path in written] == [f'figure{i}.svg' for i in (1, 2, 3)]
    assert names() == ['figure1.svg', 'figure2.svg', 'figure3.svg', 'figure5.pdf', 'figure5.png']


def test_picture_is_of_the_last_row(record: GradientDensityRecord) -> None:
    """Both densities side by side, or the only one; each row has its own picture."""
    both = picture(record)
    assert both.dtype == np.uint8 and both.shape == (280, 720, 3)
    assert (both != picture(record.until(100))).any(), 'the iteration'
    blue = (both == [0, 114, 178]).all(-1)
    assert blue[:, :360].mean() > 0.05 and blue[:, 360:].mean() > 0.05
    record.sums[:, 0] = 0
    assert picture(record).shape == (280, 360, 3)


def test_only_what_was_recorded_is_drawn(record: GradientDensityRecord) -> None:
    record.sums[:, 0] = 0
    assert list(figures(record)) == ['figure4', 'figure5']


NO_RECORD = 'GradientDensityHook writes a record, gradient_density.npz, into the work folder'


def make_array(path: Path) -> None:
    with open(path, 'wb') as file:
        np.save(file, np.arange(3))


def make_other_npz(path: Path) -> None:
    with open(path, 'wb') as file:
        np.savez(file, iteration=np.arange(3), mu=0.5)


def make_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(dict(iteration=3)))


def make_checkpoint(path: Path) -> None:
    torch.save(dict(state_dict={}), path)


def make_later(path: Path) -> None:
    with open(path, 'wb') as file:
        np.savez(file, version=3)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda path: path.write_text('model = 1\n', encoding='utf-8'), 'is no record'),
        (lambda path: path.write_bytes(b''), 'is no record'),
        (make_array, 'is no record'),
        (make_other_npz, 'is no record'),
        (make_pickle, 'is no record'),
        (make_checkpoint, 'is no record'),
        (make_later, 'is a record of version 3; this ghm_mmdet reads up to version 2, update it'),
        (lambda path: None, 'is not there'),
        (lambda path: path.mkdir(), 'is a folder: name the record in it'),
    ],
    ids=['config', 'empty', 'npy', 'npz', 'pickle', 'pth', 'later', 'missing', 'folder'],
)
def test_what_is_no_record_is_said_in_a_line(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """With what makes one; without NumPy's words."""
    path = tmp_path / 'my_config.py'
    make(path)
    with pytest.raises(SystemExit) as ended:
        main(['figures', str(path), '--out', str(tmp_path / 'drawn')])
    message = str(ended.value.code)
    assert message.startswith(f'{path} {said}') and '\n' not in message
    assert NO_RECORD in message or 'my_config.py/gradient_density.npz' in message
    assert 'pickle' not in message and not (tmp_path / 'drawn').exists()


def test_a_home_folder_is_expanded(
    record: GradientDensityRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    record.save(tmp_path / 'record.npz')
    main(['figures', '~/record.npz', '--out=~/drawn'])
    assert (tmp_path / 'drawn/figure1.png').exists()


def test_a_folder_that_can_not_be_written_is_said(
    record: GradientDensityRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.save(tmp_path / 'record.npz')
    with pytest.raises(SystemExit):
        main(['figures', str(tmp_path / 'record.npz'), '--out', str(tmp_path / 'record.npz')])
    assert "record.npz' is a file, not a folder" in capsys.readouterr().err


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
