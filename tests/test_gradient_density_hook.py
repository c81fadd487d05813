"""GradientDensityHook: counts that NumPy counts too, and a training that is not changed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Tuple

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmdet.models.losses import CrossEntropyLoss, FocalLoss, SmoothL1Loss
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend, Visualizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, GradientDensityHook
from ghm_mmdet.functional import assign_regions
from ghm_mmdet.hooks.gradient_density_hook import easy_and_hard
from ghm_mmdet.registry import HOOKS
from ghm_mmdet.visualization.figures import picture
from ghm_mmdet.visualization.observer import GradientNormObserver, Observed
from ghm_mmdet.visualization.record import GradientDensityRecord, in_regions

from .processes import leave_group, start_all
from .test_fast_paths import TORCH
from .training import demo_config, train

Call = Tuple[np.ndarray, np.ndarray, np.ndarray]
CLASSES, BINS, MU = 3, 40, 0.02
CLS_LOSSES = [
    FocalLoss(use_sigmoid=True),
    CrossEntropyLoss(use_sigmoid=True),
    GHMC(bins=30, momentum=0.75),
]
REG_LOSSES = [SmoothL1Loss(beta=1 / 9), AuthenticSmoothL1Loss(mu=0.05), GHMR(momentum=0.7)]


class Detector(nn.Module):
    """A layer, and the losses where MMDetection's one-stage detectors have them."""

    def __init__(self, loss_cls: nn.Module, loss_bbox: nn.Module) -> None:
        super().__init__()
        self.bbox_head = nn.Module()
        self.bbox_head.layer = nn.Linear(1, 1, bias=False)
        self.bbox_head.loss_cls, self.bbox_head.loss_bbox = loss_cls, loss_bbox

    def forward(self, levels: list[dict[str, tuple]]) -> Tensor:
        head = self.bbox_head
        losses = [
            head.loss_cls(*level['cls'], avg_factor=5) + head.loss_bbox(*level['reg'], avg_factor=5)
            for level in levels
        ]
        return sum(losses) * head.layer.weight.sum()


def make_level(anchors: int, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES + 3, (anchors,), generator=generator).clamp(max=CLASSES)
    weight = (torch.rand(anchors, generator=generator) < 0.9).float()
    positive = ((labels < CLASSES).float() * weight)[:, None].repeat(1, 4)
    return dict(
        cls=(torch.randn(anchors, CLASSES, generator=generator) * 4, labels, weight),
        reg=(
            torch.randn(anchors, 4, generator=generator) / 20,
            torch.randn(anchors, 4, generator=generator) / 20,
            positive,
        ),
    )


def gradient_norms(kind: str, call: Call, mu: float) -> np.ndarray:
    """g or gr of the valid examples of a call, by Eqs. 3 and 18 in float64."""
    pred, target, weight = (np.asarray(x, dtype=np.float64) for x in call)
    if kind == 'cls':
        one_hot = target[:, None] == np.arange(pred.shape[1])
        g = np.abs(1 / (1 + np.exp(-pred)) - one_hot)
        return g[weight > 0].ravel()
    d = pred - target
    return (np.abs(d) / np.sqrt(d**2 + mu**2))[weight > 0]


def assert_counts_are_of(counts: np.ndarray, gradient: np.ndarray, g: np.ndarray) -> None:
    """Up to the rounding of float32 at the edges of the bins."""
    edges = np.linspace(0, 1, len(counts) + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    for count, (low, high) in zip(counts, zip(edges, edges[1:])):
        inner = (g >= low + 1e-6) & (g < high - 1e-6)
        outer = (g >= low - 1e-6) & (g < high + 1e-6)
        assert inner.sum() <= count <= outer.sum()
    assert counts.sum() == len(g)
    np.testing.assert_allclose(gradient.sum(), g.sum(), rtol=1e-6)


@pytest.mark.parametrize('loss_cls', CLS_LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize('loss_bbox', REG_LOSSES, ids=lambda loss: type(loss).__name__)
def test_counts_equal_numpy(loss_cls: nn.Module, loss_bbox: nn.Module) -> None:
    """Over three levels, whatever the losses are; μ is the loss's own where it has one."""
    detector = Detector(loss_cls, loss_bbox)
    levels = [make_level(anchors, anchors) for anchors in (400, 100, 25)]
    observer = GradientNormObserver(detector, Observed(BINS, MU))
    detector(levels)
    observer.start()
    detector(levels)
    observer.stop()
    detector(levels)
    mu = getattr(loss_bbox, 'mu', MU)
    assert observer.mu == pytest.approx(mu)
    sums = observer.take().numpy()
    for kind, (counts, gradient) in zip(('cls', 'reg'), sums):
        g = np.concatenate([gradient_norms(kind, level[kind], mu) for level in levels])
        assert_counts_are_of(counts, gradient, g)
    assert not observer.take().any()
    assert np.isnan(observer.mu)
    observer.close()
    assert not loss_cls._forward_hooks and not loss_bbox._forward_hooks


def test_a_following_mu_is_that_of_each_call() -> None:
    """What the loss itself counts into S of its 10 regions, call after call."""
    loss = GHMR(bins=10, momentum=0.5, formula='paper', mu_momentum=0.9)
    observer = GradientNormObserver(Detector(CLS_LOSSES[0], loss), Observed(BINS, loss_cls=None))
    observer.start()
    counted, mus, offsets = np.zeros(10), [], []
    for scale in (10, 20, 40):
        pred, target, weight = make_level(300, scale)['reg']
        before = loss.acc_sum.clone()
        loss(scale * pred, target, weight)
        counted += (2 * loss.acc_sum - before).numpy()  # S = (S before + R) / 2
        mus.append(max(loss.mu, loss.mean_d.item()))
        offsets.append(weight.sum().item())
    assert mus[0] > 10 * loss.mu
    assert observer.mu == pytest.approx(np.average(mus, weights=offsets))
    assert in_regions(observer.take()[1, 0].numpy(), 10).tolist() == counted.tolist()
    loss(pred, target, weight)
    assert observer.mu == pytest.approx(loss.mean_d.item())  # of what came after `take` alone


def observed(loss: nn.Module, kind: str) -> GradientNormObserver:
    """An observer of this loss alone, which counts."""
    losses = (loss, SmoothL1Loss()) if kind == 'cls' else (CLS_LOSSES[0], loss)
    other = 'loss_bbox' if kind == 'cls' else 'loss_cls'
    observer = GradientNormObserver(Detector(*losses), Observed(BINS, MU, **{other: None}))
    observer.start()
    return observer


def test_the_weight_by_the_name_label_weight() -> None:
    loss = GHMR()
    observer = observed(loss, 'reg')
    pred, target, weight = make_level(50, 0)['reg']
    loss(pred, target, label_weight=weight)
    assert observer.take()[1, 0].sum() == weight.sum()


@pytest.mark.parametrize('kind', ['cls', 'reg'])
def test_half_precision_is_counted_as_float32(kind: str) -> None:
    loss: nn.Module = FocalLoss(use_sigmoid=True) if kind == 'cls' else SmoothL1Loss()
    observer = observed(loss, kind)
    pred, target, _ = make_level(50, 0)[kind]
    pred, target = (pred.half(), target) if kind == 'cls' else ((pred * 2e4).half(), target * 0)
    loss(pred, target)
    of_half = observer.take()
    loss(pred.float(), target)
    assert torch.equal(of_half, observer.take())


def test_mu_is_that_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = stub_runner(Detector(CLS_LOSSES[0], GHMR(mu=0.5)), tmp_path, 3)
    monkeypatch.setattr(
        'ghm_mmdet.hooks.gradient_density_hook.all_gather_object',
        lambda mine: [mine, (0.1, 3 * mine[1])],
    )
    for _ in stub_training(runner):
        runner.model([make_level(20, 0)])
    record = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    assert record.mu.tolist() == [pytest.approx((0.5 + 3 * 0.1) / 4)]


def test_a_loss_that_is_left_out_is_no_warning(tmp_path: Path) -> None:
    runner = stub_runner(Detector(CLS_LOSSES[0], SmoothL1Loss()), tmp_path, 3)
    for _ in stub_training(runner, loss_bbox=None):
        runner.model([make_level(20, 0)])
    assert not runner.warnings


def test_weight_by_keyword_and_none_and_half_precision() -> None:
    detector = Detector(FocalLoss(use_sigmoid=True), SmoothL1Loss())
    pred, labels, weight = make_level(50, 0)['cls']
    observer = GradientNormObserver(detector, Observed(BINS, MU, loss_bbox=None))
    observer.start()
    loss = detector.bbox_head.loss_cls
    loss(pred, labels, weight=weight)
    loss(pred, labels)
    loss(pred.half(), labels)
    numbers = observer.take()[0, 0].sum()
    assert numbers == (weight.sum() + 2 * len(labels)) * CLASSES


def test_a_weight_of_rows_as_a_column_and_a_pair_of_labels_and_scores() -> None:
    """As `YOLOV3Head` and `GFLHead` pass them; the counts are those of what GHM-C makes of them."""
    pred, labels, weight = make_level(50, 0)['cls']
    scores = torch.rand(50)
    dense = torch.zeros(50, CLASSES + 1).scatter_(1, labels[:, None], scores[:, None])[:, :-1]
    detector = Detector(GHMC(30), SmoothL1Loss())
    observer = GradientNormObserver(detector, Observed(BINS, MU, loss_bbox=None))
    observer.start()
    for target in ((labels, scores), dense):
        detector.bbox_head.loss_cls(pred, target, weight.new_ones(50, 1))
        detector.bbox_head.loss_cls(pred, target)
        g = np.abs(1 / (1 + np.exp(-pred.double().numpy())) - dense.double().numpy())
        assert_counts_are_of(*observer.take()[0].numpy(), np.concatenate([g.ravel()] * 2))


def test_a_loss_that_is_not_there_is_an_error() -> None:
    detector = Detector(CrossEntropyLoss(use_sigmoid=True), SmoothL1Loss())
    with pytest.raises(ValueError, match=r"loss_bbox must be .* got 'loss_bbox': .*; it has bbox_"):
        GradientNormObserver(detector, Observed(BINS, MU, None, 'loss_bbox'))


def test_what_is_left_out_is_said_when_the_training_starts(tmp_path: Path) -> None:
    """And the training goes on: without any loss there is no record, which is said at its end."""
    model = Detector(CrossEntropyLoss(), SmoothL1Loss())
    runner = stub_runner(model, tmp_path, 3)
    for iteration in stub_training(runner, loss_bbox=None):
        if iteration == 0:
            [line] = runner.warnings
            assert line.startswith('bbox_head.loss_cls is left out of the gradient densities')
        model.bbox_head.loss_cls(torch.zeros(2, 4), torch.ones(2).long())
    assert runner.warnings[1:] == ['gradient_density.npz: not written, for no loss is observed']
    assert not list(tmp_path.iterdir())


def test_settings_are_those_of_the_observer() -> None:
    parameters = inspect.signature(GradientDensityHook).parameters
    assert list(parameters) == ['interval', 'iters', *vars(Observed())]
    assert GradientDensityHook().observed == Observed()
    settings = dict(bins=7, mu=0.5, loss_cls='a', loss_bbox=None)
    assert vars(GradientDensityHook(**settings).observed) == settings
    with pytest.raises(TypeError, match=r'(GradientDensityHook|__init__).* unexpected .*intervall'):
        HOOKS.build(dict(type='ghm_mmdet.GradientDensityHook', intervall=3))


def test_invalid_settings_are_errors() -> None:
    for name, value in (('interval', 0), ('iters', 0), ('bins', 0), ('mu', 0)):
        with pytest.raises(ValueError, match=f'{name} must be'):
            GradientDensityHook(**{name: value})
    with pytest.raises(ValueError, match='iters must be <= interval, got 3 of 2'):
        GradientDensityHook(interval=2, iters=3)
    with pytest.raises(TypeError, match='interval must be an int'):
        GradientDensityHook(interval=1.5)


class Calls(Hook):
    """What the losses are called with in each iteration, seen by a hook of its own."""

    def __init__(self) -> None:
        self.of_iteration: list[dict[str, list[Call]]] = []

    def before_train(self, runner: Runner) -> None:
        def keep(kind: str, args: tuple) -> None:
            call = tuple(x.detach().numpy().copy() for x in args[:3])
            self.of_iteration[-1].setdefault(kind, []).append(call)

        head = runner.model.bbox_head
        head.loss_cls.register_forward_hook(lambda loss, args, out: keep('cls', args))
        head.loss_bbox.register_forward_hook(lambda loss, args, out: keep('reg', args))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self.of_iteration.append({})


INTERVAL, ITERS = 3, 2


@pytest.fixture(scope='module')
def runs(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Six iterations, with the hook and without."""
    folder = tmp_path_factory.mktemp('density')
    density = dict(type='ghm_mmdet.GradientDensityHook', interval=INTERVAL, iters=ITERS)
    without = train(demo_config(demo_data, folder / 'without', 6, custom_hooks=[]))
    config = demo_config(demo_data, folder / 'with', 6, custom_hooks=[density])
    config.visualizer.name = 'density'  # MMEngine keeps one visualizer of each name
    calls = Calls()
    runner = Runner.from_cfg(config)
    runner.register_hook(calls)
    runner.train()
    return SimpleNamespace(
        folder=folder / 'with', config=config, calls=calls.of_iteration, runner=runner,
        without=without[0],
    )  # fmt: skip


def test_record_of_a_training_equals_numpy(runs: SimpleNamespace) -> None:
    with np.load(runs.folder / 'gradient_density.npz') as file:
        arrays = dict(file)
    assert arrays['iteration'].tolist() == [3, 6]
    np.testing.assert_allclose(arrays['mu'], [MU, MU])
    np.testing.assert_allclose(arrays['edges'], np.arange(601) / 600, rtol=1e-15)
    for row, recorded in enumerate((runs.calls[1:3], runs.calls[4:6])):
        for kind in ('cls', 'reg'):
            calls = [call for iteration in recorded for call in iteration[kind]]
            assert len(calls) == ITERS * 3
            g = np.concatenate([gradient_norms(kind, call, MU) for call in calls])
            counts, gradient = (arrays[f'{kind}_{name}'][row] for name in ('counts', 'gradient'))
            assert counts.dtype == np.int64
            assert_counts_are_of(counts, gradient, g)


def test_training_is_the_same_bit_for_bit(runs: SimpleNamespace) -> None:
    expected = runs.without.model.state_dict()
    state = runs.runner.model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def test_visualizer_gets_scalars_and_pictures(runs: SimpleNamespace) -> None:
    """Through the backend that MMDetection's default runtime has."""
    (log,) = runs.folder.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
    rows = [row for row in rows if 'gradient_density/cls_easy' in row]
    assert [row['step'] for row in rows] == [3, 6]
    last = runs.calls[4:6]
    for kind in ('cls', 'reg'):
        calls = [call for iteration in last for call in iteration[kind]]
        g = np.concatenate([gradient_norms(kind, call, MU) for call in calls])
        expected = {
            'easy': (g < 0.1).mean(),
            'hard': (g >= 0.9).mean(),
            'gradient_easy': g[g < 0.1].sum() / g.sum(),
            'gradient_hard': g[g >= 0.9].sum() / g.sum(),
        }
        for name, value in expected.items():
            assert rows[-1][f'gradient_density/{kind}_{name}'] == pytest.approx(value, abs=1e-5)

    [folder] = runs.folder.glob('*/vis_data/vis_image')
    names = ['gradient_density.png_3.png', 'gradient_density.png_6.png']
    assert sorted(path.name for path in folder.iterdir()) == names
    record = GradientDensityRecord.load(runs.folder / 'gradient_density.npz')
    drawn = matplotlib.image.imread(folder / names[1])[..., :3]
    np.testing.assert_allclose(drawn, picture(record) / 255, atol=1e-6)
    assert (drawn != picture(record.until(3)) / 255).mean() > 0.001


class Pictures(BaseVisBackend):
    """The steps of the pictures that it gets."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def _init_env(self) -> None:
        pass

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: object) -> None:
        assert name == 'gradient_density.png', 'MLflow asks for a format'
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        self.steps.append(step)

    def add_scalars(self, scalars: dict[str, float], *_: object, **__: object) -> None:
        assert all(name.startswith('gradient_density/') for name in scalars)

    @property
    def experiment(self) -> object:
        return self


@pytest.mark.parametrize(
    ('iters', 'steps'), [(12, [3, 6, 9, 12]), (69, [6, 12, 18, 24, 30, 36, 42, 48, 54, 60, 66])]
)
def test_ten_pictures_of_a_training(iters: int, steps: list[int], tmp_path: Path) -> None:
    """Or one of each row where there are fewer."""
    runner = stub_runner(Detector(CLS_LOSSES[0], REG_LOSSES[0]), tmp_path, iters)
    backend = Pictures()
    runner.visualizer = Visualizer(vis_backends=[backend])
    for _ in stub_training(runner, loss_bbox=None):
        runner.model([make_level(5, 0)])
    assert backend.steps == steps


def test_without_a_backend_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(record: GradientDensityRecord) -> np.ndarray:
        drawn.append(int(record.iteration[-1]))
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr('ghm_mmdet.hooks.gradient_density_hook.picture', draw)
    runner = stub_runner(Detector(CLS_LOSSES[0], REG_LOSSES[0]), tmp_path, 6)
    for backends, expected in ((None, []), ([Pictures()], [3, 6])):
        runner.visualizer, runner.iter = Visualizer(vis_backends=backends), 0
        for _ in stub_training(runner):
            runner.model([make_level(5, 0)])
        assert drawn == expected


@pytest.mark.parametrize('kind', ['cls', 'reg'])
def test_a_bin_is_easy_or_hard_by_its_centre(kind: str) -> None:
    """At 0.1 it is not easy, at 0.9 it is hard."""
    counts, gradient = np.array([8.0, 4, 2, 1, 5]), np.array([1.0, 1, 1, 1, 4])
    name = f'gradient_density/{kind}_'
    assert easy_and_hard(kind, counts, gradient) == {
        f'{name}easy': 0, f'{name}hard': 5 / 20,
        f'{name}gradient_easy': 0, f'{name}gradient_hard': 4 / 8,
    }  # fmt: skip
    found = easy_and_hard(kind, counts.repeat(2), gradient.repeat(2))
    assert found == {
        f'{name}easy': 8 / 40, f'{name}hard': 5 / 40,
        f'{name}gradient_easy': 1 / 16, f'{name}gradient_hard': 4 / 16,
    }  # fmt: skip
    assert easy_and_hard(kind, counts * 0, gradient * 0) == {}


def test_only_the_recorded_iterations_are_counted(tmp_path: Path) -> None:
    """The last two of every three, and after the training nothing is attached."""
    model = Detector(FocalLoss(use_sigmoid=True), SmoothL1Loss())
    levels = [[make_level(anchors, anchors)] for anchors in (10, 20, 40, 80, 160, 320)]
    for iteration in stub_training(stub_runner(model, tmp_path, 6)):
        model(levels[iteration])
    record = GradientDensityRecord.load(tmp_path / 'gradient_density.npz')
    logits = [CLASSES * int(level['cls'][2].sum()) for [level] in levels]
    assert record.iteration.tolist() == [3, 6]
    assert record.sums[:, 0, 0].sum(-1).tolist() == [sum(logits[1:3]), sum(logits[4:6])]
    assert not model.bbox_head.loss_cls._forward_hooks


def stub_runner(model: nn.Module, work_dir: Path, iters: int) -> SimpleNamespace:
    """What the hook asks of MMEngine's runner."""
    warnings: list[str] = []
    return SimpleNamespace(
        model=model, work_dir=str(work_dir), iter=0, max_iters=iters, warnings=warnings,
        visualizer=Visualizer(vis_backends=None), logger=SimpleNamespace(warning=warnings.append),
    )  # fmt: skip


def stub_training(runner: SimpleNamespace, **settings: object) -> Iterator[int]:
    """What MMEngine's loop calls of the hook, one iteration after the other."""
    hook = GradientDensityHook(**{'interval': INTERVAL, 'iters': ITERS, 'bins': BINS, **settings})
    hook.before_train(runner)
    for iteration in range(runner.iter, runner.max_iters):
        hook.before_train_iter(runner, iteration)
        yield iteration
        hook.after_train_iter(runner, iteration)
        runner.iter += 1
    hook.after_train(runner)


def test_a_resumed_record_has_the_mu_of_each_row(tmp_path: Path) -> None:
    """Where no checkpoint was loaded, it is known by its settings."""
    path = tmp_path / 'gradient_density.npz'
    for mu, begin, end in ((1.0, 0, 9), (0.5, 6, 9)):
        runner = stub_runner(Detector(CLS_LOSSES[0], GHMR(mu=mu)), tmp_path, end)
        runner.iter = begin
        for _ in stub_training(runner):
            runner.model([make_level(20 + begin, 0)])
    record = GradientDensityRecord.load(path)
    assert record.iteration.tolist() == [3, 6, 9]
    assert record.mu.tolist() == pytest.approx([1, 1, 0.5])
    assert record.sums[0, 0, 0].sum() == record.sums[1, 0, 0].sum() < record.sums[2, 0, 0].sum()
    runner.iter, runner.max_iters = 9, 12
    next(stub_training(runner, bins=7))
    assert 'begins anew at iteration 9' in runner.warnings[-1] and not path.exists()


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_a_checkpointed_loss_is_counted_once(use_reentrant: bool, tmp_path: Path) -> None:
    """Activation checkpointing calls it again in the backward pass."""
    model, level = Detector(GHMC(30), GHMR()), make_level(50, 0)
    observer = GradientNormObserver(model, Observed(BINS, MU))
    observer.start()
    expected = None
    for checkpointed in (False, True):

        def forward(scale: Tensor) -> Tensor:
            return model([dict(level, cls=(level['cls'][0] * scale, *level['cls'][1:]))])

        scale = torch.ones(1, requires_grad=True)
        if checkpointed:
            checkpoint(forward, scale, use_reentrant=use_reentrant).backward()
            assert torch.equal(observer.take(), expected)
        else:
            forward(scale).backward()
            expected = observer.take()


def test_a_second_hook_is_refused(tmp_path: Path) -> None:
    runner = stub_runner(Detector(GHMC(30), GHMR()), tmp_path, 3)
    runner.hooks = [GradientDensityHook(loss_cls=None), GradientDensityHook(loss_bbox=None)]
    with pytest.raises(ValueError, match='several GradientDensityHooks would write the same'):
        runner.hooks[0].before_train(runner)


def test_a_training_shorter_than_the_interval_has_a_row_at_its_end(tmp_path: Path) -> None:
    model = Detector(CLS_LOSSES[0], REG_LOSSES[0])
    runner = stub_runner(model, tmp_path, 4)
    for _ in stub_training(runner, interval=500, iters=300):
        model([make_level(20, 0)])
    assert GradientDensityRecord.load(tmp_path / 'gradient_density.npz').iteration.tolist() == [4]
    assert not runner.warnings


def test_a_record_of_nothing_is_a_warning(tmp_path: Path) -> None:
    """A loss that is not called, and a training that ends before its first row."""
    model = Detector(CLS_LOSSES[0], REG_LOSSES[0])
    runner = stub_runner(model, tmp_path, 3)
    for _ in stub_training(runner):
        model.bbox_head.loss_cls(*make_level(20, 0)['cls'])
    [warning] = runner.warnings
    assert 'bbox_head.loss_bbox had no valid example in the 2 iterations' in warning
    assert np.isnan(GradientDensityRecord.load(tmp_path / 'gradient_density.npz').mu).all()
    runner.iter, runner.visualizer = 0, Visualizer(vis_backends=[Pictures()])
    runner.warnings.clear()
    for _ in stub_training(runner):
        pass
    assert not runner.visualizer.get_backend('Pictures').steps
    assert sum('had no valid example' in line for line in runner.warnings) == 2
    hook = GradientDensityHook()
    runner.iter, runner.max_iters = 0, 0  # a loop that does not know its length
    hook.before_train(runner)
    hook.after_train(runner)
    assert 'not written, for the training ended before iteration 500' in runner.warnings[-1]


@pytest.mark.skipif(TORCH < (2, 1), reason='torch.compiler is of PyTorch 2.1')
def test_a_compiled_training_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not; MMEngine compiles `train_step`, and traces it before the first row."""
    traced = []

    def assign(*args: object) -> Tensor:
        traced.append(torch.compiler.is_compiling())
        return assign_regions(*args)

    if hasattr(torch.compiler, 'is_compiling'):
        monkeypatch.setattr('ghm_mmdet.visualization.observer.assign_regions', assign)

    def sums(compiled: bool) -> np.ndarray:
        torch._dynamo.reset()
        model = Detector(GHMC(bins=30, momentum=0.75), GHMR(mu_momentum=0.9))
        step = torch.compile(model.forward, backend='eager') if compiled else model.forward
        folder = tmp_path / str(compiled)
        for iteration in stub_training(stub_runner(model, folder, 6)):
            step([make_level(50, iteration)]).backward()
        record = GradientDensityRecord.load(folder / 'gradient_density.npz')
        assert (record.mu > 0.02).all()
        return record.sums

    np.testing.assert_allclose(sums(True), sums(False), rtol=1e-6)
    assert not any(traced)  # counting itself


class NoFloat64(TorchDispatchMode):
    """A device that has no float64, as Apple's MPS."""

    def __torch_dispatch__(
        self, function: Any, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f'{function} makes float64')
        return out


def test_other_devices(tmp_path: Path) -> None:
    """Without float64, and with a default device that is not the tensors'."""
    model, level = Detector(CLS_LOSSES[0], REG_LOSSES[0]), make_level(50, 0)

    def record(folder: Path, device: Any) -> GradientDensityRecord:
        for _ in stub_training(stub_runner(model, folder, 3)):
            with device:
                model([level])
        return GradientDensityRecord.load(folder / 'gradient_density.npz')

    expected = record(tmp_path / 'cpu', nullcontext())
    assert expected.sums.any()
    for name, device in (('no_float64', NoFloat64()), ('meta', torch.device('meta'))):
        np.testing.assert_array_equal(record(tmp_path / name, device).sums, expected.sums)


WORLD_SIZE = 2


def worker(rank: int, folder: str) -> None:
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=WORLD_SIZE
    )
    train_distributed(rank, Path(folder, str(rank)))
    leave_group()


def train_distributed(rank: int, folder: Path) -> None:
    # A function, so that the model is gone before the process group: DDP's reducer, if it is the
    # last to hold the group, joins the group's threads with the GIL, which they may wait for.
    model = nn.parallel.DistributedDataParallel(Detector(FocalLoss(use_sigmoid=True), GHMR()))
    for iteration in stub_training(stub_runner(model, folder, INTERVAL)):
        model([make_level(50 + 20 * rank, 10 * iteration + rank)]).backward()


def test_two_processes_are_summed_up(tmp_path: Path) -> None:
    start_all(worker, WORLD_SIZE, str(tmp_path))
    assert not (tmp_path / '1').exists()
    record = GradientDensityRecord.load(tmp_path / '0/gradient_density.npz')
    levels = [make_level(50 + 20 * rank, 10 * it + rank) for it in (1, 2) for rank in (0, 1)]
    assert record.iteration.tolist() == [3]
    for kind in ('cls', 'reg'):
        g = np.concatenate([gradient_norms(kind, level[kind], MU) for level in levels])
        assert_counts_are_of(*record.histogram(kind), g)
