"""What GradientNormObserver reads of the losses of a detector, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models import dense_heads as dense
from mmdet.models import losses
from mmdet.models.roi_heads import bbox_heads
from torch import Tensor, nn

import ghm_mmdet
from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, OHEMLoss
from ghm_mmdet.visualization.observer import READABLE, GradientNormObserver, Observed

from . import reference

BINS, MU = 20, 0.02
ROWS, CLASSES = 60, 3


def head_of(kind: type[nn.Module]) -> nn.Module:
    """A head without layers, whose losses are called by hand."""
    head = kind.__new__(kind)
    nn.Module.__init__(head)
    return head


def observe(
    loss: nn.Module, kind: str = 'cls', key: str | None = None, head: nn.Module | None = None
) -> tuple[GradientNormObserver, list[str]]:
    """An observer that counts the calls of one loss of a head, and what it warns of."""
    key = key or {'cls': 'loss_cls', 'reg': 'loss_bbox'}[kind]
    detector = nn.Module()
    detector.bbox_head = nn.Module() if head is None else head
    setattr(detector.bbox_head, key, loss)
    paths = dict(loss_cls=None, loss_bbox=None)
    paths[{'cls': 'loss_cls', 'reg': 'loss_bbox'}[kind]] = f'bbox_head.{key}'
    warned: list[str] = []
    observer = GradientNormObserver(detector, Observed(BINS, MU, **paths), warned.append)
    observer.start()
    return observer, warned


def counts(observer: GradientNormObserver, kind: str = 'cls') -> list[int]:
    return observer.take()[('cls', 'reg').index(kind), 0].int().tolist()


def histogram(g: np.ndarray) -> list[int]:
    """Of values that lie on no edge."""
    assert (np.abs(g * BINS - np.round(g * BINS)) > 1e-4).all()
    return np.histogram(g, BINS, (0, 1))[0].tolist()


def example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with background, and weights of which some are 0."""
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(ROWS, CLASSES, generator=generator) * 3
    labels = torch.randint(0, CLASSES + 1, (ROWS,), generator=generator)
    return pred, labels, (torch.rand(ROWS, generator=generator) < 0.8).float()


def g_of(pred: Tensor, target: Tensor | np.ndarray) -> np.ndarray:
    """Eq. 3 in float64; `target` holds labels or p*."""
    target = np.asarray(target)
    p_star = target if target.ndim == pred.dim() else reference.one_hot(target, CLASSES)
    return np.abs(reference.sigmoid(pred.double().numpy()) - p_star)


# What is read.


@pytest.mark.parametrize(
    ('loss', 'pred', 'target', 'weight'),
    [
        (losses.FocalLoss(), 'pred', 'target', 'weight'),
        (losses.CrossEntropyLoss(use_sigmoid=True), 'cls_score', 'label', 'weight'),
        (GHMC(30), 'pred', 'target', 'label_weight'),
        (GHMC(30), 'pred', 'target', 'weight'),
        (losses.GHMC(30), 'pred', 'target', 'label_weight'),
        (OHEMLoss(), 'pred', 'target', 'weight'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
@pytest.mark.parametrize('by_position', [0, 1, 2, 3])
def test_any_mixture_of_arguments_is_read(
    loss: nn.Module, pred: str, target: str, weight: str, by_position: int
) -> None:
    values = dict(zip((pred, target, weight), example()))
    if by_position == 3 and weight == 'weight' and isinstance(loss, GHMC):
        pytest.skip('weight is a keyword of GHMC')
    args = [values.pop(name) for name in (pred, target, weight)[:by_position]]
    x, labels, w = example()
    observer, warned = observe(loss)
    expected = loss(*args, **values)
    assert counts(observer) == histogram(g_of(x, labels)[w > 0].ravel())
    observer.stop()
    assert torch.equal(loss(*args, **values), expected) or 'GHM' in type(loss).__name__
    assert not warned


class Forwarding(losses.FocalLoss):
    """A class of a user's, whose signature names nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super().forward(*args, **kwargs)


class Renaming(losses.CrossEntropyLoss):
    """Another, which has its own names."""

    def forward(self, scores: Tensor, classes: Tensor, weight: Tensor | None = None) -> Tensor:
        return super().forward(scores, classes, weight)


def test_losses_of_derived_classes_are_read() -> None:
    x, labels, weight = example()
    expected = histogram(g_of(x, labels)[weight > 0].ravel())
    for loss, arguments in (
        (Forwarding(), dict(target=labels, weight=weight, pred=x)),
        (Renaming(use_sigmoid=True), dict(classes=labels, weight=weight, scores=x)),
    ):
        observer, warned = observe(loss)
        loss(**arguments)
        assert counts(observer) == expected and not warned


@pytest.mark.parametrize(
    ('ignore_index', 'of_call', 'ignored'),
    [(None, None, [-1, -100]), (255, None, [255, -1]), (2, None, [2]), (255, 1, [1, -1])],
)
def test_ignored_labels_are_not_counted(
    ignore_index: int | None, of_call: int | None, ignored: list[int]
) -> None:
    """Those that MMDetection's cross entropy gives the weight 0; a call may name another."""
    loss = losses.CrossEntropyLoss(use_sigmoid=True, ignore_index=ignore_index)
    x, labels, weight = example()
    for i, label in enumerate(ignored):
        labels[i::7] = label
    valid = (weight > 0) & ~sum(labels == label for label in ignored).bool()
    # 255 is the background where it is not ignored.
    observer, warned = observe(loss)
    elements = loss(x, labels, weight, reduction_override='none', ignore_index=of_call)
    assert ((elements > 0).any(1) == valid).all(), 'what the loss itself leaves out'
    found = counts(observer)
    assert found == histogram(g_of(x, labels.clamp(0, CLASSES))[valid.numpy()].ravel())
    loss(x, labels, ignore_index=of_call)
    assert sum(counts(observer)) == 3 * int((~sum(labels == v for v in ignored).bool()).sum())
    assert not warned


def test_ignored_elements_of_a_dense_target_are_not_counted() -> None:
    loss = losses.CrossEntropyLoss(use_sigmoid=True, ignore_index=255)
    x, _, weight = example()
    target = torch.rand(ROWS, CLASSES)
    target[::5, 1], target[1::5, 0] = -1, 255
    observer, warned = observe(loss)
    elements = loss(x, target, weight[:, None], reduction_override='none')
    valid = (elements != 0).numpy()
    assert 0.5 < valid.mean() < 0.8
    assert counts(observer) == histogram(g_of(x, target)[valid]) and not warned


@pytest.mark.parametrize('label', [-1, 255])
def test_other_losses_take_any_label_outside_for_background(label: int) -> None:
    loss = GHMC(30)
    x, labels, _ = example()
    labels[::2] = label
    observer, _ = observe(loss)
    loss(x, labels)
    outside = torch.where(labels == label, CLASSES, labels)
    assert counts(observer) == histogram(g_of(x, outside).ravel())


@pytest.mark.parametrize('name', ['FocalLoss', 'QualityFocalLoss'])
@pytest.mark.parametrize('head', [nn.Module, dense.TOODHead], ids=lambda kind: kind.__name__)
def test_activated_losses_are_called_with_probabilities(name: str, head: type) -> None:
    loss = getattr(losses, name)(activated=True)
    x, labels, weight = example()
    p, scores = x.sigmoid(), torch.rand(ROWS)
    target = labels if name == 'FocalLoss' else (labels, scores)
    p_star = reference.one_hot(labels.numpy(), CLASSES)
    p_star = p_star if name == 'FocalLoss' else p_star * scores.double().numpy()[:, None]
    observer, warned = observe(loss, head=head_of(head))
    loss(p, target, weight, avg_factor=1.0)
    expected = np.abs(p.double().numpy() - p_star)[weight > 0]
    assert counts(observer) == histogram(expected.ravel()) and not warned


def test_labels_with_scores_are_read() -> None:
    """As GFL calls its QualityFocalLoss."""
    x, labels, weight = example()
    scores = torch.rand(ROWS)
    p_star = reference.one_hot(labels.numpy(), CLASSES) * scores.double().numpy()[:, None]
    loss = losses.QualityFocalLoss()
    observer, warned = observe(loss, head=head_of(dense.GFLHead))
    loss(x, (labels, scores), weight=weight, avg_factor=4.0)
    assert counts(observer) == histogram(g_of(x, p_star)[weight > 0].ravel())
    ghm = GHMC(30)
    observer, warned = observe(ghm)
    ghm(x, (labels, scores), weight)
    assert counts(observer) == histogram(g_of(x, p_star)[weight > 0].ravel()) and not warned


def test_soft_targets_of_all_classes_are_read() -> None:
    """As VFNet calls its VarifocalLoss."""
    x, _, _ = example()
    target = torch.rand(ROWS, CLASSES) * (torch.rand(ROWS, CLASSES) < 0.3)
    loss = losses.VarifocalLoss()
    observer, warned = observe(loss, head=head_of(dense.VFNetHead))
    loss(x, target, avg_factor=1.0)
    assert counts(observer) == histogram(g_of(x, target).ravel()) and not warned


def test_predictions_of_other_dimensions_are_read() -> None:
    """YOLOv3's classes are a part of its map, its objectness has no dimension of classes."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 30, 5 + CLASSES, generator=generator)
    target = (torch.rand(2, 30, CLASSES, generator=generator) < 0.3).float()
    positive = (torch.rand(2, 30, 1, generator=generator) < 0.5).float()
    loss = losses.CrossEntropyLoss(use_sigmoid=True, reduction='sum')
    observer, warned = observe(loss, head=head_of(dense.YOLOV3Head))
    loss(maps[..., 5:], target, weight=positive)
    g = g_of(maps[..., 5:], target)
    assert counts(observer) == histogram(g[np.broadcast_to(positive > 0, g.shape)])
    objectness, weight = target[..., 0], positive[..., 0]
    loss(maps[..., 4], objectness, weight=weight)
    assert counts(observer) == histogram(g_of(maps[..., 4], objectness)[weight > 0])
    loss(maps[0, :, 4], objectness[0])
    assert counts(observer) == histogram(g_of(maps[0, :, 4], objectness[0])) and not warned


def test_a_weight_of_elements_is_read() -> None:
    x, labels, _ = example()
    weight = (torch.rand(ROWS, CLASSES) < 0.5).float()
    loss = losses.FocalLoss()
    observer, warned = observe(loss)
    loss(x, labels, weight)
    assert counts(observer) == histogram(g_of(x, labels)[weight > 0]) and not warned


@pytest.mark.parametrize('coder', [4, 5])
@pytest.mark.parametrize(
    'loss',
    [
        losses.L1Loss(), losses.SmoothL1Loss(), losses.BalancedL1Loss(), losses.GHMR(mu=0.05),
        GHMR(mu=0.05), AuthenticSmoothL1Loss(mu=0.05),
    ],
    ids=lambda loss: f'{type(loss).__module__.partition(".")[0]}.{type(loss).__name__}',
)  # fmt: skip
def test_encoded_offsets_are_read(loss: nn.Module, coder: int) -> None:
    """Rotated boxes have five. With the loss's own μ, where it has one."""
    generator = torch.Generator().manual_seed(coder)
    pred, target = torch.randn(2, ROWS, coder, generator=generator) / 30
    weight = (torch.rand(ROWS, 1, generator=generator) < 0.5).float().expand(ROWS, coder)
    observer, warned = observe(loss, 'reg', head=head_of(dense.RetinaHead))
    loss(pred, target, weight, avg_factor=3.0)
    d = (pred - target).double().numpy()[weight > 0]
    gr = np.abs(reference.asl1_gradient(d, getattr(loss, 'mu', MU)))
    assert counts(observer, 'reg') == histogram(gr) and not warned


def test_stages_of_a_cascade_are_named_by_their_number() -> None:
    detector = nn.Module()
    detector.roi_head = nn.Module()
    detector.roi_head.bbox_head = nn.ModuleList(
        [head_of(bbox_heads.Shared2FCBBoxHead) for _ in range(3)]
    )
    for head in detector.roi_head.bbox_head:
        head.loss_bbox = losses.SmoothL1Loss()
    path = 'roi_head.bbox_head.1.loss_bbox'
    observer = GradientNormObserver(detector, Observed(BINS, MU, None, path))
    observer.start()
    for stage, rows in enumerate((10, 20, 40)):
        detector.roi_head.bbox_head[stage].loss_bbox(torch.ones(rows, 4), torch.zeros(rows, 4))
    assert sum(counts(observer, 'reg')) == 80
    with pytest.raises(ValueError, match=r'it has roi_head\.bbox_head\.0\.loss_bbox, roi_head'):
        GradientNormObserver(detector, Observed(BINS, MU, None, 'roi_head.bbox_head.loss_bbox'))


def test_several_calls_are_added_up_and_blocks_are_one_call() -> None:
    """More logits than there are in a block, in rows that do not divide it."""
    loss = losses.FocalLoss()
    observer, _ = observe(loss)
    generator = torch.Generator().manual_seed(0)
    expected = np.zeros(BINS, int)
    for rows, classes in ((30_000, 7), (10, 7), (1, 100_000)):
        x = torch.randn(rows, classes, generator=generator)
        labels = torch.randint(0, classes + 1, (rows,), generator=generator)
        loss(x, labels)
        p = x.double().sigmoid().numpy()
        p_star = labels.numpy()[:, None] == np.arange(classes)
        expected += np.histogram(np.abs(p - p_star), BINS, (0, 1))[0]
    found = np.array(counts(observer))
    assert found.sum() == 30_000 * 7 + 70 + 100_000
    assert np.abs(found - expected).sum() <= 4, 'beside rounding at the edges'


# What is left out.


def head_with(kind: type[nn.Module], **attributes: object) -> nn.Module:
    head = head_of(kind)
    vars(head).update(attributes)
    return head


LEFT_OUT: list[tuple[str, Callable[[], nn.Module], str, Any, str]] = [
    ('reg', losses.IoULoss, 'loss_bbox', nn.Module, 'an IoU loss'),
    ('reg', losses.GIoULoss, 'loss_bbox', dense.FCOSHead, 'an IoU loss'),
    ('reg', losses.CIoULoss, 'loss_bbox', dense.YOLOXHead, 'an IoU loss'),
    ('reg', losses.L1Loss, 'loss_bbox', dense.FCOSHead, 'calls it on decoded boxes'),
    ('reg', losses.L1Loss, 'loss_bbox', dense.GFLHead, 'calls it on decoded boxes'),
    ('reg', losses.L1Loss, 'loss_bbox', dense.DETRHead, 'L1 of whole boxes'),
    ('reg', losses.L1Loss, 'loss_bbox', dense.DINOHead, 'L1 of whole boxes'),
    ('reg', losses.L1Loss, 'loss_bbox', 'decoded', 'reg_decoded_bbox=True'),
    ('reg', losses.SmoothL1Loss, 'loss_bbox', 'box head, decoded', 'reg_decoded_bbox=True'),
    ('reg', losses.DistributionFocalLoss, 'loss_dfl', dense.GFLHead, 'a distribution over'),
    ('reg', losses.SmoothL1Loss, 'loss_iou', nn.Module, 'an IoU loss or a quality branch'),
    ('reg', losses.MSELoss, 'loss_bbox', nn.Module, 'not known what a MSELoss is called with'),
    ('reg', losses.FocalLoss, 'loss_bbox', nn.Module, 'not known what a FocalLoss is called with'),
    ('reg', nn.L1Loss, 'loss_bbox', nn.Module, 'not known what a L1Loss is called with'),
    ('cls', losses.CrossEntropyLoss, 'loss_cls', nn.Module, 'use_sigmoid=False'),
    ('cls', lambda: GHMC(30, use_sigmoid=False), 'loss_cls', nn.Module, 'use_sigmoid=False'),
    ('cls', lambda: OHEMLoss(use_sigmoid=False), 'loss_cls', nn.Module, 'use_sigmoid=False'),
    ('cls', losses.SeesawLoss, 'loss_cls', nn.Module, 'weighs classes by their frequency'),
    ('cls', losses.GaussianFocalLoss, 'loss_cls', nn.Module, 'a Gaussian heat map'),
    ('cls', losses.FocalLoss, 'loss_cls', dense.PAAHead, 'ranks its anchors'),
    ('cls', losses.FocalLoss, 'loss_cls', dense.CenterNetUpdateHead, 'a Gaussian heat map'),
    ('cls', lambda: losses.CrossEntropyLoss(use_mask=True), 'loss_mask', nn.Module, 'a mask loss'),
    ('cls', lambda: losses.CrossEntropyLoss(use_mask=True), 'loss_cls', nn.Module, 'use_sigmoid'),
    ('cls', losses.FocalLoss, 'loss_centerness', dense.FCOSHead, 'a quality branch'),
    ('cls', losses.SmoothL1Loss, 'loss_cls', nn.Module, 'not known what a SmoothL1Loss is'),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'loss', 'key', 'head', 'why'), LEFT_OUT)
def test_what_can_not_be_read_is_left_out(
    kind: str, loss: Callable[[], nn.Module], key: str, head: Any, why: str
) -> None:
    """With one line at the start, whatever is called later."""
    decoded = dict(reg_decoded_bbox=True)
    heads = {
        'decoded': lambda: head_with(dense.RetinaHead, **decoded),
        'box head, decoded': lambda: head_with(bbox_heads.Shared2FCBBoxHead, **decoded),
    }
    made = heads[head]() if isinstance(head, str) else head_of(head)
    module = loss()
    observer, [line] = observe(module, kind, key, made)
    assert line.startswith(f'bbox_head.{key} is left out of the gradient densities: ')
    assert why in line
    assert not module._forward_hooks and not observer.read
    assert not observer.take().any()


class OfAUser(dense.DETRHead):
    """A head that derives from a known one."""


def test_heads_of_derived_classes_are_known() -> None:
    _, [line] = observe(losses.L1Loss(), 'reg', head=head_of(OfAUser))
    assert 'L1 of whole boxes' in line


def test_a_namesake_of_another_package_is_not_known() -> None:
    kind = type('DETRHead', (nn.Module,), {'__module__': 'mine.heads'})
    observer, warned = observe(losses.L1Loss(), 'reg', head=head_of(kind))
    assert observer.read and not warned
    kind = type('FocalLoss', (nn.Module,), {'__module__': 'mine.losses'})
    _, [line] = observe(kind(), 'cls')
    assert 'not known what a FocalLoss is called with' in line


def test_a_default_that_is_not_there_is_left_out() -> None:
    """As in Faster R-CNN, whose losses have other paths, which the line names."""
    detector = nn.Module()
    detector.rpn_head = nn.Module()
    detector.rpn_head.loss_cls = losses.CrossEntropyLoss(use_sigmoid=True)
    warned: list[str] = []
    observer = GradientNormObserver(detector, Observed(), warned.append)
    assert not observer.read and len(warned) == 2
    for line, name in zip(warned, ('loss_cls', 'loss_bbox')):
        assert line.startswith(f'bbox_head.{name} is left out')
        assert line.endswith('no such loss; it has rpn_head.loss_cls')


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


LABELS = torch.ones(5).long()
BAD_CALLS: dict[str, tuple[str, tuple]] = {
    'broadcast': ('reg', (zeros(5, 4), zeros(5, 1))),
    'a weight of columns': ('reg', (zeros(5, 4), zeros(5, 4), zeros(1, 4))),
    'no tensor': ('reg', ([0.0, 1.0], [0.0, 1.0])),
    'labels of another number': ('cls', (zeros(5, 3), LABELS[:4])),
    'targets beyond 1': ('cls', (zeros(5, 3), zeros(5, 3) + 7)),
    'negative targets': ('cls', (zeros(5, 3), zeros(5, 3) - 0.5)),
    'scores beyond 1': ('cls', (zeros(5, 3), (LABELS, zeros(5) + 2))),
}


@pytest.mark.parametrize('case', BAD_CALLS)
def test_a_call_that_can_not_be_read_does_not_end_the_training(case: str) -> None:
    """The loss is left out from then on, with what was counted of it in this row."""
    kind, bad = BAD_CALLS[case]
    base = losses.FocalLoss if kind == 'cls' else losses.SmoothL1Loss

    class Tolerant(base):  # type: ignore[misc, valid-type]
        def forward(self, pred: Any, target: Any, weight: Any = None) -> int:
            return 7

    loss = Tolerant()
    observer, warned = observe(loss, kind)
    good = (torch.zeros(5, 3), torch.zeros(5).long()) if kind == 'cls' else torch.zeros(2, 5, 4)
    assert loss(*good) == loss(*bad) == loss(*good) == 7
    [line] = warned
    name = {'cls': 'loss_cls', 'reg': 'loss_bbox'}[kind]
    assert line.startswith(f'bbox_head.{name} is left out of the gradient densities: a call of it')
    assert 'Error: ' in line
    assert not observer.take().any() and not observer.read


def test_targets_that_rounding_moves_outside_are_read() -> None:
    x = torch.zeros(2, 1)
    loss = losses.VarifocalLoss()
    observer, warned = observe(loss)
    loss(x, torch.tensor([[1.0005], [-0.0005]]))
    assert sum(counts(observer)) == 2 and not warned


def test_every_readable_loss_is_one_of_mmdetection_or_of_this_package() -> None:
    for name in {*READABLE['cls'], *READABLE['reg']}:
        assert hasattr(losses, name) or hasattr(ghm_mmdet, name), name


PEAK = """
import resource
import torch
from mmdet.models.losses import FocalLoss, SmoothL1Loss
from torch import nn
from ghm_mmdet.visualization.observer import GradientNormObserver, Observed

class NoCls(FocalLoss):
    def forward(self, pred, target, weight=None):
        return 0

class NoReg(SmoothL1Loss):
    def forward(self, pred, target, weight=None):
        return 0

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

detector = nn.Module()
detector.bbox_head = nn.Module()
detector.bbox_head.loss_cls, detector.bbox_head.loss_bbox = NoCls(), NoReg()
observer = GradientNormObserver(detector, Observed())
observer.start()
rows, head = 151_200, detector.bbox_head
logits, offsets = torch.randn(rows, 80), torch.randn(rows, 4)
labels, weight = torch.randint(0, 81, (rows,)), torch.ones(rows)
head.loss_cls(logits[:100], labels[:100], weight[:100])
head.loss_bbox(offsets[:100], offsets[:100])
observer.take()
before = peak()
head.loss_cls(logits, labels, weight)
head.loss_bbox(offsets, offsets, weight[:, None].expand(rows, 4))
assert observer.take()[:, 0].sum() == rows * 84
print(peak() - before)
"""


def test_a_recorded_iteration_takes_a_few_megabytes() -> None:
    """Of 12.1 million logits, 46 MiB; counted by the system, in a process of its own."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', PEAK], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) < 8
