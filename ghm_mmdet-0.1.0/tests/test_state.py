"""The state of the losses: who changes it, who keeps its dtype, where it lives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, OHEMLoss
from ghm_mmdet.functional import paper
from ghm_mmdet.losses import base, ghm_c, gradient_harmonizing

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
    from ghm_mmdet.functional.passes import reference
    from ghm_mmdet.ops import cpu, trial

    monkeypatch.setenv('GHM_MMDET_KERNELS', kernels)
    for name in MAKE:
        expected, loss = MAKE[name](), MAKE[name]()
        pred, target = batch(name, 0)
        torch.set_default_device('meta')
        try:
            found = value_and_gradient(loss, pred, target)
            like = trial.Batch(pred, target, None)
            assert trial.largest_error(cpu, reference, like, BINS) < 1e-6
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
def test_devices_without_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, twin = MAKE[name](), MAKE[name]()
    for seed in range(3):
        with NoFloat64(), monkeypatch.context() as patch:
            patch.setattr(paper, 'NO_FLOAT64', ('cpu',))
            found = value_and_gradient(loss, *batch(name, seed))
        torch.testing.assert_close(found, value_and_gradient(twin, *batch(name, seed)))
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

    monkeypatch.setattr(dist, 'all_reduce', refuse)
    for module in (base, ghm_c, gradient_harmonizing):
        monkeypatch.setattr(module, 'world_size', lambda: 2)
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


def test_reset_begins_anew() -> None:
    """Between the folds of a cross-validation, as BatchNorm's statistics."""
    for name, make in MAKE.items():
        loss, fresh = make(), make()
        loss(*batch(name, 0, 3.0))
        loss.reset_parameters()
        torch.testing.assert_close(dict(loss.named_buffers()), dict(fresh.named_buffers()))
        values = [value_and_gradient(each, *batch(name, 1)) for each in (loss, fresh)]
        torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(torch, 'set_default_device'), reason='came with PyTorch 2.0')
@pytest.mark.parametrize('name', MAKE)
def test_a_module_of_the_meta_device_is_that_of_the_cpu(name: str) -> None:
    """As FSDP makes it: `to_empty`, then `reset_parameters`; memory may hold anything."""
    fresh = MAKE[name]()
    with torch.device('meta'):
        loss = MAKE[name]()
    loss.to_empty(device='cpu')
    for buffer in loss.buffers():
        buffer.fill_(torch.nan)
    loss.reset_parameters()
    torch.testing.assert_close(dict(loss.named_buffers()), dict(fresh.named_buffers()))
    values = [value_and_gradient(each, *batch(name, 0)) for each in (loss, fresh)]
    torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize('name', MAKE)
def test_to_a_device_and_to_half_precision_in_one_call(name: str) -> None:
    loss = MAKE[name]().to('meta', torch.float16)
    assert {buffer.device.type for buffer in loss.buffers()} == {'meta'}
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}


def test_class_weights_that_are_set_later_count() -> None:
    pred, labels = batch('softmax', 0)
    loss = GHMC(BINS, use_sigmoid=False, class_weight=[1.0, 2.0, 3.0, 0.5])
    other = GHMC(BINS, use_sigmoid=False, class_weight=torch.tensor([4.0, 1.0, 1.0, 1.0]))
    loss.class_weight = [4.0, 1.0, 1.0, 1.0]
    assert loss(pred, labels) == other(pred, labels)
    loss.class_weight = None
    assert loss(pred, labels) == GHMC(BINS, use_sigmoid=False)(pred, labels)
    assert 'class_factor' not in other.state_dict()


@pytest.mark.parametrize(
    ('make', 'name', 'value', 'words'),
    [
        (lambda: GHMC(use_sigmoid=False), 'reduction', 'rows', "reduction must be one of 'none'"),
        (lambda: GHMC(), 'reduction', 'row', "'rows', 'positives', got 'row'"),
        (lambda: GHMC(), 'class_weight', [1.0], 'class_weight must be None where use_sigmoid=True'),
        (lambda: GHMC(), 'ignore_index', 255, 'ignore_index must be None where use_sigmoid=True'),
        (lambda: GHMC(), 'formula', 'mine', 'formula must be one of'),
        (lambda: GHMC(), 'bins', 20, 'bins can not be set later'),
        (lambda: GHMC(), 'use_sigmoid', False, 'use_sigmoid can not be set later'),
        (lambda: GHMC(), 'momentum', 0.5, 'momentum can not be set later'),
        (lambda: GHMR(), 'mu_momentum', 0.5, 'mu_momentum can not be set later'),
        (lambda: GHMR(), 'mu', 0.0, 'mu must be > 0, got 0.0'),
        (lambda: GHMR(), 'mu', 1e-20, 'mu must be >= 1.1e-19'),
        (lambda: OHEMLoss(), 'neg_pos_ratio', 0, 'neg_pos_ratio must be > 0'),
        (lambda: AuthenticSmoothL1Loss(), 'reduction', 'all', "got 'all'"),
    ],
)
def test_a_setting_is_checked_when_it_is_set(
    make: Callable[[], nn.Module], name: str, value: object, words: str
) -> None:
    loss = make()
    before = getattr(loss, name)
    with pytest.raises(ValueError, match=words):
        setattr(loss, name, value)
    assert getattr(loss, name) == before


def test_the_exact_density_has_no_average_whenever_it_is_set() -> None:
    loss = GHMC(BINS, 0.75)
    loss.density = 'exact'
    with pytest.raises(ValueError, match=r"density='exact'.* momentum=0.75 and sync=False"):
        loss(*batch('GHM-C', 0))


def test_two_names_of_the_weight_are_one_too_many() -> None:
    pred, labels = batch('GHM-C', 0)
    ones = torch.ones(ROWS)
    for loss, target in ((GHMC(), labels), (GHMR(), torch.zeros_like(pred))):
        with pytest.raises(ValueError, match='label_weight and weight are two names'):
            loss(pred, target, ones, weight=ones)


@pytest.mark.parametrize('make', [GHMC, GHMR, OHEMLoss, AuthenticSmoothL1Loss])
def test_weights_of_rows_with_a_last_dimension_of_1(make: type[nn.Module]) -> None:
    pred, labels = batch('GHM-C', 0)
    target = labels if make in (GHMC, OHEMLoss) else torch.zeros_like(pred)
    rows = (torch.arange(ROWS) % 3 > 0).float()
    assert make()(pred, target, rows[:, None]) == make()(pred, target, rows)


@pytest.mark.skipif(
    not hasattr(torch._C, '_current_graph_task_id'), reason='PyTorch 1.13 can not tell'
)
@pytest.mark.parametrize('use_reentrant', [False, True])
def test_a_call_whose_average_has_gone_on_is_not_computed_again(use_reentrant: bool) -> None:
    """One loss for several levels: its gradient would be off by as much as S has changed."""
    loss, (pred, labels) = GHMC(BINS, 0.75), batch('GHM-C', 0)
    leaves = [x.clone().requires_grad_() for x in (pred, pred[:50] + 2)]
    values = [checkpoint(loss, x, labels[: len(x)], use_reentrant=use_reentrant) for x in leaves]
    with pytest.raises(RuntimeError, match='call the loss outside of the checkpointed function'):
        sum(values).backward()


def test_presets_of_the_modules() -> None:
    """What `sigmoid_focal_loss(alpha=0.25, reduction='sum') / num_positives` becomes."""
    pred, labels = batch('GHM-C', 0)
    loss = GHMC.from_preset(loss_weight=0.25, momentum=0)
    expected = GHMC(30, loss_weight=0.25, formula='tempered')
    assert loss(pred, labels) == expected(pred, labels)
    assert GHMC.from_preset().momentum == 0.75 and GHMR.from_preset().mu_momentum == 0.9
    assert GHMR.from_preset('released').formula == 'official'
    with pytest.raises(ValueError, match="preset must be one of 'released', 'tempered', got 'x'"):
        GHMR.from_preset('x')
