"""The record of the gradient densities, which changes no training."""

from __future__ import annotations

from mmengine.config import Config

from ..swap import losses_found


def density_options(config: Config, interval: int = 500) -> tuple[str, ...]:
    """`key=value` by which a training of a detector records its densities.

    Of one that is no RetinaNet those of its first loss of sigmoids and of its last one of offsets,
    such as the RPN's and the box head's; none where it has neither.
    """
    places: dict[str, str | None] = {'loss_cls': None, 'loss_bbox': None}
    for found in losses_found(config, preset='released').losses:
        settings = found.ghm or found.original
        where = found.where[len('model.') :]
        if settings['type'] == 'ghm_mmdet.GHMC' and settings.get('use_sigmoid', True):
            places['loss_cls'] = places['loss_cls'] or where
        elif settings['type'] in ('ghm_mmdet.GHMR', 'ghm_mmdet.AuthenticSmoothL1Loss'):
            places['loss_bbox'] = where
    return observing(interval=interval, **places) if any(places.values()) else ()


def observing(**settings: object) -> tuple[str, ...]:
    """`key=value` that add `GradientDensityHook` with these settings."""
    settings = dict(type='ghm_mmdet.GradientDensityHook', **settings)
    # Under a name of its own, MMEngine registers it beside the hooks that a config has.
    return tuple(f'default_hooks.density.{key}={value}' for key, value in settings.items())
