"""Tables of the package that lie beside its modules, and the types that they are declared with."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


def read_yaml(path: Path) -> Any:
    """What a YAML file of the package holds.

    By the loader, for a package in a zip, too, where `pkgutil.get_data` fails on Python 3.8.
    """
    return yaml.safe_load(__loader__.get_data(str(path)))  # type: ignore[name-defined]


def typed(value: Any, kind: Any, where: str) -> Any:
    """A value of a YAML file, if it is of the type that is declared for it.

    Args:
        value: As `read_yaml` returns it.
        kind: Of dicts, lists, unions, literals, dataclasses and classes. A list of names may be a
            text of them in the file, a dataclass is made of a mapping of its arguments.
        where: The place in the file, with which a message begins.

    Raises:
        TypeError: It is of another type, or names an argument that the dataclass does not have.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, (list, str)):
        items = value.split() if isinstance(value, str) else value
        return [typed(item, parts[0], where) for item in items]
    if origin is dict and isinstance(value, dict):
        keys = {key: typed(key, parts[0], where) for key in value}
        return {keys[key]: typed(item, parts[1], f'{where}.{key}') for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        return kind(**{key: typed(x, kinds.get(key), f'{where}.{key}') for key, x in value.items()})
    for part in parts if origin is Union else ():
        with suppress(TypeError):
            return typed(value, part, where)
    if value in parts if origin is Literal else type(value) is kind:
        return value
    raise TypeError(f'{where} must be {kind}, got {value!r}')
