"""The page on torchvision's RetinaNet, run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('torchvision.models.detection.retinanet', exc_type=Exception)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet

PAGE = Path(__file__).parent.parent / 'docs' / 'without-mmdetection.md'
CLASSES = 4


def ghm_head() -> type[nn.Module]:
    """The class that the page defines."""
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)
    (block,) = (block for block in blocks if 'class GHMHead' in block)
    names: dict = {}
    exec(block, names)
    return names['GHMHead']


class Backbone(nn.Sequential):
    out_channels = 16


def detector() -> RetinaNet:
    torch.manual_seed(0)
    backbone = Backbone(nn.Conv2d(3, 16, 7, stride=16, padding=3), nn.ReLU())
    anchors = AnchorGenerator(((32, 64),), ((1.0,),))
    head = ghm_head()(16, 2, CLASSES)
    return RetinaNet(
        backbone, CLASSES, anchor_generator=anchors, head=head, min_size=128, max_size=128
    )


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """An image with two boxes, and one without any."""
    images = [torch.rand(3, 128, 128), torch.rand(3, 128, 128)]
    boxes = torch.tensor([[10.0, 10, 60, 60], [70, 64, 126, 126]])
    none = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return images, [dict(boxes=boxes, labels=torch.tensor([1, 3])), none]


def test_it_trains() -> None:
    model, (images, targets) = detector(), batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(150):
        losses = model(images, targets)
        assert set(losses) == {'classification', 'bbox_regression'}
        optimizer.zero_grad()
        total = sum(losses.values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.5 * totals[0]
    found = model.eval()(images)[0]
    assert set(found['labels'][:2].tolist()) == {1, 3}


def test_the_three_traps() -> None:
    """No example between the thresholds, no positive in channel 0, N of the whole batch."""
    model, (images, targets) = detector(), batch()
    seen: list[tuple] = []
    model.head.loss_cls.register_forward_pre_hook(lambda module, args: seen.append(args))
    model(images, targets)
    ((logits, labels, weight),) = seen
    matched = [
        model.proposal_matcher(box_iou(targets[0]['boxes'], anchors(model, images))),
        torch.full((len(logits) // 2,), -1),
    ]
    matched = torch.cat(matched)
    assert torch.equal(weight == 0, matched == -2) and (matched == -2).any()
    positive = (labels >= 0) & (labels < CLASSES)
    assert torch.equal(positive, matched >= 0) and not (labels == 0).any()


def anchors(model: RetinaNet, images: list[Tensor]) -> Tensor:
    from torchvision.models.detection.image_list import ImageList

    batch = torch.stack(images)
    listed = ImageList(batch, [(128, 128)] * 2)
    return model.anchor_generator(listed, [model.backbone(batch)])[0]


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    from torchvision.ops import box_iou

    return box_iou(boxes, others)
