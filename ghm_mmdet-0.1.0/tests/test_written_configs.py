"""A config that `harmonize` writes loads, builds and equals the one in memory: forms, places."""

from __future__ import annotations

import copy
import math
import os
import re
import subprocess
import sys
import tempfile
from enum import Enum
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.dataset import pseudo_collate

from ghm_mmdet import harmonize
from ghm_mmdet.cli import main, places
from ghm_mmdet.presets import Options
from ghm_mmdet.swap import harmonized_text, inherited_config
from ghm_mmdet.swap.writer import difference, literal

from .processes import ROOT

BASE = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
TYPES = """model = dict(bbox_head=dict(
    type={head}, loss_cls=dict(type={focal}), loss_bbox=dict(type={l1})))
"""
LAZY = """from mmengine.optim import OptimWrapper
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.losses import FocalLoss, L1Loss
from torch.optim import SGD
model = dict(bbox_head=dict(
    type=RetinaHead, num_classes=3, in_channels=8,
    loss_cls=dict(type=FocalLoss, use_sigmoid=True, loss_weight=1.0),
    loss_bbox=dict(type=L1Loss, loss_weight=1.0)))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=float('inf')))
"""
#: Each way in which MMEngine reads a config.
FORMS = {
    'plain': BASE,
    'scoped': BASE + TYPES.format(
        head="'mmdet.RetinaHead'", focal="'mmdet.FocalLoss'", l1="'mmdet.L1Loss'"
    ),
    'dotted': BASE + TYPES.format(
        head="'mmdet.models.dense_heads.RetinaHead'",
        focal="'mmdet.models.losses.FocalLoss'",
        l1="'mmdet.models.losses.L1Loss'",
    ),
    'classes': BASE + "models = __import__('mmdet.models', fromlist=['RetinaHead'])\n"
    + TYPES.format(head='models.RetinaHead', focal='models.FocalLoss', l1='models.L1Loss')
    + 'del models\n',
    'values': BASE + "custom_hooks = [dict(type='EMAHook', priority=float('inf'), "
    "begin=-float('inf'), nan=float('nan'), make=len, act=__import__('torch').nn.ReLU, "
    "names={'a', 'b'}, raw=b'x', keys={'class': 1, 'two words': 2, 3: 4}, text='μ\\n\\'\"')]\n"
    'optim_wrapper = dict(clip_grad=None)\n',
    'lazy': LAZY,
    'lazy with bases': 'from mmengine.config import read_base\n'
    'with read_base():\n    from .lazy_base import *\n'
    'from torch.nn import ReLU\n'
    "custom_hooks = [dict(type='EMAHook', begin=float('inf'), nan=float('nan'), act=ReLU)]\n",
}  # fmt: skip
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    dict(preset='tempered'),
    dict(reg=False),
    dict(cls=False, head='Retina*'),
    dict(bins=20, momentum=0.5, formula='paper'),
    dict(batch_density=True),
    dict(preset='tempered', batch_density=True),
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and bool(a == b)


def built(node: Any, key: Any = None) -> Any:
    """Every value of a config, imported; what a `type` imports by its name, as it is written."""
    if isinstance(node, Config):
        return built(node._to_lazy_dict())
    if isinstance(node, dict):
        return {key: built(value, key) for key, value in dict.items(node)}
    if type(node) in (list, tuple):
        return type(node)(map(built, node))
    if isinstance(node, (LazyObject, LazyAttr)):
        return f'{node.module}.{node}' if key == 'type' else node.build()
    return node


def write_base(path: Path, form: str = 'plain') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FORMS[form], encoding='utf-8')
    if 'bases' in form:
        (path.parent / 'lazy_base.py').write_text(LAZY, encoding='utf-8')
    return path


def assert_is_harmonized(path: Path, base: Path, **options: Any) -> None:
    """The file loads, is what `harmonize` makes in memory, and its head builds."""
    written = Config.fromfile(path)
    expected = harmonize(Config.fromfile(base), **options)
    assert same(built(written), built(expected))
    head = MODELS.build(written.model.bbox_head)
    losses = (type(head.loss_cls).__name__, type(head.loss_bbox).__name__)
    kept = ('FocalLoss', 'L1Loss')
    changed = (options.get('cls', True), options.get('reg', True))
    wanted = tuple(
        ghm if is_changed else old for ghm, old, is_changed in zip(('GHMC', 'GHMR'), kept, changed)
    )
    assert losses == wanted


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('form', FORMS)
def test_every_form_with_every_option(form: str, options: dict, tmp_path: Path) -> None:
    base, out = tmp_path / 'base.py', tmp_path / 'out.py'
    write_base(base, form)
    out.write_text(harmonized_text(base, out, Options(**options))[1], encoding='utf-8')
    assert_is_harmonized(out, base, **options)


def linked(folder: Path, name: str) -> None:
    """A folder on another disk, at a depth of its own."""
    there = folder / f'disk/a/b/{name}'
    there.mkdir(parents=True)
    (folder / name).symlink_to(there, target_is_directory=True)


#: Where the base lies and where the config is written to, in a project with links.
PLACES = [
    ('base.py', 'ghm.py'),
    ('base.py', 'new/deep/ghm.py'),
    ('configs/base.py', 'ghm.py'),
    ('configs/base.py', 'other/ghm.py'),
    ('base.py', 'work_dirs/ghm.py'),
    ('base.py', 'work_dirs/deep/ghm.py'),
    ('linked/base.py', 'ghm.py'),
    ('linked/base.py', 'linked/ghm.py'),
    ('linked/base.py', 'work_dirs/ghm.py'),
]


@pytest.mark.parametrize('form', ['plain', 'lazy with bases'])
@pytest.mark.parametrize('absolute', [False, True])
@pytest.mark.parametrize(('base', 'out'), PLACES)
def test_every_place(
    base: str, out: str, absolute: bool, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative or an absolute path; loaded from another folder, and through the link's end."""
    for name in ('work_dirs', 'linked'):
        linked(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    where = os.path.normpath(base)
    write_base(Path(where), form)
    written = tmp_path / out if absolute else Path(out)
    main(['harmonize', str(tmp_path / where) if absolute else base, '--out', str(written)])
    monkeypatch.chdir('/')
    for path in (tmp_path / out, (tmp_path / out).resolve()):
        assert_is_harmonized(path, tmp_path / where)


def test_relative_where_that_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a project can move."""
    monkeypatch.chdir(Path(os.path.realpath(tmp_path)))
    Path('configs').mkdir()
    Path('configs/base.py').write_text(BASE, encoding='utf-8')
    main(['harmonize', 'configs/base.py', '--out', 'configs/ghm.py'])
    assert "_base_ = 'base.py'" in Path('configs/ghm.py').read_text(encoding='utf-8')


def test_absolute_on_another_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Windows, where no relative path leads there."""

    def no_path(*args: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.chdir(tmp_path)
    write_base(Path('base.py'))
    with monkeypatch.context() as patch:
        patch.setattr(os.path, 'relpath', no_path)
        main(['harmonize', 'base.py', '--out', 'new/ghm.py'])
    assert_is_harmonized(tmp_path / 'new/ghm.py', tmp_path / 'base.py')


@pytest.mark.parametrize('encoding', ['utf-8', 'ascii'])
def test_standard_output_in_another_folder(encoding: str, tmp_path: Path) -> None:
    """Whatever the locale: the file is UTF-8, as MMEngine reads it."""
    write_base(tmp_path / 'configs/mine.py', 'values')
    command = [sys.executable, '-m', 'ghm_mmdet', 'harmonize', 'configs/mine.py', '--bins', '9']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': encoding}
    with open(tmp_path / 'configs/ghm.py', 'wb') as out:
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, stdout=out)
    assert_is_harmonized(tmp_path / 'configs/ghm.py', tmp_path / 'configs/mine.py', bins=9)


@pytest.mark.parametrize('name', ['ghm.yaml', 'ghm.json', 'ghm', 'ghm.PY'])
def test_what_mmengine_would_not_read_is_not_written(name: str, tmp_path: Path) -> None:
    for command in (['harmonize', str(write_base(tmp_path / 'base.py'))], ['config', SHIPPED]):
        with pytest.raises(SystemExit, match=r'--out must end with \.py'):
            main([*command, '--out', str(tmp_path / name)])
    assert not (tmp_path / name).exists()


SHIPPED = 'retinanet_r50_fpn_ghmc_8xb2-14e_coco'


def test_a_config_is_overwritten_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`write_text` is tested in test_places.py on a disk that is full."""
    base, out = write_base(tmp_path / 'base.py'), tmp_path / 'ghm.py'
    out.write_text('mine', encoding='utf-8')
    put, written = places._put, []

    def full(path: Path, data: bytes) -> None:
        put(path, data if written else data[:4])
        written.append(data)
        if len(written) == 1:
            raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(places, '_put', full)
        with pytest.raises(SystemExit, match=r'can not be written: .*No space left'):
            main(['harmonize', str(base), '--out', str(out), '--force'])
    assert out.read_text(encoding='utf-8') == 'mine' and len(written) == 2
    assert {path.name for path in tmp_path.iterdir()} == {'base.py', 'ghm.py'}
    main(['harmonize', str(base), '--out', str(out), '--force'])
    assert_is_harmonized(out, base)


def test_values_that_python_reads_back() -> None:
    values = [
        float('inf'), -float('inf'), {1, 2}, b'x', 1 + 2j, (1,), (), {}, torch.nn.ReLU, len, None,
        Path.read_text, {'lambda': 1}, {(1, 2): [3]}, 1e-300, 'a\\"\'\n', True, range,
    ]  # fmt: skip
    for value in values:
        assert same(eval(literal(value)), value), value
    assert math.isnan(eval(literal(float('nan'))))
    for value in (lambda: 1, Path('x'), torch.zeros(2), object()):
        with pytest.raises(TypeError, match='a config can not hold'):
            literal(dict(a=value))


class Colour(Enum):
    RED = 1


def a_function() -> None:
    """What a config may name."""


#: What a config can hold, and be written.
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.complex_numbers(allow_infinity=False, allow_nan=False),
    st.sampled_from([
        torch.float16, torch.nn.ReLU, torch.nn.functional.relu, len, dict, Colour.RED, a_function,
        Path.read_text, Colour, '{{ fileDirname }}', '{{_base_.model}}', '{{$HOME:x}}',
    ]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
        st.sets(st.integers() | st.text(), max_size=3),
    ),
    max_leaves=8,
)
#: What it can't: the writer says so.
UNWRITABLE = (
    lambda: 1, Path('x'), torch.zeros(2), object(), np.float64(1), re.compile('x'), partial(len),
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_every_value_survives(value: Any) -> None:
    assert same(eval(literal(value), {}), value)


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_every_value_survives_in_a_file(value: Any) -> None:
    """As MMEngine reads it: dicts with keys that are text, at a place where a config has values."""
    with tempfile.TemporaryDirectory() as folder:
        base, out = write_base(Path(folder, 'base.py')), Path(folder, 'ghm.py')
        cfg = Config.fromfile(base)
        new = copy.copy(cfg)
        new['extra'] = dict(value=[value])
        out.write_text(inherited_config(base, cfg, new, out), encoding='utf-8')
        assert same(built(Config.fromfile(out).extra['value']), built([value]))


@pytest.mark.parametrize('value', UNWRITABLE, ids=lambda value: type(value).__name__)
def test_a_value_that_no_text_holds_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    cfg = Config.fromfile(write_base(tmp_path / 'base.py'))
    new = copy.copy(cfg)
    new['mine'] = dict(deep=[value])
    with pytest.raises(TypeError, match=r'^mine: a config can not hold'):
        inherited_config(tmp_path / 'base.py', cfg, new, tmp_path / 'ghm.py')


def test_a_difference_of_type_alone_is_written() -> None:
    """1, 1.0 and True are equal."""
    base = dict(a=1, b=1.0, c=True)
    new = dict(a=1.0, b=True, c=1)
    assert {key: type(v) for key, v in difference(base, new).items()} == dict(
        a=float, b=bool, c=int
    )


NEW_STYLE = """import torch
from torch.nn import functional as F
from mmdet.datasets import CocoDataset
from mmengine.dataset import pseudo_collate
from mmengine.fileio import FileClient
from http import HTTPStatus
custom_hooks = [dict(
    type='EMAHook', dtype=torch.float16, act=F.relu, enum=HTTPStatus.OK, data=CocoDataset,
    names=CocoDataset.METAINFO, collate=(pseudo_collate, torch.nn.ReLU))]
"""


def test_every_value_of_a_new_style_config_survives(tmp_path: Path) -> None:
    base, out = tmp_path / 'lazy.py', tmp_path / 'ghm.py'
    base.write_text(NEW_STYLE + LAZY)
    out.write_text(harmonized_text(base, out, Options())[1], encoding='utf-8')
    [hook], [original] = Config.fromfile(out).custom_hooks, Config.fromfile(base).custom_hooks
    assert hook.dtype is torch.float16 and hook.act is torch.nn.functional.relu
    assert hook.enum is HTTPStatus.OK and hook.data is CocoDataset
    assert hook.names == CocoDataset.METAINFO and hook.collate == (pseudo_collate, torch.nn.ReLU)
    assert original.keys() == hook.keys()
    assert_is_harmonized(out, base)
    base.write_text('from mmengine.dataset import pseudo_collate\nmine = pseudo_collate\n' + LAZY)
    with pytest.raises(TypeError, match=r'^mine: MMEngine does not read a variable that is'):
        harmonized_text(base, out, Options())


def test_the_home_folder_is_that_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out=~/x.py`: a shell leaves the sign as it is there."""
    monkeypatch.setenv('HOME', str(tmp_path))
    main(['harmonize', str(write_base(tmp_path / 'base.py')), '--out=~/ghm.py'])
    assert_is_harmonized(tmp_path / 'ghm.py', tmp_path / 'base.py')
