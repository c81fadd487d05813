"""Configs as MMDetection's scripts read them, while this process stays as it is."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Tuple

from mmengine.config import Config, DictAction

#: `{{$NAME:default}}` of MMEngine's configs, within a string, and what `os.path.join` put after it.
VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*(\S*?)\s*\}\}(/?)')
#: The keys of a config that lead to a result.
SETTINGS = (
    'model', 'data_preprocessor', 'load_from', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr',
    'gpus', 'randomness', 'default_hooks', 'custom_hooks', 'train_cfg', 'val_cfg', 'test_cfg',
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator',
)  # fmt: skip
#: What within them does not: how data are read, where they lie, what is logged and kept.
NOT_SETTINGS = re.compile(
    r'default_hooks\.(logger|timer|checkpoint|visualization|density)\b'
    r'|\.(data_root|num_workers|persistent_workers|pin_memory|prefetch_factor|backend_args)\b'
)
#: Dotted key, value here, value there.
Difference = Tuple[str, object, object]


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
    value = environment.get(name, default)
    return value if value.endswith('/') else value + slash


def differences(recorded: Config, other: Config) -> list[Difference]:
    """The settings in which two configs differ, of those that lead to another result.

    A path counts from the folder of the data, `data_root`; another absolute path by its name.
    """
    ours, theirs = _settings(recorded), _settings(other)
    return [
        (key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
        # A training that went on has forgotten the weights that it began with.
        and not (key == 'load_from' and recorded.get('resume'))
    ]


def _settings(config: Config) -> dict[str, object]:
    """Dotted key to value, without places."""
    values = config.to_dict()
    roots = (value for key, value in _flat(values) if key.rpartition('.')[2] == 'data_root')
    folders = sorted({os.path.abspath(root) for root in roots if root}, key=len, reverse=True)
    flat = _flat({key: values[key] for key in SETTINGS if key in values})
    return {key: _in_place(value, folders) for key, value in flat if not NOT_SETTINGS.search(key)}


def _in_place(value: object, folders: list[str]) -> object:
    """A path as seen from its folder of data."""
    if not isinstance(value, str) or '/' not in value:
        return value
    path = os.path.abspath(value)
    for folder in folders:
        if os.path.commonpath([folder, path]) == folder:
            return os.path.relpath(path, folder)
    return os.path.basename(path) if os.path.isabs(value) else os.path.normpath(value)


def _flat(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Every value that is not a collection, or an empty one, with its dotted key."""
    if isinstance(value, (list, tuple)) and value:
        value = dict(enumerate(value))
    if not (isinstance(value, dict) and value):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f'{prefix}.{key}' if prefix else str(key))
