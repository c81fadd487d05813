"""What makes of a harmonized config another training than that of the original."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from . import rules
from .find import Path, items_of, name_of, several

#: The keys of a config that hold what names a place or a run.
SECTIONS = (
    'work_dir', 'experiment_name', 'strategy', 'default_hooks', 'custom_hooks', 'visualizer',
    'val_evaluator', 'test_evaluator',
)  # fmt: skip
#: Each argument to what becomes of it.
FATES, OF_TRACKERS = (
    {name: fate for fate, names in table.items() for name in names}
    for table in (rules.NEW_RUN, rules.NEW_RUN_OF_TRACKERS)
)


def new_run(cfg: Config, suffix: str) -> Iterator[tuple[Path, Any, Any]]:
    """Each place of the config that names a place or a run, what is there, and what it becomes.

    Args:
        cfg: The original.
        suffix: What tells the names and places of the new training from those of the original.
    """
    yield from _moved({key: cfg[key] for key in SECTIONS if key in cfg}, (), FATES, suffix)
    if cfg.get('resume'):
        yield ('resume',), cfg['resume'], False
        if cfg.get('load_from'):  # the checkpoint that it would go on from
            yield ('load_from',), cfg['load_from'], None


def _moved(
    node: Any, path: Path, fates: Mapping[str, str], suffix: str
) -> Iterator[tuple[Path, Any, Any]]:
    for key, value in items_of(node):
        fate = fates.get(key) if value else None
        if fate == 'none':
            yield (*path, key), value, None
        elif isinstance(value, str):
            if fate == 'renamed' or (fate == 'renamed if absolute' and os.path.isabs(value)):
                yield (*path, key), value, renamed(value, suffix)
        else:
            inner = OF_TRACKERS if key == 'init_kwargs' else fates
            yield from _moved(value, (*path, key), inner, suffix)


def renamed(place: str, suffix: str) -> str:
    """`results_ghm.pkl` of `results.pkl`, `work_dirs/mine_ghm` of `work_dirs/mine/`."""
    stem, extension = os.path.splitext(place.rstrip('/'))
    is_file = extension[1:].isalpha()
    return f'{stem}_{suffix}{extension}' if is_file else f'{stem}{extension}_{suffix}'


def clipping(cfg: Mapping[str, Any], max_norm: float, whose: str) -> tuple[dict | None, str]:
    """`clip_grad` for a config that does not clip the gradient, else None; and what to know."""
    wrapper, norm = cfg.get('optim_wrapper') or {}, f'norm {max_norm} is {whose}'
    by_strategy = (cfg.get('strategy') or {}).get('gradient_clipping')
    kind = name_of(wrapper) if wrapper.get('type') else None
    if wrapper.get('clip_grad'):
        return None, f'kept, {dict(wrapper["clip_grad"])}; {norm}'
    if by_strategy:
        return None, f'kept, strategy.gradient_clipping={by_strategy}; {norm}'
    if not wrapper or any(isinstance(x, dict) and 'optimizer' in x for x in wrapper.values()):
        return None, f'not set, for there is no optim_wrapper of one optimizer; {norm}'
    if kind not in rules.CLIPPING_WRAPPERS:
        return None, f'not set, for {kind} may not take clip_grad; {norm}'
    clip_grad = dict(max_norm=max_norm, norm_type=2)
    return clip_grad, f'set to {clip_grad}'


def density_hook(cfg: Config, losses: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The hook that observes the first GHM-C of sigmoids and the last GHM-R; None if one is there.

    In a detector of two stages these are the RPN's and the box head's.

    Args:
        cfg: The original.
        losses: The GHM losses of the harmonized config by their place in it.

    Raises:
        ValueError: There is neither.
    """
    hooks = [*several(cfg.get('custom_hooks')), *(cfg.get('default_hooks') or {}).values()]
    if any(isinstance(x, dict) and name_of(x) == 'GradientDensityHook' for x in hooks):
        return None
    places: dict[str, str | None] = dict(loss_cls=None, loss_bbox=None)
    for where, loss in losses.items():
        if name_of(loss) == 'GHMR':
            places['loss_bbox'] = where[len('model.') :]
        elif loss.get('use_sigmoid', True):
            places['loss_cls'] = places['loss_cls'] or where[len('model.') :]
    if not any(places.values()):
        raise ValueError('record=True has no effect: no GHM-C of sigmoids and no GHM-R to observe')
    return dict(type='ghm_mmdet.GradientDensityHook', **places)
