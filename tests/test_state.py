"""The state of the losses: who changes it, who keeps its dtype, where it lives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmdet.models.losses.ghm_loss import GHMC as BuiltInGHMC
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, OHEMLoss
from ghm_mmdet.functional import inputs
from ghm_mmdet.losses import ghm_c, ghm_r, gradient_harmonizing

from . import reference

BINS, ROWS, CLASSES = 10, 200, 4
MAKE: dict[str, Callable[[], nn.Module]] = {
    'GHM-C': lambda: GHMC(BINS, 0.75),
    'tempered': lambda: GHMC(BINS, 0.75, formula='tempered'),
    'softmax': lambda: GHMC(BINS, 0.75, use_sigmoid=False),
    'GHM-R': lambda: GHMR(bins=BINS, momentum=0.7),
    'following': lambda: GHMR(bins=BINS, formula='floored', mu_momentum=0.9),
}
OFFSETS = ('GHM-R', 'following')


def batch(name: str, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(ROWS, CLASSES, generator=generator) * scale
    if name in OFFSETS:
        return pred / 5, torch.zeros(ROWS, CLASSES)
    return pred - 2, torch.randint(0, CLASSES, (ROWS,), generator=generator)


def state(loss: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in loss.named_buffers() if name != 'edges'}


def value_and_gradient(loss: nn.Module, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x = pred.clone().requires_grad_()
    value = loss(x, target)
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize('name', MAKE)
def test_a_validation_loss_changes_nothing(name: str) -> None:
    """As BatchNorm's statistics: used in `eval()`, changed in `train()` alone."""
    loss = MAKE[name]()
    loss(*batch(name, 0))
    before, twin = state(loss), copy.deepcopy(loss)
    loss.eval()
    with torch.no_grad():
        first, again = loss(*batch(name, 1, 5.0)), loss(*batch(name, 1, 5.0))
    assert first == again
    assert all(torch.equal(value, before[key]) for key, value in state(loss).items())
    loss.train()
    results = [value_and_gradient(each, *batch(name, 2)) for each in (loss, twin)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert any(not torch.equal(value, before[key]) for key, value in state(loss).items())


def test_evaluation_uses_s_and_where_it_is_0_the_counts() -> None:
    """Against NumPy: the trained S of the region, whatever the validation batch counts."""
    loss = GHMC(bins=2, momentum=0.5)
    train = torch.full((8, 1), -3.0)  # g in the first region
    loss(train, torch.ones(8, dtype=torch.int64))
    val = torch.tensor([[-1.0], [-2.0], [4.0], [5.0], [6.0]])
    found = loss.eval()(val, torch.ones(5, dtype=torch.int64))
    s = np.array([4, 4, 3, 3, 3])  # (1 - α) 8; R
    ce = reference.cross_entropy(val.numpy()[:, 0].astype(float), 0.0)
    np.testing.assert_allclose(found, (ce / (2 * s)).sum(), rtol=1e-6)


def test_evaluation_before_any_training() -> None:
    for name in MAKE:
        assert MAKE[name]().eval()(*batch(name, 0)).isfinite()
    loss = MAKE['following']().eval()
    pred, target = batch('following', 0)
    mu = max(pred.abs().mean().item(), 0.02)
    expected = GHMR(mu=mu, bins=BINS, formula='floored')(pred, target)
    torch.testing.assert_close(loss(pred, target), expected)
    assert loss.mean_d == 0


def test_small_offsets_leave_mu_at_its_least_value() -> None:
    loss = GHMR(mu=0.02, bins=BINS, mu_momentum=0.5)
    pred, target = torch.full((9, 4), 1e-3), torch.zeros(9, 4)
    torch.testing.assert_close(loss(pred, target), GHMR(mu=0.02, bins=BINS)(pred, target))
    assert loss.mean_d.item() == pytest.approx(1e-3)
    assert float(loss.current_mu) == pytest.approx(0.02)
    loss(100 * pred, target)
    assert float(loss.current_mu) == pytest.approx(0.5 * (1e-3 + 0.1))
    assert GHMR(mu=0.03).current_mu == 0.03


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', MAKE)
def test_buffers_cast_behind_the_module_come_back(name: str, dtype: torch.dtype) -> None:
    """As FSDP's `buffer_dtype` casts them: not by `_apply`, which keeps them."""
    loss, twin = MAKE[name](), MAKE[name]()
    for seed in range(3):
        for buffer in loss.buffers():
            buffer.data = buffer.data.to(dtype)
        found, expected = (value_and_gradient(each, *batch(name, seed)) for each in (loss, twin))
        tolerance = 4 * torch.finfo(dtype).eps
        if name == 'following':  # another μ moves offsets to other regions
            found, expected = found[0], expected[0]
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-6)
        assert all(value.dtype == torch.float32 for value in state(loss).values())


def test_a_count_that_overflowed_is_that_of_the_call() -> None:
    loss = GHMC(bins=1, momentum=0.75)
    loss.acc_sum.fill_(1e5)
    loss.acc_sum.data = loss.acc_sum.half()
    assert loss.acc_sum.isinf().all()
    loss(torch.zeros(100, 1), torch.zeros(100, dtype=torch.int64))
    torch.testing.assert_close(loss.acc_sum, torch.tensor([100.0]))


@pytest.fixture(params=[torch.float16, torch.float64])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures('default_dtype')
@pytest.mark.parametrize('name', MAKE)
def test_the_default_dtype_is_not_that_of_the_state(name: str) -> None:
    loss = MAKE[name]()
    pred, target = batch(name, 0)
    loss(pred.float(), target.float() if name in OFFSETS else target)
    assert all(buffer.dtype == torch.float32 for buffer in loss.buffers())


@pytest.mark.skipif(not hasattr(torch, 'set_default_device'), reason='came with PyTorch 2.0')
@pytest.mark.parametrize('kernels', ['', 'torch'])
def test_the_default_device_is_not_that_of_the_tensors(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the CPU while 'meta', which has no values, is the default."""
    from ghm_mmdet.ops import cpu, regions, trial

    monkeypatch.setenv('GHM_MMDET_KERNELS', kernels)
    for name in MAKE:
        expected, loss = MAKE[name](), MAKE[name]()
        pred, target = batch(name, 0)
        regions.product_gives_region.cache_clear()
        torch.set_default_device('meta')
        try:
            found = value_and_gradient(loss, pred, target)
            assert trial.largest_error(cpu, pred, target, None, BINS) < 1e-6
        finally:
            torch.set_default_device(None)
        assert found[0].device.type == 'cpu'
        torch.testing.assert_close(found, value_and_gradient(expected, pred, target))


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's MPS."""

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_flatten(out)[0]):
            raise TypeError('Cannot convert a MPS Tensor to float64 dtype')
        return out


@pytest.mark.parametrize('name', MAKE)
def test_devices_without_float64(name: str) -> None:
    loss, twin = MAKE[name](), MAKE[name]()
    inputs._widest_dtype.cache_clear()
    try:
        for seed in range(3):
            with NoFloat64():
                found = value_and_gradient(loss, *batch(name, seed))
            inputs._widest_dtype.cache_clear()
            torch.testing.assert_close(found, value_and_gradient(twin, *batch(name, seed)))
            inputs._widest_dtype.cache_clear()
    finally:
        inputs._widest_dtype.cache_clear()
    with NoFloat64():
        OHEMLoss()(*batch('GHM-C', 0))
        AuthenticSmoothL1Loss()(*batch('GHM-R', 0))


@pytest.mark.skipif(
    not hasattr(torch._C, '_current_graph_task_id'), reason='PyTorch 1.13 can not tell'
)
@pytest.mark.parametrize('use_reentrant', [False, True])
@pytest.mark.parametrize('name', MAKE)
def test_activation_checkpointing(name: str, use_reentrant: bool) -> None:
    """The loss is computed twice, and S moves once; the gradient is that without."""
    loss, twin = MAKE[name](), MAKE[name]()
    for seed in range(3):
        pred, target = batch(name, seed)
        found, expected = pred.clone().requires_grad_(), pred.clone().requires_grad_()
        checkpoint(loss, found, target, use_reentrant=use_reentrant).backward()
        twin(expected, target).backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(state(loss), state(twin), rtol=0, atol=0)


@pytest.mark.parametrize('name', MAKE)
@pytest.mark.parametrize('reduction', ['mean', 'rows', 'positives'])
def test_no_collective_without_sync(
    name: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads call their losses only where there are positives: another process may not answer."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError('a collective')

    for module in (dist, ghm_c, ghm_r, gradient_harmonizing):
        for function in ('all_reduce', 'reduce_mean'):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, refuse)
    monkeypatch.setattr(gradient_harmonizing, 'get_world_size', lambda: 2)
    loss = MAKE[name]()
    if reduction != 'mean':
        if name not in ('GHM-C', 'tempered'):
            pytest.skip('of sigmoids alone')
        loss = GHMC(BINS, 0.75, reduction=reduction, formula=loss.formula)
    value_and_gradient(loss, *batch(name, 0))


@pytest.mark.parametrize('formula', ['official', 'tempered'])
def test_reductions_for_heads_that_divide_by_themselves(formula: str) -> None:
    """YOLOX: positives alone, one-hot times IoU, over their number; the others, over Σ p*."""
    generator = torch.Generator().manual_seed(0)
    pred, iou = torch.randn(9, CLASSES, generator=generator), torch.rand(9, 1, generator=generator)
    iou[3] = 0  # a box that misses: its row is a positive still
    target = nn.functional.one_hot(torch.arange(9) % CLASSES, CLASSES) * iou
    of_rows = (torch.arange(9) != 8).float()
    of_logits = of_rows[:, None].repeat(1, CLASSES)
    of_logits[1, :3] = 0  # a row is valid still, its positive is not
    for reduction, divisor, weight in (
        ('rows', 8.0, of_rows),
        ('positives', float(target[:8].sum()), of_rows),
        ('rows', 8.0, of_logits),
        ('positives', float(target[:8].sum() - target[1, 1]), of_logits),
    ):
        loss = GHMC(BINS, reduction=reduction, formula=formula)
        mean = GHMC(BINS, formula=formula)(pred, target, weight, avg_factor=divisor)
        torch.testing.assert_close(loss(pred, target, weight) / divisor, mean)
        plain = GHMC(BINS, formula=formula)
        found = loss(pred, target, weight, reduction_override='sum')
        assert found == plain(pred, target, weight, reduction_override='sum')
    # Without positives the head divides by 1.
    no_positive = GHMC(BINS, reduction='positives')(pred, torch.zeros_like(target))
    torch.testing.assert_close(no_positive, GHMC(BINS)(pred, torch.zeros_like(target)))
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum', got"):
        GHMC(use_sigmoid=False, reduction='rows')


def test_the_built_in_class_is_equalled_in_training() -> None:
    ours, theirs = GHMC(BINS, 0.75), BuiltInGHMC(BINS, 0.75)
    for seed in range(3):
        pred, labels = batch('GHM-C', seed)
        weight = torch.ones(ROWS)
        torch.testing.assert_close(ours(pred, labels, weight), theirs(pred, labels, weight))
    assert torch.equal(ours.acc_sum, theirs.acc_sum)
