"""What happens at the edges: of the data, of the regions, of the arguments."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ghm_mmdet  # noqa: F401
from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss
from ghm_mmdet.formulas import Formula
from ghm_mmdet.functional import (
    assign_regions,
    exact_gradient_density,
    ghm_c_loss,
    ghm_r_loss,
    harmonizing_parameter,
    moving_average,
    region_gradient_density,
    softmax_ghm_c_loss,
)

from . import reference

pytestmark = pytest.mark.usefixtures('device')
DENSITIES = ['region', 'exact']
FORMULAS = ['official', 'paper', 'floored', 'tempered']


def loss_and_gradient(loss: nn.Module, pred: Tensor, *args: object, **kw: object) -> tuple:
    x = pred.clone().requires_grad_()
    value = loss(x, *args, **kw)
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()
    return value.detach(), x.grad


@pytest.fixture(params=[(d, f) for d in DENSITIES for f in FORMULAS], ids='-'.join)
def ghm_c(request: pytest.FixtureRequest) -> GHMC:
    density, formula = request.param
    return GHMC(bins=10, density=density, formula=formula)


@pytest.fixture(params=[(d, f) for d in DENSITIES for f in FORMULAS], ids='-'.join)
def ghm_r(request: pytest.FixtureRequest) -> GHMR:
    density, formula = request.param
    return GHMR(bins=10, density=density, formula=formula)


def test_no_valid_example(ghm_c: GHMC, ghm_r: GHMR) -> None:
    pred = torch.randn(6, 4)
    value, gradient = loss_and_gradient(ghm_c, pred, torch.zeros(6).long(), torch.zeros(6))
    assert value == 0 and not gradient.any()
    value, gradient = loss_and_gradient(ghm_r, pred, torch.zeros(6, 4), torch.zeros(6, 4))
    assert value == 0 and not gradient.any()


def test_no_valid_example_leaves_the_average_of_official() -> None:
    loss = GHMC(bins=10, momentum=0.75)
    pred, labels = torch.randn(6, 4), torch.zeros(6).long()
    loss(pred, labels, torch.ones(6))
    before = loss.acc_sum.clone()
    assert loss(pred, labels, torch.zeros(6)) == 0
    assert torch.equal(loss.acc_sum, before) and before.any()


def length_of_a_region(ghm_c: GHMC) -> float:
    paper = ghm_c.formula == 'paper' or ghm_c.density == 'exact'
    return 0.1 if paper and ghm_c.formula != 'tempered' else 1.0


def test_one_example(ghm_c: GHMC) -> None:
    """One example: GD = 1/l, so the loss is CE·l: l = 1 or 1/M as the reading says.

    'floored' takes it for one of 30; β of 'tempered' is 1.
    """
    x = torch.tensor([[0.3]])
    value, _ = loss_and_gradient(ghm_c, x, torch.tensor([0]), torch.ones(1))
    length = length_of_a_region(ghm_c) / (30 if ghm_c.formula == 'floored' else 1)
    expected = length * nn.functional.softplus(-x).squeeze()
    torch.testing.assert_close(value, expected)


def test_all_examples_in_one_region(ghm_c: GHMC) -> None:
    """All alike: the mean of cross entropy, times the length of their region or window.

    'floored' takes them for so many of 30.
    """
    x = torch.full((5, 2), 0.1)
    labels = torch.full((5,), 2)
    value, _ = loss_and_gradient(ghm_c, x, labels, torch.ones(5), avg_factor=x.numel())
    length = length_of_a_region(ghm_c)
    length *= x.numel() / 30 if ghm_c.formula == 'floored' else 1
    torch.testing.assert_close(value, length * nn.functional.softplus(x).mean())


@pytest.mark.parametrize('target', [0, 1])
def test_gradient_norm_of_exactly_0_and_1(ghm_c: GHMC, target: int) -> None:
    """Saturated sigmoids: g = 0 is in the first region, g = 1 in the last, which is closed."""
    x = torch.tensor([[1e4], [-1e4], [200.0], [-200.0]])
    p_star = torch.full_like(x, target)
    value, gradient = loss_and_gradient(ghm_c, x, p_star)
    assert value > 0 and gradient.any()
    g = (x.sigmoid() - p_star).abs()
    assert set(g.flatten().tolist()) == {0.0, 1.0}
    assert assign_regions(g, 10).unique().tolist() == [0, 9]
    assert (region_gradient_density(g, 10) == 20).all()
    torch.testing.assert_close(exact_gradient_density(g, 0.1), torch.full_like(g, 40))


def test_huge_offsets(ghm_r: GHMR) -> None:
    value, gradient = loss_and_gradient(ghm_r, torch.tensor([[1e4, -1e4, 0, 1]]), torch.zeros(1, 4))
    assert value > 0 and gradient.any()


@pytest.mark.parametrize('shape', [(0, 4), (0, 1), (5, 0)])
def test_empty_tensors_with_grad(ghm_c: GHMC, ghm_r: GHMR, shape: tuple[int, int]) -> None:
    pred = torch.randn(shape)
    value, gradient = loss_and_gradient(ghm_c, pred, torch.zeros(shape[0]).long())
    assert value == 0 and gradient.shape == shape
    value, gradient = loss_and_gradient(ghm_r, pred, torch.zeros(shape), torch.ones(shape))
    assert value == 0 and gradient.shape == shape


def test_zero_positives(ghm_c: GHMC) -> None:
    pred = torch.randn(50, 3)
    value, gradient = loss_and_gradient(ghm_c, pred, torch.full((50,), 3), torch.ones(50))
    assert value > 0 and (gradient > 0).all()


def test_without_weight_all_are_valid(ghm_c: GHMC, ghm_r: GHMR) -> None:
    pred, labels = torch.randn(20, 3), torch.randint(0, 4, (20,))
    assert ghm_c(pred, labels) == ghm_c(pred, labels, torch.ones(20))
    assert ghm_c(pred, labels, None) == ghm_c(pred, labels, torch.ones(20, 3))
    target = torch.randn(20, 3)
    assert ghm_r(pred, target) == ghm_r(pred, target, torch.ones(20, 3))


def test_weight_by_either_name_and_in_a_column() -> None:
    """As GFL and its like call their loss."""
    pred, labels, weight = torch.randn(20, 3), torch.randint(0, 4, (20,)), torch.arange(20) % 2
    expected = GHMC()(pred[1::2], labels[1::2])
    for of_rows in (weight, weight[:, None]):
        torch.testing.assert_close(GHMC()(pred, labels, of_rows), expected)
        torch.testing.assert_close(GHMC()(pred, labels, weight=of_rows), expected)
    expected = GHMR()(pred[1::2], 0 * pred[1::2])
    torch.testing.assert_close(GHMR()(pred, 0 * pred, weight), expected)
    torch.testing.assert_close(GHMR()(pred, 0 * pred, weight=weight), expected)


def test_labels_of_inference_mode() -> None:
    """As a teacher's; the gradient is that of a copy, of the second order, too."""
    pred = torch.randn(20, 3, requires_grad=True)
    with torch.inference_mode():
        labels, weight = torch.randint(0, 4, (20,)), torch.ones(20)
    gradients = []
    for tensors in ((labels, weight), (labels.clone(), weight.clone())):
        loss = GHMC()(pred, *tensors)
        (gradient,) = torch.autograd.grad(loss, pred, create_graph=True)
        gradients.append((gradient, *torch.autograd.grad(gradient.square().sum(), pred)))
    torch.testing.assert_close(*gradients)


def test_targets_of_float64_do_not_raise_the_dtype() -> None:
    offsets = torch.randn(20, 4)
    for mu_momentum in (None, 0.9):
        loss = GHMR(mu_momentum=mu_momentum)(offsets, torch.zeros(20, 4, dtype=torch.float64))
        assert loss.dtype == torch.float32


@pytest.mark.parametrize('form', ['labels', 'dense'])
def test_tensors_that_are_not_contiguous(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pred, p_star, of_logits = torch.rand(3, 7, 90, generator=generator).unbind()
    labels = torch.randint(0, 8, (180,), generator=generator)[::2]
    target = labels if form == 'labels' else p_star.t()
    for weight in (None, (of_logits > 0.3).t(), (of_logits > 0.3)[:2].t()[:, 0]):
        tensors = 4 * pred.t() - 3, target, weight
        whole = (x if x is None else x.contiguous() for x in tensors)
        results = [loss_and_gradient(GHMC(10), *args) for args in (tensors, whole)]
        torch.testing.assert_close(*results)


def test_labels_outside_the_classes_are_background(ghm_c: GHMC) -> None:
    pred = torch.randn(6, 3)
    labels = torch.tensor([0, 3, -1, 255, 2, -100])
    dense = torch.zeros(6, 3)
    dense[0, 0] = dense[4, 2] = 1
    torch.testing.assert_close(ghm_c(pred, labels), ghm_c(pred, dense))


def test_avg_factor_is_ignored(ghm_c: GHMC, ghm_r: GHMR) -> None:
    pred, target = torch.randn(2, 20, 3)
    labels = torch.randint(0, 4, (20,))
    if ghm_c.formula != 'tempered':
        assert ghm_c(pred, labels, avg_factor=7) == ghm_c(pred, labels)
    assert ghm_r(pred, target, avg_factor=7) == ghm_r(pred, target)


@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('bins', [1, 10, 30, 49])
def test_edges_belong_to_the_upper_region(formula: str, bins: int) -> None:
    """g exactly at an edge j/M, and the float32 just below it, as MMDetection sorts them."""
    edges = torch.arange(bins) / bins
    assert assign_regions(edges, bins).tolist() == list(range(bins))
    below = torch.nextafter(edges[1:], torch.tensor(0.0))
    assert assign_regions(below, bins).tolist() == list(range(bins - 1))


def test_half_precision_is_computed_in_float32() -> None:
    pred, labels = torch.randn(500, 5), torch.randint(0, 6, (500,))
    for dtype in (torch.float16, torch.bfloat16):
        half = pred.to(dtype)
        torch.testing.assert_close(GHMC(30)(half, labels), GHMC(30)(half.float(), labels))
        target = torch.zeros_like(half)
        torch.testing.assert_close(GHMR()(half, target), GHMR()(half.float(), target.float()))
        assert GHMR()(half, target.double()).dtype == torch.float32


# What a wrong argument says.


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        (dict(bins=0), ValueError, 'bins must be >= 1, got 0'),
        (dict(bins=-3), ValueError, 'bins must be >= 1, got -3'),
        (dict(bins=10.0), TypeError, 'bins must be an int >= 1, got 10.0'),
        (dict(momentum=1.0), ValueError, r'momentum must be in \[0, 1\), got 1.0'),
        (dict(momentum=-0.1), ValueError, r'momentum must be in \[0, 1\), got -0.1'),
        (dict(momentum='0.75'), TypeError, "momentum must be a number, got '0.75'"),
        (dict(loss_weight=None), TypeError, 'loss_weight must be a number, got None'),
        (dict(reduction='avg'), ValueError, "reduction must be one of .*'mean'.* got 'avg'"),
        (dict(density='kde'), ValueError, "density must be one of 'region', 'exact', got 'kde'"),
        (
            dict(formula='mine'),
            ValueError,
            "formula must be one of 'official', 'paper', 'floored', 'tempered', or the path of",
        ),
        *(
            ({name: value}, ValueError, f'{name} must be finite, got {value}')
            for name in ('momentum', 'loss_weight')
            for value in (float('nan'), float('inf'), -float('inf'))
        ),
        (dict(density='exact', momentum=0.75), ValueError, "density='exact'.* momentum=0.75"),
        (dict(density='exact', sync=True), ValueError, "density='exact'.* sync=True"),
    ],
)
@pytest.mark.parametrize('loss_class', [GHMC, GHMR])
def test_wrong_settings(
    loss_class: type[nn.Module], settings: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss_class(**settings)


def test_wrong_settings_of_one_loss() -> None:
    with pytest.raises(TypeError, match="sync must be True or False, got 'False'"):
        GHMR(sync='False')
    with pytest.raises(TypeError, match='use_sigmoid must be True or False, got None'):
        GHMC(use_sigmoid=None)
    with pytest.raises(ValueError, match='mu must be > 0, got 0'):
        GHMR(mu=0)
    with pytest.raises(ValueError, match='mu must be > 0, got -1'):
        AuthenticSmoothL1Loss(mu=-1)
    for value in (float('nan'), float('inf')):
        for loss_class in (GHMR, AuthenticSmoothL1Loss):
            with pytest.raises(ValueError, match=f'mu must be finite, got {value}'):
                loss_class(mu=value)
    with pytest.raises(ValueError, match=r"reduction must be one of .* got 'max'"):
        AuthenticSmoothL1Loss(reduction='max')


@pytest.mark.parametrize(
    ('pred', 'target', 'weight', 'error', 'message'),
    [
        (torch.zeros(4, 3), torch.zeros(5), None, ValueError, r'target .*\(4,\).*\(4, 3\).*\(5,\)'),
        (torch.zeros(4, 3), torch.zeros(4, 2), None, ValueError, r'target .*got \(4, 2\)'),
        (torch.zeros(4, 3), torch.zeros(4), None, TypeError, 'must hold integer labels'),
        (torch.zeros(4, 3), [0, 1, 2, 3], None, TypeError, 'target must be a Tensor, got list'),
        (torch.zeros(4, 3).long(), torch.zeros(4).long(), None, TypeError, 'pred must be a float'),
        (torch.zeros(4, 3), torch.zeros(4).long(), torch.ones(3), ValueError, r'weight .*\(3,\)'),
        (torch.zeros(4, 3), torch.zeros(4).long(), 1.0, TypeError, 'weight must be a Tensor'),
    ],
)
def test_wrong_tensors_of_ghm_c(
    pred: Tensor, target: object, weight: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        GHMC()(pred, target, weight)


def test_wrong_tensors_of_ghm_r() -> None:
    x = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r'target must have the shape \(4, 4\), got \(4,'):
        GHMR()(x, torch.zeros(4, 3))
    shapes = r'\(4, 4\) or \(4,\) or \(4, 1\), got \(2, 4\)'
    with pytest.raises(ValueError, match=f'weight must have the shape {shapes}'):
        GHMR()(x, x, torch.ones(2, 4))
    with pytest.raises(TypeError, match=r'pred must be .* got torch\.int64'):
        ghm_r_loss(x.long(), x)
    with pytest.raises(ValueError, match=r'target must have the shape \(4, 4\)'):
        AuthenticSmoothL1Loss()(x, torch.zeros(4))


def test_wrong_arguments_of_densities() -> None:
    g = torch.rand(5)
    with pytest.raises(ValueError, match='bins must be >= 1'):
        region_gradient_density(g, 0)
    with pytest.raises(ValueError, match='epsilon must be > 0'):
        exact_gradient_density(g, 0)
    with pytest.raises(ValueError, match=r'valid must have the shape \(5,\)'):
        exact_gradient_density(g, 0.1, torch.ones(4).bool())
    with pytest.raises(TypeError, match='g must be a floating-point Tensor'):
        region_gradient_density(g.long(), 3)


def test_wrong_arguments_of_beta_and_s() -> None:
    counts = torch.ones(5)
    for wrong, message in (
        (dict(formula='mine'), "formula must be one of .* got 'mine'"),
        (dict(formula='temperd'), "did you mean 'tempered'"),
        (dict(formula='torch.nothing'), "formula 'torch.nothing' can not be imported"),
    ):
        with pytest.raises(ValueError, match=message):
            harmonizing_parameter(counts, torch.tensor(5.0), **wrong)
    with pytest.raises(ValueError, match=r'momentum must be in \[0, 1\), got 1'):
        moving_average(counts, counts, 1)
    with pytest.raises(ValueError, match=r"formula must be one of .* got 'mine'"):
        moving_average(counts, counts, 0.5, 'mine')


def test_asl1_module_weights_like_smooth_l1() -> None:
    """weight, avg_factor and reductions, against NumPy."""
    generator = torch.Generator().manual_seed(0)
    pred, target, weight = torch.rand(3, 7, 4, generator=generator)
    d, w = (pred - target).double().numpy(), weight.double().numpy()
    elementwise = (np.sqrt(d**2 + 0.02**2) - 0.02) * w
    loss = AuthenticSmoothL1Loss(loss_weight=2.0)
    np.testing.assert_allclose(loss(pred, target, weight), 2 * elementwise.mean(), rtol=1e-5)
    found = loss(pred, target, weight, avg_factor=5)
    np.testing.assert_allclose(found, 2 * elementwise.sum() / 5, rtol=1e-5)
    found = loss(pred, target, weight, reduction_override='none')
    np.testing.assert_allclose(found, 2 * elementwise, rtol=1e-4, atol=1e-8)
    found = loss(pred, target, weight, reduction_override='sum')
    np.testing.assert_allclose(found, 2 * elementwise.sum(), rtol=1e-5)


@pytest.mark.parametrize('avg_factor', [None, 1])
@pytest.mark.parametrize('weighted', [False, True])
def test_asl1_module_of_no_boxes_is_that_of_smooth_l1(
    weighted: bool, avg_factor: int | None
) -> None:
    pred, none = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)
    losses = pytest.importorskip('mmdet.models.losses')
    for loss in (losses.SmoothL1Loss(), AuthenticSmoothL1Loss()):
        value = loss(pred, none, none if weighted else None, avg_factor=avg_factor)
        value.backward()
        assert value == 0 and pred.grad.shape == pred.shape


def test_a_loss_prints_its_settings() -> None:
    assert str(GHMC(bins=30, momentum=0.75)) == (
        "GHMC(use_sigmoid=True, bins=30, momentum=0.75, loss_weight=1.0, reduction='mean', "
        "density='region', formula='official', sync=False)"
    )
    assert str(GHMR(mu=0.1)).startswith('GHMR(mu=0.1, mu_momentum=None, bins=10, momentum=0, ')


@pytest.mark.parametrize('target', [-1.0, 7.0, math.nan, math.inf])
@pytest.mark.parametrize('weight_of', ['rows', 'logits'])
def test_what_an_ignored_target_holds_is_not_looked_at(
    ghm_c: GHMC, ghm_r: GHMR, weight_of: str, target: float
) -> None:
    pred, dense = torch.randn(6, 3), torch.rand(6, 3)
    weight = torch.ones(6) if weight_of == 'rows' else torch.ones(6, 3)
    weight[2] = 0
    for loss in (ghm_c, ghm_r):
        expected = loss_and_gradient(loss, pred, dense, weight)
        held = dense.clone()
        held[2] = target
        torch.testing.assert_close(loss_and_gradient(loss, pred, held, weight), expected)


def test_what_an_ignored_row_of_a_softmax_holds_is_not_looked_at() -> None:
    pred, labels, weight = torch.randn(6, 3), torch.randint(0, 3, (6,)), torch.ones(6)
    weight[2] = 0
    expected = GHMC(use_sigmoid=False)(pred, labels, weight)
    labels[2] = -1
    assert GHMC(use_sigmoid=False)(pred, labels, weight) == expected


@pytest.mark.parametrize('weight_of', ['rows', 'logits'])
def test_a_weight_that_is_nan_is_not_valid(ghm_c: GHMC, weight_of: str) -> None:
    pred, labels = torch.randn(6, 3), torch.randint(0, 4, (6,))
    weight = torch.ones(6) if weight_of == 'rows' else torch.ones(6, 3)
    weight[1] = 0
    expected = ghm_c(pred, labels, weight)
    weight[1] = math.nan
    assert ghm_c(pred, labels, weight) == expected


def test_logits_whose_sum_overflows_are_finite() -> None:
    loss = GHMC(10, momentum=0.75)
    pred = torch.full((8, 3), -3e38)
    assert pred.sum().isinf()
    assert loss(pred, torch.full((8,), 3)) == 0
    assert loss.acc_sum[0] == 0.25 * 24


def test_a_huge_offset_is_linear() -> None:
    """Its square is no number of float32."""
    d = torch.tensor([2e19, -3e30, 1e18, 0.5], requires_grad=True)
    loss = AuthenticSmoothL1Loss(reduction='none')(d, torch.zeros(4))
    expected = reference.asl1(d.detach().double().numpy(), 0.02)
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-6)
    loss.sum().backward()
    expected = reference.asl1_gradient(d.detach().double().numpy(), 0.02)
    np.testing.assert_allclose(d.grad, expected, rtol=1e-6)
    assert ghm_r_loss(d.detach(), torch.zeros(4), reduction='none').isfinite().all()


@pytest.mark.parametrize('argument', ['target', 'weight'])
def test_tensors_of_another_device_are_refused(argument: str) -> None:
    pred, target, weight = torch.zeros(4, 4), torch.zeros(4, 4), torch.ones(4)
    call = dict(target=target, weight=weight)
    call[argument] = call[argument].to('meta')
    for loss in (ghm_c_loss, ghm_r_loss, GHMC(), GHMR(), AuthenticSmoothL1Loss()):
        with pytest.raises(ValueError, match=f'{argument} must be on the device of pred, cpu'):
            loss(pred, **call)


def test_a_word_on_what_is_no_error() -> None:
    pred, labels = torch.randn(200, 3), torch.randint(0, 4, (200,))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ghm_c_loss(pred, labels, torch.ones(200))
        ghm_c_loss(torch.zeros(200, 3), labels)
        ghm_c_loss(torch.rand(30, 3), labels[:30])  # too few to tell
    weight = torch.ones(200)
    weight[7] = 0.5
    with pytest.warns(UserWarning, match='weight of ghm_c_loss is a mask'):
        ghm_c_loss(pred, labels, weight)
    with pytest.warns(UserWarning, match='are logits, these look like probabilities'):
        ghm_c_loss(pred.sigmoid(), labels)


def test_an_avg_factor_that_the_formula_does_not_take_is_refused() -> None:
    """In the function; heads of MMDetection pass it to every loss."""
    pred, labels = torch.randn(6, 3), torch.randint(0, 3, (6,))
    for loss in (ghm_c_loss, softmax_ghm_c_loss):
        with pytest.raises(ValueError, match="avg_factor is not taken with formula='official'"):
            loss(pred, labels, avg_factor=3)
    assert GHMC()(pred, labels, avg_factor=3) == GHMC()(pred, labels)


def test_in_place_of_a_focal_loss_over_the_positives() -> None:
    """The gradient's norm is of the size of focal loss's, without a word on N."""
    torch.manual_seed(0)
    x = torch.randn(20_000, 80) - 4
    labels = torch.randint(0, 80 * 40, (20_000,)).clamp(max=80)
    p_star = torch.from_numpy(reference.one_hot(labels.numpy(), 80)).float()
    positives = float(p_star.sum())

    def norm(loss: Callable[[Tensor], Tensor]) -> float:
        leaf = x.clone().requires_grad_()
        loss(leaf).backward()
        return float(leaf.grad.norm())

    def focal(x: Tensor) -> Tensor:
        p = x.sigmoid()
        of_p_star = p_star * p + (1 - p_star) * (1 - p)
        alpha = 0.25 * p_star + 0.75 * (1 - p_star)
        each = nn.functional.binary_cross_entropy_with_logits(x, p_star, reduction='none')
        return (alpha * (1 - of_p_star) ** 2 * each).sum() / positives

    short = norm(lambda x: ghm_c_loss(x, labels, formula='tempered', loss_weight=0.25))
    assert 0.5 < short / norm(focal) < 5
    for given in (labels, p_star):
        module = GHMC.from_preset(loss_weight=0.25, momentum=0)
        assert norm(lambda x, y=given: module(x, y)) == pytest.approx(short, rel=1e-5)  # noqa: B023


def test_the_number_of_positives_is_of_the_valid_logits_at_their_labels() -> None:
    pred, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 3, -1])
    weight = torch.ones(6, 3)
    weight[1, 1] = weight[2, 0] = 0  # a positive that is not valid, and a negative
    found = ghm_c_loss(pred, labels, weight, formula='tempered')
    assert found == ghm_c_loss(pred, labels, weight, formula='tempered', avg_factor=3)
    dense = torch.from_numpy(reference.one_hot(labels.numpy(), 3)).float()
    assert ghm_c_loss(pred, dense, weight, formula='tempered') == pytest.approx(float(found))


@pytest.mark.parametrize(
    ('target', 'is_allowed'), [(1.0005, True), (1.002, False), (-0.002, False)]
)
def test_how_far_a_target_may_lie_outside(target: float, is_allowed: bool) -> None:
    """As far as half precision rounds an IoU; in the kernels and in the plain formula."""
    pred, p_star = torch.randn(4, 3), torch.rand(4, 3)
    p_star[1, 2] = target
    for reduction in ('mean', 'none'):
        if is_allowed:
            assert ghm_c_loss(pred, p_star, reduction=reduction).isfinite().all()
            continue
        with pytest.raises(ValueError, match=r'target must lie in \[0, 1\]'):
            ghm_c_loss(pred, p_star, reduction=reduction)


# A formula of one's own.


def capped(s: Tensor, n: Tensor) -> Tensor:
    """No example weighs more than 2.24 times what cross entropy gives it."""
    return (n / torch.maximum(s, n / 5)).sqrt()


@pytest.mark.parametrize('momentum', [0, 0.75])
def test_a_beta_of_ones_own(momentum: float) -> None:
    """As a function, by its path, as a Formula, as a dict: in the function and in both modules."""
    pred, labels = torch.randn(60, 3) - 2, torch.randint(0, 9, (60,))
    by_hand = []
    s = None
    for seed in range(2):
        x = (pred + seed).double().numpy()
        p_star = reference.one_hot(labels.numpy(), 3)
        g = np.abs(reference.sigmoid(x) - p_star)
        counts = reference.region_counts(g, 10, g >= 0)
        before = counts if s is None else np.where(s > 0, s, counts)
        mixed = momentum * before + (1 - momentum) * counts
        s = np.where(counts > 0, mixed, 0 if s is None else s)
        n = p_star.sum()
        beta = np.sqrt(n / np.maximum(s, n / 5))
        of_logits = np.vectorize(lambda v: beta[reference.region_of(v, 10)])(g)  # noqa: B023
        by_hand.append((of_logits * reference.cross_entropy(x, p_star)).sum() / n)
    tempered = Formula('none', 0.5, True, starts_at_first_count=True, weights_are_counts=False)
    for formula in (capped, f'{__name__}.capped', Formula(beta=capped, **OWN)):
        loss = GHMC(10, momentum, formula=formula)
        found = [float(loss(pred + seed, labels)) for seed in range(2)]
        np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    as_dict = dict(divisor='none', power=0.5, **OWN)
    for formula in (tempered, as_dict):
        expected = ghm_c_loss(pred, labels, formula='tempered')
        assert ghm_c_loss(pred, labels, formula=formula) == expected
    exact = ghm_c_loss(pred, labels, formula=lambda s, n: (n / s) ** 0.5, density='exact')
    assert exact == ghm_c_loss(pred, labels, formula='tempered', density='exact')
    assert ghm_r_loss(pred, pred * 2, formula=capped).isfinite()


OWN = dict(takes_avg_factor=True, starts_at_first_count=True, weights_are_counts=False)


@pytest.mark.parametrize(
    ('formula', 'error', 'words'),
    [
        (7, TypeError, 'formula must be a name, a Formula, a dict or a function, got 7'),
        (dict(divisors='all'), TypeError, 'formula takes divisor, .*, got divisors'),
        (dict(divisor='every'), ValueError, "divisor must be one of .*, got 'every'"),
        ('tempred', ValueError, "did you mean 'tempered'"),
        ('os.nothing', ValueError, "formula 'os.nothing' can not be imported"),
    ],
)
def test_a_formula_that_is_none(formula: object, error: type, words: str) -> None:
    for make in (GHMC, GHMR):
        with pytest.raises(error, match=words):
            make(formula=formula)
    with pytest.raises(error, match=words):
        ghm_c_loss(torch.zeros(3, 3), torch.zeros(3, 3), formula=formula)
