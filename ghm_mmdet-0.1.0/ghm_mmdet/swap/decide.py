"""What becomes of one loss: why it is kept, or which GHM loss takes its place, and what to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from ..checks import check_positive, check_real
from ..formulas import FORMULAS, Formula
from ..presets import BESIDE_SOFTMAX, RELEASED, Options
from . import rules
from .find import Head, Kind, name_of, several
from .rules import Call

GHM_LOSSES = ('GHMC', 'GHMR')
#: The default formula of both, which is not written.
OFFICIAL = 'official'
DEFAULT_STRIDES = (4, 8, 16, 32, 64)  # AnchorHead's
_ANCHORS = ('anchor_generator', 'approx_anchor_generator', 'prior_generator')


@dataclass(frozen=True)
class Candidate:
    """A loss that GHM may take the place of."""

    options: Options
    head: Head
    key: str
    loss: dict[str, Any]

    @property
    def where(self) -> str:
        return f'{self.head.where}.{self.key}'

    @cached_property
    def kind(self) -> Kind:
        return self.head.around.kind(self.loss)

    @property
    def was_ghm(self) -> bool:
        """Whether it is GHM's already, of this package or MMDetection's own."""
        return self.kind.name in GHM_LOSSES

    @property
    def gets_prefix(self) -> bool:
        """Whether it is MMDetection's own GHM, and its settings stay: no others were asked for."""
        return self.was_ghm and self.kind.package == 'mmdet' and self.options.keeps_ghm

    @property
    def is_sigmoid(self) -> bool:
        default = rules.CLASSIFICATION_LOSSES.get(name_of(self.loss), True)
        return bool(self.loss.get('use_sigmoid', default))


def why_kept(it: Candidate) -> str | None:
    """The first reason to keep a loss, or None."""
    return next(filter(None, _reasons(it)), None)


def _reasons(it: Candidate) -> Iterator[str | None]:
    head, key, loss, call = it.head, it.key, it.loss, it.head.calls.get(it.key)
    is_unwritten = it.is_sigmoid and 'use_sigmoid' not in loss
    if it.was_ghm and it.kind.package == 'ghm_mmdet':
        yield 'it is a GHM loss, which the options do not change'
    if it.gets_prefix:
        yield rules.UNWRITTEN if is_unwritten and it.kind.name == 'GHMC' else None
        yield _why_not_chosen(it, it.kind.name == 'GHMC')
        return
    yield head.around.keep_all
    yield rules.IOU_LOSS if 'IoU' in name_of(loss) else None
    if off := head.leaves_out(key):
        yield f'{off}=False: the head does not call it'
    yield 'loss_weight=0: it is turned off' if loss.get('loss_weight') == 0 else None
    yield call if isinstance(call, str) else rules.LOSSES.get(it.kind.name)
    if not isinstance(call, Call):
        yield rules.KEYS.get(key) or f'how {head.name} calls it is not known: replace it by hand'
        return
    is_cls, is_softmax_head = call.ghm == 'GHMC', head.known_as in rules.SOFTMAX_HEADS
    keeps_softmax = it.options.preset_or_default in BESIDE_SOFTMAX
    known = rules.CLASSIFICATION_LOSSES if is_cls else rules.REGRESSION_LOSSES
    yield head.around.keep_of_box_head.get(key) if is_softmax_head else None
    yield rules.NOT_SUMMED if call.summed and loss.get('reduction') != 'sum' else None
    if it.kind.name not in known:
        yield f"GHM-{call.ghm[-1]} takes the place of MMDetection's {', '.join(known)}"
    if is_cls and it.is_sigmoid:
        if is_softmax_head:
            yield 'this head reads its scores through softmax, the loss through sigmoid'
        for of_softmax in (x for x in rules.OF_SOFTMAX if loss.get(x) is not None):
            yield f'{of_softmax} has no place in the sigmoid form of GHM-C'
        if it.kind.name == 'QualityFocalLoss' and head.known_as in rules.QUALITY_HEADS:
            yield rules.TESTS_FOR_QUALITY
        yield rules.UNWRITTEN if is_unwritten else None
    elif is_cls:
        yield rules.SOFTMAX if keeps_softmax else None
    else:
        yield rules.DECODED_BOXES if head.config.get('reg_decoded_bbox', False) else None
    yield call.kept if keeps_softmax else None
    if own := head.overridden:
        whose = f'its class derives from {head.known_as}, but has its own {", ".join(own)}'
        yield f'{whose}: replace it by hand if its examples have weights 0 or 1'
    yield from _of_settings(it, is_cls)
    yield _why_not_chosen(it, is_cls)


def _why_not_chosen(it: Candidate, is_cls: bool) -> str | None:
    """The option by which a loss that could be replaced is not."""
    if not it.head.matches(it.options.head):
        return f'head={it.options.head!r} does not choose it'
    wanted = it.options.cls if is_cls else it.options.reg
    return None if wanted else 'cls=False' if is_cls else 'reg=False'


def _of_settings(it: Candidate, is_cls: bool) -> Iterator[str]:
    """The reasons of the settings of the loss, of its head and of `train_cfg`."""
    fates = rules.ARGUMENTS[name_of(it.loss)]
    for key, value in it.loss.items():
        fate = fates.get(key, f'what its {key} means for GHM is not known')
        if value and fate not in (rules.CARRIED, rules.MEANINGLESS):
            yield fate
    for key in it.head.config:
        if key not in rules.ARGUMENTS_OF_HEADS and not str(key).startswith('loss_'):
            yield f'what {key} of {it.head.name} means for its losses is not known'
    settings = it.head.settings
    stages = [part for cfg in settings for key in rules.STAGES for part in several(cfg.get(key))]
    for key, value in (item for cfg in [*settings, *stages] for item in cfg.items()):
        if key == 'pos_weight':
            check_real(f'pos_weight in the train_cfg of {it.head.where}', value)
            if is_cls and value > 0 and value != 1:
                yield f'pos_weight={value} weighs positives; GHM-C takes a weight as valid or not'
        elif key not in rules.TRAIN_CFG:
            yield f'what {key} of train_cfg means for its losses is not known'


def ghm_loss(it: Candidate) -> tuple[dict[str, Any], str]:
    """The config of the GHM loss in the place of a loss that is not kept, and what to know of it.

    Raises:
        TypeError, ValueError: A number of the config that it depends on is none, or makes no sense;
            `sync` where the head does not call the loss in every iteration.
    """
    call = it.head.calls.get(it.key)
    if it.gets_prefix:
        ghm = {**it.loss, 'type': f'ghm_mmdet.{it.kind.name}', **it.options.chosen}
        notes = ["MMDetection's own, whose settings and state stay"]
    else:
        ghm, notes = _of_preset(it, cast(Call, call))
    if isinstance(call, Call):
        notes += [call.note] if call.note else []
        if it.options.sync and call.skipped:
            why = f'{it.head.name} does not call {it.where} {call.skipped}'
            raise ValueError(f'sync=True would hang: {why}')
    ghm.update(dict(sync=True) if it.options.sync else {})
    if ghm.get('formula') == OFFICIAL:
        del ghm['formula']
    return ghm, '; '.join(notes)


def _of_preset(it: Candidate, call: Call) -> tuple[dict[str, Any], list[str]]:
    ghm, head = it.options.settings(call.ghm), it.head
    notes = [f'taken for {head.known_as}'] if head.is_derived else []
    ghm['loss_weight'] = _weight(it, call, ghm, notes)
    if call.ghm == 'GHMR' and (scale := _offset_scale(head, call.target_stds)) != 1:
        ghm['mu'] /= scale
        notes.append(f'μ is that of offsets divided by {scale}, their target_stds')
    if call.ghm == 'GHMC' and not it.is_sigmoid:
        carried = {key: it.loss.get(key) for key in rules.OF_SOFTMAX}
        ghm.update({k: v for k, v in carried.items() if v is not None}, use_sigmoid=False)
        notes.append('softmax form')
    ghm.update(dict(reduction=call.reduction) if call.reduction != 'mean' else {})
    return ghm, notes


def _weight(it: Candidate, call: Call, ghm: dict[str, Any], notes: list[str]) -> float:
    """The weight of the GHM loss, from that of the loss replaced; notes say what it is made of."""
    is_reg, weight = call.ghm == 'GHMR', ghm['loss_weight']
    beside = BESIDE_SOFTMAX.get(it.options.preset_or_default)
    if is_reg and beside is not None and _has_softmax(it):
        weight = beside
        notes.append(f'its weight is {beside:g}, beside a softmax that is kept')
    check_positive(f'loss_weight of {it.where}', it.loss.get('loss_weight', 1.0))
    weight *= it.loss.get('loss_weight', 1.0)
    if (
        it.kind.name == 'GHMR'
    ):  # MMDetection's, whose weight is the loss's times the released code's
        weight /= RELEASED.ghm_r['loss_weight']
    # Whether GHM-C divides by the head's `avg_factor`, as the loss that it replaces.
    is_scaled_by_head = not is_reg and rule_of(ghm).takes_avg_factor
    if is_scaled_by_head and (alpha := _alpha(it)) != 1:
        weight *= alpha
        notes.append(f'its weight is multiplied by α of focal loss, {alpha}')
    levels = number_of_levels(it.head) if call.averaged_levels and not is_scaled_by_head else 1
    if levels > 1:
        weight /= levels
        notes.append(f'its weight is divided by the {levels} levels it is called for')
    share = it.head.share_of_positives(call.positives) if is_reg and not call.summed else 1
    if share < 1:
        weight *= share
        notes.append(f'its weight is multiplied by the share of positives, {share}')
    if call.reduction == 'sum':
        weight /= 4
        what = 'its weight is divided by the 4 offsets of a box'
        notes.append(f'{what}, for the head divides by boxes')
    return weight


def rule_of(ghm: dict[str, Any]) -> Formula:
    """The formula of a GHM loss."""
    return FORMULAS[ghm.get('formula', OFFICIAL)]


def _has_softmax(it: Candidate) -> bool:
    """Whether the classification loss of its head is one of a softmax."""
    loss_cls = it.head.losses.get('loss_cls')
    if loss_cls is None:
        return it.head.known_as in rules.SOFTMAX_HEADS and not it.head.leaves_out('loss_cls')
    return not replace(it, loss=loss_cls).is_sigmoid


def _alpha(it: Candidate) -> float:
    """α of a focal loss: the weight of its positives.

    It is 0.25 where a loss has none, as `QualityFocalLoss`, and for MMDetection's `GHMC`, which has
    the place of a focal loss. VarifocalLoss has its α on the negatives: its positives have the
    weight 1. A negative α turns the weights off in torchvision and fvcore: all are 1.
    """
    if it.kind.name not in ('FocalLoss', 'QualityFocalLoss', 'GHMC'):
        return 1.0
    alpha = it.loss.get('alpha', 0.25)
    check_real(f'alpha of {it.where}', alpha)
    if alpha == 0 or alpha > 1:
        allowed = 'in (0, 1], or < 0, which turns it off'
        raise ValueError(f'alpha of {it.where} must be {allowed}, got {alpha!r}')
    return alpha if alpha > 0 else 1.0


def _offset_scale(head: Head, default: float) -> float:
    """What the box coder divides the offsets by, on average; the paper's μ is for 1."""
    coder = head.config.get('bbox_coder')
    stds = coder.get('target_stds', 1.0) if coder else default
    stds = stds if isinstance(stds, (list, tuple)) and stds else (stds,)
    for std in stds:
        check_positive(f'target_stds of {head.where}.bbox_coder', std)
    return round(sum(stds) / len(stds), 6)


def number_of_levels(head: Head) -> int:
    generators = (head.config.get(name) or {} for name in _ANCHORS)
    return len(next((g['strides'] for g in generators if g.get('strides')), DEFAULT_STRIDES))


def factor_of_whole_batch(ghm: dict[str, Any], levels: int) -> float:
    """What the weight of a loss is multiplied by that is called once, not once for each level.

    The levels' losses are added up. In that of a level an example of region j has the weight
    `β/N = N^(τ-1) / S_j^τ` (Eqs. 8, 12, 19; τ is the formula's power), divided by the number of
    regions. S_j, a moving average of the counts of one level after another, is about 1/L of the
    region's count in all L levels, which is S_j of a single call. N of a level is 1/L of all
    examples: the sum of the levels is then L times the loss of the single call. But where GHM-C
    takes the head's `avg_factor` for N ('tempered'), N is the same in both, and the sum is `L^τ`
    times as large: 2.24 times for five levels, not 5 times.

    That is exact where all levels have the same histogram. Levels without objects make it too
    large, for GHM-C and GHM-R alike. Under a `min_count` ('floored') S_j is the same in both, and
    the factor 1, where the region's count in all levels is below it; it is L where that of each
    level is above it. `√L` lies between them.
    """
    rule = rule_of(ghm)
    shares_n = rule.takes_avg_factor and name_of(ghm) == 'GHMC'
    return round(levels ** ((rule.power if shares_n else 1) / (2 if rule.min_count else 1)), 2)
