"""What the kernels are compiled to, and what a loss launches: the budgets, without a GPU.

Triton compiles in processes of its own, for the interpreter of the other tests compiles nothing.
The second version is the one that the CUDA wheels of PyTorch pin: `make triton` installs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip('triton')

ROOT = Path(__file__).parents[1]
#: Where PyTorch's version of Triton lies, see the Makefile.
OTHER_TRITON = Path(os.environ.get('GHM_MMDET_OTHER_TRITON', ROOT / '.triton'))
MAX_REGISTERS = 64
#: Of a pass, on sm_90 and the targets whose code is like it.
MAX_INSTRUCTIONS_AN_ELEMENT = 90
MAX_LAUNCHES = dict(forward=34, backward=2)

needs_other = pytest.mark.skipif(
    not (OTHER_TRITON / 'triton').exists(), reason='needs `make triton`'
)
TRITONS = ['installed', pytest.param('other', marks=[needs_other, pytest.mark.slow])]


@cache
def compiled(triton: str, *arguments: str) -> dict:
    """What `python -m benchmarks.kernels` writes."""
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    environment.pop('GHM_MMDET_KERNELS', None)
    path = [ROOT] if triton == 'installed' else [OTHER_TRITON, ROOT]
    environment['PYTHONPATH'] = os.pathsep.join(map(str, path))
    command = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.kernels', *arguments]
    command += ['--json', '/dev/stdout', '--quiet']
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_within_budgets(result: dict) -> None:
    assert result['kernels']
    for kernel in result['kernels']:
        title = f'{kernel["name"]}: {kernel["variant"]}, sm_{kernel["arch"]}'
        assert kernel['local'] == kernel['fences'] == 0, title
        assert kernel['registers'] <= MAX_REGISTERS, title
        assert kernel['instructions_an_element'] <= MAX_INSTRUCTIONS_AN_ELEMENT, title


@pytest.mark.slow
@pytest.mark.parametrize('triton', TRITONS)
def test_budgets_of_the_usual_call(triton: str) -> None:
    assert_within_budgets(compiled(triton, '--variants', '1'))


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['75', '80', '90', '100'])
@pytest.mark.parametrize('triton', TRITONS)
def test_budgets_of_every_variant(triton: str, arch: str) -> None:
    assert_within_budgets(compiled(triton, '--arch', arch))


@pytest.mark.parametrize('triton', TRITONS)
def test_launches(triton: str) -> None:
    """Of GHM-C with momentum: two passes over the logits, the others are of M numbers."""
    launches = compiled(triton, '--variants', '1')['launches']
    for direction, budget in MAX_LAUNCHES.items():
        assert len(launches[direction]) <= budget, launches
    assert sum('kernel' in name for name in launches['forward']) == 2, launches
