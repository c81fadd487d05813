"""OHEMLoss against a loop in NumPy, and its head against MMDetection's RetinaHead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ghm_mmdet import OHEMLoss, OHEMRetinaHead

from .reference import softmax_cross_entropy

CLASSES = 3


def mined_loss(
    pred: np.ndarray, labels: np.ndarray, weight: np.ndarray, ratio: float
) -> np.ndarray:
    """Cross entropy of one image's anchors, (N, C), zero where an anchor is not mined."""
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
    pred = torch.randn(3, anchors, CLASSES, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 40, (3, anchors), generator=generator).clamp(max=CLASSES)
    labels[1] = CLASSES  # an image without positives
    weight = (torch.rand(3, anchors, generator=generator) < 0.8).double() * 0.5
    return pred, labels, weight


def expected(pred: Tensor, labels: Tensor, weight: Tensor, ratio: float = 3) -> np.ndarray:
    images = zip(pred.numpy(), labels.numpy(), weight.numpy())
    return np.stack([mined_loss(*image, ratio) for image in images])


@pytest.mark.parametrize('ratio', [3, 1, 0.5, 1000])
@pytest.mark.parametrize('seed', range(3))
def test_mines_in_each_image(seed: int, ratio: float) -> None:
    call = random_call(seed)
    loss = OHEMLoss(neg_pos_ratio=ratio, loss_weight=2.0)
    each = expected(*call, ratio)
    np.testing.assert_allclose(loss(*call, reduction_override='none'), 2 * each)
    assert float(loss(*call, avg_factor=7)) == pytest.approx(2 * each.sum() / 7)
    assert float(loss(*call, reduction_override='sum')) == pytest.approx(2 * each.sum())
    assert (each[1] == 0).all()


@pytest.mark.parametrize('ratio', [2, 0.5, 1000])
def test_softmax_mines_rows(ratio: float) -> None:
    """In each image, and from all rows of a flat call, where the second image gives its own."""
    pred, labels, weight = random_call(0)
    pred = torch.cat([pred, pred.flip(-1)[..., :1]], -1)
    entropy = softmax_cross_entropy(pred.flatten(0, 1).numpy(), labels.flatten().numpy()).reshape(
        3, -1
    )
    positive = (labels < CLASSES).numpy() & (weight > 0).numpy()
    negative = (labels == CLASSES).numpy() & (weight > 0).numpy()
    loss = OHEMLoss(neg_pos_ratio=ratio, use_sigmoid=False, loss_weight=2.0)

    def mined(entropy: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
        hardest = np.sort(entropy[negative])[::-1][: int(ratio * positive.sum())]
        return 0.5 * (entropy[positive].sum() + hardest.sum())

    each = [mined(*image) for image in zip(entropy, positive, negative)]
    assert each[1] == 0
    result = loss(pred, labels, weight, reduction_override='none')
    np.testing.assert_allclose(result.sum(-1), 2 * np.array(each))
    assert loss(pred, labels, weight, avg_factor=7).item() == pytest.approx(2 * sum(each) / 7)
    flat = (tensor.flatten(0, 1) for tensor in (pred, labels, weight))
    whole = mined(entropy.ravel(), positive.ravel(), negative.ravel())
    assert loss(*flat, avg_factor=7).item() == pytest.approx(2 * whole / 7)


def test_a_flat_call_is_mined_as_one() -> None:
    pred, labels, weight = (tensor.flatten(0, 1) for tensor in random_call(0))
    each = mined_loss(pred.numpy(), labels.numpy(), weight.numpy(), 3)
    kept = (each != 0).any(1).sum()
    assert float(OHEMLoss()(pred, labels, weight)) == pytest.approx(each.sum() / kept)


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


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match='write use_sigmoid=True'):
        MODELS.build(dict(type='ghm_mmdet.OHEMLoss'))
    with pytest.raises(TypeError, match='use_sigmoid must be True or False, got 1'):
        MODELS.build(dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=1))
    with pytest.raises(ValueError, match='neg_pos_ratio must be > 0, got 0'):
        OHEMLoss(neg_pos_ratio=0)
    with pytest.raises(ValueError, match=r'target must have the shape of pred.*, \(4,\)'):
        OHEMLoss()(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match='weight must have the shape of target'):
        OHEMLoss()(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4, 3))


class Recording(nn.Module):
    """A loss that keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def forward(self, *args: Tensor, avg_factor: float) -> Tensor:
        self.calls.append((*args, avg_factor))
        return args[0].sum() * 0


def head_of(head_class: type[RetinaHead], **settings: object) -> RetinaHead:
    train_cfg = ConfigDict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    )
    loss_cls = ConfigDict(type='ghm_mmdet.OHEMLoss', use_sigmoid=True)
    head = head_class(CLASSES, 8, 1, feat_channels=8, loss_cls=loss_cls, train_cfg=train_cfg)
    for name, value in settings.items():
        setattr(head, name, value)
    return head


def call_head(head: RetinaHead) -> dict:
    torch.manual_seed(0)
    sizes = (16, 8, 4, 2, 1)
    scores = [torch.randn(2, 9 * CLASSES, size, size) for size in sizes]
    offsets = [torch.randn(2, 36, size, size) for size in sizes]
    boxes = torch.tensor([[10.0, 12, 60, 50], [70, 20, 120, 100], [5, 80, 30, 110]])
    truth = [
        InstanceData(bboxes=boxes[:2], labels=torch.tensor([0, 2])),
        InstanceData(bboxes=boxes[2:], labels=torch.tensor([1])),
    ]
    meta = [dict(img_shape=(128, 128), pad_shape=(128, 128))] * 2
    return head.loss_by_feat(scores, offsets, truth, meta)


def test_head_gives_the_images_of_retina_head() -> None:
    """What RetinaHead passes per level, regrouped, is what OHEMRetinaHead passes at once."""
    recorded = {}
    for head_class in (RetinaHead, OHEMRetinaHead):
        recorders = dict(loss_cls=Recording(), loss_bbox=Recording())
        call_head(head_of(head_class, **recorders))
        recorded[head_class] = {name: r.calls for name, r in recorders.items()}
    for name in ('loss_cls', 'loss_bbox'):
        per_level, [at_once] = recorded[RetinaHead][name], recorded[OHEMRetinaHead][name]
        assert len(per_level) == 5
        assert {call[-1] for call in per_level} == {at_once[-1]}
        for argument, whole in enumerate(at_once[:-1]):
            by_image = [call[argument].unflatten(0, (2, -1)) for call in per_level]
            torch.testing.assert_close(torch.cat(by_image, 1), whole, rtol=0, atol=0)


def test_head_mines_over_the_levels_of_an_image() -> None:
    recorder = Recording()
    call_head(head_of(OHEMRetinaHead, loss_cls=recorder))
    *call, avg_factor = recorder.calls[0]
    loss = call_head(head_of(OHEMRetinaHead))['loss_cls']
    call = [tensor.double() if tensor.is_floating_point() else tensor for tensor in call]
    assert float(loss) == pytest.approx(expected(*call).sum() / avg_factor, rel=1e-5)


def test_head_refuses_decoded_boxes() -> None:
    with pytest.raises(ValueError, match='reg_decoded_bbox must be False'):
        OHEMRetinaHead(CLASSES, 8, reg_decoded_bbox=True)
