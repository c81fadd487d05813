"""`formula='tempered'`: β = (N/S)^½ with N the head's `avg_factor`."""

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
@pytest.mark.parametrize('avg_factor', [None, 7.0])
def test_three_calls(
    avg_factor: float | None, loss_class: type, momentum: float, dtype: torch.dtype
) -> None:
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
        # S begins at its first count.
        before = np.where(average > 0, average, counts)
        average = np.where(counts > 0, momentum * before + (1 - momentum) * counts, average)
        s = np.vectorize(lambda value: average[reference.region_of(value, BINS)])(g)  # noqa: B023
        # GHM-R divides by its own N; that of GHM-C is the number of positives by default.
        n = (avg_factor or float(p_star.sum())) if loss_class is GHMC else None
        expected = reference.tempered_loss(each, s, n)
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        found = loss(pred, target, avg_factor=avg_factor)
        np.testing.assert_allclose(found, expected, rtol=tolerance)
        if momentum:
            np.testing.assert_allclose(loss.acc_sum, average, rtol=1e-6)


def test_exact_density() -> None:
    x, labels = logits_and_labels(np.random.default_rng(0))
    g = gradient_norms(x, labels)
    s = reference.exact_density(g, 1 / BINS, g >= 0) / BINS
    each = reference.cross_entropy(x, reference.one_hot(labels, 3))
    for avg_factor in (None, torch.tensor(12)):
        found = ghm_c_loss(
            torch.tensor(x), torch.tensor(labels),
            bins=BINS, density='exact', formula='tempered', avg_factor=avg_factor,
        )  # fmt: skip
        positives = reference.one_hot(labels, 3).sum()
        expected = reference.tempered_loss(each, s, 12 if avg_factor else positives)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize('momentum', [0, 0.75])
def test_it_lies_between_cross_entropy_and_ghm(momentum: float) -> None:
    """999 easy examples and one hard one, the only positive, by which the head divides.

    The easy ones weigh 1/999 each with GHM, 1 with cross entropy.
    """
    pred = torch.tensor([-3.0] * 999 + [3.0])[:, None]
    target = torch.zeros_like(pred)
    loss = GHMC(BINS, momentum, formula='tempered')
    for _ in range(200):  # until the average is that of these examples
        each = loss(pred, target, reduction_override='none', avg_factor=1)
    beta = each / torch.nn.functional.softplus(pred)
    assert beta[-1].item() == pytest.approx(1, rel=1e-5)
    assert beta[0].item() == pytest.approx(999**-0.5, rel=1e-5)


def test_levels_add_up_to_the_mini_batch() -> None:
    """A head that calls it for each level and one that calls it once divide by the same N."""
    torch.manual_seed(0)
    pred, labels = torch.randn(400, 3) - 4, torch.randint(0, 40, (400,))
    loss = GHMC(1, formula='tempered')  # one region: β is the root of N over the count
    parts = [loss(x, y, avg_factor=30) for x, y in zip(pred.split(100), labels.split(100))]
    whole = loss(pred, labels, avg_factor=30)
    torch.testing.assert_close(sum(parts) * (100 / 400) ** 0.5, whole)


def test_other_formulas_ignore_the_heads_divisor() -> None:
    pred, labels = torch.randn(20, 3), torch.randint(0, 4, (20,))
    for formula in ('official', 'paper', 'floored'):
        loss = GHMC(BINS, formula=formula)
        assert loss(pred, labels, avg_factor=2) == loss(pred, labels)


def test_the_heads_divisor_is_a_number_or_one_element_of_any_shape() -> None:
    """`DETRHead` passes shape (1,)."""
    pred, labels = torch.randn(20, 3), torch.randint(0, 4, (20,))
    loss = GHMC(BINS, formula='tempered')
    value = loss(pred, labels, avg_factor=7)
    for seven in (7.0, np.float32(7), torch.tensor(7), torch.tensor([7.0]), torch.tensor([[7]])):
        assert loss(pred, labels, avg_factor=seven) == value and value.shape == ()
    for wrong in (torch.ones(7), torch.ones(BINS), torch.ones(0)):
        with pytest.raises(ValueError, match=rf'avg_factor .* got the shape \({len(wrong)},\)'):
            loss(pred, labels, avg_factor=wrong)
    with pytest.raises(TypeError, match="avg_factor must be a number, got '7'"):
        loss(pred, labels, avg_factor='7')


def test_a_head_that_divides_later_divides_by_the_positives() -> None:
    """'positives' gives `Σ β_i L_i` with N the number of positives."""
    pred, labels = torch.randn(200, 3) - 3, torch.randint(0, 30, (200,))
    positives = int((labels < 3).sum())
    divided_later = GHMC(BINS, formula='tempered', reduction='positives')
    itself = GHMC(BINS, formula='tempered')
    torch.testing.assert_close(
        divided_later(pred, labels) / positives, itself(pred, labels, avg_factor=positives)
    )


def test_weights_that_are_not_one_do_not_count_twice() -> None:
    """N is the number of valid offsets, not the sum of their weights."""
    d, zero = torch.randn(50, 4), torch.zeros(50, 4)
    settings = dict(formula='tempered', reduction='sum')
    torch.testing.assert_close(
        GHMR(**settings)(d, zero, torch.full_like(d, 0.5)), GHMR(**settings)(d, zero)
    )
