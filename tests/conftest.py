"""What tests share. Without a CUDA device, Triton's kernels run in its interpreter."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined.
    os.environ.setdefault('TRITON_INTERPRET', '1')


@pytest.fixture(scope='session', autouse=True)
def metafiles_are_read_once() -> Iterator[None]:
    """For each base in MMDetection, MMEngine reads all of its metafiles: a second of work."""
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield


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
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the demo's kind."""
    from ghm_mmdet.analysis.demo_data import write_demo_data

    return write_demo_data(tmp_path_factory.mktemp('demo'), num_train=40, num_val=8)


@pytest.fixture(scope='session')
def coco_root(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data in COCO's layout."""
    from .training import write_coco_layout

    return write_coco_layout(demo_data, tmp_path_factory.mktemp('coco') / 'root')
