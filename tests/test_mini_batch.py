"""The study of the mini-batch: the worked example, and float16's arithmetic in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import nn

from studies.half_precision import ScaledOptimWrapper, round_convolutions
from studies.variants import draw_averages, variants_table

COUNTS = np.array([[60.0, 0.0, 30.0, 10.0], [8.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
AVERAGE = np.array([[50.0, 5.0, 20.0, 10.0], [20.0, 2.0, 20.0, 4.0], [20.0, 2.0, 20.0, 4.0]])
RECORD = dict(
    cls_iteration=np.array([20, 20, 20]),
    cls_level=np.array([0, 1, 2]),
    cls_counts=COUNTS,
    cls_average=AVERAGE,
    cls_number=np.array([100.0, 10.0, 1.0]),
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_example_has_the_weights_of_each_variant() -> None:
    """β by hand: N / (S n), N / (S M) and N / (max(S, 30) n)."""
    table = [cells(line) for line in variants_table(RECORD, 'cls', 20).splitlines()[2:]]
    assert [row[4] for row in table] == [
        f'{100 / (50 * 3):.3g} / {10 / (20 * 3):.3g} / 0',
        f'{100 / (60 * 3):.3g} / {10 / (8 * 3):.3g} / 0',
        f'{100 / (60 * 4):.3g} / {10 / (8 * 4):.3g} / 0',
        f'{100 / (60 * 3):.3g} / {10 / (30 * 3):.3g} / 0',
        f'{110 / (68 * 4):.3g}',
        f'{110 / (68 * 4):.3g}',
        f'{110 / (68 * 4):.3g}',
    ]
    assert [row[2] for row in table] == ['100 / 10 / 0'] * 4 + ['110'] * 3
    middles = np.array([1, 3, 5, 7]) / 8
    # Without memory every region that is not empty weighs the same: g_j / n.
    per_level = middles[[0, 2, 3]].mean() + middles[[0, 1, 3]].mean()
    assert table[1][6] == f'{per_level:.2f}'
    assert table[4][6] == f'{middles.mean():.2f}'
    assert table[6][5] == f'{110 / (30 * 4):.3g}'


def test_example_of_an_iteration_that_was_not_recorded() -> None:
    with pytest.raises(ValueError, match=r'one of \[20\], got 21'):
        variants_table(RECORD, 'cls', 21)


def test_figure_has_a_line_for_each_region_and_level() -> None:
    figure = draw_averages({'a': RECORD, 'b': RECORD}, regions=(0, 1, 2, 3))
    assert [len(panel.lines) for panel in figure.axes] == [12, 12]


def test_rounded_convolutions_are_those_of_autocast() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3)
    x = torch.randn(2, 8, 10, 10)
    results = []
    for rounded in (False, True):
        conv.zero_grad()
        features = x.clone().requires_grad_()
        if rounded:
            round_convolutions(conv)
            y = conv(features)
        else:
            with torch.autocast('cpu', dtype=torch.float16):
                y = conv(features)
            assert y.dtype == torch.float16
        (y.float() * torch.linspace(0, 1, 8)).sum().backward()
        results.append((y.float(), features.grad, conv.weight.grad.clone()))
    for autocast, ours in zip(*results):
        torch.testing.assert_close(ours, autocast, rtol=2e-3, atol=2e-3)
    conv.eval()
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias))


@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=0.1)])
def test_scaled_steps_are_the_plain_ones_and_skip_what_is_not_finite(
    clip_grad: dict | None,
) -> None:
    weights = []
    for kind in (OptimWrapper, ScaledOptimWrapper):
        weight = nn.Parameter(torch.ones(3))
        wrapper = kind(torch.optim.SGD([weight], lr=0.1), clip_grad=clip_grad)
        wrapper.update_params((weight**2).sum())
        weights.append(weight)
    torch.testing.assert_close(*weights)
    assert not torch.equal(weights[1], torch.ones(3))
    before = weights[1].detach().clone()
    wrapper.update_params((weights[1] * float('inf')).sum())
    assert torch.equal(weights[1], before)
