"""Derivatives of any order, and PyTorch's transforms, against the equations in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian

from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss, softmax_ghm_c_loss

from . import reference

BINS, ROWS, CLASSES = 10, 40, 3
needs_func = pytest.mark.skipif(not hasattr(torch, 'func'), reason='needs torch.func')


def batch(form: str, weight_of: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Float64 logits away from the edges of the regions, targets, weights; some negative."""
    rng = np.random.default_rng(0)
    g = (rng.integers(0, BINS, (ROWS, CLASSES)) + rng.uniform(0.2, 0.8, (ROWS, CLASSES))) / BINS
    labels = rng.integers(-1, 2 * CLASSES, ROWS)
    p_star = reference.one_hot(labels, CLASSES)
    x = np.log(g / (1 - g)) * np.where(p_star == 1, -1, 1)
    shape = dict(none=(), rows=(ROWS,), logits=(ROWS, CLASSES))[weight_of]
    weight = torch.from_numpy(rng.choice([-1.0, 0.0, 0.5, 1.0], shape)) if shape else None
    target = torch.from_numpy(labels if form == 'labels' else p_star)
    return torch.from_numpy(x), target, weight


def constant_weights(x: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """β/N of each logit from NumPy, 'official', and p*."""
    dense = target.shape == x.shape
    p_star = target.numpy() if dense else reference.one_hot(target.numpy(), CLASSES)
    g = np.abs(reference.sigmoid(x.detach().numpy()) - p_star)
    valid = np.ones(x.shape, bool)
    if weight is not None:
        w = weight.numpy()
        valid = np.broadcast_to((w if w.ndim == 2 else w[:, None]) > 0, x.shape)
    counts = reference.region_counts(g, BINS, valid)
    s = np.vectorize(lambda value: counts[reference.region_of(value, BINS)])(g)
    weights = np.where(valid, 1 / (np.maximum(s, 1) * (counts > 0).sum()), 0)
    return torch.from_numpy(weights), torch.from_numpy(p_star)


def expected_loss(x: Tensor, target: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
    """What GHM-C is around x, where β is a constant."""
    weights, p_star = constant_weights(x, target, weight)

    def loss(x: Tensor) -> Tensor:
        return (weights * (F.softplus(x, threshold=1000) - p_star * x)).sum()

    return loss


def derivatives(loss: Callable[[Tensor], Tensor], x: Tensor, order: int) -> list[Tensor]:
    """Of a loss scaled by x, too: the gradient that comes in depends on x."""
    x = x.detach().clone().requires_grad_()
    value = loss(x) * x.sin().sum()
    found = []
    for _ in range(order):
        (value,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(value.detach())
        value = value.pow(2).sum()
    return found


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('weight_of', ['none', 'rows', 'logits'])
@pytest.mark.parametrize('form', ['labels', 'dense'])
def test_derivatives_of_the_first_three_orders(
    form: str, weight_of: str, dtype: torch.dtype
) -> None:
    x, target, weight = batch(form, weight_of)
    expected = derivatives(expected_loss(x, target, weight), x, 3)
    if form == 'dense':
        target = target.to(dtype)
    found = derivatives(lambda x: ghm_c_loss(x, target, weight, bins=BINS), x.to(dtype), 3)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for mine, other in zip(found, expected):
        scale = other.abs().max().item()
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=tolerance * scale)


def test_a_gradient_penalty_through_a_layer() -> None:
    """Of the weights of a layer before the loss, as the built-in class has it in float64."""
    x, labels, _ = batch('labels', 'none')
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(ROWS, 5)))
    w = torch.linalg.lstsq(features, x).solution
    results = []
    for loss in (
        lambda x: ghm_c_loss(x, labels, bins=BINS),
        expected_loss(features @ w, labels, None),
    ):
        layer, inputs = w.clone().requires_grad_(), features.clone().requires_grad_()
        value = loss(inputs @ layer)
        (g,) = torch.autograd.grad(value, inputs, create_graph=True)
        (value + 1e4 * g.pow(2).sum()).backward()
        results.append(layer.grad)
    torch.testing.assert_close(*results)


def test_second_derivative_of_the_offsets() -> None:
    d = torch.linspace(-0.5, 0.5, 40, dtype=torch.float64).reshape(10, 4) + 1e-3
    g = np.abs(reference.asl1_gradient(d.numpy(), 0.02))
    counts = reference.region_counts(g, BINS, g >= 0)
    s = np.vectorize(lambda value: counts[reference.region_of(value, BINS)])(g)
    weights = torch.from_numpy(1 / (s * (counts > 0).sum()))

    def expected(x: Tensor) -> Tensor:
        return (weights * ((x**2 + 0.02**2).sqrt() - 0.02)).sum()

    found = derivatives(lambda x: ghm_r_loss(x, torch.zeros_like(x), bins=BINS), d, 3)
    for mine, other in zip(found, derivatives(expected, d, 3)):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def losses(dtype: torch.dtype = torch.float64) -> tuple[Callable, Callable, Tensor]:
    x, labels, weight = batch('labels', 'rows')
    expected = expected_loss(x, labels, weight)
    return lambda x: ghm_c_loss(x, labels, weight, bins=BINS), expected, x.to(dtype)


@needs_func
def test_grad_of_func() -> None:
    found, expected, x = losses()
    torch.testing.assert_close(torch.func.grad(found)(x), torch.func.grad(expected)(x))
    torch.testing.assert_close(
        torch.func.hessian(found)(x).flatten(2).flatten(0, 1),
        torch.func.hessian(expected)(x).flatten(2).flatten(0, 1),
    )


@needs_func
def test_vmap_is_a_loss_for_each() -> None:
    x, labels, _ = batch('labels', 'none')
    xs = torch.stack([x, x.flip(0), x.roll(3, 0)])
    found = torch.func.vmap(lambda x: ghm_c_loss(x, labels, bins=BINS))(xs)
    expected = [expected_loss(x, labels, None)(x) for x in xs]
    torch.testing.assert_close(found, torch.stack(expected))
    weights = torch.stack([torch.ones(ROWS), torch.arange(ROWS) % 2.0])
    found = torch.func.vmap(lambda weight: ghm_c_loss(x, labels, weight, bins=BINS))(weights)
    torch.testing.assert_close(
        found, torch.stack([ghm_c_loss(x, labels, weight, bins=BINS) for weight in weights])
    )
    # Of other losses and densities: what a call for each gives.
    offsets, zeros = xs / 10, torch.zeros_like(x)
    for loss in (
        lambda x: ghm_c_loss(x, labels, bins=BINS, density='exact'),
        lambda x: ghm_c_loss(x, labels, bins=BINS, reduction='none'),
        lambda x: ghm_r_loss(x, zeros, bins=BINS),
        lambda x: softmax_ghm_c_loss(x, labels.clamp(0, CLASSES - 1), bins=BINS),
    ):
        found = torch.func.vmap(loss)(offsets)
        torch.testing.assert_close(found, torch.stack([loss(x) for x in offsets]))


@needs_func
def test_jvp_of_func() -> None:
    found, expected, x = losses()
    tangent = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    torch.testing.assert_close(
        torch.func.jvp(found, (x,), (tangent,)), torch.func.jvp(expected, (x,), (tangent,))
    )


def test_forward_mode() -> None:
    found, expected, x = losses()
    tangent = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    tangents = []
    for loss in (found, expected):
        with forward_ad.dual_level():
            value = loss(forward_ad.make_dual(x, tangent))
            tangents.append(forward_ad.unpack_dual(value).tangent)
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize('vectorize', [False, True])
def test_jacobian(vectorize: bool) -> None:
    """Vectorized, its backward pass gets several gradients at once."""
    found, expected, x = losses()
    shift = torch.arange(3, dtype=x.dtype)
    results = [
        jacobian(lambda x, loss=loss: loss(x) * shift, x, vectorize=vectorize)
        for loss in (found, expected)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('create_graph', [False, True])
def test_batched_gradients(create_graph: bool) -> None:
    found, expected, x = losses()
    results = []
    for loss in (found, expected):
        leaf = x.clone().requires_grad_()
        scales = torch.tensor([1.0, 0.0, -2.5], dtype=x.dtype)
        results += torch.autograd.grad(
            loss(leaf), leaf, scales, is_grads_batched=True, create_graph=create_graph
        )
    torch.testing.assert_close(*results)


def test_fake_tensors() -> None:
    """As tools that estimate memory call a model: shapes without values."""
    fake = pytest.importorskip('torch._subclasses.fake_tensor')
    with fake.FakeTensorMode():
        x = torch.zeros(ROWS, CLASSES, requires_grad=True)
        loss = ghm_c_loss(x, torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS))
        loss.backward()
        assert loss.shape == () and x.grad.shape == x.shape
        loss = ghm_c_loss(x, torch.zeros(ROWS, CLASSES), bins=BINS)
        assert loss.shape == ()


@pytest.mark.parametrize('scale', [1.0, 3.0])
def test_hooks_of_saved_tensors_see_no_change(scale: float) -> None:
    x, labels, weight = batch('labels', 'rows')
    x = x.float().requires_grad_()
    kept: list[Tensor] = []
    copies: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        copies.append(tensor.detach().clone())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = ghm_c_loss(x, labels, weight)
    (scale * loss).backward()
    assert kept
    for mine, other in zip(kept, copies):
        assert torch.equal(mine, other)


def test_a_graph_that_is_freed_raises_the_error_of_pytorch() -> None:
    x, labels, weight = batch('labels', 'rows')
    loss = ghm_c_loss(x.requires_grad_(), labels, weight)
    loss.backward()
    with pytest.raises(RuntimeError, match='backward through the graph a second time'):
        loss.backward()


def test_backward_again_while_the_graph_is_kept() -> None:
    found, expected, x = losses(torch.float32)
    leaf = x.clone().requires_grad_()
    loss = found(leaf)
    (first,) = torch.autograd.grad(2 * loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (third,) = torch.autograd.grad(3 * loss, leaf)
    reference_leaf = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(expected(reference_leaf), reference_leaf)
    for factor, mine in ((2, first), (1, second), (3, third)):
        torch.testing.assert_close(mine.double(), factor * gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('form', ['labels', 'dense'])
@pytest.mark.parametrize('create_graph', [False, True])
def test_labels_and_weights_of_rows_may_be_refilled(form: str, create_graph: bool) -> None:
    """As a loader that reuses its buffers does: the gradient is of what the loss was given."""
    x, labels, weight = batch('labels', 'rows')
    expected = expected_loss(x, labels, weight)
    results = []
    for loss in (lambda x: ghm_c_loss(x, labels, weight, bins=BINS), expected):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        if loss is not expected:
            labels.fill_(0), weight.fill_(1)
        results.append(torch.autograd.grad(value, leaf, create_graph=create_graph)[0].detach())
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_compiled_autograd() -> None:
    dynamo = pytest.importorskip('torch._dynamo')
    if not hasattr(dynamo.config, 'compiled_autograd'):
        pytest.skip('came with PyTorch 2.4')
    found, _, x = losses(torch.float32)
    leaf = x.clone().requires_grad_()
    value = 3 * found(leaf)
    with dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda value: value.backward(), backend='eager')(value)
    dynamo.reset()
    twin = x.clone().requires_grad_()
    (3 * found(twin)).backward()
    assert torch.equal(leaf.grad, twin.grad)


def test_without_the_private_names_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked in one place; where a version has none, the loss is the same."""
    from ghm_mmdet import ops

    asked: list[str] = []
    private = ops._private
    monkeypatch.setattr(ops, '_private', lambda name, x: asked.append(name) or private(name, x))
    found, expected, x = losses(torch.float32)
    found(x)
    ops.is_in_backward()
    assert set(asked) == {'_len_torch_dispatch_stack', '_current_graph_task_id'}
    for name in set(asked):
        monkeypatch.delattr(torch._C, name, raising=False)
    for create_graph in (False, True):
        results = []
        for loss in (found, expected):
            leaf = x.clone().requires_grad_()
            results += torch.autograd.grad(2 * loss(leaf), leaf, create_graph=create_graph)
        torch.testing.assert_close(*(result.detach() for result in results))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_makes_one_tensor_of_float32(dtype: torch.dtype) -> None:
    x, labels, weight = batch('labels', 'rows')
    x = x.to(dtype).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = ghm_c_loss(x, labels, weight, bins=BINS)
    (gradient,) = [t for t in saved if t.shape == x.shape and t.dtype == torch.float32]
    (2.0**10 * loss).backward()
    assert torch.equal(x.grad, (gradient * 2.0**10).to(dtype))
