"""`formula='tempered'`: β falls with the root of the density, and is 1 in the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.functional import ghm_c_loss

from . import reference

BINS, MU = 10, 0.02


def logits_and_labels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Few hard examples among many easy ones."""
    return rng.normal(-3, 1.5, (300, 3)), rng.integers(0, 40, 300)


def gradient_norms(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.abs(reference.sigmoid(x) - reference.one_hot(labels, x.shape[1]))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('momentum', [0.0, 0.75])
@pytest.mark.parametrize('loss_class', [GHMC, GHMR])
def test_three_calls(loss_class: type, momentum: float, dtype: torch.dtype) -> None:
    rng, average = np.random.default_rng(0), np.zeros(BINS)
    loss = loss_class(bins=BINS, momentum=momentum, formula='tempered').to(dtype)
    for _ in range(3):
        if loss_class is GHMC:
            x, labels = logits_and_labels(rng)
            pred, target = torch.tensor(x, dtype=dtype), torch.tensor(labels)
            p_star = reference.one_hot(labels, 3)
            each, g = reference.cross_entropy(x, p_star), gradient_norms(x, labels)
        else:
            d = rng.normal(0, 0.1, (60, 4))
            pred, target = torch.tensor(d, dtype=dtype), torch.zeros(60, 4, dtype=dtype)
            each, g = reference.asl1(d, MU), np.abs(reference.asl1_gradient(d, MU))
        counts = reference.region_counts(g, BINS, g >= 0)
        average = np.where(counts > 0, momentum * average + (1 - momentum) * counts, average)
        density = np.vectorize(lambda value: average[reference.region_of(value, BINS)])(g)  # noqa: B023
        expected = reference.tempered_loss(each, density)
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        np.testing.assert_allclose(loss(pred, target), expected, rtol=tolerance)
        if momentum:
            np.testing.assert_allclose(loss.acc_sum, average, rtol=1e-6)


def test_exact_density() -> None:
    x, labels = logits_and_labels(np.random.default_rng(0))
    g = gradient_norms(x, labels)
    density = reference.exact_density(g, 1 / BINS, g >= 0)
    expected = reference.tempered_loss(
        reference.cross_entropy(x, reference.one_hot(labels, 3)), density
    )
    found = ghm_c_loss(
        torch.tensor(x), torch.tensor(labels), bins=BINS, density='exact', formula='tempered'
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize('momentum', [0, 0.75])
def test_it_lies_between_cross_entropy_and_ghm(momentum: float) -> None:
    """999 easy examples and one hard one: β is 500 with 'official', 1 with cross entropy."""
    pred = torch.tensor([-3.0] * 999 + [3.0])[:, None]
    target = torch.zeros_like(pred)
    loss = GHMC(BINS, momentum, formula='tempered')
    beta = loss(pred, target, reduction_override='none') / torch.nn.functional.softplus(pred)
    # N S^-½ / (999 · 999^-½ + 1)
    assert beta[-1].item() == pytest.approx(1000 / (np.sqrt(999) + 1), rel=1e-5)
    assert beta[0].item() == pytest.approx(1000 / (999 + np.sqrt(999)), rel=1e-5)
    assert beta.mean().item() == pytest.approx(1, rel=1e-5)


def test_weights_that_are_not_one_do_not_count_twice() -> None:
    """N is the number of valid offsets, not the sum of their weights."""
    d, zero = torch.randn(50, 4), torch.zeros(50, 4)
    settings = dict(formula='tempered', reduction='sum')
    torch.testing.assert_close(
        GHMR(**settings)(d, zero, torch.full_like(d, 0.5)), GHMR(**settings)(d, zero)
    )
