"""Configs as MMDetection's scripts read them, while this process stays as it is."""

import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

PACKAGE = Path(__file__).parent.parent
#: `{{$NAME:default}}` of MMEngine's configs, within a string.
VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*(\S*?)\s*\}\}')
#: What says how a run was started, not what was trained.
NOT_SETTINGS = {'work_dir', 'launcher', 'resume', 'load_from'}


def config_path(path: str) -> Path:
    """A shipped config, `configs/...`, in the installed package or in the repository."""
    installed = PACKAGE / '.mim'
    found = (installed if installed.exists() else PACKAGE.parent) / path
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


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
    content = _mapped(
        template, lambda text: VARIABLE.sub(lambda m: environment.get(m[1], m[2]), text)
    )
    config = Config(content, filename=str(path))
    parsed = Namespace()
    DictAction(['--cfg-options'], 'options')(None, parsed, options)
    config.merge_from_dict(parsed.options)
    return config


def _mapped(value: object, change: Callable[[str], str]) -> object:
    """The value with each string in it changed."""
    if isinstance(value, dict):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(inner, change) for inner in value)
    return change(value) if isinstance(value, str) else value


def differences(recorded: Config, other: Config) -> list[tuple[str, object, object]]:
    """The settings in which two configs differ: dotted key, value here, value there."""
    ours, theirs = (dict(_settings(c.to_dict())) for c in (recorded, other))
    return [
        (key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if key.split('.')[0] not in NOT_SETTINGS and ours.get(key) != theirs.get(key)
    ]


def _settings(value: object, prefix: str = '') -> Iterator[tuple[str, object]]:
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, (list, tuple))
        else None
    )  # fmt: skip
    if not items:
        yield prefix, value
        return
    for key, inner in items:
        yield from _settings(inner, f'{prefix}.{key}' if prefix else str(key))
