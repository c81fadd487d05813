"""Write a config as its base and the differences from it."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any

from mmengine.config import Config

DELETE = '_delete_'
LINE_LENGTH = 100


def inherited_config(
    base: str | Path, original: Config, new: Config, out: str | Path, comment: str = ''
) -> str:
    """The text of a config that inherits from `base` and is `new`.

    Args:
        base: The path or the name (`mmdet::...`) that `original` was loaded from. A relative
            path is written relative to the folder of `out`, others as they are. A config that
            imports its bases (`read_base`) can't be inherited from: it is written out whole.
        original: The config there.
        new: The config to write.
        out: Where the text will be written.
        comment: Lines for the head of the file.

    Raises:
        TypeError: A value that differs can't be written, such as a function.
        ValueError: `new` lacks a key of `original`, which a config can't express.
    """
    if _imports_its_bases(base):
        return _commented(comment) + new.pretty_text
    if '::' not in str(base) and not Path(base).is_absolute():
        base = Path(os.path.relpath(base, Path(out).parent)).as_posix()
    return config_text(str(base), original, new, comment)


def config_text(base: str | list[str], original: Config, new: Config, comment: str) -> str:
    """The text of a config with this `_base_`, which is `original`, that is `new`."""
    differences = difference(original.to_dict(), new.to_dict())
    lines = [f'{key} = {literal(value, 0, len(key) + 3)}\n' for key, value in differences.items()]
    return f'{_commented(comment)}_base_ = {literal(base, 0, 8)}\n' + ''.join(lines)


def _commented(text: str) -> str:
    lines = (wrap(line, LINE_LENGTH - 2, subsequent_indent='  ') for line in text.splitlines())
    return ''.join(f'# {line}\n' for line in chain(*lines))


def _imports_its_bases(base: str | Path) -> bool:
    return '::' not in str(base) and Config._is_lazy_import(str(base))


def difference(base: dict, new: dict) -> dict:
    """What to write into a config that inherits from `base` to make it `new`.

    Both are configs as nested dicts. MMEngine merges dicts key by key and replaces all else as a
    whole, lists too. A dict that lost a key, or stands where there was no dict, is written as a
    whole with `_delete_=True`.

    Raises:
        ValueError: The outermost dict lost a key, which a config can't express.
    """
    lost = base.keys() - new.keys()
    if lost:
        raise ValueError(f'a config can not take away from its base: {", ".join(sorted(lost))}')
    return {
        key: _difference_of(value, base[key]) if key in base else value
        for key, value in new.items()
        if key not in base or type(base[key]) is not type(value) or base[key] != value
    }


def _difference_of(new: Any, base: Any) -> Any:
    if not isinstance(new, dict):
        return new
    if not isinstance(base, dict) or base.keys() - new.keys():
        return {DELETE: True, **new}
    # Another loss whose keys happen to cover the old ones' is written whole, to be read so.
    is_another_loss = 'loss_weight' in new and base.get('type') != new.get('type')
    return {DELETE: True, **new} if is_another_loss else difference(base, new)


def literal(value: Any, indent: int = 0, prefix: int = 0) -> str:
    """A value in the style of MMDetection's configs, `prefix` characters into an indented line.

    Raises:
        TypeError: It is not made of dicts, lists, tuples, strings, numbers, True, False, None.
    """
    line = _one_line(value)
    if indent + prefix + len(line) < LINE_LENGTH or not isinstance(value, (dict, list, tuple)):
        return line
    opening, closing, items = _parts(value)
    inner = indent + 4
    lines = (f'{name}{literal(item, inner, len(name))}' for name, item in items)
    text = ''.join(f'{" " * inner}{line},\n' for line in lines)
    return f'{opening}\n{text}{" " * indent}{closing}'


def _one_line(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        opening, closing, items = _parts(value)
        text = ', '.join(f'{name}{_one_line(item)}' for name, item in items)
        comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
        return f'{opening}{text}{comma}{closing}'
    if isinstance(value, float) and value in (float('inf'), -float('inf')):
        return f"float('{value}')"
    if value is None or isinstance(value, (str, bool, int, float)):
        return repr(value)
    raise TypeError(f'a config can not hold {value!r} as text')


def _parts(value: dict | list | tuple) -> tuple[str, str, list[tuple[str, Any]]]:
    """The brackets, and each item with what stands before it: its name, or nothing."""
    if not isinstance(value, dict):
        opening, closing = '[]' if isinstance(value, list) else '()'
        return opening, closing, [('', item) for item in value]
    if all(isinstance(key, str) and key.isidentifier() for key in value):
        return 'dict(', ')', [(f'{key}=', item) for key, item in value.items()]
    return '{', '}', [(f'{key!r}: ', item) for key, item in value.items()]
