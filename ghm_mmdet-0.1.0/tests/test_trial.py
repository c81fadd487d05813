"""The trial of the Triton kernels at their first use, with kernels that fail or are wrong."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ghm_mmdet import ops
from ghm_mmdet.formulas import Settings
from ghm_mmdet.functional import ghm_c_loss
from ghm_mmdet.functional.passes import reference
from ghm_mmdet.ops import cpu, trial
from ghm_mmdet.ops.trial import Batch

from . import reference as equations


@pytest.fixture(autouse=True)
def cpu_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send tensors of the CPU through the trial, as tensors of CUDA are."""
    monkeypatch.setattr(ops, 'kernels_of', lambda device_type: 'triton')
    monkeypatch.setattr(ops, '_tried', {})
    monkeypatch.delenv('GHM_MMDET_KERNELS', raising=False)
    yield


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(200, 5, generator=generator).requires_grad_()
    return pred, torch.randint(0, 6, (200,), generator=generator)


def use(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Let the kernels be those of the CPU, but for what is changed."""
    kernels = SimpleNamespace(count=cpu.count, weigh=cpu.weigh)
    vars(kernels).update(changed)
    monkeypatch.setattr(ops, '_triton', lambda: kernels)


def raising(*args: object) -> None:
    raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable.')


def wrong_loss(*args: Any) -> tuple[Tensor, Tensor | None]:
    total, gradient = cpu.weigh(*args)
    return total * (1 + 3e-5), gradient


def wrong_gradient(*args: Any) -> tuple[Tensor, Tensor | None]:
    total, gradient = cpu.weigh(*args)
    gradient = gradient.clone()
    gradient[0, 0] += 3e-5 * gradient.abs().max()
    return total, gradient


def wrong_counts(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    counts, finite, regions = cpu.count(*args)
    return counts.roll(1), finite, regions


def not_a_number(*args: Any) -> tuple[Tensor, Tensor | None]:
    total, gradient = cpu.weigh(*args)
    return total * float('nan'), gradient


def missing() -> None:
    raise ModuleNotFoundError("No module named 'triton'")


@pytest.mark.parametrize(
    ('changed', 'reason'),
    [
        (dict(count=raising), 'RuntimeError: Failed to find C compiler'),
        (dict(weigh=raising), 'RuntimeError: Failed to find C compiler'),
        (dict(weigh=wrong_loss), r'differ from the plain formula by 3.0e-05'),
        (dict(weigh=wrong_gradient), r'differ from the plain formula by 3.0e-05'),
        (dict(count=wrong_counts), 'differ from the plain formula by'),
        (dict(weigh=not_a_number), 'differ from the plain formula by inf'),
    ],
)
def test_kernels_that_do_not_work_are_replaced_by_the_plain_formula(
    changed: dict, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning in a process, which names the reason; the value is that of the equations."""
    use(monkeypatch, **changed)
    pred, labels = batch()
    with pytest.warns(UserWarning, match=reason) as caught:
        first = ghm_c_loss(pred, labels)
    assert len(caught) == 1 and 'GHM_MMDET_KERNELS=torch' in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        second = ghm_c_loss(pred, labels)
    expected = ghm_c_loss(pred, labels, reduction='none').mean()
    torch.testing.assert_close([first, second], [expected, expected])
    assert ops.choose_kernels(Batch(pred, labels, None), Settings(30), reference) is None


def test_triton_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, '_triton', missing)
    pred, labels = batch()
    with pytest.warns(UserWarning, match="ModuleNotFoundError: No module named 'triton'"):
        ghm_c_loss(pred, labels).backward()
    assert pred.grad.any()


def test_kernels_that_work_are_used_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    use(monkeypatch, count=lambda *args: calls.append(1) or cpu.count(*args))
    pred, labels = batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ghm_c_loss(pred, labels)
        in_the_trial = len(calls) - 1
        ghm_c_loss(pred, labels)
    assert len(calls) == in_the_trial + 2


def test_the_variable_forces_kernels_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, weigh=wrong_loss)
    monkeypatch.setenv('GHM_MMDET_KERNELS', 'triton')
    pred, labels = batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = ghm_c_loss(pred, labels)
    expected = ghm_c_loss(pred, labels, reduction='none').mean()
    torch.testing.assert_close(found, expected * (1 + 3e-5))


#: M, the shape of the logits, the dtypes of logits, target and weight; what is of logits.
KINDS = [
    (30, (40, 8), torch.float32, torch.int64, torch.float32, ''),
    (255, (41, 1), torch.float16, torch.int32, None, ''),
    (10, (41, 3), torch.bfloat16, torch.float32, torch.float32, 'target weight'),
    (7, (40, 2), torch.float32, torch.float16, torch.bool, 'target weight'),
]


def tensors(kind: tuple) -> tuple:
    bins, shape, pred, target, weight, of_logits = kind

    def zeros(name: str, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape if name in of_logits else shape[:1], dtype=dtype)

    pred = torch.zeros(shape, dtype=pred)
    return Batch(pred, zeros('target', target), weight and zeros('weight', weight)), bins


def try_all() -> None:
    for kind in KINDS:
        assert trial.passed(ops._triton, reference, *tensors(kind)) is ops._triton(), kind


def test_kernels_of_the_interpreter_pass() -> None:
    """For what heads pass: labels or dense targets, of any dtype, with any kind of weight."""
    pytest.importorskip('triton', minversion='3.0')
    script = 'from tests.test_trial import try_all; try_all()'
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    command = [sys.executable, '-W', 'error::UserWarning', '-c', script]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize('kind', KINDS)
def test_kernels_of_every_kind_are_tried(kind: tuple) -> None:
    """The CPU's pass, and those do not whose weights or targets are lost."""
    like = tensors(kind)
    assert trial.largest_error(cpu, reference, *like) < 1e-6
    lost = SimpleNamespace(
        count=lambda batch, bins: cpu.count(batch._replace(weight=None), bins), weigh=cpu.weigh
    )
    assert (trial.largest_error(lost, reference, *like) > 1e-3) == (like[0].weight is not None)
    shifted = SimpleNamespace(
        count=lambda batch, bins: cpu.count(batch._replace(target=batch.target.roll(1, 0)), bins),
        weigh=cpu.weigh,
    )
    assert trial.largest_error(shifted, reference, *like) > 1e-3


def test_each_kind_has_a_trial_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile that fails for dense targets alone is a warning at the first of them."""

    def fails_for_dense(batch: Batch, bins: int) -> Any:
        if batch.target.shape == batch.pred.shape:
            raise RuntimeError('PassManager::run failed')
        return cpu.count(batch, bins)

    use(monkeypatch, count=fails_for_dense)
    pred, labels = batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ghm_c_loss(pred, labels)
        ghm_c_loss(pred[:100], labels[:100])
    dense = torch.nn.functional.one_hot(labels, 6)[:, :5].float()
    with pytest.warns(UserWarning, match='PassManager::run failed'):
        found = ghm_c_loss(pred, dense)
    torch.testing.assert_close(found, ghm_c_loss(pred, labels))


SIZES = [(2, 300), (2, 1200), (6, 507), (5000,), (5001,), (60_000,), (17, 3)]


@pytest.mark.parametrize('form', ['dense', 'labels'])
def test_sizes_share_a_trial(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of YOLOv3's objectness in multi-scale training, and of 1-D logits; whatever M."""
    use(monkeypatch)
    tried = []
    passed = trial.passed
    monkeypatch.setattr(trial, 'passed', lambda *args: tried.append(args) or passed(*args))
    for shape, bins in itertools.product(SIZES, (10, 30)):
        pred = torch.zeros(shape)
        if form == 'dense':
            ghm_c_loss(pred, pred, pred, bins=bins)
        elif pred.dim() > 1:
            ghm_c_loss(pred, pred[:, 0].long(), pred[:, 0], bins=bins)
    assert len(tried) == 1


def test_a_trial_is_of_a_bounded_number_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def count(batch: Batch, bins: int) -> Any:
        counted.append(batch.pred.numel())
        return cpu.count(batch, bins)

    kernels = SimpleNamespace(count=count, weigh=cpu.weigh)
    for shape in ((200_000,), (3, 80), (1, 100_000), (4, 1)):
        pred = torch.zeros(shape)
        assert trial.largest_error(kernels, reference, Batch(pred, pred, None), 30) < 1e-6
        labels = torch.zeros(shape[:-1], dtype=torch.int64)
        assert trial.largest_error(kernels, reference, Batch(pred, labels, None), 30) < 1e-6
    assert max(counted) < 2 * trial.SIZE and min(counted) > trial.SIZE / 2


def test_a_lack_of_memory_says_nothing_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes: the next call tries again, and the kernels are used from then on."""
    calls = []

    def count(batch: Batch, bins: int) -> Any:
        calls.append(batch)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return cpu.count(batch, bins)

    use(monkeypatch, count=count)
    pred, labels = batch()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ghm_c_loss(pred, labels)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ghm_c_loss(pred, labels)
    assert len(calls) == 3 and calls[-1].pred is pred


def test_no_edge_is_near_the_logits_of_the_trial() -> None:
    """So that the last bit of a sigmoid does not decide, for any M."""
    x = torch.arange(-8, 9).double()
    for bins in range(1, ops.MAX_REGIONS + 1):
        place = x[x != 0].sigmoid() * bins
        assert (place - place.round()).abs().min() > 1e-5
    off = SimpleNamespace(
        count=lambda batch, bins: cpu.count(batch._replace(pred=batch.pred * (1 + 1e-6)), bins),
        weigh=lambda batch, *rest: cpu.weigh(batch._replace(pred=batch.pred * (1 + 1e-6)), *rest),
    )
    like = Batch(torch.zeros(500, 80), torch.zeros(500, dtype=torch.int64), None)
    assert 0 < trial.largest_error(off, reference, like, 255) < trial.TOLERANCE


def test_the_reference_of_the_trial_is_that_of_the_paper() -> None:
    """The counts are those of Eq. 9, the loss and its gradient those of NumPy."""
    bins, classes = 30, 8
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(50, classes)), rng.integers(0, classes + 1, 50)
    p_star, w, weight = equations.one_hot(labels, classes), rng.random(bins), rng.random(50) < 0.8
    slope = equations.sigmoid(x) - p_star
    valid = np.broadcast_to(weight[:, None], x.shape)
    of_logits = np.vectorize(lambda g: w[equations.region_of(g, bins)])(np.abs(slope)) * valid
    batch = Batch(*(torch.from_numpy(a) for a in (x, labels, weight)))
    counts, loss, gradient = reference(batch, torch.from_numpy(w))
    np.testing.assert_array_equal(counts, equations.region_counts(np.abs(slope), bins, valid))
    np.testing.assert_allclose(loss, (of_logits * equations.cross_entropy(x, p_star)).sum())
    np.testing.assert_allclose(gradient, of_logits * slope)


def test_what_the_kernels_are_launched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """64-bit offsets from 2^31 logits on, whole groups of four, and the width of a row."""
    triton_kernels = pytest.importorskip('ghm_mmdet.ops.triton_kernels')
    launched = []

    class Kernel:
        def __getitem__(self, grid: tuple) -> Any:
            return lambda *args, **constants: launched.append(constants)

    monkeypatch.setattr(triton_kernels, '_pass_kernel', Kernel())

    def constants(shape: tuple, of_rows: bool) -> dict:
        pred = torch.empty(shape, device='meta')
        target = pred[:, 0].long() if of_rows else pred
        triton_kernels._launch((), Batch(pred, target, None), 30, COUNT=32, GRADIENT=False)
        return launched.pop()

    largest = 2**31 - triton_kernels.BLOCK
    assert not constants((largest - 1,), False)['WIDE'] and constants((largest,), False)['WIDE']
    assert constants((8, 5), True)['WIDTH'] == 5 and constants((8, 5), False)['WIDTH'] == 4
    assert constants((8, 5), True)['WHOLE'] and not constants((9, 5), True)['WHOLE']
