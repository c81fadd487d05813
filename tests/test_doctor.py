"""ghm-mmdet doctor: what it finds where packages are missing, broken or mixed."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ghm_mmdet import stacks
from ghm_mmdet.cli import doctor
from ghm_mmdet.stacks import STACKS, mmdet_distribution

from .processes import ROOT, execute

STACK = 'openmmlab' if mmdet_distribution() == 'mmdet' else 'onedl'
PACKAGES = tuple(STACKS['onedl'])

# Hides the modules and their distributions, then runs the doctor as `python -m` does. What rests on
# them is imported once more.
HIDING = """
import importlib.metadata as metadata, runpy, sys
path, packages, hidden, distributions = (argument.split(',') for argument in sys.argv[1:])
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name in hidden or name.split('.')[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for name in list(sys.modules):
    if name.split('.')[0] in (*packages, *hidden):
        del sys.modules[name]
find = metadata.distribution
def distribution(name):
    if name in distributions:
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.distribution = distribution
sys.path[:0], sys.argv = path, ['ghm-mmdet', 'doctor']
runpy.run_module('ghm_mmdet', run_name='__main__')
"""
DISTRIBUTIONS = [
    requirement.split('==')[0] for stack in STACKS.values() for requirement in stack.values()
]


def examine(
    *modules: str, distributions: list[str] = [], path: Path = ROOT
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Exit status, what was found, and the advice, by name, with the given modules hidden."""
    afresh = ('ghm_mmdet', *PACKAGES) if modules or path != ROOT else ()
    lists = [str(path)], afresh, modules, distributions
    status, printed, errors = execute(HIDING, *map(','.join, lists), cwd=path)
    assert errors == '' and 'Traceback' not in printed
    found, advice, name = {}, {}, ''
    lines, verdict = printed.split('\n\n')
    for line in lines.splitlines():
        if line.lstrip().startswith('!'):
            advice[name] = line
        else:
            name = line.split()[0]
            found[name] = line[len(name) :].strip()
    assert verdict.startswith('No training can start' if status else 'A training can start')
    return status, found, advice


def test_here_a_training_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('GHM_MMDET_KERNELS', raising=False)
    status, found, advice = examine()
    assert status == 0
    assert not advice
    assert found['torch'] == torch.__version__
    for module in PACKAGES:
        assert found[module].startswith(STACKS[STACK][module].replace('==', ' '))
    assert found['stack'] == f'{STACK}; with MIM: mim train {mmdet_distribution()} CONFIG'
    assert found['kernels'].startswith('triton' if torch.cuda.is_available() else 'cpu on the CPU')


def test_torch_alone() -> None:
    others = ('numpy', 'cv2', 'matplotlib', 'pycocotools', 'triton', 'pkg_resources', 'yaml')
    status, found, advice = examine(*PACKAGES, *others, distributions=DISTRIBUTIONS)
    assert status == 1
    assert ' on ' in found['kernels']
    assert [found[module] for module in PACKAGES] == ['missing'] * 4
    for module in ('mmengine', 'mmdet', 'mim'):
        assert f'pip install {STACKS["onedl"][module]}' in advice[module]
    assert 'MMCV_WITH_OPS=1' in advice['mmcv']
    assert advice['mim'].startswith(' ! ')  # it is not what stops a training


def test_nothing_at_all() -> None:
    status, found, advice = examine('torch', *PACKAGES, distributions=DISTRIBUTIONS)
    assert status == 1
    assert found['torch'] == 'missing'
    assert 'pip install torch' in advice['torch']
    assert 'kernels' not in found


def test_mmcv_without_operators() -> None:
    status, found, advice = examine('mmcv._ext')
    assert status == 1
    assert (
        "without compiled operators (ModuleNotFoundError: No module named 'mmcv._ext')"
        in (found['mmcv'])
    )
    assert '--no-build-isolation' in advice['mmcv']


def test_package_that_fails_on_import(tmp_path: Path) -> None:
    """Of a kind that no one foresees, with an error of several lines."""
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet/__init__.py').write_text(
        "print('noise')\nraise AssertionError('MMCV==9 is used\\nbut incompatible')\n",
        encoding='utf-8',
    )
    status, found, advice = examine(path=tmp_path)
    assert status == 1
    assert found['mmdet'] == 'AssertionError: MMCV==9 is used'
    # Where it is installed, an install alone does nothing.
    installed = STACKS[STACK]['mmdet'].split('==')[0]
    assert f'pip uninstall -y {installed}, then pip install {installed}==' in advice['mmdet']


@pytest.mark.parametrize(
    ('library', 'package'),
    [('libGL.so.1', 'libgl1'), ('libgthread-2.0.so.0', 'libglib2.0-0')],
)
def test_library_of_the_system_is_named(tmp_path: Path, library: str, package: str) -> None:
    """As mmcv fails where it imports OpenCV's build with windows in a slim container."""
    (tmp_path / 'mmcv').mkdir()
    error = f'{library}: cannot open shared object file: No such file or directory'
    (tmp_path / 'mmcv/__init__.py').write_text(f'raise ImportError({error!r})\n', encoding='utf-8')
    status, found, advice = examine(path=tmp_path)
    assert status == 1
    assert found['mmcv'] == f'ImportError: {error}'
    assert advice['mmcv'] == (
        f'!!  the system has no {library}: apt-get install {package} (Debian), or pip install '
        f'--force-reinstall --no-deps opencv-python-headless=={version("opencv-python")}'
    )


@pytest.mark.skipif(STACK != 'openmmlab', reason='the default stack does not need it')
def test_setuptools_without_pkg_resources() -> None:
    status, _, advice = examine('pkg_resources')
    assert status == 1
    assert any('"setuptools<81"' in line for line in advice.values())


@pytest.mark.parametrize('value', ['cuda', 'triton'])
def test_kernels_that_cannot_run(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv('GHM_MMDET_KERNELS', value)
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    if value == 'triton' and torch.cuda.is_available():
        pytest.skip('they can')
    finding = doctor._kernels()
    assert finding.stops
    assert finding.found.startswith('ValueError: GHM_MMDET_KERNELS')
    assert 'unset GHM_MMDET_KERNELS' in finding.advice


@pytest.mark.parametrize(
    ('installed', 'name', 'words'),
    [
        (['onedl-mmcv', 'mmcv'], 'mmcv', ['overwrite one another', 'uninstall -y onedl-mmcv mmcv']),
        (
            ['mmdet', 'mmengine', 'onedl-mmcv'],
            'stack',
            ['openmmlab alone', 'uninstall -y onedl-mmcv && pip install mmcv==2.1.0'],
        ),
        (
            ['onedl-mmdetection', 'mmengine'],
            'stack',
            ['onedl alone', 'uninstall -y mmengine && ', 'onedl-mmengine==0.10.12'],
        ),
    ],
)
def test_mixed_distributions(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], name: str, words: list[str]
) -> None:
    for module in (stacks, doctor):
        found = lambda name: '1.0' if name in installed else None  # noqa: E731
        monkeypatch.setattr(module, 'installed_version', found)
    stack = 'openmmlab' if 'mmdet' in installed else 'onedl'
    finding = doctor._stack(stack) if name == 'stack' else doctor._package(name, stack)
    assert [word for word in words if word not in finding.advice] == []


def test_a_check_that_fails_itself_is_a_finding() -> None:
    finding = doctor._guarded('kernels', lambda: 1 / 0)
    assert finding.found == 'ZeroDivisionError: division by zero'
    assert finding.advice


@pytest.mark.parametrize('stack', STACKS)
def test_advice_is_what_requirements_say(stack: str) -> None:
    pinned = re.findall(
        r'^(?!torch)[\w-]+==.+$',
        (ROOT / f'requirements/{stack}.txt').read_text(encoding='utf-8'),
        re.M,
    )
    assert list(STACKS[stack].values()) == pinned
