"""Write a config as its base and the differences from it."""

from pathlib import Path
from typing import Any

from mmengine.config import Config

DELETE = '_delete_'


def difference(base: dict, new: dict) -> dict:
    """What to write into a config that inherits from `base` to make it `new`.

    MMEngine merges dicts key by key and replaces all else as a whole, lists too. A dict that
    lost a key, or stands where there was no dict, is written as a whole with `_delete_=True`.

    Args:
        base: A config as nested dicts.
        new: Another one.

    Returns:
        The nested dict of differences; empty for equal ones.

    Raises:
        ValueError: The outermost dict lost a key, which a config can't express.
    """
    lost = base.keys() - new.keys()
    if lost:
        raise ValueError(f'a config can not take away from its base: {", ".join(sorted(lost))}')
    return {
        key: _difference_of(key, base, value)
        for key, value in new.items()
        if key not in base or not _equal(base[key], value)
    }


def _difference_of(key: str, base: dict, value: Any) -> Any:
    if key not in base or not isinstance(value, dict):
        return value
    old = base[key]
    if isinstance(old, dict) and old.keys() <= value.keys() and not _another_type(old, value):
        return difference(old, value)
    return {DELETE: True, **value}


def _another_type(old: dict, new: dict) -> bool:
    """Another class with the same keys: written as a whole too, so that it reads as one."""
    return 'type' in old and old['type'] != new['type'] and 'loss_weight' in new


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def config_text(base: str, differences: dict, comment: str = '') -> str:
    """The text of a config that inherits from `base`."""
    lines = [f'# {line}'.rstrip() for line in comment.splitlines()]
    body = Config(differences).pretty_text
    return '\n'.join([*lines, f'_base_ = {base!r}', body.strip()]).strip() + '\n'


def inherited_config(
    base: str | Path, original: Config, new: Config, out: Path, comment: str = ''
) -> str:
    """The text of a config at `out` that inherits from `base` and is `new`.

    Args:
        base: The path or name that `original` was loaded from. A relative path is written
            relative to the folder of `out`, another one as it is.
        original: The config there.
        new: The config to write.
        out: Where the text will be written; it needs not exist.
        comment: Lines for the head of the file.
    """
    if '::' not in str(base) and not Path(base).is_absolute():
        base = _relative(Path(base), out.parent)
    differences = difference(original._cfg_dict.to_dict(), new._cfg_dict.to_dict())
    return config_text(str(base), differences, comment)


def _relative(path: Path, folder: Path) -> str:
    import os

    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
