from pathlib import Path

import pytest

from ghm_mmdet.analysis.demo_data import write_demo_data


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the demo's kind."""
    return write_demo_data(tmp_path_factory.mktemp('demo'), num_train=40, num_val=8)
