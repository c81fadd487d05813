"""The path without a tensor of weights: same result, less memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ghm_mmdet.functional import (
    assign_regions,
    ghm_c_loss,
)
from ghm_mmdet.ops import cpu
from ghm_mmdet.ops.trial import Batch

from . import reference

TORCH = tuple(map(int, torch.__version__.split('.')[:2]))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small test has several blocks, and an incomplete one."""
    monkeypatch.setattr(cpu, 'BLOCK', 1000)


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
@pytest.mark.parametrize('bins', [1, 30, 49, 128, 255, 256])
@pytest.mark.parametrize('target_of', ['labels', 'dense', 'soft'])
@pytest.mark.parametrize('weight_of', ['none', 'rows', 'examples'])
@pytest.mark.usefixtures('small_blocks')
def test_ghm_c_equals_the_plain_formula(
    dtype: torch.dtype, bins: int, target_of: str, weight_of: str
) -> None:
    rows = 501
    pred, target, weight = classification(rows)
    pred = pred.to(dtype)
    if target_of == 'dense':
        target = torch.from_numpy(reference.one_hot(target.numpy(), 7))
    elif target_of == 'soft':
        target = torch.rand_like(pred)
    weight = dict(none=None, rows=weight, examples=(torch.rand(rows, 7) < 0.8).float())[weight_of]
    results = []
    for path in (ghm_c_loss, lambda *a, **k: plain(ghm_c_loss, *a, **k)):
        x = pred.clone().requires_grad_()
        value = path(x, target, weight, bins=bins)
        (3 * value).backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(*results, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bins', [*range(1, 60), 100, 127, 199, 255])
def test_bin_indices_are_the_regions(bins: int, dtype: torch.dtype) -> None:
    """At every edge and its two neighbours, at 0 and 1: g is the target of a sigmoid of 0."""
    edges = torch.arange(bins + 1, dtype=dtype) / bins
    neighbours = [edges.nextafter(torch.full_like(edges, end)) for end in (0.0, 1.0)]
    g = torch.cat([edges, *neighbours, torch.rand(1000)]).to(dtype)
    g = g.clamp(0, 1)
    counts, _, index = cpu.count(Batch(torch.full_like(g, -1e4), g, None), bins)
    regions = assign_regions(g, bins)
    assert torch.equal(index.long(), regions)
    assert torch.equal(counts, torch.bincount(regions, minlength=bins))


@pytest.mark.skipif(TORCH < (2, 4), reason='its profiler does not tell')
def test_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor of the size of the logits, a byte an element more, and some of a block's."""
    monkeypatch.delenv('GHM_MMDET_KERNELS', raising=False)
    from benchmarks.losses import peak_memory

    pred, labels, weight = classification(100_000, 20)
    pred.requires_grad_()
    peak = peak_memory(lambda: ghm_c_loss(pred, labels, weight).backward(), pred.device)
    assert 4 * pred.numel() < peak < 5 * pred.numel() + 8 * len(labels) * 3 + 10 * 2**20


@pytest.mark.parametrize('form', ['labels', 'dense'])
@pytest.mark.parametrize('target', [0.0, 0.5, 0.9, 0.99, 0.9993, 1.0])
def test_precision_of_the_value(target: float, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the blocks, also of easy positives, whose loss is what is left of two large numbers.

    PyTorch's cross entropy, the plain formula, loses the digits of easy negatives.
    """
    monkeypatch.delenv('GHM_MMDET_KERNELS', raising=False)
    if form == 'labels' and target not in (0, 1):
        pytest.skip('labels are whole')
    # Of one class, 1 is background.
    given = torch.tensor([1 - int(target)]) if form == 'labels' else torch.tensor([[target]])
    target = float(given) if form == 'dense' else target
    for logit in torch.linspace(-30, 30, 61):
        found = ghm_c_loss(logit.view(1, 1), given, bins=1)
        expected = reference.cross_entropy(logit.double().numpy(), np.float64(target))
        np.testing.assert_allclose(found.double(), expected, rtol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_loss_scale_keeps_gradients_that_half_precision_would_lose(dtype: torch.dtype) -> None:
    """They are rounded after the scaling: 1e-9 alone is 0 in float16."""
    pred = torch.full((100_000, 10), -6.0)
    labels = torch.full((100_000,), 10)
    scale = 2.0**16
    gradients = []
    for each in (dtype, torch.float64):
        x = pred.to(each).requires_grad_()
        (scale * ghm_c_loss(x, labels, bins=10)).backward()
        gradients.append(x.grad.double())
    assert 0 < gradients[1].max() / scale < 1e-8
    torch.testing.assert_close(*gradients, rtol=2 * torch.finfo(dtype).eps, atol=0)


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


@pytest.mark.parametrize('density', ['region', 'exact'])
def test_gradient_of_a_soft_target(density: str) -> None:
    """A target that asks for its gradient gets it: that of cross entropy, -x, times β/N."""
    rng = np.random.default_rng(0)
    x, p_star = rng.normal(size=(20, 3)), rng.random((20, 3))
    target = torch.tensor(p_star, requires_grad=True)
    ghm_c_loss(torch.tensor(x), target, bins=10, density=density, formula='paper').backward()
    g, every = np.abs(reference.sigmoid(x) - p_star), np.ones(x.shape, bool)
    gradient_density = reference.exact_density(g, 0.1, every)
    if density == 'region':
        counts = reference.region_counts(g, 10, every)
        gradient_density = 10 * np.vectorize(lambda v: counts[reference.region_of(v, 10)])(g)
    np.testing.assert_allclose(target.grad, -x / gradient_density, rtol=1e-9)


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
