"""Which losses a config has, and for each whether GHM takes its place, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Callable, NamedTuple

from mmengine.config import Config
from mmengine.fileio import list_from_file

from ..checks import check_positive, check_real
from ..formulas import FORMULAS
from ..presets import BESIDE_SOFTMAX, MAX_NORM, PRESETS, Options
from . import rules
from .find import Head, Path, find_heads, name_of, several
from .rules import Call

GHM_LOSSES = ('GHMC', 'GHMR')
#: The default formula of both, which is not written.
OFFICIAL = 'official'
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
        changed: Whether it is kept in another form, as that of SSD.
    """

    where: str
    head: str
    loss: str
    ghm: dict[str, Any] | None
    why: str
    original: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

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

    @property
    def replaced(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is not None]

    @property
    def has_ghm(self) -> bool:
        """Whether the harmonized config has a GHM loss, put in now or before."""
        return any(loss.ghm is not None or loss.loss in GHM_LOSSES for loss in self.losses)

    @property
    def kept(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is None and not loss.changed]

    @property
    def summary(self) -> str:
        changed = sum(loss.changed for loss in self.losses)
        changes = f'{changed} changed, ' if changed else ''
        return f'{len(self.replaced)} replaced, {changes}{len(self.kept)} kept'

    def __str__(self) -> str:
        return '\n'.join([*map(str, self.losses), *self.notes]) or 'the config has no loss'


def make_plan(cfg: Config, options: Options) -> Plan:
    """Find every loss of `cfg.model`, and decide what becomes of it.

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
    if plan.replaced:
        density_heads = rules.BATCH_DENSITY_HEADS
        if options.batch_density and not any(loss.head in density_heads for loss in plan.replaced):
            names = ' or '.join(density_heads)
            raise ValueError(f'batch_density=True has no effect: none of the heads is {names}')
        _plan_clipping(plan, cfg, options.preset)
        _plan_new_run(plan, cfg)
        _note_classes(plan, cfg, heads)
    return plan


def _plan_head(plan: Plan, options: Options, head: Head) -> None:
    if why := head.why_without_losses:
        plan.losses.append(LossFound(head.where, head.name, 'its own losses', None, why))
        return
    found = {key: _loss_found(options, head, key, loss) for key, loss in head.losses.items()}
    replaced = [loss for loss in found.values() if loss.ghm is not None]
    if head.computes_its_losses and replaced:
        other_head = rules.HEADS_WITH_LOSSES[head.known_name]
        plan.changes[(*head.path, 'type')] = other_head
        for key, loss in found.items():
            plan.changes[(*head.path, key)] = loss.ghm or loss.original
            changed = loss.ghm is None and key == 'loss_cls'
            mined = rules.MINED_FROM_THE_BATCH if changed else ''
            reasons = [loss.why, mined, f'the head becomes {name_of(other_head)}']
            why = '; '.join(filter(None, reasons))
            found[key] = replace(loss, why=why, changed=changed)
    else:
        plan.changes.update({(*head.path, k): loss.ghm for k, loss in found.items() if loss.ghm})
    plan.losses += found.values()
    for key, call in head.calls.items():
        if isinstance(call, Call) and key not in head.losses and not head.leaves_out(key):
            where = f'{head.where}.{key} ({head.name})'
            plan.notes.append(f"{where}: kept, the head's default: write it out to replace it")
    if options.batch_density and replaced and not head.computes_its_losses:
        _plan_batch_density(plan, head)


def _loss_found(options: Options, head: Head, key: str, loss: dict) -> LossFound:
    ghm, why = None, _why_kept(options, head, key, loss)
    call = head.calls.get(key)
    if why is None and isinstance(call, Call):
        ghm, why = _ghm_loss(Replaced(options, head, key, loss, call))
    name = _SSD_NAMES[key] if head.computes_its_losses else name_of(loss)
    return LossFound(f'{head.where}.{key}', head.name, name, ghm, why or '', loss)


def _why_kept(options: Options, head: Head, key: str, loss: dict) -> str | None:
    """The reason to keep a loss: of its type, of its head, of what is around, of the options."""
    name = name_of(loss)
    call = head.calls.get(key)
    if name in GHM_LOSSES:
        return 'it is a GHM loss, which the options do not change'
    if head.keep_all:
        return head.keep_all
    if 'IoU' in name:
        return rules.IOU_LOSS
    if off := head.leaves_out(key):
        return f'{off}=False: the head does not call it'
    if isinstance(call, str):
        return call
    if name in rules.LOSSES:
        return rules.LOSSES[name]
    if call is None:
        return rules.KEYS.get(key) or f'how {head.name} calls it is not known: replace it by hand'
    if key in head.keep_of_box_head and head.known_as in rules.SOFTMAX_HEADS:
        return head.keep_of_box_head[key]
    if call.summed and loss.get('reduction') != 'sum':
        return rules.NOT_SUMMED
    is_cls = call.ghm == 'GHMC'
    why = _why_not_ghm_c(options, head, loss, call) if is_cls else _why_not_ghm_r(head, loss)
    why = why or _why_not_as_known(head) or _why_not_its_settings(head, loss, is_cls)
    if why is None and not head.matches(options.head):
        why = f'head={options.head!r} does not choose it'
    if why is None and not (options.cls if is_cls else options.reg):
        why = 'cls=False' if is_cls else 'reg=False'
    return why


def _why_not_ghm_c(options: Options, head: Head, loss: dict, call: Call) -> str | None:
    if replace(head, config=loss).known_name not in rules.CLASSIFICATION_LOSSES:
        return f"GHM-C takes the place of MMDetection's {', '.join(rules.CLASSIFICATION_LOSSES)}"
    if _is_sigmoid(loss):
        if head.known_as in rules.SOFTMAX_HEADS:
            return 'this head reads its scores through softmax, the loss through sigmoid'
        for key in rules.OF_SOFTMAX:
            if loss.get(key) is not None:
                return f'{key} has no place in the sigmoid form of GHM-C'
    elif options.preset in BESIDE_SOFTMAX:
        return rules.SOFTMAX
    if name_of(loss) == 'QualityFocalLoss' and head.known_as in rules.QUALITY_HEADS:
        return rules.TESTS_FOR_QUALITY
    if _is_sigmoid(loss) and 'use_sigmoid' not in loss:
        return rules.UNWRITTEN
    return call.kept if options.preset in BESIDE_SOFTMAX else None


def _why_not_ghm_r(head: Head, loss: dict) -> str | None:
    if replace(head, config=loss).known_name not in rules.REGRESSION_LOSSES:
        return f"GHM-R takes the place of MMDetection's {', '.join(rules.REGRESSION_LOSSES)}"
    return rules.DECODED_BOXES if head.config.get('reg_decoded_bbox', False) else None


def _why_not_as_known(head: Head) -> str | None:
    """The reason of a head that derives from a known one and does not call its losses as it."""
    if not head.overridden:
        return None
    own = f'its class derives from {head.known_as}, but has its own {", ".join(head.overridden)}'
    return f'{own}: replace it by hand if its examples have weights 0 or 1'


def _why_not_its_settings(head: Head, loss: dict, is_cls: bool) -> str | None:
    """The reason of a setting of the loss, of its head or of `train_cfg`."""
    fates = rules.ARGUMENTS[name_of(loss)]
    for key, value in loss.items():
        fate = fates.get(key, f'what its {key} means for GHM is not known')
        if value and fate not in (rules.CARRIED, rules.MEANINGLESS):
            return fate
    for key in head.config:
        if key not in rules.ARGUMENTS_OF_HEADS and not str(key).startswith('loss_'):
            return f'what {key} of {head.name} means for its losses is not known'
    for key, value in (item for cfg in head.settings for item in _settings_of(cfg)):
        if key == 'pos_weight':
            check_real(f'pos_weight in the train_cfg of {head.where}', value)
            if is_cls and value > 0 and value != 1:
                return f'pos_weight={value} weighs positives; GHM-C takes a weight as valid or not'
        elif key not in rules.TRAIN_CFG:
            return f'what {key} of train_cfg means for its losses is not known'
    return None


def _settings_of(train_cfg: dict) -> Iterator[tuple[str, Any]]:
    """Every key of a `train_cfg` and of its stages."""
    yield from train_cfg.items()
    for stage in rules.STAGES:
        for settings in several(train_cfg.get(stage)):
            yield from settings.items()


def _is_sigmoid(loss: dict) -> bool:
    return bool(loss.get('use_sigmoid', rules.CLASSIFICATION_LOSSES.get(name_of(loss), True)))


class Replaced(NamedTuple):
    """A loss that GHM takes the place of, and how its head calls it."""

    options: Options
    head: Head
    key: str
    loss: dict[str, Any]
    call: Call

    @property
    def is_scaled_by_head(self) -> bool:
        """Whether GHM-C divides by the head's `avg_factor`, as the loss that it replaces."""
        formula = settings_of(self.options, self.call.ghm).get('formula', OFFICIAL)
        return self.call.ghm == 'GHMC' and FORMULAS[formula].takes_avg_factor


def settings_of(options: Options, ghm: str) -> dict[str, Any]:
    """What the options come to for 'GHMC' or 'GHMR': the preset's, and what was chosen."""
    preset = PRESETS[options.preset][GHM_LOSSES.index(ghm)]
    chosen = dict(bins=options.bins, momentum=options.momentum, formula=options.formula)
    return {**preset, **{name: value for name, value in chosen.items() if value is not None}}


def _ghm_loss(replaced: Replaced) -> tuple[dict[str, Any], str]:
    """The config of the GHM loss, and what to know of it."""
    options, head, _, _, call = replaced
    ghm = settings_of(options, call.ghm)
    of_ancestor = f'taken for {head.known_as}' if head.is_derived else ''
    notes = [of_ancestor, *(rule(ghm, replaced) for rule in _RULES[call.ghm]), call.note]
    if ghm.get('formula') == OFFICIAL:
        del ghm['formula']  # the default
    return ghm, '; '.join(filter(None, notes))


def _beside_softmax(ghm: dict, replaced: Replaced) -> str:
    """The weight of GHM-R where the preset keeps the head's softmax."""
    head, weight = replaced.head, BESIDE_SOFTMAX.get(replaced.options.preset)
    loss_cls = head.losses.get('loss_cls')
    by_default = head.known_as in rules.SOFTMAX_HEADS and not head.leaves_out('loss_cls')
    is_softmax = by_default if loss_cls is None else not _is_sigmoid(loss_cls)
    if weight is None or not is_softmax:
        return ''
    ghm['loss_weight'] = weight
    return f'its weight is {weight:g}, beside a softmax that is kept'


def _weight_of_the_loss(ghm: dict, replaced: Replaced) -> str:
    weight = replaced.loss.get('loss_weight', 1.0)
    check_real(f'loss_weight of {replaced.head.where} ({name_of(replaced.loss)})', weight)
    ghm['loss_weight'] *= weight
    return ''


def _alpha_of_focal_loss(ghm: dict, replaced: Replaced) -> str:
    """Where GHM-C is scaled as the loss that it replaces; VarifocalLoss has α for negatives."""
    if not replaced.is_scaled_by_head or not name_of(replaced.loss).endswith('FocalLoss'):
        return ''
    alpha = replaced.loss.get('alpha', 0.25)  # QualityFocalLoss has none
    check_real(f'alpha of {replaced.head.where} ({name_of(replaced.loss)})', alpha)
    ghm['loss_weight'] *= alpha
    return f'its weight is multiplied by α of focal loss, {alpha}'


def _average_of_levels(ghm: dict, replaced: Replaced) -> str:
    is_divided = replaced.call.averaged_levels and not replaced.is_scaled_by_head
    levels = _levels(replaced.head.config) if is_divided else 1
    if levels == 1:
        return ''
    ghm['loss_weight'] /= levels
    return f'its weight is divided by the {levels} levels it is called for'


def _share_of_positives(ghm: dict, replaced: Replaced) -> str:
    if replaced.call.summed:
        return ''
    share = replaced.head.share_of_positives(replaced.call.positives)
    ghm['loss_weight'] *= share
    return f'its weight is multiplied by the share of positives, {share}' if share < 1 else ''


def _mu_of_scaled_offsets(ghm: dict, replaced: Replaced) -> str:
    scale = _offset_scale(replaced.head, replaced.call.target_stds)
    if scale == 1:
        return ''
    ghm['mu'] /= scale
    return f'μ is that of offsets divided by {scale}, their target_stds'


def _softmax_form(ghm: dict, replaced: Replaced) -> str:
    if _is_sigmoid(replaced.loss):
        return ''
    ghm['use_sigmoid'] = False
    loss = replaced.loss
    ghm.update({key: loss[key] for key in rules.OF_SOFTMAX if loss.get(key) is not None})
    return 'softmax form'


def _reduction(ghm: dict, replaced: Replaced) -> str:
    if replaced.call.reduction != 'mean':
        ghm['reduction'] = replaced.call.reduction
    if replaced.call.reduction != 'sum':
        return ''
    ghm['loss_weight'] /= 4
    return 'its weight is divided by the 4 offsets of a box, for the head divides by boxes'


def _counts_of_all_processes(ghm: dict, replaced: Replaced) -> str:
    options, head, key, _, call = replaced
    if not options.sync:
        return ''
    if call.skipped:
        where = f'{head.where}.{key}'
        raise ValueError(f'sync=True would hang: {head.name} does not call {where} {call.skipped}')
    ghm['sync'] = True
    return ''


#: What makes of the settings of a preset those for a loss, in this order.
_RULES: dict[str, tuple[Callable[[dict, Replaced], str], ...]] = {
    'GHMC': (
        _weight_of_the_loss, _alpha_of_focal_loss, _average_of_levels, _softmax_form, _reduction,
        _counts_of_all_processes,
    ),
    'GHMR': (
        _beside_softmax, _weight_of_the_loss, _average_of_levels, _share_of_positives,
        _mu_of_scaled_offsets, _reduction, _counts_of_all_processes,
    ),
}  # fmt: skip


def _offset_scale(head: Head, default: float) -> float:
    """What the box coder divides the offsets by, on average; the paper's μ is for 1."""
    coder = head.config.get('bbox_coder')
    stds = coder.get('target_stds', 1.0) if coder else default
    stds = stds if isinstance(stds, (list, tuple)) and stds else (stds,)
    for std in stds:
        check_positive(f'target_stds of {head.where}.bbox_coder', std)
    return round(sum(stds) / len(stds), 6)


def _levels(head: dict) -> int:
    generators = (head.get(name) or {} for name in _ANCHORS)
    return len(next((g['strides'] for g in generators if 'strides' in g), DEFAULT_STRIDES))


def _plan_batch_density(plan: Plan, head: Head) -> None:
    other_head = rules.BATCH_DENSITY_HEADS.get(head.known_name)
    if other_head:
        plan.changes[(*head.path, 'type')] = other_head
        plan.notes.append(f'{head.where}: {head.name} becomes {other_head}')
    elif not head.name.startswith('GHM'):
        plan.notes.append(f'{head.where} ({head.name}): batch_density is not available')


def _plan_clipping(plan: Plan, cfg: Config, preset: str) -> None:
    optimizer = cfg.get('optim_wrapper') or {}
    wrapper = optimizer.get('type') and name_of(optimizer)
    clipped = (cfg.get('strategy') or {}).get('gradient_clipping')
    norm = f"norm {MAX_NORM[preset]} is the preset's"
    if not optimizer:
        note = 'the config has no optim_wrapper to set it in'
    elif optimizer.get('clip_grad'):
        note = f'kept, {dict(optimizer["clip_grad"])}; {norm}'
    elif clipped:
        note = f'kept, strategy.gradient_clipping={clipped}; {norm}'
    elif any(isinstance(part, dict) and 'optimizer' in part for part in optimizer.values()):
        note = f'not set, for there are several optimizers; {norm} for each'
    elif wrapper not in rules.CLIPPING_WRAPPERS:
        why = f'not set, for {wrapper} may not take clip_grad'
        note = f'{why}; {norm}, which a strategy may clip at'
    else:
        clip_grad = dict(max_norm=MAX_NORM[preset], norm_type=2)
        plan.changes[('optim_wrapper', 'clip_grad')] = clip_grad
        note = f'set to {clip_grad}'
    plan.notes.append(f'gradient clipping: {note}')


def _plan_new_run(plan: Plan, cfg: Config) -> None:
    """Leave the work folder of an earlier run, as a config that MMEngine left there names it."""
    dropped = dict(work_dir=None, resume=False)
    if cfg.get('resume'):
        dropped['load_from'] = None  # the checkpoint that it would go on from
    for key, value in dropped.items():
        if cfg.get(key):
            plan.changes[(key,)] = value
            note = f'{key}: {cfg[key]!r} of the original becomes {value}: a new training'
            plan.notes.append(note)
    if cfg.get('load_from') and ('load_from',) not in plan.changes:
        plan.notes.append(f'load_from: kept, the training starts from {cfg["load_from"]!r}')


def _note_classes(plan: Plan, cfg: Config, heads: list[Head]) -> None:
    """Of another number of classes than the data set's: GHM-C takes other labels for background."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    of_datasets = [*_numbers_of_classes(dataset)]
    of_data = ' or '.join(map(str, sorted(set().union(*of_datasets))))
    kinds = ((loss.where, name_of(loss.ghm or loss.loss)) for loss in plan.losses)
    of_ghm_c = {where.rpartition('.')[0] for where, kind in kinds if kind == 'GHMC'}
    for head in (head for head in heads if head.where in of_ghm_c):
        number = head.config.get('num_classes')
        has_others = head.known_as in (None, *rules.OTHER_CLASSES) or 'rpn_head' in head.path
        is_wrong = any(number not in allowed for allowed in of_datasets)
        if number is not None and not has_others and is_wrong:
            plan.notes.append(
                f'{head.where}: num_classes={number}, but the data set has {of_data} classes; '
                'GHM-C takes labels from num_classes on for background, and does not fail'
            )


def _numbers_of_classes(dataset: dict) -> Iterator[set[int]]:
    """The numbers of classes that each data set inside may have: all, or the things alone."""
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or ())]
    metainfo = dataset.get('metainfo') or {}
    if 'classes' not in metainfo and any(isinstance(one, dict) for one in inner):
        for one in inner:
            yield from _numbers_of_classes(one or {})
        return
    numbers = _numbers_in(metainfo)
    if 'classes' not in metainfo:
        kind = dataset.get('type')
        known = rules.CLASSES.get(str(kind).replace('mmdet.', ''))
        numbers = known or _numbers_in(_metainfo_of_class(kind))
    if numbers:
        yield numbers


def _numbers_in(metainfo: dict) -> set[int]:
    classes = [metainfo.get(key) for key in ('classes', 'thing_classes')]
    with suppress(OSError):  # MMEngine reads the names from a file
        classes = [list_from_file(names) if isinstance(names, str) else names for names in classes]
    return {len(names) for names in classes if isinstance(names, (list, tuple))}


def _metainfo_of_class(kind: Any) -> dict:
    """What the data set of this type has by itself; nothing if the type is not registered."""
    import mmdet.datasets  # noqa: F401
    from mmdet.registry import DATASETS

    with suppress(Exception):  # of a package that is not installed, or fails to import
        return getattr(kind if isinstance(kind, type) else DATASETS.get(str(kind)), 'METAINFO', {})
    return {}
