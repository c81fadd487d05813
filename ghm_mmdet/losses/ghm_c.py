"""GHM-C as a registered loss (Eqs. 3, 8-13)."""

from __future__ import annotations

from typing import Sequence, cast

import torch
from mmdet.utils import reduce_mean
from torch import Tensor

from ..checks import REDUCTIONS, check_bool, check_choice, requires_use_sigmoid
from ..formulas import Settings
from ..functional.inputs import as_heads_pass, sum_of_targets, valid_examples
from ..functional.losses import first_pass_of_sigmoid, first_pass_of_softmax
from ..registry import MODELS
from .gradient_harmonizing import GradientHarmonizingLoss

#: Reductions for heads that divide the loss by themselves, by the number of their positives.
DIVIDED_LATER = ('rows', 'positives')


@MODELS.register_module()
@requires_use_sigmoid
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
        formula: A name in `ghm_mmdet.formulas.FORMULAS`. Default: 'official',
            `β = N / (S·n)` with the n regions that are not empty, and S left as it is where a
            region is empty.
        sync: Sum the counts over all processes, so that the density is that of the whole
            mini-batch. Default: False.
        class_weight: Factor of the loss of each class, the background's last; only where
            `use_sigmoid=False`. It is no part of the density nor of N. Default: None, 1.
        ignore_index: Rows with this label are not valid; only where `use_sigmoid=False`.
            Default: None, which is -100, as in MMDetection's `CrossEntropyLoss`.

    Raises:
        TypeError, ValueError: A setting of the wrong type or outside the allowed values.

    Examples:
        >>> from ghm_mmdet.registry import MODELS
        >>> config = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True)
        >>> loss = MODELS.build(config)
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
        formula: str = 'official',
        sync: bool = False,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        check_bool('use_sigmoid', use_sigmoid)
        reductions = (*REDUCTIONS, *DIVIDED_LATER) if use_sigmoid else REDUCTIONS
        check_choice('reduction', reduction, reductions)
        of_examples = 'mean' if reduction in DIVIDED_LATER else reduction
        settings = Settings(bins, density, formula, of_examples, loss_weight)
        super().__init__(settings, momentum, sync, last_edge=1 + 1e-6)
        self.reduction = reduction
        if use_sigmoid:
            for name, value in (('class_weight', class_weight), ('ignore_index', ignore_index)):
                if value is not None:
                    raise ValueError(
                        f'{name} must be None where use_sigmoid=True, got {value!r}: only the '
                        'softmax form (use_sigmoid=False) takes it'
                    )
        self.use_sigmoid = use_sigmoid
        self.class_weight = class_weight
        self.ignore_index = ignore_index
        # On the device, for a copy at each call would wait for it; checkpoints do not change.
        factor = None if class_weight is None else torch.as_tensor(class_weight)
        self.register_buffer('class_factor', factor, persistent=False)

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
                Default: None, all are valid. Where `use_sigmoid=False`, shape (N,).
            reduction_override: Overrides `reduction`. Default: None.
            weight: Another name of `label_weight`, which some heads use.
            avg_factor: N of `formula='tempered'`, as for `ghm_c_loss`; the other formulas divide
                by their own.
            **kwargs: Accepted and ignored.

        Returns:
            A scalar, or for 'none' shape (N, C), (N,) where `use_sigmoid=False`; float32, or
            float64 for float64 logits.
        """
        is_divided_later = reduction_override is None and self.reduction in DIVIDED_LATER
        settings = self.settings_of_call('mean' if is_divided_later else reduction_override)
        weight = label_weight if weight is None else weight
        if self.use_sigmoid:
            labels, weight = as_heads_pass(pred, target, weight)
            first = first_pass_of_sigmoid(pred, labels, weight, settings)
        else:
            ignored = -100 if self.ignore_index is None else self.ignore_index
            labels, factor = cast(Tensor, target), self.class_factor
            first = first_pass_of_softmax(pred, labels, weight, factor, ignored, settings)
        if not is_divided_later:
            return self.loss_of(first.divided_by(avg_factor, settings), settings)
        divisor = self._divisor_of_head(pred, labels, weight)
        return divisor * self.loss_of(first.divided_by(divisor, settings), settings)

    def _divisor_of_head(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """By what the head divides, a scalar."""
        divisor = sum_of_targets(pred, target, weight)
        if self.reduction == 'rows':
            divisor = valid_examples(pred, weight).any(-1).sum().to(divisor)
        # Without `sync` nothing waits for another process, which may not call the loss at all.
        return (reduce_mean(divisor) if self.sync else divisor).clamp(min=1)
