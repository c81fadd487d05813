"""Configs as MMDetection's scripts read them, while this process stays as it is."""

from __future__ import annotations

import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

PACKAGE = Path(__file__).parent.parent
#: `{{$NAME:default}}` of MMEngine's configs, within a string, and what `os.path.join` put after it.
VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*(\S*?)\s*\}\}(/?)')
#: The value of `_base_`, a string or a list of strings.
_BASES = re.compile(r'^_base_ = (\[.*?\]|.*?$)', re.MULTILINE | re.DOTALL)
#: Bases whose keys the shipped configs only take values from, by `{{_base_.key}}`.
PIECES = ('backbones', 'box_losses', 'coco_test_dev', 'ghm_losses')
#: What says how a run was started, not what was trained.
NOT_SETTINGS = {'work_dir', 'launcher', 'resume', 'load_from'}


def config_path(path: str) -> Path:
    """A shipped config, `configs/...`, in the installed package or in the repository."""
    installed = PACKAGE / '.mim'
    found = (installed if installed.exists() else PACKAGE.parent) / path
    return found.relative_to(Path.cwd()) if Path.cwd() in found.parents else found


def shipped_configs() -> list[Path]:
    """Those of the paper's tables, and their variants."""
    return sorted(config_path('configs/ghm').glob('*.py'))


def stand_alone(path: Path) -> str:
    """The text of a shipped config that has MMDetection's own configs as its only bases."""
    from ..swap.writer import config_text

    bases = list(dict.fromkeys(_bases_by_name(path)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'bases.py')
        file.write_text(f'_base_ = {bases!r}\n', encoding='utf-8')
        original, new = (Config.fromfile(x, use_environment_variables=False) for x in (file, path))
    for piece in PIECES:
        for key in Config.fromfile(config_path(f'configs/_base_/{piece}.py')):
            new.pop(key, None)
    text = config_text(bases, original, new, f'{path.stem}, as ghm_mmdet ships it.')
    # Its variables of the environment stay variables.
    return text.replace(r'{\x7b', '{{')


def _bases_by_name(path: Path) -> Iterator[str]:
    """`mmdet::...` among the bases of a config and of its bases."""
    found = _BASES.search(path.read_text(encoding='utf-8'))
    for base in re.findall(r"'([^']+)'", found[1]) if found else ():
        if '::' in base:
            yield base
        else:
            yield from _bases_by_name(path.parent / base)


def load_config(
    path: str | Path, environment: Mapping[str, str], options: Sequence[str] = ()
) -> Config:
    """What a process with other variables of the environment reads from a config.

    Args:
        path: Of the config.
        environment: All variables of that process.
        options: `key=value`, read as MMDetection's `--cfg-options`.
    """
    template = Config.fromfile(path, use_environment_variables=False).to_dict()
    config = Config(_filled_in(template, environment), filename=str(path))
    config.merge_from_dict(parse_options(options))
    return config


def parse_options(options: Sequence[str]) -> dict[str, object]:
    """`key=value`, read as MMDetection's `--cfg-options`."""
    parsed = Namespace()
    DictAction(['--cfg-options'], 'options')(None, parsed, options)
    return parsed.options


def _filled_in(value: object, environment: Mapping[str, str]) -> object:
    """The value with the variables in each of its strings replaced."""
    if isinstance(value, dict):
        return {key: _filled_in(inner, environment) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled_in(inner, environment) for inner in value)
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: _replaced(found, environment), value)
    return value


def _replaced(found: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default, slash = found.groups()
    value = os.path.expanduser(environment.get(name, default))  # as the shipped configs do
    return value if value.endswith('/') else value + slash


def differences(recorded: Config, other: Config) -> list[tuple[str, object, object]]:
    """The settings in which two configs differ: dotted key, value here, value there."""
    ours, theirs = (dict(_settings(c.to_dict())) for c in (recorded, other))
    return [
        (key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if key.split('.')[0] not in NOT_SETTINGS and ours.get(key) != theirs.get(key)
    ]


def _settings(value: object, prefix: str = '') -> Iterator[tuple[str, object]]:
    """Every value that is not a collection, or an empty one, with its dotted key."""
    if isinstance(value, (list, tuple)) and value:
        value = dict(enumerate(value))
    if not (isinstance(value, dict) and value):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _settings(inner, f'{prefix}.{key}' if prefix else str(key))
