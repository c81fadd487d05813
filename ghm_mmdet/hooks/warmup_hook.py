"""The cure of GHM's cold start: another loss leads until the detector is warm."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..functional.checks import check_count
from ..losses import GHMC, GHMR
from ..registry import HOOKS, MODELS

FOCAL_LOSS = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
SMOOTH_L1_LOSS = dict(type='mmdet.SmoothL1Loss', beta=1 / 9, loss_weight=1.0)


@HOOKS.register_module()
class GHMWarmupHook(Hook):
    """Train with other losses for the first iterations, then hand over to GHM.

    From random weights GHM-C has a cold start: while positives and negatives have the same
    score they share one or two unit regions, the weights jump by orders of magnitude when
    scores cross the edge of a region, and nothing is learned. During the first `iters`
    iterations every `GHMC` of the model answers with `loss_cls` and every `GHMR` with
    `loss_bbox`; their moving averages are kept up all the while. The iteration is the
    runner's, so a resumed run goes on where it was cut off, and checkpoints are the same as
    without the hook.

    Args:
        iters: Iterations of the warm-up, an int >= 1.
        loss_cls: Config of the loss that leads in the place of GHM-C. Default: focal loss
            with γ = 2 and α = 0.25.
        loss_bbox: Config of the loss that leads in the place of GHM-R. Default: smooth L1
            with δ = 1/9.

    Raises:
        TypeError, ValueError: `iters` is not an int >= 1.
    """

    def __init__(
        self, iters: int, loss_cls: dict = FOCAL_LOSS, loss_bbox: dict = SMOOTH_L1_LOSS
    ) -> None:
        check_count('iters', iters)
        self.iters = iters
        self.loss_cls = loss_cls
        self.loss_bbox = loss_bbox
        self._led: list[nn.Module] = []

    def before_train(self, runner: Runner) -> None:
        losses = [m for m in runner.model.modules() if isinstance(m, (GHMC, GHMR))]
        if not losses:
            raise ValueError('GHMWarmupHook: the model has no ghm_mmdet.GHMC or ghm_mmdet.GHMR')
        if runner.iter >= self.iters:
            return
        for loss in losses:
            config = self.loss_cls if isinstance(loss, GHMC) else self.loss_bbox
            leader = MODELS.build(dict(config)).to(loss.edges.device)
            _let_lead(leader, loss)
            self._led.append(loss)
        runner.logger.info(f'GHM warm-up: other losses lead until iteration {self.iters}')

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self._led and runner.iter >= self.iters:
            self._hand_over()
            runner.logger.info(f'GHM warm-up ends at iteration {runner.iter}: GHM takes over')

    def after_train(self, runner: Runner) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        for loss in self._led:
            del loss.forward
        self._led.clear()


def _let_lead(leader: nn.Module, loss: GHMC | GHMR) -> None:
    """Let `loss` answer with the value of `leader`, and still count its statistics."""
    count = loss.forward

    def forward(
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs: object,
    ) -> Tensor:
        with torch.no_grad():
            count(pred, target, label_weight)
        return leader(
            pred,
            target,
            label_weight,
            avg_factor=avg_factor,
            reduction_override=reduction_override,
        )

    loss.forward = forward
