"""`sync=True`: several processes harmonize like one that holds the whole mini-batch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR

from .processes import leave_group, start, start_all

TIMEOUT = 5.0
CALLS = 3
ROWS = 60
#: Examples of each process in each call: even, uneven, one process without any.
SPLITS = {
    2: {'even': (30, 30), 'uneven': (50, 10), 'empty': (60, 0)},
    4: {'even': (15, 15, 15, 15), 'uneven': (7, 31, 1, 21), 'empty': (20, 0, 30, 10)},
}
LOSSES = [
    *(
        (name, formula)
        for name in ('GHMC', 'softmax', 'GHMR')
        for formula in ('official', 'paper', 'tempered')
    ),
    ('GHMC', 'floored'),
    ('class weights', 'official'),
    ('sum', 'official'),
    ('following', 'floored'),
]
CASES = [(loss, split) for loss in LOSSES for split in SPLITS[2]]


def make_loss(name: str, formula: str, sync: bool) -> nn.Module:
    if name in ('GHMR', 'following'):
        mu_momentum = 0.9 if name == 'following' else None
        settings = dict(formula=formula, sync=sync, mu_momentum=mu_momentum)
        return GHMR(bins=10, momentum=0.7, loss_weight=10.0, **settings)
    weights = [1.0, 2.0, 0.5, 0.1] if name == 'class weights' else None
    settings = dict(formula=formula, sync=sync, class_weight=weights)
    reduction = 'sum' if name == 'sum' else 'mean'
    return GHMC(10, 0.75, use_sigmoid=name in ('GHMC', 'sum'), reduction=reduction, **settings)


def make_batch(name: str, call: int) -> tuple[Tensor, Tensor, Tensor]:
    """Float64, so that what remains is not the rounding of sums in another order."""
    generator = torch.Generator().manual_seed(call)
    features = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    weight = (torch.rand(ROWS, generator=generator) < 0.8).double()
    if name in ('GHMR', 'following'):
        target = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64) / 10
        return features, target, weight[:, None].repeat(1, 4)
    num_labels = 5 if name in ('GHMC', 'sum') else 4
    return features, torch.randint(0, num_labels, (ROWS,), generator=generator), weight


def make_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 4).double()


def train(name: str, formula: str, sizes: tuple[int, ...], rank: int) -> tuple:
    """Values, gradients and the moving average of a few calls of one process."""
    model = nn.parallel.DistributedDataParallel(make_model())
    loss = make_loss(name, formula, sync=True)
    values, gradients = [], []
    for call in range(CALLS):
        part = [t.split(sizes)[rank] for t in make_batch(name, call)]
        # Of the process alone, as the heads of anchors have it; `DETRHead` passes shape (1,).
        n = part[2].sum().reshape(1)
        value = loss(model(part[0]), *part[1:], avg_factor=n if call else n.item())
        model.zero_grad()
        value.backward()
        total = value.detach() / len(sizes)
        dist.all_reduce(total)
        values.append(total)
        gradients.append(model.module.weight.grad.clone())
    return values, gradients, loss.acc_sum


def bad_batch(rank: int) -> tuple[Tensor, Tensor]:
    """The moving average when the last process alone sees a NaN, before and after."""
    loss = make_loss('GHMC', 'official', sync=True)
    pred, labels, weight = make_batch('GHMC', 0)
    loss(pred, labels, weight)
    before = loss.acc_sum.clone()
    if rank == dist.get_world_size() - 1:
        pred[0, 0] = float('nan')
    loss(pred, labels, weight)
    return before, loss.acc_sum


def join(rank: int, folder: str, world_size: int, timeout: float = 60) -> None:
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
    )


def worker(rank: int, folder: str, world_size: int) -> None:
    torch.set_num_threads(1)
    join(rank, folder, world_size)
    results = [train(*loss, SPLITS[world_size][split], rank) for loss, split in CASES]
    torch.save((results, bad_batch(rank)), f'{folder}/{rank}.pt')
    leave_group()


@pytest.fixture(scope='module', params=SPLITS, ids='{}-processes'.format)
def results(request: pytest.FixtureRequest, make_once: Callable[..., Path]) -> list:
    """What each process found."""
    world_size = request.param

    def fill(folder: Path) -> None:
        start_all(worker, world_size, str(folder), world_size)

    folder = make_once(f'sync-{world_size}', fill)
    return [torch.load(folder / f'{rank}.pt') for rank in range(world_size)]


@pytest.mark.parametrize(
    'index', range(len(CASES)), ids=lambda i: '-'.join([*CASES[i][0], CASES[i][1]])
)
def test_processes_equal_one(index: int, results: list) -> None:
    (name, formula), _ = CASES[index]
    model, loss = make_model(), make_loss(name, formula, sync=False)
    expected_values, expected_gradients = [], []
    for call in range(CALLS):
        features, target, weight = make_batch(name, call)
        value = loss(model(features), target, weight, avg_factor=float(weight.sum()))
        model.zero_grad()
        value.backward()
        expected_values.append(value.detach())
        expected_gradients.append(model.weight.grad.clone())
    for found, _ in results:
        values, gradients, average = found[index]
        torch.testing.assert_close(values, expected_values, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(average, loss.acc_sum, rtol=1e-6, atol=0)


def test_a_bad_batch_of_one_process_is_forgotten_by_all(results: list) -> None:
    for _, (before, after) in results:
        assert before.any() and torch.equal(before, after)


def test_without_torch_distributed_sync_does_nothing() -> None:
    features, labels, weight = make_batch('GHMC', 0)
    pred = features[:, :4]
    synced, alone = (make_loss('GHMC', 'official', sync) for sync in (True, False))
    assert synced(pred, labels, weight) == alone(pred, labels, weight)


def lose_a_process(rank: int, folder: str, how: str) -> None:
    """Two processes, of which the second dies, or hangs, before the second call."""
    join(rank, folder, 2, timeout=TIMEOUT)
    loss = make_loss('GHMC', 'official', sync=True)
    loss(*make_batch('GHMC', 0))
    if rank == 1:
        if how == 'dies':
            os._exit(1)
        time.sleep(600)
    begin = time.monotonic()
    try:
        loss(*make_batch('GHMC', 1))
    except RuntimeError:
        Path(folder, 'seconds').write_text(str(time.monotonic() - begin), encoding='utf-8')


@pytest.mark.parametrize('how', ['dies', 'hangs'])
def test_a_lost_process_is_an_error(how: str, tmp_path: Path) -> None:
    """In the other process too, and within the process group's timeout."""
    processes = [start(lose_a_process, rank, str(tmp_path), how) for rank in range(2)]
    processes[0].join(200)
    for process in processes:
        process.kill()
    assert float((tmp_path / 'seconds').read_text(encoding='utf-8')) < 2 * TIMEOUT
