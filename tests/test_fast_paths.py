"""The paths without a tensor of weights: same result, less memory, `torch.compile`."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.losses import peak_memory
from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.functional import (
    assign_regions,
    exact_gradient_density,
    ghm_c_loss,
    ghm_r_loss,
    gradient_density,
)
from ghm_mmdet.ops import cpu_passes

from . import reference


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small test has several blocks, an incomplete one, and pairs of indices."""
    monkeypatch.setattr(cpu_passes, 'BLOCK_OF_THREAD', 1000)
    monkeypatch.setattr(cpu_passes, 'PAIRED_FROM', 0)


def classification(rows: int, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(rows, classes, generator=generator) * 3 - 2
    labels = torch.randint(-1, 2 * classes, (rows,), generator=generator)
    return pred, labels, (torch.rand(rows, generator=generator) < 0.8).float()


def plain(loss: object, *args: object, **settings: object) -> Tensor:
    """The readable formula: elementwise, then the mean over the valid examples."""
    elementwise = loss(*args, reduction='none', **settings)
    pred, _, weight = args
    if weight is None:
        return elementwise.mean()
    valid = weight if weight.shape == pred.shape else weight.unsqueeze(1).expand_as(pred)
    return elementwise.sum() / valid.sum()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bins', [1, 10, 30, 100, 127, 128, 255, 256])
@pytest.mark.parametrize('target_of', ['labels', 'dense', 'soft'])
@pytest.mark.parametrize('weight_of', ['none', 'rows', 'examples'])
@pytest.mark.usefixtures('small_blocks')
def test_ghm_c_equals_the_plain_formula(
    dtype: torch.dtype, bins: int, target_of: str, weight_of: str
) -> None:
    pred, target, weight = classification(501)
    pred = pred.to(dtype)
    if target_of == 'dense':
        target = torch.from_numpy(reference.one_hot(target.numpy(), 7))
    elif target_of == 'soft':
        target = torch.rand_like(pred)
    weight = dict(none=None, rows=weight, examples=(torch.rand(501, 7) < 0.8).float())[weight_of]
    results = []
    for path in (ghm_c_loss, lambda *a, **k: plain(ghm_c_loss, *a, **k)):
        x = pred.clone().requires_grad_()
        value = path(x, target, weight, bins=bins)
        (3 * value).backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(*results, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-12)


@pytest.mark.parametrize('weight_of', ['none', 'rows', 'examples'])
def test_ghm_r_equals_the_plain_formula(weight_of: str) -> None:
    pred, target = torch.randn(2, 300, 4) / 20
    weight = dict(
        none=None, rows=torch.ones(300), examples=(torch.rand(300, 4) < 0.2).float()
    )[weight_of]  # fmt: skip
    results = []
    for path in (ghm_r_loss, lambda *a, **k: plain(ghm_r_loss, *a, **k)):
        x = pred.clone().requires_grad_()
        value = path(x, target, weight)
        value.backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bins', [*range(1, 60), 100, 127, 199, 255])
def test_bin_indices_are_the_regions(bins: int, dtype: torch.dtype) -> None:
    """At every edge and its two neighbours, at 0 and 1, and for NaN."""
    edges = torch.arange(bins + 1, dtype=dtype) / bins
    neighbours = [edges.nextafter(torch.full_like(edges, end)) for end in (0.0, 1.0)]
    g = torch.cat([edges, *neighbours, torch.tensor([float('nan')]), torch.rand(1000)]).to(dtype)
    index = torch.empty(g.shape, dtype=torch.uint8)
    bin_of = cpu_passes._BinOf(bins, True, len(g), dtype)
    for by_product in {bin_of.by_product, False}:
        bin_of.by_product = by_product
        bin_of(g, index)
        assert torch.equal(index.long(), assign_regions(g, bins))


@pytest.mark.parametrize('loss', [GHMC(30), GHMC(10, 0.75), GHMR()])
def test_memory_kept_for_backward(loss: nn.Module) -> None:
    """The gradient and nothing else of the size of the logits."""
    pred, labels, weight = classification(2000, 20)
    pred.requires_grad_()
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        target = torch.zeros_like(pred) if isinstance(loss, GHMR) else labels
        loss(pred, target, weight)
    large = [x for x in saved if x.numel() >= 1000]
    assert [x.shape for x in large] == [pred.shape]
    assert sum(x.numel() * x.element_size() for x in large) <= 4 * pred.numel()


def test_peak_memory() -> None:
    """One tensor of the size of the logits, a byte an element more, and the buffers."""
    pred, labels, weight = classification(100_000, 20)
    pred.requires_grad_()
    peak = peak_memory(lambda: ghm_c_loss(pred, labels, weight).backward(), pred.device)
    buffers = 6 * 4 * cpu_passes.BLOCK_OF_THREAD * torch.get_num_threads()
    assert 4 * pred.numel() < peak < 5 * pred.numel() + 8 * len(labels) * 3 + buffers


def test_no_gradient_without_need() -> None:
    pred, labels, weight = classification(2000)
    assert not ghm_c_loss(pred, labels, weight).requires_grad
    with torch.no_grad():
        assert not ghm_c_loss(pred.requires_grad_(), labels, weight).requires_grad


def test_result_does_not_depend_on_the_threads() -> None:
    pred, labels, weight = classification(40_000, 20)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = pred.clone().requires_grad_()
            value = ghm_c_loss(x, labels, weight)
            value.backward()
            results.append((value.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-15)


def test_backward_twice_and_not_twice_differentiable() -> None:
    pred, labels, weight = classification(50)
    pred.requires_grad_()
    loss = ghm_c_loss(pred, labels, weight)
    (first,) = torch.autograd.grad(loss, pred, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, pred, create_graph=True)
    torch.testing.assert_close(second, 2 * first)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(second.sum(), pred)


def test_gradient_of_a_soft_target() -> None:
    """A target that asks for its gradient gets it, from the plain formula."""
    pred = torch.randn(20, 3)
    target = torch.rand(20, 3, requires_grad=True)
    ghm_c_loss(pred, target).backward()
    assert target.grad.any()


# The exact density in linear time.


@pytest.mark.parametrize('epsilon', [1.0, 0.1, 1 / 30, 0.01, 0.0037])
@pytest.mark.parametrize('partly', [False, True])
def test_histogram_density_is_within_its_bound(epsilon: float, partly: bool) -> None:
    """Between the counts of the windows shorter and longer by h, with spikes to make it hard."""
    rng = np.random.default_rng(0)
    spikes = np.repeat([0, 0.25, 0.25 + epsilon / 2, 0.5, 1], 40) % 1.001
    g = np.concatenate([rng.random(1500) ** 4, spikes, rng.random(300)]).astype(np.float32)
    valid = rng.random(g.shape) < 0.7 if partly else np.ones(g.shape, bool)
    bins, half = gradient_density.fine_bins(epsilon)
    assert bins <= gradient_density.MAX_FINE_BINS
    h = epsilon / (2 * half)
    found = exact_gradient_density(
        torch.from_numpy(g), epsilon, torch.from_numpy(valid), method='histogram'
    ).double().numpy()  # fmt: skip
    x = g.astype(float)
    distance = np.abs(x[valid] - x[:, None])
    length = np.minimum(x + epsilon / 2, 1) - np.maximum(x - epsilon / 2, 0)
    least = (distance < epsilon / 2 - 1.01 * h).sum(1) / (length + h / 2)
    most = (distance <= epsilon / 2 + 1.01 * h).sum(1) / (length - h / 2)
    assert (least * (1 - 1e-6) <= found).all() and (found <= most * (1 + 1e-6)).all()


def test_histogram_density_of_a_smooth_distribution() -> None:
    g = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) ** 1.5
    sort, histogram = (exact_gradient_density(g, 1 / 30, method=m) for m in ('sort', 'histogram'))
    torch.testing.assert_close(histogram, sort, rtol=0.02, atol=0)


@pytest.mark.parametrize('loss', ['ghm_c', 'ghm_r'])
def test_exact_loss_by_histogram(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient of the linear path, against sorting."""
    pred, labels, weight = classification(3000, 20)
    function, args = ghm_c_loss, (labels, weight)
    if loss == 'ghm_r':
        function, args = ghm_r_loss, (pred + torch.randn_like(pred) / 50, weight)
    results = []
    for sorted_at_most in (0, 10**9):
        monkeypatch.setattr(gradient_density, 'SORTED_AT_MOST', sorted_at_most)
        x = pred.clone().requires_grad_()
        value = function(x, *args, bins=30, density='exact')
        value.backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=5e-3, atol=0)
    assert (results[0][1] - results[1][1]).norm() < 5e-3 * results[1][1].norm()


def test_wrong_methods() -> None:
    with pytest.raises(ValueError, match="method must be one of 'auto', 'sort', 'histogram'"):
        exact_gradient_density(torch.rand(3), 0.1, method='kde')
    with pytest.raises(ValueError, match=r'epsilon must be >= .* for a histogram, got 1e-09'):
        exact_gradient_density(torch.rand(3), 1e-9, method='histogram')


# torch.compile.


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls, self.reg = nn.Linear(8, 5), nn.Linear(8, 4)
        self.loss_cls = GHMC(30, 0.75)
        self.loss_reg = GHMR(bins=10, momentum=0.75, loss_weight=10.0)

    def forward(self, x: Tensor, labels: Tensor, weight: Tensor, boxes: Tensor) -> Tensor:
        loss = self.loss_cls(self.cls(x), labels, weight, avg_factor=3.0)
        box_weight = (labels < 5).float().unsqueeze(1).expand_as(boxes)
        return loss + self.loss_reg(self.reg(x), boxes, box_weight, avg_factor=3.0)


@pytest.mark.parametrize(
    'backend', ['eager', 'aot_eager', pytest.param('inductor', marks=pytest.mark.slow)]
)
def test_compile_of_a_head(backend: str) -> None:
    torch._dynamo.reset()
    eager, head = Head(), Head()
    compiled = torch.compile(head, fullgraph=True, backend=backend)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, boxes = (torch.randn(40, n, generator=generator) for n in (8, 4))
        labels = torch.randint(0, 7, (40,), generator=generator)
        weight = (torch.rand(40, generator=generator) < 0.8).float()
        values = [module(x, labels, weight, boxes) for module in (eager, compiled)]
        torch.testing.assert_close(*values)
        for value in values:
            value.backward()
    for mine, other in zip(eager.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    for mine, other in zip(eager.buffers(), head.buffers(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize('of', ['cross_entropy', 'asl1'])
def test_operators_are_registered_rightly(of: str) -> None:
    pred, labels, weight = classification(30)
    ops = torch.ops.ghm_mmdet
    if of == 'asl1':
        examples, mu, formula = (torch.zeros_like(pred), weight), (0.02,), (True,)
        count, weighted = ops.count_asl1.default, ops.weighted_asl1.default
    else:
        examples, mu, formula = (labels, weight), (), ()
        count, weighted = ops.count_cross_entropy.default, ops.weighted_cross_entropy.default
    first = (pred, *examples, *mu, 10, True, *formula)
    torch.library.opcheck(count, first)
    sums, index = count(*first)
    second = (pred.requires_grad_(), *examples, *mu, index, torch.rand(11), sums[-1], True, True)
    # Not its AOT check, which looks at the gradient after backward, which has scaled it in place.
    utils = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    torch.library.opcheck(weighted, second, test_utils=utils)


def test_edges_do_not_depend_on_how_a_device_divides_by_a_number() -> None:
    """CUDA multiplies with the reciprocal of a number; 16 of 31 edges would be an ulp off."""

    class Reciprocal(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple = (), kwargs: object = None
        ) -> object:
            if func is torch.ops.aten.div.Tensor and not isinstance(args[1], Tensor):
                x, number = args
                return x * torch.tensor(1 / number, dtype=x.dtype)
            return func(*args, **(kwargs or {}))

    off = 0
    for bins in range(1, 256):
        edges = torch.arange(bins + 1) / bins
        g = torch.cat([edges, edges.nextafter(torch.zeros(())), edges.nextafter(torch.ones(()))])
        expected = assign_regions(g, bins)
        with Reciprocal():
            assert torch.equal(assign_regions(g, bins), expected)
            off += not torch.equal(torch.arange(bins + 1) / bins, edges)
    assert off > 100
