"""`formula='floored'`: a region counts as at least 30 examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.formulas import FORMULAS
from ghm_mmdet.functional import ghm_c_loss

from . import reference

BINS = 10
MIN_COUNT = FORMULAS['floored'].min_count
CLOSE = dict(rtol=1e-9)


def logits_and_labels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Few hard examples among many easy ones: regions on both sides of the floor."""
    return rng.normal(-3, 1.5, (300, 3)), rng.integers(0, 40, 300)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('momentum', [0.0, 0.7])
@pytest.mark.parametrize('loss_class', [GHMC, GHMR])
def test_three_calls(loss_class: type, momentum: float, dtype: torch.dtype) -> None:
    rng, average, mu = np.random.default_rng(0), np.zeros(BINS), 0.02
    loss = loss_class(bins=BINS, momentum=momentum, formula='floored').to(dtype)
    for _ in range(3):
        if loss_class is GHMC:
            x, target = map(torch.tensor, logits_and_labels(rng))
            x = x.to(dtype)
            p_star = reference.one_hot(target.numpy(), 3)
            elementwise = reference.cross_entropy(x.double().numpy(), p_star)
            g = np.abs(reference.sigmoid(x.double().numpy()) - p_star)
            counts = reference.region_counts(g, BINS, g >= 0)
            assert counts.min() < MIN_COUNT < counts.max()
        else:
            x = torch.tensor(rng.normal(0, 0.1, (60, 4)), dtype=dtype)
            d, target = x.double().numpy(), torch.zeros_like(x)
            elementwise, g = reference.asl1(d, mu), np.abs(reference.asl1_gradient(d, mu))
        expected, average = reference.floored_region_loss(
            elementwise, g, BINS, 30, momentum, average
        )
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        np.testing.assert_allclose(loss(x, target), expected, rtol=tolerance)
        if momentum:
            np.testing.assert_allclose(loss.acc_sum, average, rtol=1e-6)


def test_softmax() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(0, 2, (300, 4)), rng.integers(0, 4, 300)
    cross_entropy = reference.softmax_cross_entropy(x, labels)
    expected, _ = reference.floored_region_loss(
        cross_entropy, 1 - np.exp(-cross_entropy), BINS, 30, 0, np.zeros(BINS)
    )
    loss = GHMC(BINS, use_sigmoid=False, formula='floored')
    np.testing.assert_allclose(loss(torch.tensor(x), torch.tensor(labels)), expected, **CLOSE)


def test_exact_density() -> None:
    """GD is at least that of 30 examples in a window of ε = 1/M."""
    x, labels = logits_and_labels(np.random.default_rng(0))
    p_star = reference.one_hot(labels, 3)
    g = np.abs(reference.sigmoid(x) - p_star)
    density = reference.exact_density(g, 1 / BINS, g >= 0)
    floor = MIN_COUNT * BINS
    assert density.min() < floor < density.max()
    expected = (reference.cross_entropy(x, p_star) / np.maximum(density, floor)).sum()
    settings = dict(bins=BINS, density='exact', formula='floored')
    found = ghm_c_loss(torch.tensor(x), torch.tensor(labels), **settings)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_exact_density_of_fine_bins() -> None:
    """Of many examples in float32 the density comes from a histogram; in float64 it is sorted."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(45_000, 3, generator=generator, dtype=torch.float64) - 9
    labels = torch.full((45_000,), 3)
    labels[:5] = 0
    settings = dict(bins=BINS, density='exact', formula='floored')
    sorted_ = ghm_c_loss(x, labels, **settings)
    unfloored = ghm_c_loss(x, labels, bins=BINS, density='exact')
    assert sorted_ < 0.9 * unfloored
    np.testing.assert_allclose(ghm_c_loss(x.float(), labels, **settings), sorted_, rtol=1e-2)


def test_a_lone_example_is_no_longer_worth_all_the_others() -> None:
    """With 999 easy examples and one hard one β is 500 with 'official', here 1000 / (30 · 2)."""
    pred = torch.tensor([-3.0] * 999 + [3.0])[:, None]
    target = torch.zeros_like(pred)
    cross_entropy = torch.nn.functional.softplus(pred)
    beta = ghm_c_loss(pred, target, bins=BINS, formula='floored', reduction='none') / cross_entropy
    assert beta[-1].item() == pytest.approx(1000 / 60, rel=1e-5)
    assert beta[0].item() == pytest.approx(1000 / (999 * 2), rel=1e-5)


def test_it_is_official_where_every_region_is_full() -> None:
    """The floor is the only difference: same value, same buffers."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.uniform(-4, 4, (2000, 3)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, 4, 2000))
    losses = [GHMC(BINS, 0.75, formula=formula) for formula in ('official', 'floored')]
    values = [loss(x, labels) for loss in losses]
    assert losses[0].acc_sum.min() > MIN_COUNT
    assert torch.equal(*values)
    assert torch.equal(losses[0].acc_sum, losses[1].acc_sum)
