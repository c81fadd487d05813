"""Record the densities of the gradient norms while a detector trains."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checks import check_count
from ..registry import HOOKS
from ..visualization.figures import picture
from ..visualization.observer import GradientNormObserver, Observed
from ..visualization.record import KINDS, RECORD_FILE, GradientDensityRecord, mean_mu

#: Where a record goes that the training does not go on with.
SET_ASIDE = f'{RECORD_FILE}.old'
#: The key of a checkpoint that holds the `training` of the record.
TRAINING = 'gradient_density_training'
#: So many pictures of a training at least, evenly spaced; of fewer rows one of each.
PICTURES = 10
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
    changed, compiled or not, and takes a few megabytes more. It takes PyTorch 2.0 or later.

    At the end of each interval the main process

    - adds a row to `gradient_density.npz` in the work folder, see `GradientDensityRecord`;
    - gives the visualizer the scalars
      `gradient_density/{cls,reg}_{easy,hard}`, the share of the examples with a gradient norm
      < 0.1 and >= 0.9, and `gradient_density/{cls,reg}_gradient_{easy,hard}`, their share of
      the sum of the gradient norms; and ten to twenty times in a training, if it has a backend, a
      picture of the densities, `gradient_density.png`.

    A training begins a new record. One that is resumed goes on with the rows before its iteration
    if its checkpoint is of the training that the record is of, and counts the rest of a row that
    the interruption cut. Any other record that lies there is moved to `gradient_density.npz.old`,
    and a warning says why.

    What is observed are logits of sigmoids, or probabilities where the loss says `activated`, with
    their targets, and encoded box offsets. A loss that is called with anything else is left out:
    an IoU loss, a softmax, any loss with `reg_decoded_bbox=True`, DETR's whole boxes. A warning
    says which, and why.

    Args:
        interval: Iterations between two rows, an int >= 1. A shorter training has one row, at
            its end. Default: 500.
        iters: Iterations recorded in each row, an int in [1, interval]. Default: 1.
        bins: Number of bins in [0, 1]. Default: 600, a multiple of every M of Table 1.
        mu: μ of gr where the regression loss has no `mu` of its own, in units of the encoded
            offsets. Default: 0.02, the paper's.
        loss_cls: Path of the classification loss in the detector; None leaves it out.
            Default: 'bbox_head.loss_cls', that of one-stage detectors.
        loss_bbox: Path of the regression loss; None leaves it out. Default:
            'bbox_head.loss_bbox'; in Faster R-CNN it is 'roi_head.bbox_head.loss_bbox', in the
            first stage of Cascade R-CNN 'roi_head.bbox_head.0.loss_bbox'.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values;
            when training starts, a path that is not in the detector, unless it is the default; a
            second hook of this kind.

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
        self.interval, self.iters = interval, iters
        self.observed = Observed(bins, mu, loss_cls, loss_bbox)
        self._record: GradientDensityRecord | None = None
        self._resumed: str | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Learn which training the checkpoint is of."""
        self._resumed = checkpoint.get(TRAINING, '')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Say which training the checkpoint is of."""
        if self._record is not None:
            checkpoint[TRAINING] = self._record.training

    def before_train(self, runner: Runner) -> None:
        """Hook the losses, and begin a record, or read the one that a resumed run goes on with."""
        if sum(isinstance(x, GradientDensityHook) for x in getattr(runner, 'hooks', ())) > 1:
            raise ValueError(f'several GradientDensityHooks would write the same {RECORD_FILE}')
        # A loop of one's own may not know its length.
        max_iters = getattr(runner, 'max_iters', 0)
        self._interval = min(self.interval, max_iters or self.interval)
        self._iters = min(self.iters, self._interval)
        self._picture_interval = max(max_iters // self._interval // PICTURES, 1) * self._interval
        self._observer = GradientNormObserver(runner.model, self.observed, runner.logger.warning)
        if is_main_process():
            self._record = self._record_so_far(runner)

    def _record_so_far(self, runner: Runner) -> GradientDensityRecord:
        """The rows that the training goes on with; what lies there of another is set aside."""
        path, resumed = Path(runner.work_dir, RECORD_FILE), self._resumed if runner.iter else ''
        settings = f'interval={self.interval}, iters={self.iters}, {self.observed}'
        new = GradientDensityRecord.empty(self.observed.bins, resumed or uuid4().hex, settings)
        try:
            earlier = GradientDensityRecord.load(path)
            # None: no checkpoint was loaded that says which training this is.
            if settings == earlier.settings and resumed in (None, earlier.training):
                return earlier.until(runner.iter)
            why = f'it is of another training or of other settings, {earlier.settings}'
        except (OSError, ValueError) as error:
            why = str(error)
        if is_there := path.exists():
            os.replace(path, path.with_name(SET_ASIDE))
        if is_there or resumed:
            begins = f'begins anew at iteration {runner.iter}, what was there is {SET_ASIDE}'
            runner.logger.warning(f'{path} {begins}: {why}')
        return new

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
            if self._record is not None and self._observer.read:
                self._record.append(runner.iter + 1, sum(sums), mean_mu(mu, sums))
                self._save_and_show(runner, self._record)

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off the losses; warn if nothing was recorded."""
        self._observer.close()
        if self._record is not None and not len(self._record.iteration):
            ended = f'the training ended before iteration {self._interval}'
            why = ended if self._observer.read else 'no loss is observed'
            runner.logger.warning(f'{RECORD_FILE}: not written, for {why}')

    def _save_and_show(self, runner: Runner, record: GradientDensityRecord) -> None:
        step = runner.iter + 1
        try:
            record.save(Path(runner.work_dir, RECORD_FILE))
        except OSError as error:  # as of a full disk; the next row brings this one along
            runner.logger.warning(f'{RECORD_FILE} is not written: {error}')
        cls, reg = (easy_and_hard(kind, *record.histogram(kind)) for kind in KINDS)
        runner.visualizer.add_scalars({**cls, **reg}, step=step)
        # MMEngine has no public name for whether there is a backend.
        is_drawn = getattr(runner.visualizer, '_vis_backends', None) and (cls or reg)
        if is_drawn and self.every_n_train_iters(runner, self._picture_interval):
            # MLflow tells the format by the name, other backends take any.
            runner.visualizer.add_image('gradient_density.png', picture(record), step)
        for kind, path in self._observer.read.items():
            if not record.histogram(kind)[0].any():
                which = f'the {self._iters} iterations of the row of iteration {step}'
                runner.logger.warning(f'{RECORD_FILE}: {path} had no valid example in {which}')


def easy_and_hard(kind: str, counts: np.ndarray, gradient: np.ndarray) -> dict[str, float]:
    """The scalars: the shares of easy and of very hard examples, in number and in gradient.

    Of the number of examples of each bin and the sum of their gradient norms; a bin belongs where
    its centre is. Empty where there are no examples.
    """
    center = (np.arange(len(counts)) + 0.5) / len(counts)
    return {
        f'gradient_density/{kind}_{of}{name}': float(values[chosen].sum() / values.sum())
        for of, values in (('', counts), ('gradient_', gradient))
        for name, chosen in (('easy', center < EASY), ('hard', center >= HARD))
        if values.any()
    }
