"""The package as its hosts see it: scope, configs, wheel, and the mathematics alone."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.runner import Runner

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss, __version__
from ghm_mmdet.experiments.configs import load_config
from ghm_mmdet.experiments.logs import last_metrics
from ghm_mmdet.stacks import mmdet_distribution

from .processes import ROOT
from .training import SMALL

DEMO_CONFIGS = sorted(ROOT.glob('configs/demo/*.py'))


def run(*command: str | Path, **kwargs: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_functional_needs_torch_alone() -> None:
    """In a process where nothing but torch's own requirements can be imported."""
    code = """
import sys
HIDDEN = {'mmcv', 'mmengine', 'mmdet', 'mim', 'numpy', 'cv2', 'matplotlib', 'pycocotools', 'triton'}
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import warnings
warnings.simplefilter('ignore')
import ghm_mmdet.functional as F
import torch
print(F.ghm_c_loss(torch.zeros(4, 2), torch.tensor([0, 1, 2, 2])).item())
"""
    printed = run(sys.executable, '-c', code, cwd=ROOT)
    assert float(printed) == pytest.approx(torch.log(torch.tensor(2.0)).item())


@pytest.mark.parametrize('loss_class', [GHMR, AuthenticSmoothL1Loss])
def test_losses_are_registered(loss_class: type) -> None:
    built = MMDET_MODELS.build(dict(type=f'ghm_mmdet.{loss_class.__name__}', mu=0.1))
    assert isinstance(built, loss_class)
    assert built.mu == 0.1


@pytest.mark.parametrize('path', DEMO_CONFIGS, ids=lambda path: path.stem)
def test_demo_configs_load_and_build(path: Path) -> None:
    config = Config.fromfile(path)
    model = MMDET_MODELS.build(config.model)
    if 'ghmc' in path.stem:
        assert isinstance(model.bbox_head.loss_cls, GHMC)
        assert config.model.bbox_head.loss_cls.use_sigmoid is True
        assert model.bbox_head.cls_out_channels == model.bbox_head.num_classes
    if 'ghmr' in path.stem:
        assert isinstance(model.bbox_head.loss_bbox, GHMR)


@pytest.mark.parametrize('root', ['/somewhere/else', '/somewhere/else/', '~/else/'])
@pytest.mark.parametrize(
    ('variable', 'path', 'annotations'),
    [
        (
            'COCO_ROOT',
            'ghm/retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py',
            'annotations/instances_val2017.json',
        ),
        (
            'COCO_ROOT',
            'ghm/retinanet_r101_fpn_ghmc-ghmr_8xb2-14e_coco_test-dev.py',
            'annotations/image_info_test-dev2017.json',
        ),
        ('BCCD_ROOT', 'bccd/retinanet_r18_fpn_ghmc-ghmr_bccd.py', 'test.json'),
        ('DEMO_ROOT', 'demo/retinanet_r18_fpn_ghmc-ghmr_demo.py', 'annotations/val.json'),
    ],
)
def test_data_root_from_the_environment(
    variable: str, path: str, annotations: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no slash at its end; read from another process's environment it is the same."""
    read_for_it = load_config(ROOT / 'configs' / path, {variable: root})
    monkeypatch.setenv(variable, root)
    root = os.path.expanduser(root)
    config = Config.fromfile(ROOT / 'configs' / path)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == root
    assert config.test_evaluator.ann_file == os.path.join(root, annotations)
    assert config.to_dict() == read_for_it.to_dict()


@pytest.fixture(scope='module')
def wheel_python(make_once: Callable[..., Path]) -> Path:
    """A Python that has the wheel installed, over this environment's packages."""
    return make_once('wheel', install_wheel) / 'env/bin/python'


def install_wheel(folder: Path) -> None:
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    # From the source distribution, as an installer that finds no wheel builds it.
    backend = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'
    run(sys.executable, '-W', 'ignore', '-c', backend, folder, cwd=ROOT)
    [sdist] = folder.glob('*.tar.gz')
    run(*pip, 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder, sdist)
    venv.create(folder / 'env', symlinks=True)
    python = folder / 'env/bin/python'
    purelib = Path(
        run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
    )
    # The base environment's .pth files, its editable install among them, do not run this way.
    (purelib / 'zz_base.pth').write_text(sysconfig.get_path('purelib'), encoding='utf-8')
    wheel = next(folder.glob('*.whl'))
    run(*pip, 'install', '-q', '--no-deps', '--no-index', '--target', purelib, wheel)


def run_wheel(python: Path, *arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Outside of the repository, of which nothing may be on the path."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    # The training is forked from a process that has computed a loss: without OpenMP's threads.
    env['OMP_NUM_THREADS'] = '1'
    return run(python, *arguments, cwd=cwd, env={**env, **environment})


# What the wheel does in a process that has nothing of the repository: an answer for each question.
ASKED = """
import contextlib, io, json, os, runpy, subprocess, sys, traceback
from functools import lru_cache
from pathlib import Path

distribution, options, *names = sys.argv[1:]
answers = {}
def printed(name, run, *arguments, **keywords):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run(*arguments, **keywords)
    answers[name] = out.getvalue()
def tool(name, *arguments):
    sys.argv = [name, *arguments]
    path = Path(ghm_mmdet.__path__[0], f'.mim/tools/{name}.py')
    printed(name, runpy.run_path, str(path), run_name='__main__')

def check_call(command, **keywords):
    # A program that MIM starts, in a process that need not import all of it once more.
    sys.stdout.flush()
    if os.fork():
        return os.wait()[1] >> 8
    sys.argv, subprocess.check_output = command[1:], check_output
    try:
        runpy.run_path(command[1], run_name='__main__')
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)

from mmengine.config import Config, utils
utils.load = lru_cache(maxsize=None)(utils.load)  # of all metafiles, for each base
from ghm_mmdet.cli import main
printed('config', main, ['config'])
for name in names:
    with contextlib.redirect_stdout(io.StringIO()):
        main(['config', name, '--out', f'my/{name}.py'])
from mmdet.registry import MODELS
loss = MODELS.build(dict(type='ghm_mmdet.GHMC', use_sigmoid=True, bins=20))
answers['scope'] = [type(loss).__module__, loss.bins]
import ghm_mmdet
from mim.cli import cli
answers['file'] = ghm_mmdet.__file__
ghm = 'retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco'
if distribution == 'mmdet':  # OpenMMLab's MIM
    printed('search', cli, ['search', 'ghm_mmdet', '--model', 'ghm'])
    cli(['download', 'ghm_mmdet', '--config', ghm, '--dest', '.'], standalone_mode=False)
printed('reproduce', main, ['reproduce', 'plan', '--table', '7'])
tool('harmonize', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '--dry-run')
printed('doctor', main, ['doctor'])
check_output, subprocess.check_call = subprocess.check_output, check_call
subprocess.check_output = lambda command: b''  # MIM looks for --gpus in `train.py -h`: not there
config = Path(ghm_mmdet.__path__[0], f'.mim/configs/ghm/{ghm}.py')
common = [distribution, str(config), '--gpus', '0', '--work-dir']
options = ['--cfg-options', *options.split(), 'train_cfg.max_epochs=1']
cli(['train', *common, 'work', *options], standalone_mode=False)
tested = ['test', '--checkpoint', 'work/epoch_1.pth']
cli(['test', *common, *tested, *options], standalone_mode=False)
Path('answers.json').write_text(json.dumps(answers))
"""
#: As bases of a user's configs, by name, those for test-dev too, which no metafile lists.
SHIPPED = sorted(path.stem for path in ROOT.glob('configs/ghm/*.py'))


@pytest.fixture(scope='module')
def wheel_folder(wheel_python: Path, coco_root: Path, make_once: Callable[..., Path]) -> Path:
    """Where the wheel answered: answers.json, and the configs that it wrote."""

    def ask(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        command = [wheel_python, '-W', 'ignore', '-c', ASKED]
        command += [mmdet_distribution(), ' '.join(SMALL), *SHIPPED]
        printed = run_wheel(*command, cwd=folder, COCO_ROOT=str(coco_root))
        (folder / 'printed.txt').write_text(printed, encoding='utf-8')

    return make_once('wheel_answers', ask)


@pytest.fixture(scope='module')
def answers(wheel_folder: Path) -> dict:
    return json.loads((wheel_folder / 'answers.json').read_text(encoding='utf-8'))


def test_wheel_is_what_is_imported(wheel_python: Path, answers: dict) -> None:
    package = Path(answers['file']).parent
    assert wheel_python.parent.parent in package.parents
    assert (package / 'py.typed').exists()


@pytest.mark.parametrize('name', SHIPPED)
def test_wheel_writes_configs_that_stand_alone(name: str, wheel_folder: Path) -> None:
    """In a folder of their own: what a training reads is that of the repository."""
    written = Config.fromfile(wheel_folder / f'my/{name}.py').to_dict()
    original = Config.fromfile(ROOT / f'configs/ghm/{name}.py').to_dict()
    for config in (written, original):
        for evaluator in ('val_evaluator', 'test_evaluator'):
            config[evaluator]['ann_file'] = os.path.normpath(config[evaluator]['ann_file'])
    dropped = original.keys() - written.keys()
    assert written == {key: original[key] for key in original.keys() - dropped}
    read_by_a_runner = set(inspect.signature(Runner.__init__).parameters)
    assert not dropped & read_by_a_runner
    for piece in ('backbones', 'box_losses', 'coco_test_dev', 'ghm_losses'):
        assert not written.keys() & Config.fromfile(ROOT / f'configs/_base_/{piece}.py').keys()


def test_wheel_lists_its_configs(answers: dict) -> None:
    lines = answers['config'].splitlines()
    assert [line.split()[0] for line in lines[1:]] == SHIPPED
    assert 'retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco' in answers['config']
    assert [line.split()[-3:] for line in lines if 'ghmc-exact' in line] == [
        ['retinanet_r50_fpn_ghmc-exact_8xb2-14e_coco', '2', '35.9']
    ]


def test_the_scope_prefix_is_enough(answers: dict) -> None:
    """In a process that has imported nothing of ghm_mmdet by itself."""
    assert answers['scope'] == ['ghm_mmdet.registry', 20]


def test_wheel_satisfies_the_doctor(answers: dict) -> None:
    assert 'A training can start.' in answers['doctor']


def test_wheel_brings_nothing_beside_the_package(wheel_python: Path) -> None:
    """No code at the start of Python, nothing that stays after `pip uninstall`."""
    [wheel] = wheel_python.parents[2].glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        places = {name.split('/')[0] for name in archive.namelist()}
    assert places == {'ghm_mmdet', f'ghm_mmdet-{__version__}.dist-info'}
    modules = 'import sys; print(*sorted(sys.modules))'
    with_wheel = run_wheel(wheel_python, '-c', modules, cwd=wheel.parent)
    assert 'ghm_mmdet' not in with_wheel and 'importlib.util' not in with_wheel


def test_wheel_has_what_works_without_the_repository(wheel_python: Path) -> None:
    """The configs of the paper's tables, and no other, whose data scripts here make."""
    [wheel] = wheel_python.parents[2].glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        places = [name.partition('ghm_mmdet/.mim/')[2] for name in archive.namelist()]
        shipped = {name: archive.read(f'ghm_mmdet/.mim/{name}') for name in places if name}
    expected = {path.relative_to(ROOT) for path in ROOT.glob('configs/ghm/*')}
    bases = ('backbones', 'box_losses', 'coco_detection', 'coco_test_dev', 'ghm_losses')
    expected |= {Path(f'configs/_base_/{name}.py') for name in (*bases, 'schedule_14e')}
    tools = ('dist_train.sh', 'harmonize.py', 'reproduce.py', 'slurm_train.sh')
    expected |= {Path('tools', name) for name in tools} | {Path('model-index.yml')}
    assert set(map(Path, shipped)) == {path for path in expected if path.name != '__pycache__'}
    assert [name for name, text in shipped.items() if b'studies' in text] == []
    for path in yaml.safe_load(shipped['model-index.yml'])['Import']:
        assert path in shipped


def test_uninstalled_wheel_leaves_nothing(wheel_python: Path, tmp_path: Path) -> None:
    [wheel] = wheel_python.parents[2].glob('*.whl')
    venv.create(tmp_path / 'env', symlinks=True, with_pip=True)
    python = tmp_path / 'env/bin/python'
    before = set((tmp_path / 'env').rglob('*'))
    pip = [python, '-m', 'pip', '--disable-pip-version-check']
    run(*pip, 'install', '-q', '--no-deps', '--no-index', wheel)
    run(*pip, 'uninstall', '-q', '-y', 'ghm_mmdet')
    left = {path for path in set((tmp_path / 'env').rglob('*')) - before if path.suffix != '.pyc'}
    assert {path for path in left if path.name != '__pycache__'} == set()


def test_wheel_plans_the_reproduction(answers: dict) -> None:
    config = 'ghm_mmdet/.mim/configs/ghm/faster-rcnn_r50_fpn_ghmr_8xb2-14e_coco.py'
    assert config in answers['reproduce']


@pytest.mark.skipif(
    mmdet_distribution() != 'mmdet', reason="OneDL's MIM takes a wheel's first file"
)
def test_wheel_answers_mim(wheel_folder: Path, answers: dict) -> None:
    models = yaml.safe_load((ROOT / 'configs/ghm/metafile.yml').read_text(encoding='utf-8'))[
        'Models'
    ]
    assert [model['Name'] for model in models if model['Name'] not in answers['search']] == []
    config = Config.fromfile(wheel_folder / 'retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py')
    assert config.model.bbox_head.loss_cls.type == 'ghm_mmdet.GHMC'


def test_wheel_harmonizes(wheel_python: Path, answers: dict, tmp_path: Path) -> None:
    """A config in a user's own folder, and one by name."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        'model = dict(bbox_head=dict(num_classes=3))\n',
        encoding='utf-8',
    )
    tool = [wheel_python, '-m', 'ghm_mmdet', 'harmonize']
    printed = run_wheel(*tool, 'mine.py', '--out', 'ghm.py', '--preset', 'tempered', cwd=tmp_path)
    assert 'model.bbox_head.loss_cls (RetinaHead, FocalLoss): replaced by GHMC' in printed
    config = Config.fromfile(tmp_path / 'ghm.py')
    head = config.model.bbox_head
    assert (head.num_classes, head.loss_cls.type) == (3, 'ghm_mmdet.GHMC')
    assert head.loss_cls.formula == 'tempered'
    name = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    assert f'_base_ = {name!r}' in answers['harmonize']


def test_wheel_trains_and_tests_through_mim(wheel_folder: Path) -> None:
    """Outside the repository: train by a shipped config, evaluate the checkpoint."""
    assert 'loss_cls' in (wheel_folder / 'printed.txt').read_text(encoding='utf-8')
    assert 0 <= last_metrics(wheel_folder / 'test')['bbox_mAP'] <= 1


def test_version_is_one_fact() -> None:
    assert distribution('ghm_mmdet').version == __version__
