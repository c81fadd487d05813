"""Histograms of the gradient norms that a detector's losses are called with."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..checks import check_count, check_positive
from ..functional import assign_regions, classification_gradient_norm, regression_gradient_norm
from ..ops import is_in_backward
from ..swap import rules
from .record import KINDS, SUMS

#: What is called with logits or offsets and known targets, and what derives from it.
READABLE = dict(
    cls=(*rules.CLASSIFICATION_LOSSES, 'GHMC'),
    reg=(*rules.REGRESSION_LOSSES, 'AuthenticSmoothL1Loss', 'GHMR'),
)
#: Logits or offsets of one block. What is computed of it takes 3 MB.
BLOCK = 2**16
#: How far a target may lie outside of [0, 1]: an IoU of half precision may round so.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Observed:
    """What `GradientNormObserver` counts: a one-stage detector's; see `GradientDensityHook`."""

    bins: int = 600
    mu: float = 0.02
    loss_cls: str | None = 'bbox_head.loss_cls'
    loss_bbox: str | None = 'bbox_head.loss_bbox'

    def __post_init__(self) -> None:
        check_count('bins', self.bins)
        check_positive('mu', self.mu)


class GradientNormObserver:
    """Add up the histograms of g and gr over the calls of a detector's losses.

    Between `start` and `stop` each call of the two losses is counted, whatever they are; they
    are called as ever. g and gr are cut at the edges of B bins of equal width, the last one
    closed at 1. gr is that of the μ that the regression loss had in that very call.

    A loss that can't be read, by its type or by its head, is left out, and so is one from a call on
    that can't be: with a warning, and without what was counted of it since `take`.

    The losses are hooked until `close`, for a hook that is put on a module after `torch.compile`
    has traced it is not called. Counting itself is never traced. It takes a few megabytes.

    Args:
        model: A detector, or its wrapper (DDP).
        observed: Its losses, and the bins.
        warn: Called with a line for each loss that is left out. Default: `warnings.warn`.

    Attributes:
        read: 'cls' and 'reg' to the path of the loss, without those left out.

    Raises:
        TypeError, ValueError: `bins` or `mu` is not allowed, or the detector has no such module,
            whose path is not the default.

    Examples:
        >>> from ghm_mmdet import GHMR
        >>> detector = nn.Module()
        >>> detector.loss = GHMR(mu=0.02)
        >>> observer = GradientNormObserver(detector, Observed(2, loss_cls=None, loss_bbox='loss'))
        >>> observer.start()
        >>> _ = detector.loss(torch.tensor([[0.0, 0.01, 0.02, 0.3]]), torch.zeros(1, 4))
        >>> observer.stop()
        >>> _, (offsets, sums_of_gr) = observer.take()
        >>> offsets
        tensor([2., 2.], dtype=torch.float64)
    """

    def __init__(
        self,
        model: nn.Module,
        observed: Observed,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self._observed, self._warn, self._counting = observed, warn, False
        self.read: dict[str, str] = {}
        self._handles = []
        self._begin()
        detector: Any = model.module if is_model_wrapper(model) else model
        for kind, name in zip(KINDS, ('loss_cls', 'loss_bbox')):
            if (path := getattr(observed, name)) is None:
                continue
            self.read[kind] = path
            try:
                why = why_left_out(kind, detector, path)
            except AttributeError:
                modules = [module for module, _ in detector.named_modules()]
                losses = [name for name in modules if name.rpartition('.')[2].startswith('loss')]
                why = f'the detector has no such loss; it has {", ".join(losses) or "none"}'
                if path != getattr(Observed, name):
                    raise ValueError(
                        f'{name} must be the path of a loss, got {path!r}: {why}'
                    ) from None
            if why:
                self._leave_out(kind, why)
            else:
                count = self._after_call_of(kind)
                loss = detector.get_submodule(path)
                self._handles.append(loss.register_forward_hook(count, with_kwargs=True))

    def start(self) -> None:
        """Count the calls from now on."""
        self._counting = True

    def stop(self) -> None:
        """Count no more; without effect where nothing was started."""
        self._counting = False

    def close(self) -> None:
        """Take the hooks off the losses."""
        for handle in self._handles:
            handle.remove()

    @property
    def mu(self) -> float:
        """The mean μ of the offsets counted since `take`; NaN without any."""
        offsets = self._sums[1, 0].sum()
        return self._sum_of_mu / offsets if offsets else np.nan

    def take(self) -> Tensor:
        """The sums since the last `take`; the next begin at zero.

        Returns:
            Float64 of shape (2, 2, B) on the CPU, `KINDS` by `SUMS`: the number of valid examples
            in each bin, and the sum of their gradient norms.
        """
        sums = torch.from_numpy(self._sums)
        self._begin()
        return sums

    def _begin(self) -> None:
        self._sums = np.zeros((len(KINDS), len(SUMS), self._observed.bins))
        self._sum_of_mu = 0.0

    def _leave_out(self, kind: str, why: str) -> None:
        self._warn(f'{self.read.pop(kind)} is left out of the gradient densities: {why}')
        self._sums[KINDS.index(kind)] = 0

    def _after_call_of(self, kind: str) -> Callable[..., None]:
        compiler = getattr(torch, 'compiler', None)
        count = compiler.disable(self._count) if compiler else self._count

        def after_call(loss: nn.Module, args: tuple, kwargs: dict[str, Any], _: object) -> None:
            if self._counting:
                count(kind, loss, args, kwargs)

        return after_call

    @torch.no_grad()
    def _count(self, kind: str, loss: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if kind not in self.read or is_in_backward():
            return
        try:
            # μ of the latest call of a loss that has one.
            mu = getattr(loss, 'current_mu', getattr(loss, 'mu', self._observed.mu))
            sums = sums_of_bins(gradient_norms(kind, loss, args, kwargs, mu), self._observed.bins)
        except Exception as error:  # a training does not end for what is said of it
            self._leave_out(kind, f'a call of it can not be read ({type(error).__name__}: {error})')
        else:
            self._sums[KINDS.index(kind)] += sums
            self._sum_of_mu += float(mu) * sums[0].sum() if kind == 'reg' else 0


def why_left_out(kind: str, detector: nn.Module, path: str) -> str | None:
    """Why a loss can't be read by what is known of it and of its head, or None if it can.

    Args:
        kind: 'cls' for g of logits or probabilities (Eq. 3), 'reg' for gr of encoded offsets.
        detector: What has the loss.
        path: Its path there.

    Raises:
        AttributeError: There is no module of this path.
    """
    of_head, _, key = path.rpartition('.')
    loss, head = detector.get_submodule(path), detector.get_submodule(of_head)
    name, known = type(loss).__name__, _nearest(loss, {*rules.LOSSES, *READABLE[kind]})
    calls = rules.HEADS.get(_nearest(head, rules.HEADS), {})
    why_kept, is_probability = (
        calls.get(key, rules.KEYS.get(key)),
        getattr(loss, 'activated', False),
    )
    reasons = (
        ('IoU' in name, rules.IOU_LOSS),
        (known in rules.LOSSES, rules.LOSSES.get(known)),
        # Probabilities, for which `swap` keeps a loss, can be read.
        (isinstance(why_kept, str) and not is_probability, why_kept),
        (not known, f'it is not known what a {name} is called with'),
        (not getattr(loss, 'use_sigmoid', True), 'use_sigmoid=False: Eq. 3 is of sigmoids'),
        (kind == 'reg' and getattr(head, 'reg_decoded_bbox', False), rules.DECODED_BOXES),
    )
    return next((str(why) for holds, why in reasons if holds), None)


def gradient_norms(
    kind: str, loss: nn.Module, args: tuple, kwargs: Mapping[str, Any], mu: float | Tensor = 0.02
) -> Iterator[Tensor]:
    """The gradient norms of the valid examples that a loss is called with, in blocks.

    Args:
        kind, loss: As for `why_left_out`.
        args, kwargs: Of the call: predictions (..., C) first; then their targets, which are
            labels (...), targets in [0, 1] of the shape of the predictions, or a pair of labels
            and of the target at each label; a weight of each row or element, or None. What has
            the weight 0 or, in a cross entropy, a label that it ignores is not valid.
        mu: μ of gr, in units of the encoded offsets.

    Yields:
        g or gr, at least float32, shape (n,), n <= `BLOCK` or C.

    Raises:
        TypeError, ValueError: The call can't be read.
    """
    call = _arguments(loss, args, kwargs)
    pred, target = list(call.values())[1:3]
    target, scores = target if isinstance(target, (tuple, list)) else (target, None)
    has_labels = target.shape != pred.shape
    if kind == 'reg' and has_labels:
        raise ValueError(f'target has another shape than pred, {tuple(target.shape)}')
    weight = call.get('label_weight') if call.get('weight') is None else call['weight']
    # MMDetection's cross entropy ignores this label, and negative ones.
    ignores, ignored = _nearest(loss, ['CrossEntropyLoss']), call.get('ignore_index')
    ignored = getattr(loss, 'ignore_index', None) if ignored is None else ignored
    pred = pred.detach().unsqueeze(-1) if pred.dim() == 1 else pred.detach()
    classes = torch.arange(pred.shape[-1], device=pred.device)
    named = dict(pred=pred, target=target, scores=scores, weight=weight)
    rows = [_in_rows(name, value, pred) for name, value in named.items()]
    for x, t, score, w in zip(*(part.split(max(1, BLOCK // len(classes))) for part in rows)):
        x, valid = x.to(torch.promote_types(x.dtype, torch.float32)), w > 0
        if kind == 'reg':
            norm = regression_gradient_norm(x - t, mu)
        else:
            if ignores:
                valid = valid & (t >= 0) & (t != ignored)
            p_star = ((t == classes) * score if has_labels else t).to(x.dtype)
            if (((p_star < -ROUNDING) | (p_star > 1 + ROUNDING)) & valid).any():
                raise ValueError('target must lie in [0, 1]')
            is_probability = getattr(loss, 'activated', False)
            norm = (x - p_star).abs() if is_probability else classification_gradient_norm(x, p_star)
        yield norm[valid.expand_as(norm)]


def sums_of_bins(norms: Iterable[Tensor], bins: int) -> np.ndarray:
    """`SUMS` of gradient norms in blocks, float64 of shape (2, B); of NaN there is none.

    They are added up on the CPU: not every device has float64.
    """
    sums = np.zeros((len(SUMS), bins))
    for norm in norms:
        regions, weights = assign_regions(norm, bins).cpu().numpy(), norm.cpu().numpy()
        sums += [np.bincount(regions, w, minlength=bins + 1)[:bins] for w in (None, weights)]
    return sums


def _nearest(module: nn.Module, names: Collection[str]) -> str:
    """The name of its class, or of the nearest that it derives from, which is one of these."""
    kinds = type(module).__mro__
    known = (kind for kind in kinds if kind.__module__.partition('.')[0] in rules.PACKAGES)
    return next((kind.__name__ for kind in known if kind.__name__ in names), '')


def _arguments(loss: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, in the order of the loss's signature.

    A class may pass on `*args` to the one that it derives from, which then names them.
    """
    forwards = (vars(kind)['forward'] for kind in type(loss).__mro__ if 'forward' in vars(kind))
    for signature in map(inspect.signature, forwards):
        if [*signature.parameters.values()][1].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
    return signature.bind(loss, *args, **kwargs).arguments


def _in_rows(name: str, value: Tensor | None, pred: Tensor) -> Tensor:
    """A value of each element of `pred` (..., C) as (N, C), of each row as (N, 1); None is 1."""
    value = pred.new_ones(1).expand(pred.shape[:-1]) if value is None else value
    value = value.unsqueeze(-1) if value.shape == pred.shape[:-1] else value
    if value.shape not in (pred.shape, (*pred.shape[:-1], 1)):
        wanted = f'that of pred, {tuple(pred.shape)}, or of its rows'
        raise ValueError(f'the shape of {name} must be {wanted}, got {tuple(value.shape)}')
    return value.flatten(0, -2)
