"""The arms of a comparison: what each trains, and what is recorded of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from ..swap import harmonize

BASELINES = ORIGINAL, CLIPPED = ('original', 'clipped')
#: No gradient is as long: its norm is logged, and nothing is clipped.
ENDLESS = 1e30
#: Focal loss of RetinaNet has a longer gradient in most iterations.
NORM_OF_RETINANET = 2.0


class Arm(NamedTuple):
    """In a few words what an arm is, and its config, from the original and the norm to clip at."""

    what: str
    config: Callable[..., Config]


def clipped(original: Config, norm: float | None) -> Config:
    """Its losses, and the gradient clipped.

    Raises:
        ValueError: The norm is not known, or the original is clipped as often already.
    """
    if norm is None:
        raise ValueError(f'the first training of {ORIGINAL} shows no norm to clip at')
    given = (original.optim_wrapper.get('clip_grad') or {}).get('max_norm', ENDLESS)
    if given <= norm:
        already = f'the config clips the gradient at norm {given:g} already, not at {norm:g}'
        raise ValueError(f'{already}: leave the arm {CLIPPED} out')
    config = copy.deepcopy(original)
    config.optim_wrapper.clip_grad = dict(max_norm=norm, norm_type=2)
    return config


ARMS = {
    ORIGINAL: Arm('the config as it is', lambda config, norm: config),
    CLIPPED: Arm('its losses, the gradient clipped at {norm}', clipped),
    'ghm': Arm('harmonized, preset tempered', lambda config, norm: harmonize(config)),
    'released': Arm(
        'harmonized, preset released', lambda config, norm: harmonize(config, preset='released')
    ),
}


def known_norm(config: Config) -> float | None:
    """The norm to clip at, so that most iterations are clipped; None where it must be measured."""
    head = config.model.get('bbox_head') or {}
    is_retinanet = str(head.get('type')).endswith('RetinaHead')
    has_focal_loss = str((head.get('loss_cls') or {}).get('type')).endswith('FocalLoss')
    return NORM_OF_RETINANET if is_retinanet and has_focal_loss else None


def norm_exceeded(norms: Sequence[float]) -> float | None:
    """The norm that nine of ten gradients exceed, to one digit; None without any."""
    return float(f'{sorted(norms)[len(norms) // 10]:.1g}') if norms else None


def recording(config: Config) -> tuple[str, ...]:
    """`key=value` that record more of a training, and change nothing in it.

    The iteration of each validation, AP by class, and the densities of the gradient norms: those of
    the RPN where there is one.
    """
    options = ['default_hooks.logger.log_metric_by_epoch=False']
    # While the last is written, the one before is there.
    options.append('default_hooks.checkpoint.max_keep_ckpts=2')
    if 'Coco' in str((config.get('val_evaluator') or {}).get('type')):
        options.append('val_evaluator.classwise=True')
    hook: dict[str, Any] = dict(type='ghm_mmdet.GradientDensityHook', iters=5)
    losses = dict(loss_cls='rpn_head.loss_cls', loss_bbox='rpn_head.loss_bbox')
    if {*losses} <= {*config.model.get('rpn_head', ())}:
        hook.update(losses)
    if not any(hook['type'].endswith(str(own.type)) for own in config.get('custom_hooks') or ()):
        # Under a name of its own, MMEngine registers it beside the hooks that a config has.
        options += (f'default_hooks.density.{key}={value}' for key, value in hook.items())
    return tuple(options)


def logging_norms(config: Config) -> tuple[str, ...]:
    """`key=value` that have MMEngine log the norm of the gradient, as it does where it clips."""
    clip = 'optim_wrapper.clip_grad'
    is_clipped = config.optim_wrapper.get('clip_grad')
    return () if is_clipped else (f'{clip}._delete_=True', f'{clip}.max_norm={ENDLESS}')
