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

import pytest
import torch
from torch import Tensor

from ghm_mmdet import ops
from ghm_mmdet.formulas import Settings
from ghm_mmdet.functional import ghm_c_loss
from ghm_mmdet.ops import cpu, trial


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


def wrong_counts(*args: Any) -> tuple[Tensor, Tensor, cpu.Regions]:
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
    assert ops.choose_kernels(pred, labels, None, Settings(30)) is None


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
    return pred, zeros('target', target), weight and zeros('weight', weight), bins


def try_all() -> None:
    for kind in KINDS:
        assert trial.passed(ops._triton, *tensors(kind)) is ops._triton(), kind


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
    assert trial.largest_error(cpu, *like) < 1e-6
    lost = SimpleNamespace(count=lambda *args: cpu.count(*args[:2], None, args[3]), weigh=cpu.weigh)
    assert (trial.largest_error(lost, *like) > 1e-3) == (like[2] is not None)
    shifted = SimpleNamespace(
        count=lambda pred, target, *rest: cpu.count(pred, target.roll(1, 0), *rest),
        weigh=cpu.weigh,
    )
    assert trial.largest_error(shifted, *like) > 1e-3


def test_each_kind_has_a_trial_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile that fails for dense targets alone is a warning at the first of them."""

    def fails_for_dense(pred: Tensor, target: Tensor, *rest: Any) -> Any:
        if target.shape == pred.shape:
            raise RuntimeError('PassManager::run failed')
        return cpu.count(pred, target, *rest)

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


def test_tensors_of_a_kind_are_compiled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the constants that the kernels are launched with, and by the dtypes."""
    triton_kernels = pytest.importorskip('ghm_mmdet.ops.triton_kernels')
    launched = []

    class Kernel:
        def __getitem__(self, grid: tuple) -> Any:
            return lambda *args, **constants: launched.append((args, constants))

    compiled: dict[tuple, set] = {}
    shapes = [(200, 4), (400, 4), (200, 5), (201, 5), (203, 5)]
    for shape, bins, dense, weight_of in itertools.product(shapes, (10, 30), *2 * [(0, 1, 2)]):
        pred = torch.zeros(shape)
        target = (pred[:, 0].long(), pred, pred.half())[dense]
        weight = (None, pred[:, 0].bool(), pred)[weight_of]
        triton_kernels._launch(Kernel(), (), pred, target, weight, bins)
        args, constants = launched.pop()
        compiles = tuple(x.dtype for x in args[:3]), tuple(constants.items())
        kind = trial.kind_of(pred, target, weight, bins)
        compiled.setdefault(kind, set()).add(compiles)
    assert all(len(compiles) == 1 for compiles in compiled.values())
    # (400, 4) is of the kind of (200, 4), and (203, 5) of that of (201, 5).
    assert len(compiled) == 3 * 2 * 3 * 3


def test_the_last_bits_do_not_decide_the_trial() -> None:
    """Of a sigmoid, whose g may lie in another region where it is near an edge."""
    off = SimpleNamespace(
        count=lambda pred, *rest: cpu.count(pred * (1 + 1e-6), *rest),
        weigh=lambda pred, *rest: cpu.weigh(pred * (1 + 1e-6), *rest),
    )
    pred, labels = torch.zeros(500, 80), torch.zeros(500, dtype=torch.int64)
    assert 0 < trial.largest_error(off, pred, labels, None, 255) < trial.TOLERANCE


def test_the_plain_formula_of_the_trial_is_that_of_the_paper() -> None:
    """The counts are those of Eq. 9, the loss and its gradient those of autograd."""
    from ghm_mmdet.functional import assign_regions, classification_gradient_norm, count_regions

    bins, classes = 30, 8
    pred, labels = torch.randn(50, classes).double(), torch.randint(0, classes + 1, (50,))
    p_star = torch.nn.functional.one_hot(labels, classes + 1)[:, :-1].double()
    weights = torch.rand(bins + 1).double()
    counts, loss, gradient = trial.plain(pred, weights, p_star, None)
    regions = assign_regions(classification_gradient_norm(pred, p_star), bins)
    assert torch.equal(counts, count_regions(regions, bins))
    x = pred.clone().requires_grad_()
    each = torch.nn.functional.binary_cross_entropy_with_logits(x, p_star, reduction='none')
    (weights[regions] * each).sum().backward()
    torch.testing.assert_close((loss, gradient), ((weights[regions] * each.detach()).sum(), x.grad))
