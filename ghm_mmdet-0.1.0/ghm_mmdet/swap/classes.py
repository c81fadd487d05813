"""A config's classes beside those of its data set and of its annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file

from ..suggest import did_you_mean
from . import rules
from .find import Head, name_of, several

#: A larger annotation file takes seconds to read, and is not.
MAX_BYTES = 30_000_000


def class_notes(cfg: Config, heads: list[Head]) -> Iterator[str]:
    """What to know of the number of classes of heads with GHM-C, and of names that nothing has."""
    for dataset in _datasets((cfg.get('train_dataloader') or {}).get('dataset')):
        names = _named(dataset)
        numbers = [len(names)] if names else rules.CLASSES.get(name_of(dataset.get('type')), [])
        for head in heads:
            number = head.config.get('num_classes')
            has_others = head.known_as in ('', *rules.OTHER_CLASSES) or 'rpn_head' in head.path
            if numbers and not has_others and number not in (None, *numbers):
                of_data = ' or '.join(map(str, numbers))
                yield (
                    f'{head.where}: num_classes={number}, but the data set has {of_data} classes; '
                    'GHM-C takes labels from num_classes on for background, and does not fail'
                )
        path = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        categories = _categories(path)
        for name in (name for name in names if categories and name not in categories):
            hint = did_you_mean(name, categories)
            yield f'metainfo.classes: {name!r} is no category of {path}, and never learnt{hint}'


def _datasets(dataset: Any) -> Iterator[dict]:
    """The data sets inside of wrappers; a wrapper itself that names the classes."""
    if not isinstance(dataset, dict):
        return
    inner = [*several(dataset.get('dataset')), *several(dataset.get('datasets'))]
    if inner and 'classes' not in (dataset.get('metainfo') or {}):
        for one in inner:
            yield from _datasets(one)
    else:
        yield dataset


def _named(dataset: dict) -> list[str]:
    """The classes that the config names, in itself or in a file."""
    names = (dataset.get('metainfo') or {}).get('classes')
    with suppress(OSError):
        names = list_from_file(names) if isinstance(names, str) else names
    return [*names] if isinstance(names, (list, tuple)) else []


def _categories(path: str) -> set[str]:
    """The names in an annotation file of COCO's format; none where it is not read cheaply."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if os.path.getsize(path) <= MAX_BYTES:
            with open(path, encoding='utf-8') as file:
                return {category['name'] for category in json.load(file)['categories']}
    return set()
