"""The examples of a loss, from what heads pass: predictions, targets and weights.

Each class checks its tensors once, counts its valid examples, and gives the elementwise loss
with its gradient norm, which is all that tells GHM-C, its softmax form and GHM-R apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..checks import check_positive
from ..formulas import Formula
from ..ops import at_least_float32
from ..ops.precision import compute_dtype
from .checks import check_floating, check_same_shape, is_label_dtype
from .gradient_norm import (
    classification_gradient_norm,
    regression_gradient_norm,
    softmax_gradient_norm,
)


class Elementwise(NamedTuple):
    """The loss of each example with its graph, the gradient norm, and which are valid."""

    loss: Tensor
    g: Tensor
    valid: Tensor


class Examples(ABC):
    """What a loss is called with."""

    @abstractmethod
    def num_examples(self, formula: Formula) -> Tensor:
        """N, a scalar of the dtype of the loss."""

    @abstractmethod
    def elementwise(self) -> Elementwise:
        """The plain formula."""


class FusedExamples(Examples):
    """Examples that operators can count and sum up without a tensor of losses.

    Attributes:
        pred, target, weight: The tensors, as checked.
    """

    def __init__(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
        check_weight(pred, weight)
        self.pred, self.target, self.weight = pred, target, weight
        self.dtype = compute_dtype(pred)
        self.with_gradient = torch.is_grad_enabled() and pred.requires_grad

    @abstractmethod
    def count(self, bins: int, exact_edges: bool, formula: Formula) -> ops.Counted:
        """The first pass, see `ops.operators`."""

    @abstractmethod
    def weighted_sum(
        self, bin_index: Tensor, weights: Tensor, not_finite: Tensor, exact_edges: bool
    ) -> Tensor:
        """The second pass: the sum of the losses, each times the weight of its bin."""


class SigmoidExamples(FusedExamples):
    """The logits of GHM-C: binary cross entropy (Eq. 1) with `g = |p - p*|` (Eq. 3).

    Args:
        pred: Logits, shape (..., C), floating point.
        target: int labels of the shape of `pred` without its last dimension, any label outside
            [0, C) being background; or targets in [0, 1] of the shape of `pred`.
        weight: Either shape, or None; an example is valid where it is > 0.

    Raises:
        TypeError, ValueError: Tensors of the wrong type or shape.
    """

    def __init__(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
        check_floating('pred', pred)
        check_target(pred, target)
        super().__init__(pred, target, weight)

    def num_examples(self, formula: Formula) -> Tensor:
        """N: the number of valid logits."""
        return ops.number_of_valid(self.pred, self.weight).to(self.dtype)

    def elementwise(self) -> Elementwise:
        logits = at_least_float32(self.pred)
        p_star = dense_target(logits, self.target)
        g = classification_gradient_norm(logits.detach(), p_star)
        loss = F.binary_cross_entropy_with_logits(logits, p_star, reduction='none')
        return Elementwise(loss, g, valid_examples(logits, self.weight))

    def count(self, bins: int, exact_edges: bool, formula: Formula) -> ops.Counted:
        pred = self.pred.detach()
        counted: ops.Counted = ops.count_cross_entropy(
            pred, self.target, self.weight, bins, exact_edges
        )
        return counted

    def weighted_sum(
        self, bin_index: Tensor, weights: Tensor, not_finite: Tensor, exact_edges: bool
    ) -> Tensor:
        total: Tensor
        total, _ = ops.weighted_cross_entropy(
            self.pred, self.target, self.weight, bin_index, weights, not_finite, exact_edges,
            self.with_gradient,
        )  # fmt: skip
        return total


class OffsetExamples(FusedExamples):
    """The box offsets of GHM-R: ASL1 (Eq. 17) of `d = pred - target`, with gr (Eq. 18).

    Args:
        pred: Encoded offsets, any shape, floating point.
        target: The shape of `pred`.
        weight: The shape of `pred`, or that without its last dimension, or None.
        mu: μ of ASL1.

    Raises:
        TypeError, ValueError: Tensors of the wrong type or shape, or μ not > 0.
    """

    def __init__(self, pred: Tensor, target: Tensor, weight: Tensor | None, mu: float) -> None:
        check_positive('mu', mu)
        check_floating('pred', pred)
        check_same_shape('target', target, 'pred', pred)
        super().__init__(pred, target, weight)
        self.mu = mu

    def num_examples(self, formula: Formula) -> Tensor:
        """N: the sum of the weights in the released code, the number of valid offsets in Eq. 19."""
        count = ops.sum_of_weights if formula.weights_are_counts else ops.number_of_valid
        return count(self.pred, self.weight).to(self.dtype)

    def differences(self) -> tuple[Tensor, Tensor]:
        """d in at least float32, and which are valid."""
        offsets = at_least_float32(self.pred)
        return offsets - self.target.to(offsets.dtype), valid_examples(offsets, self.weight)

    def elementwise(self) -> Elementwise:
        d, valid = self.differences()
        gr = regression_gradient_norm(d.detach(), self.mu)
        loss = (d * d + self.mu * self.mu).sqrt() - self.mu
        return Elementwise(loss, gr, valid)

    def count(self, bins: int, exact_edges: bool, formula: Formula) -> ops.Counted:
        pred = self.pred.detach()
        counted: ops.Counted = ops.count_asl1(
            pred, self.target, self.weight, self.mu, bins, exact_edges, formula.weights_are_counts
        )
        return counted

    def weighted_sum(
        self, bin_index: Tensor, weights: Tensor, not_finite: Tensor, exact_edges: bool
    ) -> Tensor:
        total: Tensor
        total, _ = ops.weighted_asl1(
            self.pred, self.target, self.weight, self.mu, bin_index, weights, not_finite,
            exact_edges, self.with_gradient,
        )  # fmt: skip
        return total


class SoftmaxExamples(Examples):
    """The rows of GHM-C's softmax form: `w_y · (-log p_y)` with `g = 1 - p_y`.

    Args:
        pred: Logits, shape (N, C), floating point.
        target: int labels in [0, C) or `ignore_index`, shape (N,).
        weight: Shape (N,), or None; a row is valid where it is > 0.
        class_weight: w, shape (C,), or None; a factor of the loss, not of the counts.
        ignore_index: A row with this label is not valid.

    Raises:
        TypeError, ValueError: Tensors of the wrong type or shape.
    """

    def __init__(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        class_weight: Sequence[float] | Tensor | None,
        ignore_index: int,
    ) -> None:
        check_floating('pred', pred)
        check_softmax_target(pred, target, weight)
        self.logits, self.labels = at_least_float32(pred), target.long()
        self.valid = self.labels != ignore_index
        if weight is not None:
            self.valid = self.valid & (weight > 0)
        self.ignore_index = ignore_index
        self.class_weight = class_weight

    def num_examples(self, formula: Formula) -> Tensor:
        """N: the number of valid rows."""
        return self.valid.sum().to(self.logits.dtype)

    def elementwise(self) -> Elementwise:
        loss = F.cross_entropy(
            self.logits, self.labels, reduction='none', ignore_index=self.ignore_index
        )
        g = softmax_gradient_norm(loss.detach())
        return Elementwise(self._times_class_weight(loss), g, self.valid)

    def _times_class_weight(self, loss: Tensor) -> Tensor:
        if self.class_weight is None:
            return loss
        weight = torch.as_tensor(
            self.class_weight, dtype=self.logits.dtype, device=self.logits.device
        )
        if weight.shape != self.logits.shape[1:]:
            raise ValueError(
                f'class_weight must hold one weight for each of the {self.logits.shape[1]} '
                f'channels of pred, got the shape {tuple(weight.shape)}'
            )
        return weight[self.labels.where(self.valid, 0)] * loss


def check_target(logits: Tensor, target: object) -> None:
    """Whether the target is labels of the rows of `logits`, or has its shape."""
    if not isinstance(target, Tensor):
        raise TypeError(f'target must be a Tensor, got {type(target).__name__}')
    if target.shape == logits.shape:
        return
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f'target must be labels of shape {tuple(logits.shape[:-1])} or have the shape of '
            f'pred, {tuple(logits.shape)}, got {tuple(target.shape)}'
        )
    if not is_label_dtype(target.dtype):
        raise TypeError(
            f'target must hold integer labels where it has the shape {tuple(target.shape)}, '
            f'got {target.dtype}'
        )


def check_softmax_target(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Whether target and weight are those of the rows of `logits`, shape (N, C)."""
    if logits.dim() != 2:
        raise ValueError(f'pred must have the shape (N, C), got {tuple(logits.shape)}')
    check_target(logits, target)
    check_weight(logits, weight)
    for name, tensor in (('target', target), ('weight', weight)):
        if tensor is not None and tensor.dim() != 1:
            raise ValueError(
                f'{name} must have the shape ({len(logits)},) where use_sigmoid=False, for an '
                f'example is a row with one label, got {tuple(tensor.shape)}'
            )


def dense_target(logits: Tensor, target: Tensor) -> Tensor:
    """p* of every logit: one-hot labels without the background, or the target itself."""
    check_target(logits, target)
    if target.shape == logits.shape:
        return target.to(logits.dtype)
    classes = torch.arange(logits.shape[-1], device=target.device)
    return (target.unsqueeze(-1) == classes).to(logits.dtype)


def quality_target(logits: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """p* of every logit of (N, C): the score of the row at its label, 0 elsewhere."""
    for name, value in (('labels', labels), ('scores', scores)):
        if value.shape != logits.shape[:-1]:
            raise ValueError(
                f'the {name} of target must have the shape {tuple(logits.shape[:-1])}, '
                f'got {tuple(value.shape)}'
            )
    return dense_target(logits, labels) * scores.to(logits.dtype).unsqueeze(-1)


def check_weight(pred: Tensor, weight: object) -> None:
    """Whether the weight is None, of the shape of `pred`, or of its rows."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f'weight must be a Tensor or None, got {type(weight).__name__}')
    if weight.shape not in (pred.shape, pred.shape[:-1]):
        raise ValueError(
            f'weight must have the shape of pred, {tuple(pred.shape)}, or of pred without its '
            f'last dimension, got {tuple(weight.shape)}'
        )


def _expand_weight(weight: Tensor, like: Tensor) -> Tensor:
    check_weight(like, weight)
    return weight if weight.shape == like.shape else weight.unsqueeze(-1).expand_as(like)


def valid_examples(pred: Tensor, weight: Tensor | None) -> Tensor:
    """Where the weight is > 0: bool, the shape of `pred`."""
    if weight is None:
        return torch.ones_like(pred, dtype=torch.bool)
    return _expand_weight(weight, pred) > 0


def sum_of_targets(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of p* over the valid examples, a scalar: the number of positives."""
    if target.shape == pred.shape:
        return at_least_float32(target).where(valid_examples(pred, weight), 0).sum()
    positive = (target >= 0) & (target < pred.shape[-1])
    if weight is not None:
        if weight.shape == pred.shape:
            column = target.long().where(positive, 0).unsqueeze(-1)
            weight = weight.gather(-1, column).squeeze(-1)
        positive &= weight > 0
    return positive.sum()
