"""What holds for any input: hypothesis looks for one where it does not."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghm_mmdet.formulas import FORMULAS
from ghm_mmdet.functional import (
    authentic_smooth_l1,
    ghm_c_loss,
    ghm_r_loss,
    softmax_ghm_c_loss,
)

FORMS = ('labels', 'dense', 'softmax', 'offsets')
LOSSES = dict(labels=ghm_c_loss, dense=ghm_c_loss, softmax=softmax_ghm_c_loss, offsets=ghm_r_loss)
Batch = Tuple[Tensor, Tensor, Optional[Tensor]]

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def batches(draw: st.DrawFn, form: str, dtypes: tuple[torch.dtype, ...] = ()) -> Batch:
    """Predictions, targets and weights of a few rows, from easy to saturated."""
    rows, classes = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0, 1000.0]))
    dtype = draw(st.sampled_from(dtypes or (torch.float32, torch.float64)))
    pred = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * spread
    if form == 'offsets':
        target = torch.randn(rows, classes, generator=generator) * draw(st.sampled_from([0, 1]))
    elif form == 'dense':
        target = torch.rand(rows, classes, generator=generator).pow(draw(st.sampled_from([0, 3])))
    else:
        most = classes - 1 if form == 'softmax' else classes + 3
        target = torch.randint(0, most + 1, (rows,), generator=generator)
    weight = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    if weight is not None:
        by_row = form == 'softmax' or draw(st.booleans())
        shape = (rows,) if by_row else (rows, classes)
        weight = (torch.rand(shape, generator=generator) < weight).float()
    return pred.to(dtype), target, weight


def harmonized(form: str, batch: Batch, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    pred, target, weight = batch
    x = pred.detach().clone().requires_grad_()
    if form in ('labels', 'dense') and options.get('formula') == 'tempered':
        options['avg_factor'] = max(number_of_examples(form, batch), 1)
    value = LOSSES[form](x, target, weight, **options)
    value.sum().backward()
    return value.detach(), x.grad


options = st.fixed_dictionaries(
    dict(
        bins=st.integers(1, 40),
        density=st.sampled_from(['region', 'exact']),
        formula=st.sampled_from(sorted(FORMULAS)),
        reduction=st.sampled_from(['mean', 'sum', 'none']),
    )
)
HALF_TO_DOUBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize('form', FORMS)
@given(data=st.data(), chosen=options)
@quick
def test_finite_input_gives_finite_loss_and_gradient(
    form: str, data: st.DataObject, chosen: dict[str, Any]
) -> None:
    batch = data.draw(batches(form, HALF_TO_DOUBLE))
    value, gradient = harmonized(form, batch, **chosen)
    assert value.isfinite().all() and (value >= 0).all()
    assert gradient.isfinite().all()
    assert gradient.shape == batch[0].shape and gradient.dtype == batch[0].dtype


@pytest.mark.parametrize('form', FORMS)
@given(data=st.data(), chosen=options)
@quick
def test_the_order_of_the_examples_does_not_matter(
    form: str, data: st.DataObject, chosen: dict[str, Any]
) -> None:
    pred, target, weight = data.draw(batches(form))
    order = torch.randperm(len(pred))
    shuffled = (pred[order], target[order], None if weight is None else weight[order])
    value, gradient = harmonized(form, (pred, target, weight), **chosen)
    other, other_gradient = harmonized(form, shuffled, **chosen)
    if chosen['reduction'] == 'none':
        value = value[order]
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient[order])


@pytest.mark.parametrize('form', FORMS)
@given(data=st.data(), chosen=options.filter(lambda chosen: chosen['formula'] != 'floored'))
@quick
def test_the_batch_twice_has_the_same_loss(
    form: str, data: st.DataObject, chosen: dict[str, Any]
) -> None:
    """Without a moving average and a floor: twice the density, twice N."""
    pred, target, weight = data.draw(batches(form))
    twice = (
        torch.cat([pred, pred]),
        torch.cat([target, target]),
        None if weight is None else torch.cat([weight, weight]),
    )
    chosen = dict(chosen, reduction='mean')
    value, gradient = harmonized(form, (pred, target, weight), **chosen)
    other, other_gradient = harmonized(form, twice, **chosen)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, torch.cat([gradient, gradient]) / 2)


def plain_loss(form: str, pred: Tensor, target: Tensor) -> Tensor:
    if form == 'offsets':
        return authentic_smooth_l1(pred - target, 0.02)
    if form == 'softmax':
        return torch.nn.functional.cross_entropy(pred, target, reduction='none')
    if form == 'labels':
        classes = torch.arange(pred.shape[1])
        target = (target[:, None] == classes).to(pred.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        pred, target.to(pred.dtype), reduction='none'
    )


@pytest.mark.parametrize('form', FORMS)
@given(data=st.data(), chosen=options)
@settings(quick, max_examples=25)
def test_the_gradient_takes_the_weights_as_constants(
    form: str, data: st.DataObject, chosen: dict[str, Any]
) -> None:
    """Numerical differences, in float64, of the loss with β frozen where it was."""
    batch = data.draw(batches(form, (torch.float64,)))
    pred, target, weight = batch
    # Saturated logits and huge offsets are beyond numerical differences.
    pred = pred.clamp(-20, 20)
    elementwise, _ = harmonized(form, (pred, target, weight), **dict(chosen, reduction='none'))
    plain = plain_loss(form, pred, target)
    beta = torch.where(plain > 1e-12, elementwise / plain.clamp(min=1e-12), 0)
    scale = {'mean': 1 / max(number_of_examples(form, batch), 1), 'sum': 1.0, 'none': 1.0}

    def frozen(x: Tensor) -> Tensor:
        return (beta * plain_loss(form, x, target)).sum() * scale[chosen['reduction']]

    x = pred.clone().requires_grad_()
    assert torch.autograd.gradcheck(frozen, x, atol=1e-5)
    (expected,) = torch.autograd.grad(frozen(x), x)
    _, gradient = harmonized(form, (pred, target, weight), **chosen)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def number_of_examples(form: str, batch: Batch) -> int:
    pred, _, weight = batch
    elements = len(pred) if form == 'softmax' else pred.numel()
    if weight is None:
        return elements
    return int(weight.sum()) * (elements // weight.numel())
