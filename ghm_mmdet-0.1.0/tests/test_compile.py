"""GHM-C and GHM-R in a model: what autograd keeps, and `torch.compile`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ghm_mmdet import GHMC, GHMR

from .test_fast_paths import TORCH, classification


@pytest.mark.parametrize('loss', [GHMC(30), GHMC(10, 0.75)])
def test_memory_kept_for_backward(loss: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the size of the logits: the logits themselves and their gradient, nothing else."""
    monkeypatch.delenv('GHM_MMDET_KERNELS', raising=False)
    pred, labels, weight = classification(2000, 20)
    pred.requires_grad_()
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        value = loss(pred, labels, weight)
    large = [x for x in saved if x.numel() > len(pred)]
    assert [x.data_ptr() for x in large[:1]] == [pred.data_ptr()]
    assert [(x.shape, x.dtype) for x in large[1:]] == [(pred.shape, torch.float32)]
    value.backward()
    torch.testing.assert_close(large[1], pred.grad)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls, self.reg = nn.Linear(8, 5), nn.Linear(8, 4)
        self.loss_cls = GHMC(30, 0.75)
        self.loss_reg = GHMR(bins=10, momentum=0.75, loss_weight=10.0)

    def forward(self, x: Tensor, labels: Tensor, weight: Tensor, boxes: Tensor) -> Tensor:
        loss = self.loss_cls(self.cls(x), labels, weight, avg_factor=3.0)
        box_weight = (labels < 5).float().unsqueeze(1).expand_as(boxes)
        return loss + self.loss_reg(self.reg(x), boxes, box_weight, avg_factor=3.0)


@pytest.mark.skipif(TORCH < (2, 4), reason='older versions break the graph')
@pytest.mark.parametrize('kind', [int, float])
def test_a_divisor_that_varies_is_compiled_twice_at_most(kind: type) -> None:
    """Once for a constant, and once for any number."""
    torch._dynamo.reset()
    graphs = []

    def backend(module: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

    loss = GHMC(30, formula='tempered')
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    pred, labels, weight = classification(100, 4)
    for n in range(10, 15):
        values = [f(pred, labels, weight, avg_factor=kind(n)) for f in (loss, compiled)]
        torch.testing.assert_close(*values)
    assert len(graphs) <= 2


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_traced_loss_follows_new_inputs() -> None:
    """Its counts are of the new logits, and not constants of the trace."""
    loss = GHMC(30)
    calls = [classification(50, 4)[:2] for _ in range(2)]
    calls[1] = (calls[1][0] * 3 - 1, calls[1][1].flip(0))
    traced = torch.jit.trace(lambda x, y: loss(x, y), calls[0], check_trace=False)
    for pred, labels in calls:
        torch.testing.assert_close(traced(pred, labels), loss(pred, labels))


@pytest.mark.slow
@pytest.mark.parametrize(
    'backend', ['eager', 'aot_eager', pytest.param('inductor', marks=pytest.mark.slow)]
)
def test_compile_of_a_head(backend: str) -> None:
    torch._dynamo.reset()
    eager, head = Head(), Head()
    # Older versions break the graph.
    compiled = torch.compile(head, fullgraph=TORCH >= (2, 4), backend=backend)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, boxes = (torch.randn(40, n, generator=generator) for n in (8, 4))
        labels = torch.randint(0, 7, (40,), generator=generator)
        weight = (torch.rand(40, generator=generator) < 0.8).float()
        values = [module(x, labels, weight, boxes) for module in (eager, compiled)]
        torch.testing.assert_close(*values)
        for value in values:
            value.backward()
    for mine, other in zip(eager.parameters(), head.parameters()):
        torch.testing.assert_close(mine.grad, other.grad)
    for mine, other in zip(eager.buffers(), head.buffers()):
        torch.testing.assert_close(mine, other)
