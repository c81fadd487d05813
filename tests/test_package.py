"""The package as its hosts see it: scope, configs, wheel, and the mathematics alone."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config

from ghm_mmdet import GHMC, GHMR, AuthenticSmoothL1Loss
from ghm_mmdet.reproduce.runs import last_metrics, mmdet_distribution

ROOT = Path(__file__).parent.parent
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


def test_the_scope_prefix_is_enough() -> None:
    """In a process that imports nothing of ghm_mmdet by itself."""
    code = """
from mmdet.registry import MODELS
loss = MODELS.build(dict(type='ghm_mmdet.GHMC', use_sigmoid=True, bins=30))
print(type(loss).__module__, loss.bins)
"""
    assert run(sys.executable, '-c', code, cwd=ROOT).split() == ['ghm_mmdet.losses.ghm_c', '30']


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


def test_data_root_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / 'configs/ghm/retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py'
    monkeypatch.setenv('COCO_ROOT', '/somewhere/else/')
    config = Config.fromfile(path)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == '/somewhere/else/'
    expected = '/somewhere/else/annotations/instances_val2017.json'
    assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == expected


@pytest.fixture(scope='module')
def wheel_python(make_once: Callable[..., Path]) -> Path:
    """A Python that has the wheel installed, over this environment's packages."""
    return make_once('wheel', install_wheel) / 'env/bin/python'


def install_wheel(folder: Path) -> None:
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    run(*pip, 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder, ROOT)
    venv.create(folder / 'env', symlinks=True)
    python = folder / 'env/bin/python'
    purelib = Path(
        run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
    )
    # The base environment's .pth files, its editable install among them, do not run this way.
    (purelib / 'zz_base.pth').write_text(sysconfig.get_path('purelib'))
    wheel = next(folder.glob('*.whl'))
    run(*pip, 'install', '-q', '--no-deps', '--no-index', '--target', purelib, wheel)


def run_wheel(python: Path, *arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Outside of the repository, of which nothing may be on the path."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return run(python, *arguments, cwd=cwd, env={**env, **environment})


def test_wheel_is_what_is_imported(wheel_python: Path, tmp_path: Path) -> None:
    code = 'import ghm_mmdet; print(ghm_mmdet.__file__)'
    package = Path(run_wheel(wheel_python, '-c', code, cwd=tmp_path).strip()).parent
    assert wheel_python.parent.parent in package.parents
    assert (package / 'py.typed').exists()


def test_wheel_gives_bases_to_configs(wheel_python: Path, tmp_path: Path) -> None:
    """`_base_ = 'ghm_mmdet::...'` of a user's config, in a process that imports MMEngine alone."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'ghm_mmdet::ghm/retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py'\n"
        'model = dict(bbox_head=dict(num_classes=3))\n'
    )
    code = """
from mmengine.config import Config
head = Config.fromfile('mine.py').model.bbox_head
print(head.num_classes, head.loss_cls.type)
"""
    assert run_wheel(wheel_python, '-c', code, cwd=tmp_path).split() == ['3', 'ghm_mmdet.GHMC']


def test_wheel_satisfies_the_doctor(wheel_python: Path, tmp_path: Path) -> None:
    printed = run_wheel(wheel_python, '-m', 'ghm_mmdet.doctor', cwd=tmp_path)
    assert "_base_ = 'ghm_mmdet::...' is known" in printed
    assert 'A training can start.' in printed


def test_wheel_has_every_config(wheel_python: Path, tmp_path: Path) -> None:
    """As bases, by name, those for test-dev too, which no metafile lists."""
    names = sorted(path.stem for path in ROOT.glob('configs/ghm/*.py'))
    for name in names:
        (tmp_path / f'{name}.py').write_text(f"_base_ = 'ghm_mmdet::ghm/{name}.py'\n")
    code = """
import functools, sys
from mmengine.config import Config, utils
utils.load = functools.cache(utils.load)  # of all metafiles, for each base
for name in sys.argv[1:]:
    print(name, Config.fromfile(f'{name}.py').train_cfg.max_epochs)
"""
    printed = run_wheel(wheel_python, '-c', code, *names, cwd=tmp_path)
    assert printed.splitlines() == [f'{name} 14' for name in names]


def test_wheel_plans_the_reproduction(wheel_python: Path, tmp_path: Path) -> None:
    tool = wheel_python.parent.parent.glob('lib/*/site-packages/ghm_mmdet/.mim/tools/reproduce.py')
    printed = run_wheel(wheel_python, next(tool), 'plan', '--table', '7', cwd=tmp_path)
    assert 'ghm_mmdet/.mim/configs/ghm/faster-rcnn_r50_fpn_ghmr_8xb2-14e_coco.py' in printed


def test_wheel_answers_mim(wheel_python: Path, tmp_path: Path) -> None:
    name = 'retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco'
    mim = [wheel_python, '-m', 'mim']
    listed = run_wheel(*mim, 'search', 'ghm_mmdet', '--model', 'ghm', cwd=tmp_path)
    metafile = yaml.safe_load((ROOT / 'configs/ghm/metafile.yml').read_text())
    assert [model['Name'] for model in metafile['Models'] if model['Name'] not in listed] == []
    run_wheel(*mim, 'download', 'ghm_mmdet', '--config', name, '--dest', tmp_path, cwd=tmp_path)
    config = Config.fromfile(tmp_path / f'{name}.py')
    assert config.model.bbox_head.loss_cls.type == 'ghm_mmdet.GHMC'


def test_wheel_harmonizes_through_mim(wheel_python: Path, tmp_path: Path) -> None:
    """A config in a user's own folder, and one by name."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        'model = dict(bbox_head=dict(num_classes=3))\n'
    )
    tool = [wheel_python, '-m', 'mim', 'run', 'ghm_mmdet', 'harmonize']
    printed = run_wheel(*tool, 'mine.py', '--out', 'ghm.py', '--warmup', '500', cwd=tmp_path)
    assert 'model.bbox_head.loss_cls (RetinaHead, FocalLoss): replaced by GHMC' in printed
    config = Config.fromfile(tmp_path / 'ghm.py')
    head = config.model.bbox_head
    assert (head.num_classes, head.loss_cls.type) == (3, 'ghm_mmdet.GHMC')
    assert config.custom_hooks[-1].iters == 500
    name = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    printed = run_wheel(*tool, name, '--dry-run', cwd=tmp_path)
    assert f'_base_ = {name!r}' in printed


def test_wheel_trains_and_tests_through_mim(
    wheel_python: Path, demo_data: Path, tmp_path: Path
) -> None:
    """Outside the repository: download the config, train, evaluate the checkpoint."""
    name = 'retinanet_r18_fpn_ghmc-ghmr_demo'
    here = dict(cwd=tmp_path, DEMO_ROOT=f'{demo_data}/')
    mim = [wheel_python, '-m', 'mim']
    run_wheel(*mim, 'download', 'ghm_mmdet', '--config', name, '--dest', '.', **here)
    fast = ('--cfg-options', 'train_cfg.max_epochs=1', 'custom_hooks.0.iters=3')
    config = (mmdet_distribution(), f'{name}.py', '--gpus', '0', '--work-dir')
    printed = run_wheel(*mim, 'train', *config, 'work', *fast, **here)
    assert 'GHM takes over' in printed
    checkpoint = tmp_path / 'work/epoch_1.pth'
    every_box = ('--cfg-options', 'model.test_cfg.score_thr=0')
    run_wheel(*mim, 'test', *config, 'test', '--checkpoint', checkpoint, *every_box, **here)
    assert 0 <= last_metrics(tmp_path / 'test')['bbox_mAP'] <= 1


def test_version_is_one_fact() -> None:
    import ghm_mmdet

    assert distribution('ghm_mmdet').version == ghm_mmdet.__version__
