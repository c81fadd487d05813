"""GHM-C of a softmax: against float64 NumPy, against the sigmoid form, in MMDetection's heads."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ghm_mmdet import GHMC, OHEMLoss
from ghm_mmdet.formulas import FORMULAS
from ghm_mmdet.functional import ghm_c_loss, softmax_ghm_c_loss, softmax_gradient_norm

from . import reference

CLOSE = dict(rtol=1e-9, atol=1e-12)


def random_rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, classes = rng.integers(1, 200), rng.integers(1, 12)
    x = rng.normal(0, 3, (rows, classes + 1))
    return x, rng.integers(0, classes + 1, rows), (rng.random(rows) < 0.8).astype(float)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_gradient_norm_is_that_of_cross_entropy() -> None:
    """1 - p_y: the gradient's entry at the label, and half its L1 norm."""
    x, labels = tensors(*random_rows(0)[:2])
    x.requires_grad_()
    loss = F.cross_entropy(x, labels, reduction='none')
    loss.sum().backward()
    g = softmax_gradient_norm(loss.detach())
    np.testing.assert_allclose(g, x.grad[range(len(x)), labels].abs(), **CLOSE)
    np.testing.assert_allclose(g, x.grad.abs().sum(1) / 2, **CLOSE)


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('density', ['region', 'exact'])
def test_loss_of_the_paper(seed: int, density: str) -> None:
    x, labels, weight = random_rows(seed)
    bins = int(np.random.default_rng(seed).integers(1, 41))
    loss = reference.softmax_cross_entropy(x, labels)
    g, valid = 1 - np.exp(-loss), weight > 0
    if density == 'region':
        expected, _ = reference.paper_region_loss(loss, g, valid, bins)
    else:
        expected = reference.exact_loss(loss, g, valid, bins)
    settings = dict(bins=bins, density=density, formula='paper')
    found = softmax_ghm_c_loss(*tensors(x, labels, weight), **settings)
    np.testing.assert_allclose(found, expected, **CLOSE)
    total = softmax_ghm_c_loss(*tensors(x, labels, weight), reduction='sum', **settings)
    np.testing.assert_allclose(total, expected * max(valid.sum(), 1), **CLOSE)


@pytest.mark.parametrize('momentum', [0.0, 0.75])
def test_moving_average_of_the_paper(momentum: float) -> None:
    bins, rng, average = 10, np.random.default_rng(0), np.zeros(10)
    loss = GHMC(bins, momentum, use_sigmoid=False, formula='paper').double()
    for scale in (0.1, 5, 0.1, 1, 3):
        x, labels = rng.normal(0, scale, (40, 4)), rng.integers(0, 4, 40)
        cross_entropy = reference.softmax_cross_entropy(x, labels)
        expected, average = reference.paper_region_loss(
            cross_entropy, 1 - np.exp(-cross_entropy), labels >= 0, bins, momentum, average
        )
        np.testing.assert_allclose(loss(*tensors(x, labels)), expected, **CLOSE)
        if momentum:
            np.testing.assert_allclose(loss.acc_sum, average, **CLOSE)


@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('density', ['region', 'exact'])
def test_two_classes_are_the_sigmoid_of_the_difference(density: str, formula: str) -> None:
    x, _, weight = tensors(*random_rows(3))
    x = x[:, :2].clone().requires_grad_()
    labels = torch.randint(0, 2, (len(x),), generator=torch.Generator().manual_seed(0))
    settings = dict(bins=12, density=density, formula=formula)
    if formula == 'tempered':
        settings['avg_factor'] = 7
    softmax = softmax_ghm_c_loss(x, labels, weight, **settings)
    gradient = torch.autograd.grad(softmax, x)[0]
    sigmoid = ghm_c_loss((x[:, 1] - x[:, 0])[:, None], labels[:, None].double(), weight, **settings)
    torch.testing.assert_close(softmax, sigmoid, **CLOSE)
    torch.testing.assert_close(gradient, torch.autograd.grad(sigmoid, x)[0], **CLOSE)


def test_official_divides_by_the_filled_regions() -> None:
    x, labels, _ = random_rows(5)
    loss = reference.softmax_cross_entropy(x, labels)
    g = 1 - np.exp(-loss)
    counts = reference.region_counts(g, 10, labels >= 0)
    region = [reference.region_of(value, 10) for value in g]
    expected = (loss / counts[region]).sum() / (counts > 0).sum()
    found = softmax_ghm_c_loss(*tensors(x, labels), bins=10, formula='official')
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize('density', ['region', 'exact'])
def test_gradient_is_that_of_frozen_weights(density: str) -> None:
    """Autograd of Σ β_i w_y CE_i / N with β as a constant, and gradcheck of it."""
    x, labels, weight = tensors(*random_rows(7))
    x.requires_grad_()
    class_weight = torch.linspace(0.5, 2, x.shape[1], dtype=x.dtype)
    settings = dict(bins=8, density=density, class_weight=class_weight, ignore_index=0)
    softmax_ghm_c_loss(x, labels, weight, **settings).backward()
    found, x.grad = x.grad, None

    counted = (weight > 0) & (labels != 0)
    elementwise = softmax_ghm_c_loss(x, labels, weight, reduction='none', **settings).detach()
    beta = elementwise / F.cross_entropy(x, labels, reduction='none').detach()
    assert torch.equal(beta > 0, counted)

    def frozen(logits: Tensor) -> Tensor:
        return (beta * F.cross_entropy(logits, labels, reduction='none')).sum() / counted.sum()

    frozen(x).backward()
    torch.testing.assert_close(found, x.grad, **CLOSE)
    assert torch.autograd.gradcheck(frozen, x)


@pytest.mark.parametrize('density', ['region', 'exact'])
def test_rows_that_are_not_valid_do_not_count(density: str) -> None:
    x, labels, weight = tensors(*random_rows(9))
    kept, class_weight = weight > 0, torch.linspace(0.5, 2, x.shape[1])
    settings = dict(use_sigmoid=False, density=density, class_weight=class_weight)
    by_weight, by_index = (GHMC(10, ignore_index=index, **settings) for index in (None, 99))
    expected = by_weight(x[kept], labels[kept])
    for not_kept in (0.0, -1.0):
        weight = torch.where(kept, 0.3, not_kept)
        torch.testing.assert_close(by_weight(x, labels, weight), expected, **CLOSE)
    torch.testing.assert_close(
        by_weight(x, torch.where(kept, labels, torch.tensor(-100))), expected, **CLOSE
    )
    torch.testing.assert_close(
        by_index(x, torch.where(kept, labels, torch.tensor(99))), expected, **CLOSE
    )
    ignored = by_index(x, torch.full_like(labels, 99), reduction_override='none')
    assert ignored.shape == labels.shape and not ignored.any()


def test_any_class_may_be_ignored() -> None:
    x, labels, _ = tensors(*random_rows(9))
    kept = labels != 0
    found = GHMC(10, use_sigmoid=False, ignore_index=0)(x, labels)
    expected = GHMC(10, use_sigmoid=False)(x[kept], labels[kept])
    torch.testing.assert_close(found, expected, **CLOSE)


def test_class_weight_is_a_factor_of_the_loss_alone() -> None:
    x, labels, weight = tensors(*random_rows(11))
    class_weight = [0.1 * (c + 1) for c in range(x.shape[1])]
    plain, weighted = (
        GHMC(10, 0.75, use_sigmoid=False, class_weight=w) for w in (None, class_weight)
    )
    of_rows = plain(x, labels, weight, reduction_override='none')
    found = weighted(x, labels, weight, reduction_override='none')
    torch.testing.assert_close(found, of_rows * torch.tensor(class_weight)[labels].double())
    assert torch.equal(plain.acc_sum, weighted.acc_sum)
    mean = weighted(x, labels, weight)
    again = GHMC(10, 0.75, use_sigmoid=False)
    again(x, labels, weight)
    of_rows = again(x, labels, weight, reduction_override='none')
    expected = (of_rows * torch.tensor(class_weight)[labels]).sum() / (weight > 0).sum()
    torch.testing.assert_close(mean, expected)


def test_edges_of_the_data() -> None:
    loss = GHMC(10, use_sigmoid=False)
    for rows in (0, 5):
        x = torch.randn(rows, 4, requires_grad=True)
        value = loss(x, torch.zeros(rows).long(), torch.zeros(rows))
        value.backward()
        assert value == 0 and x.grad.shape == (rows, 4) and not x.grad.any()
    x, labels = torch.randn(50, 4), torch.randint(0, 4, (50,))
    assert loss(x, labels, avg_factor=7) == loss(x, labels) == loss(x, labels.int())
    for dtype in (torch.float16, torch.bfloat16):
        assert loss(x.to(dtype), labels) == loss(x.to(dtype).float(), labels)
    saturated = loss(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([0, 0]))
    assert saturated == 1e4 / 2
    with pytest.raises(IndexError, match='Target 4 is out of bounds'):
        loss(x, torch.full((50,), 4))


def test_buffers_are_those_of_the_sigmoid_form() -> None:
    sigmoid, softmax = (GHMC(7, 0.75, use_sigmoid=use) for use in (True, False))
    softmax(torch.randn(20, 4), torch.randint(0, 4, (20,)))
    class_weight = GHMC(7, 0.75, use_sigmoid=False, class_weight=[1.0, 2.0, 3.0, 4.0])
    class_weight.load_state_dict(softmax.state_dict(), strict=True)
    assert class_weight.state_dict().keys() == sigmoid.state_dict().keys()
    sigmoid.load_state_dict(softmax.state_dict(), strict=True)
    assert torch.equal(sigmoid.acc_sum, softmax.acc_sum)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(use_sigmoid=1), 'use_sigmoid must be True or False, got 1'),
        (dict(class_weight=[1.0]), r'class_weight must be None .* got \[1.0\]'),
        (dict(ignore_index=3), 'ignore_index must be None .* got 3'),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(TypeError if 'use_sigmoid' in settings else ValueError, match=message):
        GHMC(**settings)


LOGITS, LABELS = torch.zeros(4, 3), torch.zeros(4).long()


@pytest.mark.parametrize(
    ('class_weight', 'args', 'error', 'message'),
    [
        (
            [1.0, 2.0], (LOGITS, LABELS), ValueError,
            r'class_weight must have the shape \(3,\), got \(2,\)',
        ),
        (
            None, (LOGITS, torch.zeros(4, 3)), ValueError,
            r'target must have the shape \(4,\), got \(4, 3\)',
        ),
        (
            None, (LOGITS, LABELS, torch.ones(4, 3)), ValueError,
            r'weight must have the shape \(4,\), got \(4, 3\)',
        ),
        (
            None, (torch.zeros(4, 3, 2), torch.zeros(4, 3).long()), ValueError,
            r'pred must have the shape \(N, C\), got \(4, 3, 2\)',
        ),
        (
            None, (LOGITS, (torch.zeros(4), torch.zeros(4))), TypeError,
            'target must be a Tensor, got tuple',
        ),
        (None, (LOGITS, torch.zeros(4)), TypeError, 'must hold integer labels'),
    ],
)  # fmt: skip
def test_wrong_arguments(
    class_weight: list | None, args: tuple, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        GHMC(use_sigmoid=False, class_weight=class_weight)(*args)


# MMDetection's heads.


@pytest.mark.parametrize('loss', [GHMC, OHEMLoss])
def test_the_signature_is_that_of_the_arguments(loss: type) -> None:
    """Which `help` and a notebook show, though building from a config is checked."""
    shown = inspect.signature(loss).parameters
    assert [*shown] == [*inspect.signature(loss.__init__).parameters][1:]
    assert shown['loss_weight'].default == 1.0


def test_the_norm_of_an_easy_row_keeps_its_digits() -> None:
    loss = torch.tensor([1e-3, 1e-6, 1e-9])
    expected = -np.expm1(-loss.double().numpy())
    np.testing.assert_allclose(softmax_gradient_norm(loss), expected, rtol=1e-6)
