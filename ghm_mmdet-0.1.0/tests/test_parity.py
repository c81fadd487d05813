"""Equality with MMDetection's own GHMC and GHMR, call after call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmdet.models.losses.ghm_loss import GHMC as BuiltInGHMC
from mmdet.models.losses.ghm_loss import GHMR as BuiltInGHMR
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.functional import classification_gradient_norm, regression_gradient_norm
from ghm_mmdet.functional.inputs import dense_target

from .devices import away_from_edges

pytestmark = pytest.mark.usefixtures('device')
NUM_SEQUENCES = 200
CLOSE = dict(rtol=1e-5, atol=1e-12)
#: Error of p - p* relative to the largest gradient, where sigmoids differ in the last bit.
ROUNDING = 0.0
#: Error of sqrt(d² + μ²) - μ, where square roots differ in the last bit.
ROUNDING_OF_VALUE = 0.0
#: Whether g is that of the built-in class to the last bit: both run on the CPU, with PyTorch.
SAME_LAST_BITS = True


def choose(generator: torch.Generator, *options: object) -> object:
    return options[int(torch.randint(len(options), (), generator=generator))]


def random_size(generator: torch.Generator, largest: int) -> int:
    """Log-uniform in [1, largest]: small shapes are as frequent as large ones."""
    exponent = torch.rand((), generator=generator) * torch.tensor(float(largest)).log()
    return int(exponent.exp().round())


def random_weight(generator: torch.Generator, shape: tuple[int, ...], fractions: bool) -> Tensor:
    weight = (torch.rand(shape, generator=generator) < 0.8).float()
    return weight * torch.rand(shape, generator=generator) * 3 if fractions else weight


def classification_call(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    rows, classes = random_size(generator, 5000), random_size(generator, 80)
    scale = choose(generator, 0.1, 1.0, 3.0, 30.0)
    pred = torch.randn(rows, classes, generator=generator) * scale
    kind = choose(generator, 'labels', 'dense', 'soft')
    if kind == 'labels':
        target = torch.randint(-1, classes + 2, (rows,), generator=generator)
        return pred, target, random_weight(generator, (rows,), False)
    target = torch.rand(rows, classes, generator=generator)
    if kind == 'dense':
        target = (target < 0.1).float()
    return pred, target, random_weight(generator, (rows, classes), False)


def regression_call(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = random_size(generator, 5000), choose(generator, 4, 12)
    target = torch.randn(rows, width, generator=generator)
    scale = choose(generator, 0.001, 0.02, 1.0)
    pred = target + torch.randn(rows, width, generator=generator) * scale
    return pred, target, random_weight(generator, (rows, width), choose(generator, False, True))


def gradient_norm_of(loss: nn.Module, target: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(loss, GHMR):
        return lambda x: regression_gradient_norm(x - target, loss.mu)
    return lambda x: classification_gradient_norm(x, dense_target(x, target))


def value_of_gradient(gradient: Tensor, d: Tensor, mu: float) -> Tensor:
    """The loss of each offset in float64, with the weight that its gradient has.

    The built-in class subtracts μ from a root of about μ: where d is small, nothing is left.
    """
    d, root = d.double(), (d.double() ** 2 + mu**2).sqrt()
    weight = torch.where(d == 0, 0, gradient.double() * root / d)
    return weight * (root - mu)


def assert_equal_calls(ours: nn.Module, theirs: nn.Module, call: tuple, reduction: str) -> None:
    pred, target, weight = call
    if not SAME_LAST_BITS:
        pred = away_from_edges(gradient_norm_of(ours, target), pred, ours.bins)
    values, gradients = [], []
    for loss in (ours, theirs):
        x = pred.clone().requires_grad_()
        value = loss(x, target, weight, reduction_override=reduction)
        value.sum().backward()
        values.append(value.detach())
        gradients.append(x.grad)
    if isinstance(ours, GHMR):
        values[1] = value_of_gradient(gradients[1], pred - target, ours.mu)
        values[1] = values[1] if reduction == 'none' else values[1].sum()
        values[1] = values[1].to(values[0].dtype)
    atol = max(CLOSE['atol'], ROUNDING_OF_VALUE)
    torch.testing.assert_close(*values, rtol=CLOSE['rtol'], atol=atol)
    largest = gradients[1].abs().max().item() if gradients[1].numel() else 0
    atol = max(CLOSE['atol'], ROUNDING * largest)
    torch.testing.assert_close(*gradients, rtol=CLOSE['rtol'], atol=atol)
    assert dict(ours.named_buffers()).keys() == dict(theirs.named_buffers()).keys()
    for mine, other in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(mine, other, **CLOSE)


@pytest.mark.parametrize('seed', range(NUM_SEQUENCES))
def test_ghm_c_sequence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    settings = dict(
        bins=choose(generator, 1, 5, 10, 30, 49),
        momentum=choose(generator, 0, 0.75),
        loss_weight=choose(generator, 1.0, 0.3, 20.0),
    )
    reduction = choose(generator, 'mean', 'none')
    ours, theirs = GHMC(**settings), BuiltInGHMC(**settings)
    for _ in range(3):
        assert_equal_calls(ours, theirs, classification_call(generator), reduction)


@pytest.mark.parametrize('seed', range(NUM_SEQUENCES))
def test_ghm_r_sequence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    settings = dict(
        mu=choose(generator, 0.02, 0.1),
        bins=choose(generator, 1, 5, 10, 30, 49),
        momentum=choose(generator, 0, 0.75),
        loss_weight=choose(generator, 1.0, 10.0),
    )
    reduction = choose(generator, 'mean', 'none')
    ours, theirs = GHMR(**settings), BuiltInGHMR(**settings)
    for _ in range(3):
        assert_equal_calls(ours, theirs, regression_call(generator), reduction)


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('loss_class', [GHMC, GHMR])
def test_sum_is_n_times_mean(seed: int, loss_class: type[nn.Module]) -> None:
    generator = torch.Generator().manual_seed(seed)
    call = classification_call if loss_class is GHMC else regression_call
    pred, target, weight = call(generator)
    examples = weight.sum() * (pred.shape[1] if weight.dim() == 1 else 1)
    loss = loss_class(bins=10, loss_weight=2.0)
    mean = loss(pred, target, weight)
    total = loss(pred, target, weight, reduction_override='sum')
    torch.testing.assert_close(total, mean * examples.clamp(min=1))


@pytest.mark.parametrize('loss_class', [BuiltInGHMC, BuiltInGHMR])
def test_built_in_raises_on_sum(loss_class: type[nn.Module]) -> None:
    """What our 'sum' is compared with above is our own 'mean': the built-ins have none."""
    with pytest.raises(ValueError, match='avg_factor can not be used with reduction="sum"'):
        loss_class()(torch.rand(3, 4), torch.rand(3, 4), torch.ones(3, 4), reduction_override='sum')


@pytest.mark.parametrize(
    ('ours', 'theirs'), [(GHMC, BuiltInGHMC), (GHMR, BuiltInGHMR)], ids=['GHMC', 'GHMR']
)
def test_checkpoints_load_both_ways(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    for source, sink in ((ours, theirs), (theirs, ours)):
        trained, fresh = source(bins=7, momentum=0.75), sink(bins=7, momentum=0.75)
        assert torch.equal(fresh.edges, trained.edges)
        trained(torch.rand(20, 4), torch.rand(20, 4), torch.ones(20, 4))
        fresh.load_state_dict(trained.state_dict(), strict=True)
        assert torch.equal(fresh.acc_sum, trained.acc_sum)
        assert fresh.acc_sum.sum() > 0


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('momentum', [0, 0.75, 0.7])
def test_gradients_are_equal_bit_for_bit(seed: int, momentum: float) -> None:
    """What training sees: a last bit decides in which region an example falls, and runs part."""
    if not SAME_LAST_BITS:
        pytest.skip('sigmoids of a kernel differ in the last bit')
    generator = torch.Generator().manual_seed(seed)
    settings = dict(bins=10, momentum=momentum, loss_weight=10.0)
    for ours, theirs, call in (
        (GHMC(**settings), BuiltInGHMC(**settings), classification_call),
        (GHMR(**settings), BuiltInGHMR(**settings), regression_call),
    ):
        for _ in range(3):
            pred, target, weight = call(generator)
            gradients = []
            for loss in (ours, theirs):
                x = pred.clone().requires_grad_()
                loss(x, target, weight).backward()
                gradients.append(x.grad)
            assert torch.equal(*gradients)
            assert not momentum or torch.equal(ours.acc_sum, theirs.acc_sum)


# MMDetection's own tests of its losses (tests/test_models/test_losses/test_loss.py), for ours.


@pytest.mark.parametrize('loss_class', [GHMR, GHMC])
def test_loss_with_reduction_override(loss_class: type[nn.Module]) -> None:
    with pytest.raises(AssertionError):
        loss_class()(torch.rand(10, 4), (torch.rand(10, 4),), None, reduction_override=True)


@pytest.mark.parametrize('input_shape', [(10, 4), (0, 4)])
def test_ghm_r_loss(input_shape: tuple[int, int]) -> None:
    pred, target, weight = torch.rand(3, *input_shape)
    assert isinstance(GHMR()(pred, target, weight), Tensor)
