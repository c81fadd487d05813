"""What tests share. Without a CUDA device, Triton's kernels run in its interpreter."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

HERE = Path(__file__).parent
if os.environ.get('GHM_TESTS_WITHOUT_OPENMMLAB') == '1':
    # As if PyTorch were alone, whatever is installed.
    sys.modules.update(dict.fromkeys(('mmcv', 'mmdet', 'mmengine', 'mim'), None))
PYTORCH_ALONE = sys.modules.get('mmdet', '') is None or find_spec('mmdet') is None
if PYTORCH_ALONE:
    # `make test-functional`: the losses.
    losses = {
        'autograd', 'edge_cases', 'equations', 'fast_paths', 'floored', 'following_mu', 'ohem',
        'properties', 'robustness', 'softmax', 'state', 'tempered', 'torchvision', 'trial',
    }  # fmt: skip
    collect_ignore = [
        path.name for path in HERE.glob('test_*.py') if path.stem[len('test_') :] not in losses
    ] + ['training.py']
elif sys.version_info < (3, 10):
    # Studies, benchmarks, docs and what reads MMDetection's sources need the default stack.
    others = (
        'bccd', 'compatibility', 'compiled_kernels', 'docs', 'experiment', 'harmonize_lists',
        'kernels', 'loss_benchmark', 'real_images', 'rotated', 'setup', 'two_processes',
    )  # fmt: skip
    collect_ignore = [f'test_{name}.py' for name in others]

#: A program, not a module of tests.
collect_ignore = [*globals().get('collect_ignore', ()), 'stand_in_mim.py']

# MIM makes it on import, and fails if another process just did.
Path('~/.cache/mim').expanduser().mkdir(parents=True, exist_ok=True)

# Processes started by the method 'forkserver' fork from one that has imported what takes seconds.
multiprocessing.set_forkserver_preload(['mmdet.apis', 'mmdet.models', 'ghm_mmdet.losses'])
if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined.
    os.environ.setdefault('TRITON_INTERPRET', '1')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The wheel first, in one process: another that asked for it, too, would wait for it."""
    items.sort(key=lambda item: item.path.stem != 'test_package')


@pytest.fixture(scope='session', autouse=True)
def metafiles_are_read_once() -> Iterator[None]:
    """For each base in MMDetection, MMEngine reads all of its metafiles: a second of work."""
    if PYTORCH_ALONE:
        yield
        return
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', lru_cache(maxsize=None)(utils.load))
        yield


@pytest.fixture(autouse=True)
def default_scope_is_left_as_it_was() -> Iterator[None]:
    """A runner sets the scope in which MMEngine looks up types, for the rest of the process."""
    if PYTORCH_ALONE:
        yield
        return
    from mmengine.registry import DefaultScope

    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(params=['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu'])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU, and CUDA where there is one: tests that use it run on both, see `devices`."""
    if request.param != 'cpu':
        from . import devices, test_parity

        devices.move(sys.modules[request.function.__module__], request.param, monkeypatch)
        monkeypatch.setattr(test_parity, 'ROUNDING', 1e-6)
        monkeypatch.setattr(test_parity, 'ROUNDING_OF_VALUE', 1e-7)
        monkeypatch.setattr(test_parity, 'SAME_LAST_BITS', False)
    return request.param


@pytest.fixture(scope='session')
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that the first of the test processes to ask for it fills, for all of them.

    `make_once(name, fill)` calls `fill(folder)` once, with an empty folder.
    """
    root = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f'{name}.done'
        with FileLock(root / f'{name}.lock'):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope='session')
def demo_data(make_once: Callable[..., Path]) -> Path:
    """A small data set of the demo's kind."""
    from studies.demo_data import write_demo_data

    return make_once('demo_data', partial(write_demo_data, num_train=40, num_val=8))


@pytest.fixture(scope='session')
def coco_root(demo_data: Path, make_once: Callable[..., Path]) -> Path:
    """The same data in COCO's layout."""
    from .training import write_coco_layout

    return make_once('coco', partial(write_coco_layout, demo_data))


@pytest.fixture(scope='session')
def ghm_training(demo_data: Path, make_once: Callable[..., Path]) -> Path:
    """Where the demo's detector was trained with GHM-C and GHM-R alone, in 50 iterations of 2.

    `losses.npy` holds their losses, `iter_50.pth` is the checkpoint.
    """
    from .training import demo_config, train

    def fill(folder: Path) -> None:
        curve = train(demo_config(demo_data, folder, 50, custom_hooks=[]))[1].curve()
        np.save(folder / 'losses.npy', curve)

    return make_once('ghm_training', fill)
