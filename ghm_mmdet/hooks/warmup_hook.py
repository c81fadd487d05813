"""Mitigation of GHM's cold start: other losses at first, GHM once the detector is warm."""

from __future__ import annotations

from functools import partial
from typing import Callable

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..checks import check_iterations
from ..losses import GHMC, GHMR
from ..registry import HOOKS, MODELS

FOCAL_LOSS = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
SMOOTH_L1_LOSS = dict(type='mmdet.SmoothL1Loss', beta=1 / 9, loss_weight=1.0)


@HOOKS.register_module()
class GHMWarmupHook(Hook):
    """Train with warm-up losses for the first iterations, then switch to GHM.

    From random weights GHM-C has a cold start: while positives and negatives have the same
    score they share one or two unit regions, the weights jump by orders of magnitude when
    scores cross the edge of a region, and nothing is learned. During the first `iters`
    iterations every `GHMC` of a sigmoid computes `loss_cls`, of a softmax cross
    entropy, and every `GHMR` computes `loss_bbox`; their moving averages are updated all the
    while. The iteration is the runner's, so a resumed run continues where it stopped, and
    checkpoints are the same as without the hook.

    Args:
        iters: Iterations of the warm-up, an int >= 1; or their share in the training, a float in
            (0, 1).
        loss_cls: Config of the warm-up loss of every GHM-C with a sigmoid. Default: focal loss
            with γ = 2 and α = 0.25.
        loss_bbox: Config of the warm-up loss of every GHM-R. Default: smooth L1 with δ = 1/9.
        losses: Configs of the warm-up losses of certain GHM losses, by a suffix of the module's
            name in the model, as `{'rpn_head.loss_cls': dict(type='CrossEntropyLoss', ...)}`;
            the longest suffix that fits is taken. Default: None.

    Raises:
        TypeError, ValueError: `iters` is neither an int >= 1 nor a float in (0, 1).
        ValueError: In training: there is no GHM loss, or none with a suffix in `losses`; the
            warm-up loss of a softmax is one of a sigmoid, or the other way round.
    """

    def __init__(
        self,
        iters: int | float,
        loss_cls: dict = FOCAL_LOSS,
        loss_bbox: dict = SMOOTH_L1_LOSS,
        losses: dict[str, dict] | None = None,
    ) -> None:
        check_iterations('iters', iters)
        self.iters = iters
        self.loss_cls = loss_cls
        self.loss_bbox = loss_bbox
        self.losses = losses or {}
        self._end = 0
        self._warming_up: list[nn.Module] = []

    def before_train(self, runner: Runner) -> None:
        modules = runner.model.named_modules()
        losses = {name: loss for name, loss in modules if isinstance(loss, (GHMC, GHMR))}
        if not losses:
            raise ValueError('GHMWarmupHook: the model has no ghm_mmdet.GHMC or ghm_mmdet.GHMR')
        for suffix in self.losses:
            if not any(_ends_with(name, suffix) for name in losses):
                raise ValueError(
                    f'losses of GHMWarmupHook names {suffix!r}, where there is no GHM loss; there '
                    f'are {", ".join(losses)}'
                )
        self._end = self._iterations_of(runner)
        self._warn(runner)
        if runner.iter >= self._end:
            return
        for name, loss in losses.items():
            warmup_loss = MODELS.build(self._warmup_config(name, loss)).to(loss.edges.device)
            use_sigmoid = getattr(loss, 'use_sigmoid', None)
            if getattr(warmup_loss, 'use_sigmoid', use_sigmoid) != use_sigmoid:
                raise ValueError(
                    f'GHMWarmupHook: {type(warmup_loss).__name__} can not be the warm-up loss of '
                    f'{name}: one is of a sigmoid, the other of a softmax'
                )
            # A copy or a pickle of the model takes its own loss along, which a closure would not.
            vars(loss)['forward'] = partial(_forward, loss, warmup_loss)
            self._warming_up.append(loss)
        runner.logger.info(f'GHM warm-up: with other losses until iteration {self._end}')

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self._warming_up and runner.iter >= self._end:
            self._switch_to_ghm()
            runner.logger.info(f'GHM warm-up ends at iteration {runner.iter}: GHM takes over')

    def after_train(self, runner: Runner) -> None:
        self._switch_to_ghm()

    def _warn(self, runner: Runner) -> None:
        """Of a training that is not what it seems to be."""
        if self._end >= runner.max_iters:
            runner.logger.warning(
                f'GHMWarmupHook: GHM is never computed: the warm-up takes {self._end} iterations, '
                f'the training has {runner.max_iters}'
            )
        if isinstance(self.iters, float) and runner.iter > 0:
            runner.logger.warning(
                f'GHMWarmupHook: resumed at iteration {runner.iter}; iters={self.iters} is now '
                f'{self._end} of {runner.max_iters} iterations. If the training was made longer, '
                'give iters as a number, or GHM is replaced once more'
            )

    def _iterations_of(self, runner: Runner) -> int:
        if isinstance(self.iters, float):
            return max(1, round(self.iters * runner.max_iters))
        return self.iters

    def _warmup_config(self, name: str, loss: GHMC | GHMR) -> dict:
        suffixes = [suffix for suffix in self.losses if _ends_with(name, suffix)]
        if suffixes:
            return self.losses[max(suffixes, key=len)]
        if isinstance(loss, GHMR):
            return self.loss_bbox
        if loss.use_sigmoid:
            return self.loss_cls
        kept = {key: getattr(loss, key) for key in ('class_weight', 'ignore_index', 'loss_weight')}
        return dict(type='mmdet.CrossEntropyLoss', **kept)

    def _switch_to_ghm(self) -> None:
        for loss in self._warming_up:
            del vars(loss)['forward']
        self._warming_up.clear()


def _ends_with(name: str, suffix: str) -> bool:
    """Whether a module's name ends with whole parts of it: 'a.b.c' with 'b.c'."""
    return f'.{name}'.endswith(f'.{suffix}')


def _forward(
    loss: GHMC | GHMR,
    warmup_loss: nn.Module,
    pred: Tensor,
    target: Tensor,
    label_weight: Tensor | None = None,
    avg_factor: float | None = None,
    reduction_override: str | None = None,
    weight: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    """The value of `warmup_loss`, while `loss` still counts its statistics."""
    weight = label_weight if weight is None else weight
    with torch.no_grad():
        count: Callable[..., Tensor] = type(loss).forward
        count(loss, pred, target, weight)
    return warmup_loss(
        pred, target, weight, avg_factor=avg_factor, reduction_override=reduction_override
    )
