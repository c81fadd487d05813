"""The arms of a comparison: what each trains, and what is recorded of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmengine.config import Config

from ..swap import harmonize
from ..swap.find import name_of
from ..swap.rules import CLIPPING_WRAPPERS

BASELINES = ORIGINAL, CLIPPED = ('original', 'clipped')
HOOK = 'GradientDensityHook'
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
    if norm is None or not can_clip(original.optim_wrapper):
        why = f'the first training of {ORIGINAL} shows no norm, or the optimizer takes none'
        raise ValueError(f'{why}: leave the arm {CLIPPED} out')
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
    head = config.model.get('bbox_head')
    loss = head.get('loss_cls') if isinstance(head, dict) else None
    is_known = loss and name_of(head).endswith('RetinaHead') and name_of(loss) == 'FocalLoss'
    return NORM_OF_RETINANET if is_known else None


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
    evaluator = config.get('val_evaluator')
    if isinstance(evaluator, dict) and name_of(evaluator).startswith('Coco'):
        options.append('val_evaluator.classwise=True')
    hook = dict(type=f'ghm_mmdet.{HOOK}', iters='5')
    losses = dict(loss_cls='rpn_head.loss_cls', loss_bbox='rpn_head.loss_bbox')
    if {*losses} <= {*(config.model.get('rpn_head') or ())}:
        hook.update(losses)
    if not any(name_of(own) == HOOK for own in config.get('custom_hooks') or ()):
        # Under a name of its own, MMEngine registers it beside the hooks that a config has.
        options += (f'default_hooks.density.{key}={value}' for key, value in hook.items())
    return tuple(options)


def logging_norms(config: Config) -> tuple[str, ...]:
    """`key=value` that have MMEngine log the norm of the gradient, as it does where it clips."""
    wrapper, clip = config.optim_wrapper, 'optim_wrapper.clip_grad'
    if wrapper.get('clip_grad') or not can_clip(wrapper):
        return ()
    return f'{clip}._delete_=True', f'{clip}.max_norm={ENDLESS}'


def can_clip(wrapper: dict) -> bool:
    """Whether a wrapper of the optimizer takes `clip_grad`."""
    return (wrapper.get('type') and name_of(wrapper)) in CLIPPING_WRAPPERS
