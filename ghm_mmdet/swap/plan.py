"""Which losses a config has, and for each whether GHM takes its place, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config

from ..checks import check_real
from ..formulas import FORMULAS
from ..presets import BESIDE_SOFTMAX, MAX_NORM, PRESETS, Options
from . import rules
from .heads import Head, Path, find_heads, name_of
from .rules import Call

GHM_LOSSES = ('GHMC', 'GHMR')
_ANCHORS = ('anchor_generator', 'approx_anchor_generator', 'prior_generator')
DEFAULT_STRIDES = (4, 8, 16, 32, 64)  # AnchorHead's
#: What the losses of `SSDHead` are called, for its config does not name them.
_SSD_NAMES = dict(loss_cls='softmax cross entropy', loss_bbox='smooth L1')


@dataclass(frozen=True)
class LossFound:
    """A loss of a config, and what becomes of it.

    Attributes:
        where: Its place in the config, as `model.bbox_head.loss_cls`.
        head: The type of the head that calls it.
        loss: Its type.
        ghm: The config of the GHM loss in its place, or None where it is kept.
        why: The reason why it is kept, or what to know of the replacement.
        original: Its config; empty where the head has no place for one.
    """

    where: str
    head: str
    loss: str
    ghm: dict[str, Any] | None
    why: str
    original: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        verdict = 'kept' if self.ghm is None else f'replaced by {name_of(self.ghm)}'
        why = f': {self.why}' if self.why else ''
        return f'{self.where} ({self.head}, {self.loss}): {verdict}{why}'


@dataclass
class Plan:
    """What `harmonize` does to a config: every loss, each place that changes, what else to know."""

    losses: list[LossFound] = field(default_factory=list)
    changes: dict[Path, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def replaced(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is not None]

    @property
    def has_ghm(self) -> bool:
        """Whether the harmonized config has a GHM loss, put in now or before."""
        return any(loss.ghm is not None or loss.loss in GHM_LOSSES for loss in self.losses)

    @property
    def kept(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is None]

    @property
    def summary(self) -> str:
        return f'{len(self.replaced)} replaced, {len(self.kept)} kept'

    def __str__(self) -> str:
        return '\n'.join([*map(str, self.losses), *self.notes]) or 'the config has no loss'


def make_plan(cfg: Config, options: Options) -> Plan:
    """Find every loss of `cfg.model`, and decide what becomes of it.

    Raises:
        ValueError: `head` matches no head of the config.
    """
    plan = Plan()
    heads = find_heads(cfg.get('model', {}))
    if options.head is not None and not any(head.matches(options.head) for head in heads):
        there = ', '.join(sorted({f'{head.where} ({head.name})' for head in heads}))
        raise ValueError(f'head={options.head!r} matches none of the heads: {there or "no head"}')
    for head in heads:
        _plan_head(plan, options, head)
    if plan.replaced:
        _plan_clipping(plan, cfg, options.preset)
        _note_classes(plan, cfg, heads)
    return plan


def _plan_head(plan: Plan, options: Options, head: Head) -> None:
    if head.name in rules.HEADS_WITHOUT_LOSSES:
        why = rules.HEADS_WITHOUT_LOSSES[head.name]
        plan.losses.append(LossFound(head.where, head.name, 'its own losses', None, why))
        return
    found = {key: _loss_found(options, head, key, loss) for key, loss in head.losses.items()}
    replaced = [loss for loss in found.values() if loss.ghm is not None]
    if head.computes_its_losses and replaced:
        other_head = rules.HEADS_WITH_LOSSES[head.name]
        plan.changes[(*head.path, 'type')] = other_head
        for key, loss in found.items():
            plan.changes[(*head.path, key)] = loss.ghm or loss.original
            reasons = [loss.why, f'the head becomes {name_of(other_head)}']
            found[key] = replace(loss, why='; '.join(filter(None, reasons)))
    else:
        plan.changes.update({(*head.path, k): loss.ghm for k, loss in found.items() if loss.ghm})
    plan.losses += found.values()
    for key, call in (head.calls or {}).items():
        if isinstance(call, Call) and key in ('loss_cls', 'loss_bbox') and key not in head.losses:
            plan.notes.append(
                f'{head.where}.{key} ({head.name}): kept: the config leaves it to the '
                "head's default; write it out to have it replaced"
            )
    if options.batch_density and replaced and not head.computes_its_losses:
        _plan_batch_density(plan, head)


def _loss_found(options: Options, head: Head, key: str, loss: dict) -> LossFound:
    ghm, why = None, _why_kept(options, head, key, loss)
    call = (head.calls or {}).get(key)
    if why is None and isinstance(call, Call):
        ghm, why = _ghm_loss(options, head, loss, call)
    name = _SSD_NAMES[key] if head.computes_its_losses else name_of(loss)
    return LossFound(f'{head.where}.{key}', head.name, name, ghm, why or '', loss)


def _why_kept(options: Options, head: Head, key: str, loss: dict) -> str | None:
    """The reason to keep a loss: of its type, of its head, of what is around, of the options."""
    name = name_of(loss)
    call = (head.calls or {}).get(key)
    if name in GHM_LOSSES:
        return 'it is a GHM loss'
    if head.keep_all:
        return head.keep_all
    if 'IoU' in name:
        return rules.IOU_LOSS
    if isinstance(call, str):
        return call
    if name in rules.LOSSES:
        return rules.LOSSES[name]
    if call is None:
        default = f'how {head.name} calls it is not known: replace it by hand'
        return rules.KEYS.get(key, default)
    if key in head.keep_of_box_head and head.name in rules.SOFTMAX_HEADS:
        return head.keep_of_box_head[key]
    is_cls = call.ghm == 'GHMC'
    why = _why_not_ghm_c(options, head, loss) if is_cls else _why_not_ghm_r(head, loss)
    if why is None and not head.matches(options.head):
        why = f'head={options.head!r} does not choose it'
    if why is None and not (options.cls if is_cls else options.reg):
        why = 'cls=False' if is_cls else 'reg=False'
    return why


def _why_not_ghm_c(options: Options, head: Head, loss: dict) -> str | None:
    if name_of(loss) not in rules.CLASSIFICATION_LOSSES:
        return f'GHM-C takes the place of {", ".join(rules.CLASSIFICATION_LOSSES)}'
    if _is_sigmoid(loss):
        if head.name in rules.SOFTMAX_HEADS:
            return 'this head reads its scores through softmax, the loss through sigmoid'
        if loss.get('class_weight') is not None:
            return 'class_weight has no place in the sigmoid form of GHM-C'
    elif options.preset in BESIDE_SOFTMAX:
        return rules.SOFTMAX
    if name_of(loss) == 'QualityFocalLoss' and head.name in rules.QUALITY_HEADS:
        return rules.TESTS_FOR_QUALITY
    if loss.get('activated', False):
        return 'activated=True: it takes probabilities, GHM-C takes logits'
    return None


def _why_not_ghm_r(head: Head, loss: dict) -> str | None:
    if name_of(loss) not in rules.REGRESSION_LOSSES:
        return f'GHM-R takes the place of {", ".join(rules.REGRESSION_LOSSES)}'
    return rules.DECODED_BOXES if head.config.get('reg_decoded_bbox', False) else None


def _is_sigmoid(loss: dict) -> bool:
    return bool(loss.get('use_sigmoid', rules.CLASSIFICATION_LOSSES.get(name_of(loss), True)))


def _ghm_loss(options: Options, head: Head, loss: dict, call: Call) -> tuple[dict[str, Any], str]:
    """The config of the GHM loss, and what to know of it."""
    preset = PRESETS[options.preset]
    chosen = dict(bins=options.bins, momentum=options.momentum, formula=options.formula)
    ghm = dict(preset.ghm_c if call.ghm == 'GHMC' else preset.ghm_r)
    ghm.update({name: value for name, value in chosen.items() if value is not None})
    notes = []
    softmax = 'loss_cls' in head.losses and not _is_sigmoid(head.losses['loss_cls'])
    if call.ghm == 'GHMR' and softmax and options.preset in BESIDE_SOFTMAX:
        ghm['loss_weight'] = BESIDE_SOFTMAX[options.preset]
        notes.append(f'its weight is {ghm["loss_weight"]:g}, beside a softmax that is kept')
    weight = loss.get('loss_weight', 1.0)
    check_real(f'loss_weight of {head.where} ({name_of(loss)})', weight)
    ghm['loss_weight'] *= weight
    takes_avg_factor = FORMULAS[ghm.get('formula', 'official')].takes_avg_factor
    is_scaled = call.ghm == 'GHMC' and takes_avg_factor
    if is_scaled and name_of(loss).endswith('FocalLoss'):
        alpha = loss.get('alpha', 0.25)  # QualityFocalLoss has none
        ghm['loss_weight'] *= alpha
        notes.append(f'its weight is multiplied by α of focal loss, {alpha}')
    levels = _levels(head.config) if call.averaged_levels and not is_scaled else 1
    if levels > 1:
        ghm['loss_weight'] /= levels
        notes.append(f'its weight is divided by the {levels} levels it is called for')
    if call.ghm == 'GHMR':
        positives = head.share_of_positives(call.positives)
        ghm['loss_weight'] *= positives
        if positives < 1:
            notes.append(f'its weight is multiplied by the share of positives, {positives}')
        scale = _offset_scale(head.config)
        if scale != 1:
            ghm['mu'] /= scale
            notes.append(f'μ is that of offsets divided by {scale}, their target_stds')
    if call.ghm == 'GHMC' and not _is_sigmoid(loss):
        ghm['use_sigmoid'] = False
        kept = ('class_weight', 'bg_cls_weight', 'ignore_index')
        ghm.update({key: loss[key] for key in kept if loss.get(key) is not None})
        notes.append('softmax form')
    if call.reduction != 'mean':
        ghm['reduction'] = call.reduction
        notes.append('the head divides it by the number of positives')
    if ghm.get('formula') == 'official':
        del ghm['formula']  # the default
    return ghm, '; '.join(notes)


def _offset_scale(head: dict) -> float:
    """What the box coder divides the offsets by, on average; the paper's μ is for 1."""
    stds = (head.get('bbox_coder') or {}).get('target_stds') or (1.0,)
    stds = stds if isinstance(stds, (list, tuple)) else (stds,)
    return round(sum(stds) / len(stds), 6)


def _levels(head: dict) -> int:
    generators = (head.get(name) or {} for name in _ANCHORS)
    return len(next((g['strides'] for g in generators if 'strides' in g), DEFAULT_STRIDES))


def _plan_batch_density(plan: Plan, head: Head) -> None:
    other_head = rules.BATCH_DENSITY_HEADS.get(head.name)
    if other_head:
        plan.changes[(*head.path, 'type')] = other_head
        plan.notes.append(f'{head.where}: {head.name} becomes {other_head}')
    elif not head.name.startswith('GHM'):
        plan.notes.append(
            f'{head.where} ({head.name}): batch_density is not available; the density is that of '
            'each call of the loss'
        )


def _plan_clipping(plan: Plan, cfg: Config, preset: str) -> None:
    optimizer = cfg.get('optim_wrapper')
    if not optimizer:
        plan.notes.append('gradient clipping: the config has no optim_wrapper to set it in')
    elif optimizer.get('clip_grad'):
        plan.notes.append(f'gradient clipping: kept, {dict(optimizer["clip_grad"])}')
    else:
        clip_grad = dict(max_norm=MAX_NORM[preset], norm_type=2)
        plan.changes[('optim_wrapper', 'clip_grad')] = clip_grad
        plan.notes.append(f'gradient clipping: set to {clip_grad}')


def _note_classes(plan: Plan, cfg: Config, heads: list[Head]) -> None:
    """Of another number of classes than the data set's: GHM-C takes other labels for background."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while 'metainfo' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    classes = (dataset.get('metainfo') or {}).get('classes')
    if not isinstance(classes, (list, tuple)):
        return
    for head in heads:
        number = head.config.get('num_classes')
        if number is not None and number != len(classes) and head.name not in rules.RPN_HEADS:
            plan.notes.append(
                f'{head.where}: num_classes={number}, but the data set has {len(classes)} classes; '
                'GHM-C takes labels from num_classes on for background, and does not fail'
            )
