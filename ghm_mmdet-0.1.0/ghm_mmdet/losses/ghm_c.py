"""GHM-C as a loss (Eqs. 3, 8-13)."""

from __future__ import annotations

from typing import Any, Sequence, cast

import torch
from torch import Tensor

from ..checks import REDUCTIONS, check_choice
from ..formulas import FormulaLike, Settings
from ..functional.inputs import number_of_positives, quality_target, valid_examples
from ..functional.passes import count_sigmoid, count_softmax
from .base import one_weight, over_processes, world_size
from .gradient_harmonizing import GradientHarmonizingLoss

#: Reductions for heads that divide the loss by themselves, by the number of their positives.
DIVIDED_LATER = ('rows', 'positives')


class GHMC(GradientHarmonizingLoss):
    """GHM-C: cross entropy, each example divided by its gradient density (Eqs. 8 and 11).

    Replaces MMDetection's `GHMC` and, with the default `formula`, equals it in
    value, gradient and buffers. An example is one (anchor, class) logit with the gradient norm
    `g = |sigmoid(x) - p*|` (Eq. 3).

    With `use_sigmoid=False` it replaces softmax cross entropy. An example is a row
    of C + 1 logits with its label y, and `g = 1 - p_y`, see `softmax_gradient_norm`.

    In a config, always write `use_sigmoid`: MMDetection's heads read it from the config, not
    from the loss, and build a softmax head with one more channel where it is missing.

    Args:
        bins: M, the number of unit regions. Default: 10; the paper's best is 30.
        momentum: α of the moving average (Eq. 12), in [0, 1). Default: 0, no average; the
            paper's is 0.75.
        use_sigmoid: True for Eq. 3, False for a softmax. Default: True.
        loss_weight: Factor of the loss. Default: 1.0.
        reduction: 'none', 'mean', 'sum', 'rows' or 'positives'. Default: 'mean'. The last two
            are for heads that divide the loss by the number of their positives by themselves, and
            for `use_sigmoid=True` alone: what such a head gets is the mean. 'rows' is the mean
            times the number of valid rows, where the head passes the positives alone (`loss_cls`
            of YOLOX); 'positives' is the mean times the sum of the targets p*, at least 1
            (`loss_obj` of YOLOX, RTMDet). Both are those of this process, with `sync` the mean
            over all.
        density: 'region' (Eq. 9) or 'exact' (Eqs. 4-6, ε = 1/M, without an average). Default:
            'region'.
        formula: A name in `ghm_mmdet.formulas.FORMULAS`; or a formula of one's own, see
            `ghm_mmdet.formulas.formula_of`. Default: 'official', `β = N / (S·n)` with the n
            regions that are not empty, and S left as it is where a region is empty.
        sync: Sum the counts over all processes, so that the density is that of the whole
            mini-batch; in training mode alone. Default: False.
        class_weight: Factor of the loss of each class, the background's last; only where
            `use_sigmoid=False`. It is no part of the density nor of N. Default: None, 1.
        ignore_index: Rows with this label are not valid; only where `use_sigmoid=False`.
            Default: None, which is -100, as in MMDetection's `CrossEntropyLoss`.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Attributes:
        class_factor: Buffer, `class_weight` on the device of the loss, or None.

    Examples:
        >>> loss = GHMC(bins=30, momentum=0.75)
        >>> pred = torch.tensor([[2.0, -3.0], [-4.0, -2.0]])
        >>> labels, label_weight = torch.tensor([0, 2]), torch.ones(2)  # 2 is background
        >>> loss(pred, labels, label_weight)
        tensor(0.2582)
        >>> loss.acc_sum.sum()  # (1 - α) R of four logits
        tensor(1.)
    """

    class_factor: Tensor | None

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        *,
        density: str = 'region',
        formula: FormulaLike = 'official',
        sync: bool = False,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        self.use_sigmoid = use_sigmoid
        settings = Settings(bins, density, formula, loss_weight=loss_weight)
        super().__init__(settings, momentum, sync, last_edge=1 + 1e-6)
        self.reduction = reduction
        self.register_buffer('class_factor', None, persistent=False)
        self.class_weight, self.ignore_index = class_weight, ignore_index
        self.reset_parameters()

    def check_setting(self, name: str, value: Any) -> None:
        """As of the base class; with sigmoids there are two reductions more."""
        if name == 'reduction' and self.use_sigmoid:
            check_choice(name, value, (*REDUCTIONS, *DIVIDED_LATER))
        elif name in ('class_weight', 'ignore_index') and self.use_sigmoid and value is not None:
            raise ValueError(
                f'{name} must be None where use_sigmoid=True, got {value!r}: only the softmax '
                'form (use_sigmoid=False) takes it'
            )
        else:
            super().check_setting(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == 'class_weight':
            # On the device, for a copy at each call would wait for it; checkpoints do not change.
            device = self.edges.device
            factor = None if value is None else torch.as_tensor(value, dtype=torch.float32)
            self.class_factor = None if factor is None else factor.to(device)

    def reset_parameters(self) -> None:
        """As of the base class; `class_factor` is that of `class_weight`."""
        super().reset_parameters()
        self.class_weight = self.class_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        label_weight: Tensor | None = None,
        reduction_override: str | None = None,
        *,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The harmonized loss, as MMDetection's heads call it.

        Args:
            pred: Logits, shape (N, C), floating point; (N, C + 1) where `use_sigmoid=False`.
            target: int labels of shape (N,), background outside [0, C); or targets in [0, 1]
                of shape (N, C); or, as `QualityFocalLoss` takes them, a tuple of labels and of
                the target in [0, 1] at each label, both (N,). Where `use_sigmoid=False`, int
                labels in [0, C], background C.
            label_weight: Shape (N,), (N, 1) or (N, C); an example is valid where it is > 0.
                Default: None, all are valid. Where `use_sigmoid=False`, shape (N,) or (N, 1).
            reduction_override: Overrides `reduction`. Default: None.
            weight: Another name of `label_weight`, which some heads use.
            avg_factor: N of `formula='tempered'`, or of one's own, as for `ghm_c_loss`; the
                other formulas divide by their own. Default: None, the number of positives, or
                of valid rows where `use_sigmoid=False`.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar, or for 'none' shape (N, C), (N,) where `use_sigmoid=False`; float32, or
            float64 for float64 logits.
        """
        reduction = self.reduction_of(reduction_override)
        is_divided_later = reduction_override is None and reduction in DIVIDED_LATER
        settings = self.settings_of_call('mean' if is_divided_later else reduction)
        weight = one_weight(label_weight, weight)
        if self.use_sigmoid and isinstance(target, tuple):
            target = quality_target(pred, *target)
        labels = cast(Tensor, target)
        divisor = self._divisor_of_head(pred, labels, weight) if is_divided_later else None
        n = avg_factor if divisor is None else divisor
        if self.use_sigmoid:
            counted = count_sigmoid(pred, labels, weight, n, settings)
        else:
            of_classes = self.class_factor, self.ignore_index
            counted = count_softmax(pred, labels, weight, *of_classes, n, settings)
        loss = self.loss_of(counted, settings)
        return loss if divisor is None else divisor * loss

    def _divisor_of_head(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """By what the head divides, a scalar; with `sync` the mean over the processes."""
        divisor = number_of_positives(pred, target, weight)
        if self.reduction == 'rows':
            divisor = valid_examples(pred, weight).any(-1).sum().to(divisor)
        return (over_processes(divisor) / world_size() if self.syncs else divisor).clamp(min=1)
