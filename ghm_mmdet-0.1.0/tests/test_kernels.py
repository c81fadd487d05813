"""The Triton kernels: parity, edge cases and equations again, through them.

Without a CUDA device they run in Triton's interpreter, see conftest.py; the tests at the end
need a device.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

pytest.importorskip('triton')

from ghm_mmdet import GHMC, GHMR
from ghm_mmdet.formulas import FORMULAS, Settings
from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss
from ghm_mmdet.functional.passes import reference as plain
from ghm_mmdet.ops import choose_kernels, kernels_of
from ghm_mmdet.ops.trial import Batch

from . import reference, test_parity
from .test_edge_cases import (  # noqa: F401
    ghm_c,
    ghm_r,
    test_all_examples_in_one_region,
    test_avg_factor_is_ignored,
    test_empty_tensors_with_grad,
    test_gradient_norm_of_exactly_0_and_1,
    test_half_precision_is_computed_in_float32,
    test_huge_offsets,
    test_labels_outside_the_classes_are_background,
    test_no_valid_example,
    test_no_valid_example_leaves_the_average_of_official,
    test_one_example,
    test_tensors_that_are_not_contiguous,
    test_without_weight_all_are_valid,
    test_zero_positives,
)
from .test_robustness import (  # noqa: F401
    test_a_bad_batch_shows_and_is_forgotten,
    test_half_predictions_give_the_loss_and_gradient_of_float32,
    test_large_finite_logits_are_no_bad_batch,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every loss through the kernels; the inputs stay on the CPU under the interpreter."""
    if os.environ.get('TRITON_INTERPRET') == '1':
        monkeypatch.setenv('GHM_MMDET_KERNELS', 'triton')
        monkeypatch.setattr(test_parity, 'ROUNDING', 1e-6)
        monkeypatch.setattr(test_parity, 'ROUNDING_OF_VALUE', 1e-7)


def test_the_kernels_are_used() -> None:
    x = torch.randn(4, 3, device=DEVICE)
    kernels = choose_kernels(Batch(x, x, None), Settings(30), plain)
    assert kernels.__name__ == 'ghm_mmdet.ops.triton_kernels'
    assert choose_kernels(Batch(x.double(), x, None), Settings(30), plain) is None


@pytest.mark.parametrize('bins', [1, 30, 32, 128])
@pytest.mark.parametrize('value', [-0.1, 1.1])
def test_targets_outside_0_and_1_are_not_finite(value: float, bins: int) -> None:
    from ghm_mmdet.ops import triton_kernels

    pred, target = torch.randn(50, 3, device=DEVICE), torch.rand(50, 3, device=DEVICE)
    assert triton_kernels.count(Batch(pred, target, None), bins)[1]
    target[7, 1] = value
    assert not triton_kernels.count(Batch(pred, target, None), bins)[1]
    weight = (torch.arange(50, device=DEVICE) != 7).float()
    assert triton_kernels.count(Batch(pred, target, weight), bins)[1]


@pytest.mark.parametrize('seed', range(12))
def test_ghm_c_sequence(seed: int) -> None:
    test_parity.test_ghm_c_sequence(seed)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(12, test_parity.NUM_SEQUENCES))
def test_more_sequences(seed: int) -> None:
    test_parity.test_ghm_c_sequence(seed)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('target', ['labels', 'dense'])
@pytest.mark.parametrize('weight_of', ['none', 'rows', 'examples'])
def test_ghm_c_against_float64(dtype: torch.dtype, target: str, weight_of: str) -> None:
    """Value and gradient, with logits far from the edges of the regions."""
    rng = np.random.default_rng(0)
    rows, classes, bins = 150, 60, 10
    g = (rng.integers(0, bins, (rows, classes)) + rng.uniform(0.1, 0.9, (rows, classes))) / bins
    labels = rng.integers(-1, classes + 2, rows)
    p_star = reference.one_hot(labels, classes)
    x = torch.from_numpy(np.where(p_star == 1, -1, 1) * np.log(g / (1 - g))).to(dtype)
    shape = dict(none=(), rows=(rows, 1), examples=(rows, classes))[weight_of]
    weight = np.broadcast_to(np.atleast_2d(rng.random(shape) < 0.7 if shape else 1.0), p_star.shape)
    g = np.abs(reference.sigmoid(x.double().numpy()) - p_star)
    loss = reference.cross_entropy(x.double().numpy(), p_star)
    expected, _ = reference.paper_region_loss(loss, g, weight > 0, bins)
    pred = x.to(DEVICE, copy=True).requires_grad_()
    w = None if weight_of == 'none' else torch.tensor(weight, device=DEVICE).float()
    found = ghm_c_loss(
        pred,
        torch.tensor(labels if target == 'labels' else p_star, device=DEVICE),
        w[:, 0] if weight_of == 'rows' else w,
        bins=bins,
        formula='paper',
    )
    np.testing.assert_allclose(found.detach().cpu(), expected, rtol=2e-5)
    found.backward()
    counts = reference.region_counts(g, bins, weight > 0)
    region = np.minimum((g * bins).astype(int), bins - 1)
    gradient = (reference.sigmoid(x.double().numpy()) - p_star) / (counts[region] * bins) * weight
    tolerance = 2e-5 if dtype == torch.float32 else 1e-2
    np.testing.assert_allclose(pred.grad.double().cpu(), gradient, rtol=tolerance, atol=1e-7)


def test_easy_examples_keep_their_loss() -> None:
    """log(1 + e) of the smallest e: 1 + e is 1 in float32."""
    x = torch.tensor([[-20.0], [-30.0], [-1.0]], device=DEVICE)
    found = ghm_c_loss(x[:2], torch.zeros_like(x[:2]), bins=1)
    expected = torch.nn.functional.softplus(x[:2].double()).mean()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_wrong_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(3, 2)
    monkeypatch.setenv('GHM_MMDET_KERNELS', 'cuda')
    with pytest.raises(ValueError, match="GHM_MMDET_KERNELS must be 'torch' or 'triton', got"):
        ghm_c_loss(x, x)
    monkeypatch.setenv('GHM_MMDET_KERNELS', 'triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(ValueError, match="needs CUDA tensors, got one on 'cpu'"):
        ghm_c_loss(x, x)
    monkeypatch.delenv('GHM_MMDET_KERNELS')
    assert kernels_of('cuda') == 'triton'
    assert kernels_of('cpu') == 'cpu'
    assert kernels_of('mps') is None
    monkeypatch.setenv('GHM_MMDET_KERNELS', 'torch')
    assert kernels_of('cuda') is kernels_of('cpu') is None


# What the kernels are, beside what they compute.


@pytest.mark.parametrize('shape', [(1, 1), (7, 3), (129, 20), (683, 3), (107, 80)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('weight_dtype', [torch.bool, torch.float32])
@pytest.mark.parametrize('bins', [30, 49])
def test_sizes_that_are_no_multiples(
    shape: tuple[int, int], dtype: torch.dtype, weight_dtype: torch.dtype, bins: int
) -> None:
    """Against the plain formula, per example: at the edges of blocks, groups and rows."""
    generator = torch.Generator().manual_seed(0)
    pred = (torch.randn(shape, generator=generator) * 3).to(dtype)
    labels = torch.randint(-1, shape[1] + 2, shape[:1], generator=generator)
    of_rows, of_examples = (
        torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])[torch.randint(5, size, generator=generator)]
        for size in (shape[:1], shape)
    )
    if weight_dtype == torch.bool:
        of_rows, of_examples = of_rows > 0, of_examples > 0
    for target, weight in (
        (labels, of_rows),
        (torch.rand(shape, generator=generator), of_examples),
        (torch.rand(shape, generator=generator) < 0.5, of_rows),
    ):
        results = []
        for reduction in ('sum', 'none'):
            x = pred.to(DEVICE, copy=True).requires_grad_()
            value = ghm_c_loss(
                x, target.to(DEVICE), weight.to(DEVICE), bins=bins, reduction=reduction
            ).sum()
            value.backward()
            results.append((value.detach(), x.grad))
        rtol = 1e-4 if dtype == torch.float32 else 2e-3
        torch.testing.assert_close(*results, rtol=rtol, atol=1e-5)


def test_the_scaled_gradient_is_rounded_once() -> None:
    """Not the gradient itself, most of which float16 can not hold: 1/(N n) of an easy example."""
    pred = torch.randn(2000, 20, device=DEVICE) - 3
    labels = torch.randint(0, 2000, (2000,), device=DEVICE).clamp(max=20)
    x = pred.half().requires_grad_()
    wanted = x.detach().float().requires_grad_()
    for each in (x, wanted):
        (GHMC(30)(each, labels) * 2.0**12).backward()
    torch.testing.assert_close(x.grad, wanted.grad.half(), rtol=0, atol=0)
    assert ((wanted.grad / 2.0**12).half() == 0).sum() > 10 * (x.grad == 0).sum()


def test_log1p_keeps_its_digits() -> None:
    """The loss of a negative is log(1 + e^x): each coefficient of the polynomial shows in it."""
    from ghm_mmdet.ops import triton_kernels

    x = torch.linspace(-18, 0, 2000).unsqueeze(1)
    pred = x.to(DEVICE)
    batch = Batch(pred, torch.zeros_like(pred), None)
    one = torch.tensor([1.0, 0.0], device=DEVICE)
    found = [
        float(
            triton_kernels.weigh(Batch(*(t[i : i + 1] for t in batch[:2]), None), None, one, False)[
                0
            ]
        )
        for i in range(0, 2000, 40)
    ]
    expected = torch.nn.functional.softplus(x[::40, 0].double())
    torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=4e-7, atol=0)


@pytest.mark.parametrize('bins', [7, 30, 49, 98, 103, 255])
def test_edges_belong_to_the_upper_region(bins: int) -> None:
    """g = 1/2 - p* is exactly the edge j/M; for these M, with and without a comparison."""
    from ghm_mmdet.ops import triton_kernels

    j = np.arange(-(-bins // 4), bins // 2 + 1)
    edges = j.astype(np.float32) / np.float32(bins)
    for g, region in ((edges, j), (np.nextafter(edges, np.float32(0))[1:], j[1:] - 1)):
        target = torch.from_numpy(np.float32(0.5) - g).to(DEVICE)[:, None]
        batch = Batch(torch.zeros_like(target), target, None)
        counts = triton_kernels.count(batch, bins)[0].cpu()
        np.testing.assert_array_equal(counts, np.bincount(region, minlength=bins))


# On a CUDA device.


def cuda_call() -> tuple[GHMC, GHMR, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows, classes = 5000, 80
    labels = torch.randint(0, 50 * classes, (rows,), generator=generator).clamp(max=classes)
    weight = (torch.rand(rows, generator=generator) < 0.9).float()
    logits = torch.randn(rows, classes, generator=generator) - 3
    offsets, targets = torch.randn(2, rows, 4, generator=generator) / 10
    tensors = [x.cuda() for x in (logits, labels, weight, offsets, targets)]
    return GHMC(30, 0.75).cuda(), GHMR(bins=10, momentum=0.7).cuda(), tensors


def forward_and_backward(loss_c: GHMC, loss_r: GHMR, tensors: list[torch.Tensor]) -> torch.Tensor:
    logits, labels, weight, offsets, targets = tensors
    box_weight = (weight * (labels < 80)).unsqueeze(1).expand_as(offsets)
    loss = loss_c(logits, labels, weight) + loss_r(offsets, targets, box_weight)
    logits.grad, offsets.grad = torch.autograd.grad(loss, (logits, offsets))
    return loss


@needs_cuda
def test_cuda_never_waits_for_the_host() -> None:
    loss_c, loss_r, tensors = cuda_call()
    tensors[0].requires_grad_(), tensors[3].requires_grad_()
    forward_and_backward(loss_c, loss_r, tensors)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        forward_and_backward(loss_c, loss_r, tensors)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@needs_cuda
def test_cuda_graph_captures_the_losses() -> None:
    loss_c, loss_r, tensors = cuda_call()
    tensors[0].requires_grad_(), tensors[3].requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward_and_backward(loss_c, loss_r, tensors)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(loss_c, loss_r, tensors)
    loss_c.acc_sum.zero_(), loss_r.acc_sum.zero_()
    graph.replay()
    found = [captured.clone(), tensors[0].grad.clone(), tensors[3].grad.clone()]
    loss_c.acc_sum.zero_(), loss_r.acc_sum.zero_()
    expected = forward_and_backward(loss_c, loss_r, tensors)
    torch.testing.assert_close(found, [expected, tensors[0].grad, tensors[3].grad])


@needs_cuda
@pytest.mark.parametrize('formula', FORMULAS)
def test_cuda_agrees_with_the_cpu(formula: str) -> None:
    *_, tensors = cuda_call()
    results = []
    for device in ('cpu', 'cuda'):
        logits, labels, weight, offsets, targets = (x.detach().to(device) for x in tensors)
        logits.requires_grad_(), offsets.requires_grad_()
        (
            ghm_c_loss(logits, labels, weight, formula=formula)
            + ghm_r_loss(offsets, targets, weight, formula=formula)
        ).backward()
        results.append([logits.grad.cpu(), offsets.grad.cpu()])
    # An example at the edge of a region may lie in the next one.
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-12)


@needs_cuda
@pytest.mark.parametrize('what', ['none', 'positives', 'softmax', 'exact'])
def test_cuda_never_waits_in_the_plain_formula(what: str) -> None:
    *_, tensors = cuda_call()
    logits, labels, weight = (x.requires_grad_(x.is_floating_point()) for x in tensors[:3])
    settings = dict(reduction=what) if what in ('none', 'positives') else {}
    if what == 'exact':
        settings = dict(density='exact')
    if what == 'softmax':
        settings = dict(use_sigmoid=False, class_weight=[1.0] * 80)
        labels = labels.clamp(max=79)
    loss = GHMC(30, **settings).cuda()
    for mode in ('default', 'error'):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            loss(logits, labels, weight.detach()).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')


@needs_cuda
def test_cuda_grad_scaler_skips_a_bad_batch() -> None:
    layer, scaler = torch.nn.Linear(8, 5).cuda(), torch.amp.GradScaler('cuda')
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    loss, labels = GHMC(30, 0.75).cuda(), torch.randint(0, 6, (64,), device='cuda')
    for bad in (False, True, False):
        before, memory = layer.weight.clone(), loss.acc_sum.clone()
        x = torch.randn(64, 8, device='cuda')
        x[0, 0] = float('nan') if bad else 0
        with torch.autocast('cuda', torch.float16):
            value = loss(layer(x), labels)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) == bad == torch.equal(loss.acc_sum, memory)


@needs_cuda
def test_cuda_compiled() -> None:
    loss_c, _, (logits, labels, weight, *_) = cuda_call()
    expected = loss_c(logits, labels, weight)
    loss_c.acc_sum.zero_()
    compiled = torch.compile(loss_c, fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels, weight), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two CUDA devices')
def test_cuda_second_device() -> None:
    loss_c, loss_r, tensors = cuda_call()
    expected = forward_and_backward(
        loss_c, loss_r, [x.requires_grad_(i in (0, 3)) for i, x in enumerate(tensors)]
    )
    loss_c.acc_sum.zero_(), loss_r.acc_sum.zero_()
    others = [x.detach().to('cuda:1').requires_grad_(i in (0, 3)) for i, x in enumerate(tensors)]
    found = forward_and_backward(loss_c.to('cuda:1'), loss_r.to('cuda:1'), others)
    torch.testing.assert_close(found.to('cuda:0'), expected)


def test_the_default_dtype_is_not_that_of_the_sums() -> None:
    x, labels = torch.randn(500, 3, device=DEVICE), torch.randint(0, 4, (500,), device=DEVICE)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            leaf = x.clone().requires_grad_()
            loss = ghm_c_loss(leaf, labels)
            loss.backward()
        finally:
            torch.set_default_dtype(before)
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*results)
