"""ghm-mmdet doctor: what it finds where packages are missing, broken or mixed."""

from __future__ import annotations

import re
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ghm_mmdet import stacks
from ghm_mmdet.cli import doctor, main
from ghm_mmdet.stacks import STACKS, mmdet_distribution

from .processes import ROOT, execute
from .test_preflight import Case

STACK = 'openmmlab' if mmdet_distribution() == 'mmdet' else 'onedl'
PACKAGES = tuple(module for module in STACKS['onedl'] if module != 'torch')
BUILD = doctor.BUILD_MMCV

# Hides the modules and their distributions, then runs the doctor as `python -m` does. What rests on
# them is imported once more.
HIDING = """
import importlib.metadata as metadata, runpy, sys
path, packages, hidden, distributions, arguments = (x.split(',') for x in sys.argv[1:])
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
sys.path[:0], sys.argv = path, ['ghm-mmdet', 'doctor', *filter(None, arguments)]
runpy.run_module('ghm_mmdet', run_name='__main__')
"""
DISTRIBUTIONS = [stack[module].split('==')[0] for stack in STACKS.values() for module in PACKAGES]


def requirement(module: str) -> tuple[str, str]:
    """The distribution of a module in this stack, and what pip installs it by."""
    return STACKS[STACK][module].split('==')[0], STACKS[STACK][module]


def examine(
    *modules: str,
    distributions: list[str] = [],
    path: Path = ROOT,
    arguments: list[str] = [],
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Exit status, what was found, and the advice, by name, with the given modules hidden."""
    afresh = ('ghm_mmdet', *PACKAGES) if modules or path != ROOT else ()
    lists = [str(path)], afresh, modules, distributions, arguments
    status, printed, errors = execute(HIDING, *map(','.join, lists), cwd=path)
    assert errors == '' and 'Traceback' not in printed
    found, advice, name = {}, {}, ''
    lines, verdict = printed.split('\n\n')
    for line in lines.splitlines():
        if line.lstrip().startswith('!'):
            advice[name] = line
            # To be typed as it stands.
            assert line[4:].split()[0] in ('pip', 'export', 'unset')
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
    assert found['torch'] == f'torch {version("torch")}'
    for module in PACKAGES:
        assert found[module].startswith(STACKS[STACK][module].replace('==', ' '))
    assert found['stack'] == f'{STACK}; with MIM: mim train {mmdet_distribution()} CONFIG'
    assert found['kernels'].startswith('triton' if torch.cuda.is_available() else 'cpu on the CPU')
    assert found['functional'] == 'and losses: ready'


def test_torch_alone() -> None:
    others = ('numpy', 'cv2', 'matplotlib', 'pycocotools', 'triton', 'pkg_resources', 'yaml')
    status, found, advice = examine(*PACKAGES, *others, distributions=DISTRIBUTIONS)
    assert status == 1
    assert ' on ' in found['kernels']
    assert {'functional', 'functional:'} & found.keys()
    assert [found[module] for module in PACKAGES] == ['missing'] * 4
    for module in ('mmengine', 'mmdet'):
        assert advice[module] == f'!!  pip install {STACKS["onedl"][module]}'
    assert advice['mmcv'].startswith(f'!!  {BUILD} onedl-mmcv==2.3.6  # ')
    # It is not what stops a training.
    assert advice['mim'] == f' !  pip install {STACKS["onedl"]["mim"]}'


def test_nothing_at_all() -> None:
    status, found, advice = examine('torch', *PACKAGES, distributions=[*DISTRIBUTIONS, 'torch'])
    assert status == 1
    assert found['torch'] == 'missing'
    assert advice['torch'] == f'!!  pip install {STACKS["onedl"]["torch"]}'
    assert not {'kernels', 'functional', 'functional:'} & found.keys()


def test_broken_torch_is_installed_again_in_the_same_version() -> None:
    """mmcv was built for that one."""
    error = 'ImportError: libtorch_cpu.so: cannot open shared object file'
    same = version('torch').split('+')[0]
    advice = f'pip uninstall -y torch && pip install torch=={same}'
    assert doctor._remedy(error, STACK, 'torch') == advice


def test_mmcv_without_operators() -> None:
    status, found, advice = examine('mmcv._ext')
    assert status == 1
    assert found['mmcv'].endswith(", ModuleNotFoundError: No module named 'mmcv._ext'")
    name, pinned = requirement('mmcv')
    assert advice['mmcv'] == (
        f'!!  pip uninstall -y {name} && {BUILD} {pinned}  # or, prebuilt, if there is one for '
        f'this torch: pip uninstall -y {name} && mim install {pinned}'
    )


def test_what_rests_on_a_missing_package_is_not_blamed() -> None:
    name, pinned = requirement('mmengine')
    status, found, advice = examine('mmengine', distributions=[name])
    assert status == 1
    assert found['mmengine'] == 'missing'
    assert advice['mmengine'] == f'!!  pip install {pinned}'
    for module in ('mmcv', 'mmdet'):
        assert found[module].endswith('not examined before that is mended')
        assert module not in advice
    assert 'stack' not in found


def test_distribution_whose_files_are_gone() -> None:
    """As after the removal of another that shares its folder: an install alone does nothing."""
    name, pinned = requirement('mmengine')
    status, found, advice = examine('mmengine')
    assert status == 1
    assert found['mmengine'] == 'missing'
    assert advice['mmengine'] == f'!!  pip uninstall -y {name} && pip install {pinned}'


def test_folder_that_an_uninstall_left_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports as a namespace."""
    monkeypatch.setattr(doctor, 'distributions', lambda module: [])
    monkeypatch.setattr(doctor, 'find_spec', lambda module: ModuleSpec(module, None))
    finding = doctor._package('torch', STACK, broken=False)
    assert (finding.found, finding.advice) == ('missing', f'pip install {STACKS[STACK]["torch"]}')


def test_dependency_that_is_missing_is_named() -> None:
    """`import mmdet` alone needs none."""
    status, found, advice = examine('pycocotools')
    assert status == 1
    assert found['mmdet'].endswith("ModuleNotFoundError: No module named 'pycocotools'")
    _, pinned = requirement('mmdet')
    assert advice['mmdet'] == f'!!  pip install {pinned}  # which brings pycocotools'


def test_package_that_fails_on_import(tmp_path: Path) -> None:
    """Of a kind that no one foresees, with an error of several lines."""
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet/__init__.py').write_text(
        "print('noise')\nraise AssertionError('no idea\\nand more')\n", encoding='utf-8'
    )
    status, found, advice = examine(path=tmp_path)
    assert status == 1
    name, pinned = requirement('mmdet')
    assert found['mmdet'] == f'{name} {version(name)}, AssertionError: no idea'
    assert advice['mmdet'] == f'!!  pip uninstall -y {name} && pip install {pinned}'


@pytest.mark.parametrize(('mmcv', 'to_mend'), [('2.2.0', 'mmcv'), ('2.1.0', 'mmdet')])
def test_mmdet_that_refuses_mmcv(monkeypatch: pytest.MonkeyPatch, mmcv: str, to_mend: str) -> None:
    """The package that is not the one wanted is to blame."""
    versions = {'mmcv': mmcv, 'mmdet': '3.1.0'}
    for module in (stacks, doctor):
        monkeypatch.setattr(module, 'installed_version', versions.get)
    error = f'AssertionError: MMCV=={mmcv} is used but incompatible. Please install mmcv>=2.0.0rc4'
    install = f'{BUILD} mmcv==2.1.0  # ' if to_mend == 'mmcv' else 'pip install mmdet==3.3.0'
    advice = doctor._remedy(error, 'openmmlab', 'mmdet')
    assert advice.startswith(f'pip uninstall -y {to_mend} && {install}')


@pytest.mark.parametrize('library', ['libGL.so.1', 'libgthread-2.0.so.0'])
def test_library_of_the_system_is_named(tmp_path: Path, library: str) -> None:
    """As mmcv fails where it imports OpenCV's build with windows in a slim container."""
    (tmp_path / 'mmcv').mkdir()
    error = f'{library}: cannot open shared object file: No such file or directory'
    (tmp_path / 'mmcv/__init__.py').write_text(f'raise ImportError({error!r})\n', encoding='utf-8')
    status, found, advice = examine(path=tmp_path)
    assert status == 1
    assert found['mmcv'].endswith(f', ImportError: {error}')
    assert advice['mmcv'] == (
        '!!  pip install --force-reinstall --no-deps opencv-python-headless=='
        f'{version("opencv-python")}  # or, on Debian, for the build with windows: '
        'apt-get install libgl1 libglib2.0-0'
    )


@pytest.mark.skipif(STACK != 'openmmlab', reason='the default stack does not need it')
def test_setuptools_without_pkg_resources() -> None:
    status, _, advice = examine('pkg_resources')
    assert status == 1
    assert advice['mmengine'].startswith("!!  pip install 'setuptools<81'  # ")


@pytest.mark.parametrize('value', ['cuda', 'triton'])
def test_kernels_that_cannot_run(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv('GHM_MMDET_KERNELS', value)
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    if value == 'triton' and torch.cuda.is_available():
        pytest.skip('they can')
    finding = doctor._kernels()
    assert finding.stops
    assert finding.found.startswith('ValueError: GHM_MMDET_KERNELS')
    assert finding.advice == 'unset GHM_MMDET_KERNELS'
    assert not [finding for finding in doctor.examine() if finding.found == 'ready']


@pytest.mark.parametrize(
    ('installed', 'name', 'found', 'advice'),
    [
        (
            ['onedl-mmcv', 'mmcv-lite', 'onedl-mmdetection'],
            'mmcv',
            'onedl-mmcv 1.0, mmcv-lite 1.0 overwrite one another',
            f'pip uninstall -y onedl-mmcv mmcv-lite && {BUILD} onedl-mmcv==2.3.6  # or, ',
        ),
        (
            ['mmcv', 'mmengine', 'mmdet', 'onedl-mmcv', 'onedl-mmdetection'],
            'mmdet',
            'onedl-mmdetection 1.0, mmdet 1.0 overwrite one another',
            'pip uninstall -y onedl-mmdetection mmdet && pip install mmdet==3.3.0',
        ),
        (['mmcv', 'mmengine'], 'mmdet', 'missing', 'pip install mmdet==3.3.0'),
        (
            ['mmdet', 'mmengine', 'onedl-mmcv'],
            'stack',
            'openmmlab, mixed: not tested',
            f'pip uninstall -y onedl-mmcv && {BUILD} mmcv==2.1.0  # or, prebuilt, if there is one '
            'for this torch: pip uninstall -y onedl-mmcv && mim install mmcv==2.1.0',
        ),
        (
            ['onedl-mmdetection', 'mmengine'],
            'stack',
            'onedl, mixed: not tested',
            'pip uninstall -y mmengine && pip install onedl-mmengine==0.10.12',
        ),
    ],
)
def test_mixed_distributions(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], name: str, found: str, advice: str
) -> None:
    for module in (stacks, doctor):
        version_of = lambda name: '1.0' if name in installed else None  # noqa: E731
        monkeypatch.setattr(module, 'installed_version', version_of)
    monkeypatch.setattr(doctor, 'find_spec', lambda module: None)
    monkeypatch.setattr(doctor, '_use', lambda imported: None)
    monkeypatch.setattr(doctor, 'IMPORTED', doctor.IMPORTED[1:])
    findings = {finding.name: finding for finding in doctor.examine()}
    if name == 'stack':
        findings['stack'] = doctor._stack(found.split(',')[0])
    assert findings[name].found == found
    assert findings[name].advice.startswith(advice)


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, '_kernels', lambda: 1 / 0)
    finding = doctor.examine()[-1]
    assert finding.name == 'kernels'
    assert finding.found == 'ZeroDivisionError: division by zero'
    assert finding.advice
    assert not finding.stops


@pytest.mark.parametrize('stack', STACKS)
def test_advice_is_what_requirements_say(stack: str) -> None:
    pinned = re.findall(
        r'^[\w-]+==.+$',
        (ROOT / f'requirements/{stack}.txt').read_text(encoding='utf-8'),
        re.M,
    )
    assert list(STACKS[stack].values()) == pinned


def write_config(root: Path) -> Path:
    """A config with images and annotations in which the doctor finds nothing."""
    case = Case(root)
    case.write()
    case.config.dump(root / 'mine.py')
    return root / 'mine.py'


def run_doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        main(['doctor', *arguments])
    return end.value.code, capsys.readouterr().out


def test_doctor_of_a_sound_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = run_doctor(capsys, str(write_config(tmp_path)))
    assert (status, out) == (0, '\nA training can start.\n')


def test_doctor_of_a_config_with_a_doubt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--cfg-options', 'train_dataloader.batch_size=4']
    status, out = run_doctor(capsys, str(write_config(tmp_path)), *options)
    doubt, remedy, empty, verdict = out.splitlines()
    assert doubt.startswith('doubt       the learning rate is for batches of 2 images')
    assert remedy.startswith(' !  set auto_scale_lr.enable=True')
    assert (status, empty, verdict) == (0, '', 'A training can start.')


def test_doctor_of_a_config_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    (tmp_path / 'images/2.jpg').unlink()
    options = ['model.bbox_head.num_classes=4', 'train_dataloader.batch_size=4']
    status, out = run_doctor(capsys, str(config), '--cfg-options', *options)
    lines = out.splitlines()
    assert status == 1
    assert [line.split()[0] for line in lines[:6]] == ['error', '!!', 'error', '!!', 'doubt', '!']
    assert f'{tmp_path}/train.json: images are missing or damaged' in lines[0]
    assert f'{tmp_path}/images/2.jpg' in lines[0]
    assert 'model.bbox_head.num_classes=4 (not 3)' in lines[2]
    assert lines[6:] == ['', 'No training can start: 2 to mend, marked !!, from top to bottom']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--gpus 2', '--gpus and --cfg-options need CONFIG, which is not given'),
        ('--cfg-options a=1', '--gpus and --cfg-options need CONFIG, which is not given'),
        ('{mine} --gpus -1', 'mine.py: gpus must be >= 0, got -1'),
        ('{mine} --cfg-options a', 'mine.py: '),
    ],
)
def test_doctor_of_what_it_can_not_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    config = write_config(tmp_path)
    status, out = run_doctor(capsys, *arguments.format(mine=config).split())
    assert re.search(message, str(status))
    assert '\n' not in str(status) + out


def test_doctor_asks_for_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = torch.cuda.device_count() + 1
    status, out = run_doctor(capsys, str(write_config(tmp_path)), '--gpus', str(asked))
    assert status == 1
    assert f'more GPUs are asked for than the {asked - 1} that PyTorch sees' in out


def test_doctor_of_a_config_where_packages_are_missing() -> None:
    """They come first."""
    name, pinned = requirement('mmengine')
    status, _, advice = examine('mmengine', distributions=[name], arguments=['mmdet::mine.py'])
    assert status == 1
    assert advice['mmengine'] == f'!!  pip install {pinned}'
