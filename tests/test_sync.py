"""`sync=True`: several processes harmonize like one that holds the whole mini-batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ghm_mmdet import GHMC, GHMR

CALLS = 3
#: Examples of each process in each call: even, uneven, one process without any.
SPLITS = {'even': (30, 30), 'uneven': (50, 10), 'empty': (60, 0)}
WORLD_SIZE = 2
LOSSES = [('GHMC', 'official'), ('GHMC', 'paper'), ('GHMR', 'official'), ('GHMR', 'paper')]
CASES = [(loss, split) for loss in LOSSES for split in SPLITS]


def make_loss(name: str, formula: str, sync: bool) -> nn.Module:
    if name == 'GHMC':
        return GHMC(bins=10, momentum=0.75, formula=formula, sync=sync)
    return GHMR(bins=10, momentum=0.7, loss_weight=10.0, formula=formula, sync=sync)


def make_batch(name: str, call: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(call)
    features = torch.randn(60, 5, generator=generator)
    weight = (torch.rand(60, generator=generator) < 0.8).float()
    if name == 'GHMC':
        return features, torch.randint(0, 5, (60,), generator=generator), weight
    return features, torch.randn(60, 4, generator=generator) / 10, weight[:, None].repeat(1, 4)


def make_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 4)


def train(name: str, formula: str, sizes: tuple[int, ...], rank: int) -> tuple:
    """Values, gradients and the moving average of a few calls of one process."""
    model = nn.parallel.DistributedDataParallel(make_model())
    loss = make_loss(name, formula, sync=True)
    values, gradients = [], []
    for call in range(CALLS):
        part = [t.split(sizes)[rank] for t in make_batch(name, call)]
        value = loss(model(part[0]), *part[1:])
        model.zero_grad()
        value.backward()
        total = value.detach() / len(sizes)
        dist.all_reduce(total)
        values.append(total)
        gradients.append(model.module.weight.grad.clone())
    return values, gradients, loss.acc_sum


def worker(rank: int, folder: str) -> None:
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=WORLD_SIZE
    )
    torch.save([train(*case, SPLITS[split], rank) for case, split in CASES], f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('sync')
    mp.spawn(worker, (str(folder),), nprocs=WORLD_SIZE)
    return folder


@pytest.mark.parametrize(
    'index', range(len(CASES)), ids=lambda i: '-'.join([*CASES[i][0], CASES[i][1]])
)
def test_two_processes_equal_one(index: int, folder: Path) -> None:
    (name, formula), _ = CASES[index]
    model, loss = make_model(), make_loss(name, formula, sync=False)
    expected_values, expected_gradients = [], []
    for call in range(CALLS):
        features, target, weight = make_batch(name, call)
        value = loss(model(features), target, weight)
        model.zero_grad()
        value.backward()
        expected_values.append(value.detach())
        expected_gradients.append(model.weight.grad.clone())
    for rank in range(WORLD_SIZE):
        values, gradients, average = torch.load(folder / f'{rank}.pt')[index]
        torch.testing.assert_close(values, expected_values, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(average, loss.acc_sum, rtol=1e-6, atol=0)


def test_without_torch_distributed_sync_does_nothing() -> None:
    features, labels, weight = make_batch('GHMC', 0)
    pred = features[:, :4]
    synced, alone = (make_loss('GHMC', 'official', sync) for sync in (True, False))
    assert synced(pred, labels, weight) == alone(pred, labels, weight)
