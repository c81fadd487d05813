"""The equations against their float64 NumPy brute force, to 1e-9."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ghm_mmdet.formulas import FORMULAS
from ghm_mmdet.functional import (
    authentic_smooth_l1,
    classification_gradient_norm,
    exact_gradient_density,
    ghm_c_loss,
    ghm_r_loss,
    harmonizing_parameter,
    inputs,
    region_gradient_density,
    regression_gradient_norm,
)

from . import reference

pytestmark = pytest.mark.usefixtures('device')
CLOSE = dict(rtol=1e-9, atol=1e-12)


def random_classification(seed: int, soft: bool = False) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    rows, classes = rng.integers(1, 60), rng.integers(1, 12)
    x = rng.normal(0, 3, (rows, classes))
    labels = rng.integers(-1, classes + 2, rows)
    p_star = rng.random((rows, classes)) if soft else reference.one_hot(labels, classes)
    weight = (rng.random(rows) < 0.8).astype(float)
    return x, labels, p_star, weight


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


@pytest.mark.parametrize('mu', [0.02, 0.5])
def test_asl1_and_its_gradient(mu: float) -> None:
    d = np.concatenate([np.linspace(-3, 3, 101), [0, 1e-6, 1e6]])
    x = torch.tensor(d, requires_grad=True)
    value = authentic_smooth_l1(x, mu)
    value.sum().backward()
    np.testing.assert_allclose(value.detach(), reference.asl1(d, mu), **CLOSE)
    np.testing.assert_allclose(x.grad, reference.asl1_gradient(d, mu), **CLOSE)
    norm = regression_gradient_norm(x.detach(), mu)
    np.testing.assert_allclose(norm, np.abs(reference.asl1_gradient(d, mu)), **CLOSE)


@pytest.mark.parametrize('seed', range(5))
def test_gradient_norm_is_the_gradient_of_cross_entropy(seed: int) -> None:
    x, _, p_star, _ = random_classification(seed, soft=seed % 2 == 0)
    logits, target = tensors(x, p_star)
    logits.requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction='sum')
    loss.backward()
    g = classification_gradient_norm(logits.detach(), target)
    np.testing.assert_allclose(g, logits.grad.abs(), **CLOSE)
    np.testing.assert_allclose(g, np.abs(reference.sigmoid(x) - p_star), **CLOSE)


@pytest.mark.parametrize('bins', [1, 7, 30, 49])
@pytest.mark.parametrize('partly', [False, True])
def test_densities(bins: int, partly: bool) -> None:
    rng = np.random.default_rng(bins)
    g = np.concatenate([rng.random(200), np.arange(bins + 1) / bins, [0, 1]])
    valid = rng.random(g.shape) < 0.7 if partly else np.ones(g.shape, bool)
    t, v = tensors(g, valid)
    exact = exact_gradient_density(t, 1 / bins, v if partly else None)
    np.testing.assert_allclose(exact, reference.exact_density(g, 1 / bins, valid), **CLOSE)
    counts = reference.region_counts(g, bins, valid)
    expected = [counts[reference.region_of(x, bins)] * bins if ok else 0 for x, ok in zip(g, valid)]
    found = region_gradient_density(t, bins, v if partly else None)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_density_of_a_uniform_distribution_is_n() -> None:
    """Below Eq. 7: uniform examples have GD = N, and one region leaves every β at 1."""
    g = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
    torch.testing.assert_close(region_gradient_density(g, 30), torch.full_like(g, 3000))
    exact = exact_gradient_density(g, 0.1)
    torch.testing.assert_close(exact, torch.full_like(g, 3000), rtol=0.01, atol=0)
    torch.testing.assert_close(region_gradient_density(g, 1), torch.full_like(g, 3000))


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('density', ['region', 'exact'])
def test_ghm_c_of_the_paper(seed: int, density: str) -> None:
    soft = seed % 3 == 0
    x, labels, p_star, weight = random_classification(seed, soft)
    bins = int(np.random.default_rng(seed).integers(1, 41))
    g = np.abs(reference.sigmoid(x) - p_star)
    valid = np.repeat(weight[:, None] > 0, x.shape[1], axis=1)
    cross_entropy = reference.cross_entropy(x, p_star)
    if density == 'region':
        expected, _ = reference.paper_region_loss(cross_entropy, g, valid, bins)
    else:
        expected = reference.exact_loss(cross_entropy, g, valid, bins)
    pred, target, w = tensors(x, p_star if soft else labels, weight)
    settings = dict(bins=bins, density=density, formula='paper')
    found = ghm_c_loss(pred, target, w, **settings)
    np.testing.assert_allclose(found, expected, **CLOSE)
    total = ghm_c_loss(pred, target, w, reduction='sum', **settings)
    np.testing.assert_allclose(total, expected * max(valid.sum(), 1), **CLOSE)


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('density', ['region', 'exact'])
def test_ghm_r_of_the_paper(seed: int, density: str) -> None:
    rng = np.random.default_rng(seed)
    pred, target = rng.normal(0, 1, (2, rng.integers(1, 60), 4)) * rng.choice([0.01, 0.1, 1])
    weight = (rng.random(pred.shape) < 0.8).astype(float)
    bins, mu = int(rng.integers(1, 41)), float(rng.choice([0.02, 0.3]))
    d, valid = pred - target, weight > 0
    gr = np.abs(reference.asl1_gradient(d, mu))
    if density == 'region':
        expected, _ = reference.paper_region_loss(reference.asl1(d, mu), gr, valid, bins)
    else:
        expected = reference.exact_loss(reference.asl1(d, mu), gr, valid, bins)
    settings = dict(mu=mu, bins=bins, density=density, formula='paper')
    found = ghm_r_loss(*tensors(pred, target, weight), **settings)
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize('formula', ['official', 'floored', 'paper', 'tempered'])
@pytest.mark.parametrize('of', ['rows', 'offsets'])
def test_n_of_ghm_r(formula: str, of: str) -> None:
    """The sum of the weights, as in the released code, or the number of valid offsets."""
    rng = np.random.default_rng(0)
    d = rng.normal(0, 0.1, (50, 4))
    weight = rng.choice([0, 0.25, 1], (50, 1) if of == 'rows' else (50, 4))
    valid = np.broadcast_to(weight, d.shape) > 0
    by_weight = formula in ('official', 'floored')
    n = np.broadcast_to(weight, d.shape).sum() if by_weight else valid.sum()
    pred, target, w = tensors(d, 0 * d, weight[:, 0] if of == 'rows' else weight)
    mean, total = (
        ghm_r_loss(pred, target, w, formula=formula, reduction=reduction)
        for reduction in ('mean', 'sum')
    )
    np.testing.assert_allclose(total, n * mean, **CLOSE)


@pytest.mark.parametrize('momentum', [0.0, 0.75])
def test_moving_average_of_the_paper(momentum: float) -> None:
    """Eqs. 12-13 over calls in which regions fill and empty, in float64."""
    pytest.importorskip('mmdet')
    from ghm_mmdet import GHMC

    bins, rng = 10, np.random.default_rng(0)
    loss = GHMC(bins, momentum, formula='paper').double()
    average = np.zeros(bins)
    for scale in (0.1, 5, 0.1, 1, 3):
        x, labels = rng.normal(0, scale, (40, 3)), rng.integers(0, 4, 40)
        p_star = reference.one_hot(labels, 3)
        g = np.abs(reference.sigmoid(x) - p_star)
        expected, average = reference.paper_region_loss(
            reference.cross_entropy(x, p_star), g, g >= 0, bins, momentum, average
        )
        found = loss(*tensors(x, labels))
        np.testing.assert_allclose(found, expected, **CLOSE)
        if momentum:
            np.testing.assert_allclose(loss.acc_sum, average, **CLOSE)


@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('density', ['region', 'exact'])
def test_gradient_is_that_of_the_loss_with_frozen_weights(formula: str, density: str) -> None:
    """∂L/∂x_i = β_i (p_i - p_i*) / N: β is a constant, as in the released code."""
    x, labels, p_star, weight = random_classification(7)
    pred, target, w = tensors(x, labels, weight)
    pred.requires_grad_()
    settings = dict(bins=8, density=density, formula=formula)
    n = weight.sum() * x.shape[1]
    if formula == 'tempered':
        settings['avg_factor'] = n = 5.0
    ghm_c_loss(pred, target, w, **settings).backward()
    elementwise = ghm_c_loss(pred, target, w, reduction='none', **settings).detach().numpy()
    beta = elementwise / reference.cross_entropy(x, p_star)
    expected = beta * (reference.sigmoid(x) - p_star) / n
    np.testing.assert_allclose(pred.grad, expected, rtol=1e-8, atol=1e-12)


def test_the_window_of_the_exact_density_is_half_open() -> None:
    """Eq. 5: `g - ε/2 <= g_k < g + ε/2`, with numbers that float32 holds."""
    g = torch.tensor([0.25, 0.5, 0.75])
    # Each sees the one below and itself; clipped at 0 and 1 the windows have these lengths.
    expected = torch.tensor([1, 2, 2]) / torch.tensor([0.5, 0.5, 0.5])
    assert torch.equal(exact_gradient_density(g, 0.5), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_window_shorter_than_the_numbers_can_tell_is_refused(dtype: torch.dtype) -> None:
    g = torch.rand(5, dtype=dtype)
    shortest = 4 * torch.finfo(dtype).eps
    assert exact_gradient_density(g, shortest).isfinite().all()
    with pytest.raises(ValueError, match=f'epsilon must be >= {shortest:.1e} in {dtype}, got'):
        exact_gradient_density(g, shortest / 2)


def test_n_is_at_least_1() -> None:
    """Eq. 7 with the N of a head that has few or no positives, and S as given."""
    counts = torch.tensor([4, 0, 2])
    for n in (0.0, 0.25, 1.0):
        beta = harmonizing_parameter(counts, torch.tensor(n), formula='paper')
        torch.testing.assert_close(beta, torch.tensor([1 / 12, 0, 1 / 6]))
    s = torch.tensor([8.0, 5.0, 1.0])
    beta = harmonizing_parameter(counts, torch.tensor(6.0), s)
    torch.testing.assert_close(beta, torch.tensor([6 / (8 * 2), 0, 6 / (1 * 2)]))
    beta = harmonizing_parameter(counts, torch.tensor(6.0), s, formula='tempered')
    torch.testing.assert_close(beta, torch.tensor([(6 / 8) ** 0.5, 0, 6**0.5]))
    for formula in FORMULAS:
        nothing = torch.zeros(3, dtype=torch.int64)
        beta = harmonizing_parameter(nothing, torch.tensor(0.0), formula=formula)
        assert torch.equal(beta, torch.zeros(3))


@pytest.mark.parametrize('value', [-0.2, 1.5])
def test_targets_outside_0_and_1(value: float) -> None:
    """Refused on the CPU; where a look would wait for the device, the loss is NaN."""
    pred, target = torch.randn(6, 3), torch.rand(6, 3)
    target[2, 1] = value
    for reduction in ('mean', 'none'):
        with pytest.raises(ValueError, match=rf'target must lie in \[0, 1\], got .*{value}'):
            ghm_c_loss(pred, target, reduction=reduction)
    # An IoU of half precision.
    target[2, 1] = min(max(value, -0.0005), 1.0005)
    assert ghm_c_loss(pred, target).isfinite()


def test_targets_outside_0_and_1_show_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, 'is_traced', lambda *tensors: True)
    pred, target = torch.randn(6, 3), torch.rand(6, 3)
    assert ghm_c_loss(pred, target, density='exact').isfinite()
    target[2, 1] = 1.5
    assert ghm_c_loss(pred, target, density='exact').isnan()
    assert ghm_c_loss(pred, target, reduction='none').isnan().sum() == 1


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    x = torch.randn(4, 4)
    with pytest.raises(ValueError, match=f'loss_weight must be finite, got {value}'):
        ghm_c_loss(x, x.sigmoid(), loss_weight=value)
    with pytest.raises(ValueError, match=f'mu must be finite, got {value}'):
        ghm_r_loss(x, x, mu=value)
    with pytest.raises(ValueError, match=f'epsilon must be finite, got {value}'):
        exact_gradient_density(x.sigmoid(), value)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_asl1_of_small_and_large_offsets(dtype: torch.dtype) -> None:
    """Eq. 17 without cancellation where d is small beside μ, and in half precision no inf."""
    d = torch.tensor([1e-5, 1e-4, 0.02, 1.0, -300.0]).to(dtype)
    exact = d.double().numpy()
    # Not the difference of the equation, which float64 would lose, too.
    expected = exact**2 / (np.sqrt(exact**2 + 0.02**2) + 0.02)
    found = authentic_smooth_l1(d, 0.02)
    assert found.dtype == dtype
    smallest = torch.finfo(dtype).tiny if dtype == torch.float16 else 0
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    np.testing.assert_allclose(found.double(), expected, rtol=tolerance, atol=smallest)
