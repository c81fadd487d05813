"""Record the densities of the gradient norms while a detector trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checks import check_count
from ..registry import HOOKS
from ..visualization.observer import GradientNormObserver, Observed
from ..visualization.record import KINDS, GradientDensityRecord, mean_mu

RECORD_FILE = 'gradient_density.npz'
#: Gradient norms below the first are easy examples, from the second on very hard ones.
EASY, HARD = 0.1, 0.9


@HOOKS.register_module()
class GradientDensityHook(Hook):
    """Record the histograms of the gradient norms g (Eq. 3) and gr (Eq. 18) during training.

    In the last `iters` iterations of every `interval` the calls of the detector's two losses
    are observed: what they are called with counts, not what they are, so that GHM, focal loss
    or cross entropy, smooth L1 or ASL1 can be compared. gr takes the μ that the regression loss
    has in that call, also where it follows the offsets (`mu_momentum` of `GHMR`).
    The levels of the pyramid, the iterations and the processes are summed up. Training is not
    changed, compiled or not. It takes PyTorch 2.0 or later.

    At the end of each interval the main process

    - adds a row to `gradient_density.npz` in the work folder, see `GradientDensityRecord`.
      A resumed run continues the rows before its iteration, and counts the rest of one that
      the interruption cut;
    - gives the visualizer the scalars
      `gradient_density/{cls,reg}_{easy,hard}`, the share of the examples with a gradient norm
      < 0.1 and >= 0.9, and `gradient_density/{cls,reg}_gradient_{easy,hard}`, their share of
      the sum of the gradient norms.

    Offsets are `pred - target` of the regression loss: a head with `reg_decoded_bbox=True`
    passes boxes in pixels, which gr is not meant for. Leave such a loss out.

    Args:
        interval: Iterations between two rows, an int >= 1. A shorter training has one row, at
            its end. Default: 500.
        iters: Iterations recorded in each row, an int in [1, interval]. Default: 1.
        bins: Number of bins in [0, 1]. Default: 600, a multiple of every M of Table 1.
        mu: μ of gr where the regression loss has no `mu` of its own, in units of the encoded
            offsets. Default: 0.02, the paper's.
        loss_cls: Path of the classification loss in the detector; None leaves it out. It must
            be one of sigmoids. Default: 'bbox_head.loss_cls', that of one-stage detectors.
        loss_bbox: Path of the regression loss; None leaves it out. Default:
            'bbox_head.loss_bbox'; in Faster R-CNN it is 'roi_head.bbox_head.loss_bbox'.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values;
            when training starts, a path that is not in the detector, or a resumed record of
            other `bins`; a second hook of this kind.

    Examples:
        In a config, for a row of 10 iterations every 100 of Faster R-CNN's box regression:

            custom_hooks = [
                dict(
                    type='ghm_mmdet.GradientDensityHook',
                    interval=100,
                    iters=10,
                    loss_cls=None,
                    loss_bbox='roi_head.bbox_head.loss_bbox',
                ),
            ]
    """

    def __init__(
        self,
        interval: int = 500,
        iters: int = 1,
        bins: int = 600,
        mu: float = 0.02,
        loss_cls: str | None = 'bbox_head.loss_cls',
        loss_bbox: str | None = 'bbox_head.loss_bbox',
    ) -> None:
        check_count('interval', interval)
        check_count('iters', iters)
        if iters > interval:
            raise ValueError(f'iters must be <= interval, got {iters!r} of {interval!r}')
        self.interval = interval
        self.iters = iters
        self.observed = Observed(bins, mu, loss_cls, loss_bbox)

    def before_train(self, runner: Runner) -> None:
        """Hook the losses, and read the record that a resumed run goes on with."""
        if sum(isinstance(x, GradientDensityHook) for x in getattr(runner, 'hooks', ())) > 1:
            raise ValueError(f'several GradientDensityHooks would write the same {RECORD_FILE}')
        # A loop of one's own may not know its length.
        self._interval = min(self.interval, getattr(runner, 'max_iters', 0) or self.interval)
        self._iters = min(self.iters, self._interval)
        self._observer = GradientNormObserver(runner.model, self.observed)
        if is_main_process():
            self._record = self._record_so_far(Path(runner.work_dir, RECORD_FILE), runner.iter)

    def _record_so_far(self, path: Path, iteration: int) -> GradientDensityRecord:
        bins = self.observed.bins
        if iteration == 0 or not path.exists():
            return GradientDensityRecord.empty(bins)
        earlier = GradientDensityRecord.load(path)
        if earlier.bins != bins:
            where = f'as in the record to go on with, {path}'
            raise ValueError(f'bins must be {earlier.bins}, {where}, got {bins}')
        return earlier.until(iteration)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Count from now on, if the iteration is one of those to record."""
        if runner.iter % self._interval >= self._interval - self._iters:
            self._observer.start()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Count no more; at the end of an interval write its row."""
        self._observer.stop()
        if self.every_n_train_iters(runner, self._interval):
            # Not all_reduce: the sums are float64, which not every device has.
            mu, sums = zip(*all_gather_object((self._observer.mu, self._observer.take().numpy())))
            if is_main_process():
                self._record.append(runner.iter + 1, sum(sums), mean_mu(mu, sums))
                self._record.save(Path(runner.work_dir, RECORD_FILE))
                self._show(runner)

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off the losses; warn if nothing was recorded."""
        self._observer.close()
        if is_main_process() and not len(self._record.iteration):
            why = f'the training ended before iteration {self._interval}'
            runner.logger.warning(f'{RECORD_FILE}: not written, for {why}')

    def _show(self, runner: Runner) -> None:
        scalars = {
            f'gradient_density/{kind}_{name}': share
            for kind in KINDS
            for name, share in easy_and_hard(*self._record.histogram(kind)).items()
        }
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        for kind, path in zip(KINDS, (self.observed.loss_cls, self.observed.loss_bbox)):
            if path is not None and not self._record.histogram(kind)[0].any():
                row = f'the {self._iters} iterations of the row of iteration {runner.iter + 1}'
                runner.logger.warning(f'{RECORD_FILE}: {path} had no valid example in {row}')


def easy_and_hard(counts: np.ndarray, gradient: np.ndarray) -> dict[str, float]:
    """The shares of easy and of very hard examples, of their number and of their gradient.

    Of the number of examples of each bin and the sum of their gradient norms; a bin belongs where
    its centre is. Empty where there are no examples.
    """
    center = (np.arange(len(counts)) + 0.5) / len(counts)
    return {
        prefix + name: float(values[chosen].sum() / values.sum())
        for prefix, values in (('', counts), ('gradient_', gradient))
        for name, chosen in (('easy', center < EASY), ('hard', center >= HARD))
        if values.sum() > 0
    }
