"""`key=value` that the studies share: schedules, sets, and what `harmonize` comes to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ghm_mmdet.swap import harmonize
from ghm_mmdet.swap.writer import difference

from .study import StudySettings

CLIP = 'optim_wrapper.clip_grad.max_norm={}'.format


def schedule(epochs: int) -> tuple[str, ...]:
    """Options of a training of so many epochs, with an evaluation at its end."""
    names = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
    return tuple(f'{name}={epochs}' for name in names)


def iterations(number: int) -> tuple[str, ...]:
    """As `schedule`, of a training that counts iterations."""
    names = ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
    return tuple(f'{name}={number}' for name in names)


@dataclass(frozen=True)
class Losses:
    """What takes the place of a config's losses."""

    what: str
    harmonized: dict[str, object] | None = None  # arguments of `harmonize`
    options: tuple[str, ...] = ()  # `key=value`
    clip: float | None = None  # norm of the gradient

    def of(self, config: Path, clipped: bool = True) -> tuple[str, ...]:
        """`key=value` in a config; see `harmonized_options`."""
        clip = () if self.clip is None else (CLIP(self.clip),)
        if self.harmonized is None:
            return (*self.options, *clip)
        return (*harmonized_options(config, clipped, **self.harmonized), *self.options, *clip)


def in_set(settings: StudySettings, name: str) -> StudySettings:
    """With the folder of a set below `--data-root`."""
    return replace(settings, data_root=str(Path(settings.data_root or 'data', name)))


def train_file(data: Path) -> str:
    """The annotations to train on; BCCD has them in two parts and as a whole."""
    return next(name for name in ('trainval.json', 'train.json') if (data / name).exists())


@cache
def of_set(data_root: str, heads: tuple[str, ...] = ('model.bbox_head',)) -> tuple[str, ...]:
    """The classes of a set, and its annotations; none where the data are not there."""
    data = Path(data_root)
    if not (data / 'test.json').exists():
        return ()
    content = json.loads((data / 'test.json').read_text(encoding='utf-8'))
    names = ','.join(category['name'] for category in content['categories'])
    classes = 'dataset.metainfo.classes'
    return (
        *(f'{head}.num_classes={len(content["categories"])}' for head in heads),
        *(f'{split}_dataloader.{classes}=[{names}]' for split in ('train', 'val')),
        f'train_dataloader.dataset.ann_file={train_file(data)}',
    )


@cache
def harmonized_options(config: Path, clipped: bool = True, **arguments: Any) -> tuple[str, ...]:
    """What `harmonize` does to a config, as `key=value`; if not `clipped`, to one that does not
    clip the gradient, as MMDetection's with SGD.
    """
    given = Config.fromfile(config)
    original = given.to_dict()
    if not clipped:
        given.optim_wrapper.clip_grad = None
    return tuple(options_between(original, harmonize(given, **arguments).to_dict()))


def options_between(original: dict, new: dict, prefix: str = '') -> Iterator[str]:
    """Differences as `key=value`, those of lists by index."""
    for key, value in difference(original, new).items():
        yield from _options_of(value, original.get(key), f'{prefix}{key}')


def _options_of(value: object, original: object, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        inner = original if isinstance(original, dict) else {}
        for key, each in value.items():
            yield from _options_of(each, inner.get(key), f'{name}.{key}')
    elif isinstance(value, list) and isinstance(original, list):
        for index, (before, after) in enumerate(zip(original, value, strict=True)):
            yield from options_between(before, after, f'{name}.{index}.')
    else:
        yield f'{name}={value}'
