"""GHM-R whose μ follows the mean |d|."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ghm_mmdet import GHMR

from . import reference


def offsets(seed: int, scale: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 differences of 50 boxes, and their weights, 0 for about a third."""
    generator = torch.Generator().manual_seed(seed)
    d = scale * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    return d, (torch.rand(50, 1, generator=generator) < 0.7).double().expand(50, 4)


def test_equals_the_equations_call_after_call() -> None:
    loss = GHMR(mu=0.02, bins=10, loss_weight=2.0, formula='floored', mu_momentum=0.9)
    average = None
    for call in range(4):
        d, weight = offsets(call, 0.2 / 3**call)  # μ is 0.02 in the end
        valid = weight.numpy() > 0
        mean = np.abs(d.numpy())[valid].mean()
        average = mean if average is None else 0.9 * average + 0.1 * mean
        mu = max(average, 0.02)
        each = reference.asl1(d.numpy(), mu)[valid]
        g = np.abs(reference.asl1_gradient(d.numpy(), mu))[valid]
        expected, _ = reference.floored_region_loss(each, g, 10, 30, 0.0, np.zeros(10))
        pred, target = d.clone().requires_grad_(), torch.zeros_like(d)
        value = loss(pred, target, weight)
        assert value.item() == pytest.approx(2 * expected, rel=1e-6)
        assert loss.mean_d.item() == pytest.approx(average, rel=1e-6)
        # Eq. 18, times what the example weighs: β/N is 1 / (max(R, 30) n).
        value.backward()
        counts = reference.region_counts(g, 10, np.ones(g.shape, bool))
        beta = 1 / (np.maximum(counts, 30) * (counts > 0).sum())
        regions = [reference.region_of(x, 10) for x in g]
        gradient = 2 * beta[regions] * reference.asl1_gradient(d.numpy(), mu)[valid]
        np.testing.assert_allclose(pred.grad.numpy()[valid], gradient, rtol=1e-5)
        assert not pred.grad.numpy()[~valid].any()


def test_offsets_of_any_scale_are_weighed_alike() -> None:
    d, weight = offsets(0)
    values = []
    for scale in (1, 7.0):
        loss = GHMR(mu=1e-3, bins=10, mu_momentum=0)
        values.append(loss(scale * d, torch.zeros_like(d), weight) / scale)
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    'd',
    [torch.zeros(0, 4), torch.ones(5, 4), *(torch.full((5, 4), x) for x in (torch.nan, torch.inf))],
)
def test_calls_that_say_nothing_leave_it_as_it_is(d: torch.Tensor) -> None:
    loss = GHMR(mu_momentum=0.9)
    for _ in range(2):
        before = loss.mean_d.clone()
        weight = torch.zeros_like(d) if d.isfinite().all() else None
        loss(d.clone().requires_grad_(), torch.zeros_like(d), weight).backward()
        assert torch.equal(loss.mean_d, before)
        loss(torch.full((9, 4), 0.3), torch.zeros(9, 4))
        assert loss.mean_d.item() == pytest.approx(0.3)


def test_its_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    assert 'mean_d' not in GHMR(momentum=0.7).state_dict()
    loss, other = (GHMR(momentum=0.7, mu_momentum=0.9) for _ in range(2))
    d, weight = offsets(0)
    loss(d, torch.zeros_like(d), weight)
    torch.save(loss.state_dict(), tmp_path / 'state.pth')
    other.load_state_dict(torch.load(tmp_path / 'state.pth'))
    for again in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        d, weight = offsets(1)
        assert again(d, torch.zeros_like(d), weight) == copy.deepcopy(loss)(
            d, torch.zeros_like(d), weight
        )
    assert loss.half().mean_d.dtype == torch.float32


def test_half_precision_is_computed_in_float32() -> None:
    d, weight = offsets(0)
    half = d.half()
    found = GHMR(mu_momentum=0.9)(half, torch.zeros_like(half), weight)
    expected = GHMR(mu_momentum=0.9)(half.float(), torch.zeros_like(half).float(), weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ('value', 'error', 'message'),
    [
        (1.0, ValueError, r'mu_momentum must be in \[0, 1\), got 1.0'),
        ('0.9', TypeError, "mu_momentum must be a number, got '0.9'"),
    ],
)
def test_wrong_momentum(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GHMR(mu_momentum=value)
