"""What becomes of a config: of each of its losses, and of what changes with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config

from ..presets import BASELINE_NORM, MAX_NORM, Options
from . import rules
from .classes import class_notes
from .decide import Candidate, factor_of_whole_batch, ghm_loss, number_of_levels, why_kept
from .find import Head, Path, dotted, find_heads, name_of, several
from .new_run import clipping, density_hook, new_run
from .rules import Call

#: What the losses of `SSDHead` are called, for its config does not name them.
_SSD_NAMES = dict(loss_cls='softmax cross entropy', loss_bbox='smooth L1')
NO_LOSS = (
    "the config has no loss of a detector's head: harmonize knows the heads of MMDetection and "
    "MMRotate; for another model, as MMPretrain's, write type='ghm_mmdet.GHMC' there by hand"
)


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
        changed: Whether it is kept in another form, as that of SSD.
        was_ghm: Whether it is a GHM loss already, of this package or MMDetection's own.
    """

    where: str
    head: str
    loss: str
    ghm: dict[str, Any] | None
    why: str
    original: dict[str, Any] = field(default_factory=dict)
    changed: bool = False
    was_ghm: bool = False

    @property
    def final(self) -> dict[str, Any]:
        """Its config in the harmonized config."""
        return self.ghm or self.original

    def __str__(self) -> str:
        kept = f'changed to {name_of(self.original)}' if self.changed else 'kept'
        verdict = kept if self.ghm is None else f'replaced by {name_of(self.ghm)}'
        why = f': {self.why}' if self.why else ''
        return f'{self.where} ({self.head}, {self.loss}): {verdict}{why}'


@dataclass
class Plan:
    """What `harmonize` does to a config: every loss, each place that changes, what else to know."""

    losses: list[LossFound] = field(default_factory=list)
    changes: dict[Path, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: The config of the hook that is added to record the gradient densities.
    hook: dict[str, Any] | None = None

    @property
    def replaced(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is not None]

    @property
    def of_ghm(self) -> list[LossFound]:
        """The losses that are GHM's in the harmonized config, put in now or before."""
        return [loss for loss in self.losses if loss.ghm is not None or loss.was_ghm]

    @property
    def kept(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is None and not loss.changed]

    @property
    def summary(self) -> str:
        changed = sum(loss.changed for loss in self.losses)
        changes = f'{changed} changed, ' if changed else ''
        return f'{len(self.replaced)} replaced, {changes}{len(self.kept)} kept'

    def __str__(self) -> str:
        return '\n'.join([*map(str, self.losses), *self.notes])


def make_plan(cfg: Config, options: Options, suffix: str = 'ghm') -> Plan:
    """Find every loss of `cfg.model`, and decide what becomes of it.

    Args:
        cfg, options: Those of `harmonize`.
        suffix: What tells the names and places of the new training from those of the original.

    Raises:
        TypeError, ValueError: `head` matches no head of the config, `batch_density` or `sync` does
            not fit its heads, or a number of the config that the losses depend on is none.
    """
    plan = Plan()
    heads = find_heads(cfg.get('model', {}), cfg.get('default_scope') or 'mmdet')
    if options.head is not None and not any(head.matches(options.head) for head in heads):
        there = ', '.join(sorted({f'{head.where} ({head.name})' for head in heads}))
        raise ValueError(f'head={options.head!r} matches none of the heads: {there or "no head"}')
    for head in heads:
        _plan_head(plan, options, head)
    if not plan.losses:
        plan.notes.append(NO_LOSS if cfg.get('model') else 'the config has no model')
    if options.batch_density and plan.of_ghm:
        able = {*rules.BATCH_DENSITY_HEADS, *map(name_of, rules.BATCH_DENSITY_HEADS.values())}
        if able.isdisjoint(loss.head for loss in plan.of_ghm):
            names = ' or '.join(rules.BATCH_DENSITY_HEADS)
            raise ValueError(f'batch_density=True has no effect: none of the heads is {names}')
    if not all(loss.was_ghm and options.keeps_ghm for loss in plan.replaced):
        norm = MAX_NORM[options.preset_or_default]
        clip_grad, note = clipping(cfg, norm, "the preset's")
        plan.changes.update({('optim_wrapper', 'clip_grad'): clip_grad} if clip_grad else {})
        plan.notes.append(f'gradient clipping: {note}')
    if options.record and plan.of_ghm:
        plan.hook = density_hook(cfg, {loss.where: loss.final for loss in plan.of_ghm})
        plan.notes += [] if plan.hook else ['record: the config has a GradientDensityHook already']
    if plan.changes or plan.hook:
        _plan_new_run(plan, cfg, suffix)
        of_ghm_c = {x.where.rpartition('.')[0] for x in plan.of_ghm if name_of(x.final) == 'GHMC'}
        plan.notes += class_notes(cfg, [head for head in heads if head.where in of_ghm_c])
    return plan


def baseline_plan(cfg: Config, hook: dict[str, Any] | None, suffix: str = 'baseline') -> Plan:
    """The plan of a config with its own losses, and the gradient clipped in most iterations.

    Args:
        cfg: The original.
        hook: That of the plan of the harmonized config.
        suffix: As for `make_plan`.

    Raises:
        ValueError: The gradient can't be clipped from the config, or is as often already.
    """
    wrapper = dict(cfg.get('optim_wrapper') or {})
    norm = (wrapper.pop('clip_grad', None) or {}).get('max_norm')
    if norm is not None and norm <= BASELINE_NORM:
        raise ValueError(f'the config is its own baseline: it clips the gradient at norm {norm}')
    whose = "RetinaNet's with focal loss; `ghm-mmdet compare` finds that of another detector"
    clip_grad, note = clipping(dict(cfg, optim_wrapper=wrapper), BASELINE_NORM, whose)
    if clip_grad is None:
        raise ValueError(f'no baseline, for the gradient can not be clipped: {note}')
    norm_is = f'norm {BASELINE_NORM} is {whose}'
    notes = ["baseline: the original's losses", f'gradient clipping: {note}; {norm_is}']
    plan = Plan(changes={('optim_wrapper', 'clip_grad'): clip_grad}, notes=notes, hook=hook)
    _plan_new_run(plan, cfg, suffix)
    return plan


def _plan_new_run(plan: Plan, cfg: Config, suffix: str) -> None:
    if plan.hook:
        plan.changes['custom_hooks',] = [*several(cfg.get('custom_hooks')), plan.hook]
        observed = ', '.join(filter(None, (plan.hook['loss_cls'], plan.hook['loss_bbox'])))
        plan.notes.append(f'record: GradientDensityHook observes {observed}')
    for path, old, new in new_run(cfg, suffix):
        plan.changes[path] = new
        where = dotted(path)
        plan.notes.append(f'{where}: {old!r} of the original becomes {new!r}: a new training')
    if cfg.get('load_from') and ('load_from',) not in plan.changes:
        plan.notes.append(f'load_from: kept, the training starts from {cfg["load_from"]!r}')


def _plan_head(plan: Plan, options: Options, head: Head) -> None:
    if why := head.why_without_losses:
        plan.losses.append(LossFound(head.where, head.name, 'its own losses', None, why))
        return
    found = {key: _loss_found(options, head, key, loss) for key, loss in head.losses.items()}
    if head.computes_its_losses and any(loss.ghm for loss in found.values()):
        _plan_other_head(plan, head, found)
    elif options.batch_density and head.matches(options.head):
        _plan_batch_density(plan, head, found)
    plan.changes.update({(*head.path, k): loss.ghm for k, loss in found.items() if loss.ghm})
    plan.losses += found.values()
    for key, call in head.calls.items():
        if isinstance(call, Call) and key not in head.losses and not head.leaves_out(key):
            where = f'{head.where}.{key} ({head.name})'
            plan.notes.append(f"{where}: kept, the head's default: write it out to replace it")


def _loss_found(options: Options, head: Head, key: str, loss: dict) -> LossFound:
    candidate = Candidate(options, head, key, loss)
    ghm, why = None, why_kept(candidate)
    if why is None:
        ghm, why = ghm_loss(candidate)
    name = _SSD_NAMES[key] if head.computes_its_losses else name_of(loss)
    where, was_ghm = candidate.where, candidate.was_ghm
    return LossFound(where, head.name, name, ghm, why, loss, was_ghm=was_ghm)


def _plan_other_head(plan: Plan, head: Head, found: dict[str, LossFound]) -> None:
    """Give SSD the head that takes losses, which are written out, replaced or kept."""
    other_head = rules.HEADS_WITH_LOSSES[head.kind.name]
    plan.changes[(*head.path, 'type')] = other_head
    for key, loss in found.items():
        plan.changes[(*head.path, key)] = loss.final
        changed = loss.ghm is None and key == 'loss_cls'
        mined = rules.MINED_FROM_THE_BATCH if changed else ''
        reasons = [loss.why, mined, f'the head becomes {name_of(other_head)}']
        found[key] = replace(loss, why='; '.join(filter(None, reasons)), changed=changed)


def _plan_batch_density(plan: Plan, head: Head, found: dict[str, LossFound]) -> None:
    """Let the head call its losses once, where there is one that does, with weights for that."""
    of_ghm = {key: loss for key, loss in found.items() if loss.ghm or loss.was_ghm}
    other_head = rules.BATCH_DENSITY_HEADS.get(head.kind.name)
    if not of_ghm or head.kind.name in map(name_of, rules.BATCH_DENSITY_HEADS.values()):
        return
    if other_head is None:
        plan.notes.append(f'{head.where} ({head.name}): batch_density is not available')
        return
    plan.changes[(*head.path, 'type')] = other_head
    plan.notes.append(f'{head.where}: {head.name} becomes {other_head}')
    for key, loss in of_ghm.items():
        factor = factor_of_whole_batch(loss.final, number_of_levels(head))
        ghm = {**loss.final, 'loss_weight': loss.final.get('loss_weight', 1.0) * factor}
        note = f'its weight is multiplied by {factor:g}, for it is called once for all levels'
        why = f'{loss.why}; {note}' if loss.ghm and loss.why else note
        found[key] = replace(loss, ghm=ghm, why=why)
