"""The trial of the Triton kernels at their first use, with kernels that fail or are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ghm_mmdet import ops
from ghm_mmdet.formulas import Settings
from ghm_mmdet.functional import ghm_c_loss
from ghm_mmdet.ops import cpu, trial

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def cpu_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send tensors of the CPU through the trial, as tensors of CUDA are."""
    monkeypatch.setattr(ops, 'kernels_of', lambda device_type: 'triton')
    ops._tried_triton.cache_clear()
    yield
    ops._tried_triton.cache_clear()


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
    counts, finite, index = cpu.count(*args)
    return counts.roll(1), finite, index


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
    assert ops.choose_kernels(pred, labels, Settings(30)) is None


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


def test_kernels_of_the_interpreter_pass() -> None:
    pytest.importorskip('triton', minversion='3.0')
    script = (
        'import torch; from ghm_mmdet import ops; from ghm_mmdet.ops import trial\n'
        "assert trial.passed(ops._triton, torch.device('cpu'), '') is ops._triton()"
    )
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    subprocess.run(
        [sys.executable, '-W', 'error::UserWarning', '-c', script], check=True, env=environment
    )


def test_the_plain_formula_of_the_trial_is_that_of_the_paper() -> None:
    """The counts are those of Eq. 9, the loss and its gradient those of autograd."""
    from ghm_mmdet.functional import assign_regions, classification_gradient_norm, count_regions

    pred, labels = torch.randn(50, trial.CLASSES), torch.randint(0, trial.CLASSES + 1, (50,))
    p_star = torch.nn.functional.one_hot(labels, trial.CLASSES + 1)[:, :-1].float()
    weights = torch.rand(trial.BINS + 1)
    counts, loss, gradient = trial.plain(pred, weights, p_star, None)
    regions = assign_regions(classification_gradient_norm(pred, p_star), trial.BINS)
    assert torch.equal(counts, count_regions(regions, trial.BINS))
    x = pred.clone().requires_grad_()
    each = torch.nn.functional.binary_cross_entropy_with_logits(x, p_star, reduction='none')
    (weights[regions] * each).sum().backward()
    torch.testing.assert_close((loss, gradient), ((weights[regions] * each.detach()).sum(), x.grad))
