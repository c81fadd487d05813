"""OHEMLoss against a loop in NumPy, per level and over all levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ghm_mmdet import OHEMLoss

from .reference import softmax_cross_entropy

CLASSES = 3


def mined_loss(
    pred: np.ndarray, labels: np.ndarray, weight: np.ndarray, ratio: float
) -> np.ndarray:
    """Cross entropy of the anchors, (N, C), zero where an anchor is not mined."""
    one_hot = labels[:, None] == np.arange(pred.shape[1])
    entropy = np.logaddexp(0, pred) - pred * one_hot
    positive = one_hot.any(1) & (weight > 0)
    negatives = [i for i in range(len(pred)) if weight[i] > 0 and not positive[i]]
    negatives.sort(key=lambda i: entropy[i].sum(), reverse=True)
    kept = np.zeros(len(pred), dtype=bool)
    kept[positive] = True
    kept[negatives[: int(ratio * positive.sum())]] = True
    return entropy * (weight * kept)[:, None]


def random_call(seed: int, anchors: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(anchors, CLASSES, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 40, (anchors,), generator=generator).clamp(max=CLASSES)
    chance = torch.rand(anchors, generator=generator, dtype=torch.float64)
    weight = torch.where(chance < 0.8, 0.5, torch.where(chance < 0.9, 0.0, -0.5))
    return pred, labels, weight.double()


def expected(pred: Tensor, labels: Tensor, weight: Tensor, ratio: float = 3) -> np.ndarray:
    return mined_loss(pred.numpy(), labels.numpy(), weight.numpy(), ratio)


@pytest.mark.parametrize('ratio', [3, 1, 0.5, 1000])
@pytest.mark.parametrize('seed', range(3))
def test_mines_the_hardest_negatives(seed: int, ratio: float) -> None:
    call = random_call(seed)
    loss = OHEMLoss(neg_pos_ratio=ratio, loss_weight=2.0)
    each = expected(*call, ratio)
    kept = (each != 0).any(1).sum()
    np.testing.assert_allclose(loss(*call, reduction_override='none'), 2 * each)
    assert float(loss(*call)) == pytest.approx(2 * each.sum() / kept)
    assert float(loss(*call, avg_factor=7)) == pytest.approx(2 * each.sum() / 7)
    assert float(loss(*call, reduction_override='sum')) == pytest.approx(2 * each.sum())


@pytest.mark.parametrize('ratio', [2, 0.5, 1000])
def test_softmax_mines_rows(ratio: float) -> None:
    pred, labels, weight = random_call(0)
    pred = torch.cat([pred, pred.flip(-1)[:, :1]], -1)
    entropy = softmax_cross_entropy(pred.numpy(), labels.numpy())
    valid, background = (weight > 0).numpy(), (labels == CLASSES).numpy()
    positive, negative = ~background & valid, background & valid
    hardest = np.sort(entropy[negative])[::-1][: int(ratio * positive.sum())]
    mined = 0.5 * (entropy[positive].sum() + hardest.sum())
    loss = OHEMLoss(neg_pos_ratio=ratio, use_sigmoid=False, loss_weight=2.0)
    result = loss(pred, labels, weight, reduction_override='none')
    assert result.shape == labels.shape
    assert result.sum().item() == pytest.approx(2 * mined)
    assert loss(pred, labels, weight, avg_factor=7).item() == pytest.approx(2 * mined / 7)


def test_gradient_reaches_mined_examples_alone() -> None:
    pred, labels, weight = random_call(0)
    pred.requires_grad_()
    OHEMLoss()(pred, labels, weight).backward()
    mined = torch.from_numpy(expected(pred.detach(), labels, weight)).sum(-1) > 0
    assert torch.equal(pred.grad.abs().sum(-1) > 0, mined)


def test_nothing_to_mine_is_zero() -> None:
    for anchors in (0, 5):
        pred = torch.zeros(anchors, CLASSES, requires_grad=True)
        loss = OHEMLoss()(pred, torch.full((anchors,), CLASSES), None)
        loss.backward()
        assert loss.item() == 0
        assert (pred.grad == 0).all()


@pytest.mark.parametrize('use_sigmoid', [True, False])
def test_float16_is_summed_in_float32(use_sigmoid: bool) -> None:
    """The sum over so many anchors is larger than float16."""
    pred, labels = torch.full((20_000, 9), 8.0), torch.arange(20_000) % 8
    loss = OHEMLoss(use_sigmoid=use_sigmoid)
    half, single = (loss(pred.to(dtype), labels) for dtype in (torch.float16, torch.float32))
    torch.testing.assert_close(half, single)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match='use_sigmoid must be True or False, got 1'):
        OHEMLoss(use_sigmoid=1)
    with pytest.raises(ValueError, match='neg_pos_ratio must be > 0, got 0'):
        OHEMLoss(neg_pos_ratio=0)
    with pytest.raises(ValueError, match=r'pred must have the shape \(N, C\), got \(2, 4, 3\)'):
        OHEMLoss()(torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r'target must have the shape \(4,\), got \(4, 3\)'):
        OHEMLoss()(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match='weight must have the shape \\(4,\\)'):
        OHEMLoss()(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4, 3))


def test_a_negative_without_loss_is_before_what_is_no_negative() -> None:
    pred = torch.tensor([[0.0], [-200.0], [-200.0]])
    loss = OHEMLoss(neg_pos_ratio=1)(pred, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(loss, torch.tensor(2.0).log() / 2)
