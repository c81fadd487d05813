"""Write a config as its base and the differences from it."""

from __future__ import annotations

import ast
import math
import os
from contextlib import suppress
from enum import Enum
from functools import reduce
from importlib import import_module
from itertools import chain
from keyword import iskeyword
from pathlib import Path
from textwrap import wrap
from types import FunctionType, ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

DELETE = '_delete_'
LINE_LENGTH = 100


def inherited_config(
    base: str | Path, original: Config, new: Config, out: str | Path | None, comment: str = ''
) -> str:
    """The text of a config that inherits from `base` and is `new`.

    Args:
        base: The path or the name (`mmdet::...`) that `original` was loaded from. A config that
            imports its bases (`read_base`) can't be inherited from: it is written out whole.
        original: The config there.
        new: The config to write.
        out: Where the text will be written; None if that is not known.
        comment: Lines for the head of the file.

    Raises:
        TypeError: A value that differs can't be written, such as a lambda; it names the key.
        ValueError: `new` lacks a key of `original`, which a config can't express.
    """
    if '::' not in str(base) and Config._is_lazy_import(str(base)):
        return _commented(comment) + _assignments(new._to_lazy_dict())
    return config_text(reference(base, out), original, new, comment)


def reference(base: str | Path, out: str | Path | None) -> str:
    """How a config at `out` names its base: relative to its own folder, where that is safe.

    MMEngine takes '..' out of paths as text. Behind a symbolic link, on another drive of Windows,
    or for a place that is not known, the path is absolute.
    """
    if '::' in str(base) or Path(base).is_absolute():
        return str(base)
    absolute = os.path.abspath(base)
    if out is not None and not os.path.islink(out):
        folders = Path(absolute).parent, Path(os.path.abspath(out)).parent
        if all(os.path.realpath(folder) == str(folder) for folder in folders):
            with suppress(ValueError):
                return Path(os.path.relpath(absolute, folders[1])).as_posix()
    return Path(absolute).as_posix()


def config_text(base: str | list[str], original: Config, new: Config, comment: str) -> str:
    """The text of a config with this `_base_`, which is `original`, that is `new`."""
    differences = difference(original.to_dict(), new.to_dict())
    return _commented(comment) + _assignments({'_base_': base, **differences})


def _assignments(values: dict[str, Any]) -> str:
    return ''.join(_assignment(key, value) for key, value in values.items())


def _assignment(key: str, value: Any) -> str:
    try:
        if isinstance(_built(value), (FunctionType, ModuleType)):
            raise TypeError(f'MMEngine does not read a variable that is {_built(value)!r}')
        return f'{key} = {literal(value, 0, len(key) + 3)}\n'
    except TypeError as error:
        raise TypeError(f'{key}: {error}') from None


def _commented(text: str) -> str:
    lines = (wrap(line, LINE_LENGTH - 2, subsequent_indent='  ') for line in text.splitlines())
    return ''.join(f'# {line}\n' for line in chain(*lines))


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
        if key not in base or not _is_same(base[key], value)
    }


def _is_same(base: Any, new: Any) -> bool:
    """Whether two values are equal; of those that don't compare as a bool, whether they are one."""
    if base is new:
        return True
    with suppress(ValueError):
        return type(base) is type(new) and bool(base == new)
    return False


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
        TypeError: It holds an object that Python can't read back from text.
    """
    line = _one_line(value)
    if indent + prefix + len(line) < LINE_LENGTH or not _has_parts(value):
        return line
    opening, closing, items = _parts(value)
    inner = indent + 4
    lines = (f'{name}{literal(item, inner, len(name))}' for name, item in items)
    text = ''.join(f'{" " * inner}{line},\n' for line in lines)
    return f'{opening}\n{text}{" " * indent}{closing}'


def _one_line(value: Any) -> str:
    if _has_parts(value):
        opening, closing, items = _parts(value)
        text = ', '.join(f'{name}{_one_line(item)}' for name, item in items)
        comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
        return f'{opening}{text}{comma}{closing}'
    if type(value) is float and not math.isfinite(value):
        return f"float('{value}')"
    if type(value) is set and not value:
        return 'set()'  # which literal_eval of Python 3.8 does not know
    text = repr(value).replace('{{', r'{\x7b')  # else MMEngine reads a variable of the base
    with suppress(ValueError, SyntaxError):
        if _is_same(ast.literal_eval(text), value):
            return text
    return _import_of(value)


def _has_parts(value: Any) -> bool:
    """Whether it is written item by item; a named tuple is not, for it has a type of its own."""
    return isinstance(value, dict) or type(value) in (list, tuple)


def _built(value: Any) -> Any:
    """What a name of a config that imports its bases stands for; other values as they are."""
    return value.build() if isinstance(value, (LazyObject, LazyAttr)) else value


def _import_of(value: Any) -> str:
    """An expression that imports what a module has; a statement would mark a lazy config."""
    module, name = _place_of(value)
    value = _built(value)
    first, *names = name.split('.')
    with suppress(Exception):
        if reduce(getattr, [first, *names], import_module(module)) is value:
            return f'__import__({module!r}, fromlist=[{first!r}]).{name}'
    if _has_parts(value):  # of a class, as its METAINFO
        return literal(value)
    raise TypeError(f'a config can not hold {value!r} as text')


def _place_of(value: Any) -> tuple[str, str]:
    """Where a value is imported from: its module, and its name there."""
    if isinstance(value, LazyAttr):
        module, name = _place_of(value.source)
        return module, f'{name}.{value.name}'.lstrip('.')
    if isinstance(value, LazyObject):
        return value.module, value._imported or ''
    if isinstance(value, Enum):
        return type(value).__module__, f'{type(value).__qualname__}.{value.name}'
    name = getattr(value, '__qualname__', str(value).rpartition('.')[2])
    return str(getattr(value, '__module__', None)), name


def _parts(value: dict | list | tuple) -> tuple[str, str, list[tuple[str, Any]]]:
    """The brackets, and each item with what stands before it: its name, or nothing."""
    if not isinstance(value, dict):
        opening, closing = '[]' if isinstance(value, list) else '()'
        return opening, closing, [('', item) for item in value]
    items = [(key, _type_of(item) if key == 'type' else item) for key, item in dict.items(value)]
    if all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in value):
        return 'dict(', ')', [(f'{key}=', item) for key, item in items]
    return '{', '}', [(f'{_one_line(key)}: ', item) for key, item in items]


def _type_of(value: Any) -> Any:
    """A `type` that is imported as its name, which MMEngine imports as well."""
    if isinstance(value, (LazyObject, LazyAttr)):
        return f'{value.module}.{value}'
    return value
