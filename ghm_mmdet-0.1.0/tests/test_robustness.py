"""What the moving average keeps: bad batches, half precision, regions seen late, no positives."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR

from . import reference

pytestmark = pytest.mark.usefixtures('device')
ROWS, CLASSES = 40, 4
MOMENTUM = 0.75
NOT_FINITE = [math.nan, math.inf, -math.inf]
FORMULAS = ['official', 'paper']
#: Of autocast on the CPU; float16 came later.
VERSION = tuple(map(int, torch.__version__.split('.')[:2]))
OLD = VERSION < (2, 4)
HALF = (torch.bfloat16,) if OLD else (torch.float16, torch.bfloat16)


def batch(form: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets, weights, in one of the forms that heads pass."""
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(ROWS, CLASSES, generator=generator)
    weight = (torch.rand(ROWS, generator=generator) < 0.8).float()
    weight[0] = 1
    if form == 'offsets':
        return pred / 20, torch.zeros(ROWS, CLASSES), weight[:, None].repeat(1, CLASSES)
    if form == 'dense':
        return pred, torch.rand(ROWS, CLASSES, generator=generator), weight
    labels = torch.randint(0, CLASSES + (form == 'labels'), (ROWS,), generator=generator)
    labels[0] = 1
    return pred, labels, weight


def make_loss(form: str, formula: str = 'official', **settings: object) -> nn.Module:
    settings = dict(bins=10, momentum=MOMENTUM, formula=formula, **settings)
    if form == 'offsets':
        return GHMR(**settings)
    return GHMC(use_sigmoid=form != 'softmax', **settings)


def plain_loss(form: str, pred: Tensor, target: Tensor) -> Tensor:
    """The loss that is harmonized, from PyTorch."""
    if form == 'softmax':
        return F.cross_entropy(pred, target, reduction='none')
    if form == 'offsets':
        return ((pred - target) ** 2 + 0.02**2).sqrt() - 0.02
    if form == 'labels':
        target = torch.from_numpy(reference.one_hot(target.numpy(), CLASSES)).float()
    return F.binary_cross_entropy_with_logits(pred, target, reduction='none')


@pytest.mark.parametrize('value', NOT_FINITE)
@pytest.mark.parametrize('form', ['labels', 'dense', 'softmax', 'offsets'])
@pytest.mark.parametrize('reduction', ['mean', 'none'])
@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('column', [0, 1])
def test_a_bad_batch_shows_and_is_forgotten(
    form: str, value: float, reduction: str, formula: str, column: int
) -> None:
    """In the background's and in the positive column: the loss is that of cross entropy."""
    loss, twin = make_loss(form, formula), make_loss(form, formula)
    for each in (loss, twin):
        each(*batch(form, seed=1))
    pred, target, weight = batch(form)
    pred[0, column] = value
    shown = loss(pred, target, weight, reduction_override=reduction)
    assert shown.isfinite().all() == plain_loss(form, pred, target).isfinite().all()
    if shown.isfinite().all():
        # A softmax of which -inf masks a class: nothing is wrong with it.
        assert (form, value, column) == ('softmax', -math.inf, 0)
        return
    assert torch.equal(loss.acc_sum, twin.acc_sum)
    results = []
    for each in (loss, twin):
        x, target, weight = batch(form, seed=2)
        x.requires_grad_()
        each(x, target, weight).backward()
        results.append((x.grad, each.acc_sum))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize('value', NOT_FINITE[:1])
def test_a_dense_target_that_is_nan_does_not_enter_the_average(value: float) -> None:
    loss = make_loss('dense')
    loss(*batch('dense', seed=1))
    before = loss.acc_sum.clone()
    pred, target, weight = batch('dense')
    target[0, 1] = value
    assert loss(pred, target, weight).isnan()
    assert torch.equal(loss.acc_sum, before)


def test_large_finite_logits_are_no_bad_batch() -> None:
    loss = make_loss('labels')
    pred, labels, weight = batch('labels')
    assert loss(pred * 1e30, labels, weight).isfinite()
    assert loss.acc_sum.sum() > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('form', ['labels', 'offsets'])
def test_a_model_in_half_precision_keeps_its_statistics(form: str, dtype: torch.dtype) -> None:
    """A count beyond float16's range; `double()` is followed."""
    loss = make_loss(form)
    loss.acc_sum.fill_(1e6 + 1)
    model = nn.ModuleList([nn.Linear(2, 2), loss]).to(dtype)
    assert model[0].weight.dtype == dtype
    assert loss.acc_sum.dtype == loss.edges.dtype == torch.float32
    assert (loss.acc_sum == 1e6 + 1).all()
    pred, target, weight = batch(form)
    assert loss(pred.to(dtype), target, weight).isfinite()
    assert model.double()[1].acc_sum.dtype == torch.float64


@pytest.mark.parametrize('formula', FORMULAS)
def test_the_first_iteration_starts_from_an_empty_average(formula: str) -> None:
    """S = (1 - α) R: every weight, and the loss, is 1/(1 - α) of the loss without average."""
    without = GHMC(bins=10, formula=formula)
    first = make_loss('labels', formula)
    args = batch('labels')
    torch.testing.assert_close(first(*args), without(*args) / (1 - MOMENTUM))


def beta_of(loss: GHMC, logits: list[float]) -> Tensor:
    """β of negatives with the given logits: the harmonized over the plain cross entropy."""
    x = torch.tensor(logits)[:, None]
    zeros = torch.zeros_like(x)
    return (loss(x, zeros, reduction_override='none') / F.softplus(x)).squeeze(1)


def test_a_region_first_seen_late_weighs_as_in_a_first_iteration() -> None:
    """'official' keeps a region's S while it is empty, 'paper' lets it decay."""
    easy, hard = [-3.0] * 8, [3.0] * 2
    calls = 20
    for formula in FORMULAS:
        loss = make_loss('labels', formula)
        for _ in range(calls):
            beta_of(loss, easy)
        divisor = 2 if formula == 'official' else 10
        late = beta_of(loss, easy + hard)[-1]
        assert late.item() == pytest.approx(10 / (2 * (1 - MOMENTUM) * divisor), rel=1e-5)
        before = loss.acc_sum.clone()
        beta_of(loss, easy)
        hard_region = 9
        kept = loss.acc_sum[hard_region] / before[hard_region]
        assert kept.item() == pytest.approx(1 if formula == 'official' else MOMENTUM)


@pytest.mark.parametrize('formula', FORMULAS)
def test_iterations_without_positives(formula: str) -> None:
    """GHM-R sees no example: the loss is 0; S stays with 'official' and decays with 'paper'."""
    loss = make_loss('offsets', formula)
    loss(*batch('offsets'))
    before = loss.acc_sum.clone()
    pred, target, weight = batch('offsets')
    pred.requires_grad_()
    value = loss(pred, target, torch.zeros_like(weight))
    value.backward()
    assert value == 0 and not pred.grad.any()
    kept = 1 if formula == 'official' else MOMENTUM
    torch.testing.assert_close(loss.acc_sum, before * kept)


def test_one_positive_among_many() -> None:
    """Alone in its region it weighs as much as all the others together."""
    beta = beta_of(GHMC(bins=10), [-3.0] * 999 + [3.0])
    assert beta[-1].item() == pytest.approx(500)
    assert beta[:-1].sum().item() == pytest.approx(500, rel=1e-5)


def test_half_precision_gradient_survives_the_loss_scale() -> None:
    """The gradient of a float16 convolution, at loss scale 512, is that of float32.

    The weights of easy examples are so small that their gradients vanish in float16; in sum
    they are next to nothing, for GHM weighs every region the same.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200_000, 16, generator=generator)
    labels = torch.where(torch.rand(200_000, generator=generator) < 1e-3, 2, CLASSES)
    features[labels == 2] += 0.5
    weight = torch.randn(CLASSES, 16, generator=generator) / 4
    scale = 512.0
    gradients = []
    for dtype in (torch.float32, *HALF):
        w = weight.clone().requires_grad_()
        with torch.autocast('cpu', dtype) if dtype in HALF else nullcontext():
            logits = F.linear(features, w, torch.full((CLASSES,), -4.0))
            loss = GHMC(bins=30)(logits, labels)
        assert loss.dtype == torch.float32
        (loss * scale).backward()
        gradients.append(w.grad / scale)
    exact, *halves = gradients
    if VERSION < (2, 0):
        pytest.skip('its matrix product sums in bfloat16')
    for half, dtype in zip(halves, HALF):
        bound = 2e-2 if dtype == torch.float16 else 5e-2
        assert float((half - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('form', ['labels', 'dense', 'offsets', 'softmax'])
def test_half_predictions_give_the_loss_and_gradient_of_float32(
    form: str, dtype: torch.dtype
) -> None:
    pred, target, weight = batch(form)
    pred = pred.to(dtype)
    values, gradients = [], []
    for x in (pred, pred.float()):
        x = x.clone().requires_grad_()
        value = make_loss(form)(x, target, weight)
        value.backward()
        assert x.grad.dtype == x.dtype
        values.append(value.detach())
        gradients.append(x.grad.float())
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(*values)
    np.testing.assert_allclose(*gradients, rtol=torch.finfo(dtype).eps, atol=1e-7)
