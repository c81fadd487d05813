"""Which losses a config has, and for each whether GHM takes its place, and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from mmengine.config import Config

from ..functional.checks import check_choice, check_count, check_momentum
from ..functional.harmonizing import FORMULAS
from ..losses.settings import GHM_C, GHM_R
from . import heads as known
from .heads import LOGITS, OFFSETS, Call

#: The authors' gradient clipping.
CLIP_GRAD = dict(max_norm=35, norm_type=2)

_ANCHORS = ('anchor_generator', 'approx_anchor_generator')
DEFAULT_STRIDES = (4, 8, 16, 32, 64)  # AnchorHead's
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Options:
    """What to replace and by what; see `harmonize`."""

    cls: bool = True
    reg: bool = True
    head: str | None = None
    bins: int | None = None
    momentum: float | None = None
    formula: str = 'official'
    batch_density: bool = False
    warmup: int | None = None

    def __post_init__(self) -> None:
        for name in ('cls', 'reg', 'batch_density'):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f'{name} must be a bool, got {getattr(self, name)!r}')
        if not (self.cls or self.reg):
            raise ValueError('cls and reg are both False: there is nothing to replace')
        if self.head is not None and not isinstance(self.head, str):
            raise TypeError(f'head must be a pattern (str) or None, got {self.head!r}')
        if self.bins is not None:
            check_count('bins', self.bins)
        if self.momentum is not None:
            check_momentum('momentum', self.momentum)
        check_choice('formula', self.formula, FORMULAS)
        if self.warmup is not None:
            check_count('warmup', self.warmup)


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
        verdict = 'kept' if self.ghm is None else f'replaced by {name_of(self.ghm["type"])}'
        why = f': {self.why}' if self.why else ''
        return f'{self.where} ({self.head}, {self.loss}): {verdict}{why}'


@dataclass
class Plan:
    """What `harmonize` does to a config.

    Attributes:
        losses: Every loss found.
        changes: The new value at each place that changes.
        notes: What else to know, a line each.
    """

    losses: list[LossFound] = field(default_factory=list)
    changes: dict[Path, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def replaced(self) -> list[LossFound]:
        return [loss for loss in self.losses if loss.ghm is not None]

    @property
    def has_ghm(self) -> bool:
        """Whether the harmonized config has a GHM loss, put in now or before."""
        return any(loss.ghm is not None or loss.loss in ('GHMC', 'GHMR') for loss in self.losses)

    def __str__(self) -> str:
        return '\n'.join([*map(str, self.losses), *self.notes]) or 'the config has no loss'


@dataclass(frozen=True)
class _Around:
    """What surrounds a head: `train_cfg`, and the reasons to keep a loss that come from there."""

    any_loss: str | None = None
    box_head: dict[str, str] = field(default_factory=dict)
    train_cfg: dict[str, Any] = field(default_factory=dict)


def make_plan(cfg: Config, options: Options) -> Plan:
    """Find every loss of `cfg.model`, and decide what becomes of it.

    Raises:
        ValueError: `head` matches no head of the config.
    """
    plan = Plan()
    heads = list(_heads(cfg.get('model', {}), ('model',), _Around()))
    if options.head is not None and not any(_chosen(options, *found[:2]) for found in heads):
        there = ', '.join(sorted({f'{dotted(path)} ({name_of(h)})' for path, h, _ in heads}))
        raise ValueError(f'head={options.head!r} matches none of the heads: {there or "no head"}')
    for path, head, around in heads:
        _plan_head(plan, options, path, head, around)
    if plan.replaced:
        _plan_clipping(plan, cfg)
        if options.warmup is not None:
            _plan_warmup(plan, cfg, options.warmup)
    elif options.warmup is not None:
        plan.notes.append('warm-up: not set, for no loss is replaced')
    return plan


def name_of(head_or_type: Any) -> str:
    """The class name of a config or of a `type`: without the scope, of a class its name."""
    kind = head_or_type['type'] if isinstance(head_or_type, dict) else head_or_type
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def dotted(path: Path) -> str:
    return '.'.join(map(str, path))


def _heads(node: Any, path: Path, around: _Around) -> Iterator[tuple[Path, dict, _Around]]:
    """Every dict that is a head: it has losses, or a type that is known to call some."""
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _heads(value, (*path, i), around)
    if not isinstance(node, dict):
        return
    if 'type' in node:
        around = _within(node, around)
        if _losses(node) or _is_known(node):
            yield path, node, around
    for key, value in node.items():
        if key not in ('train_cfg', 'test_cfg') and not _is_loss(key, value):
            yield from _heads(value, (*path, key), around)


def _is_loss(key: str, value: Any) -> bool:
    named = key.startswith('loss_') or key == 'initial_loss_cls'
    return named and isinstance(value, dict) and 'type' in value


def _losses(head: dict) -> dict[str, dict]:
    return {key: value for key, value in head.items() if _is_loss(key, value)}


def _within(node: dict, around: _Around) -> _Around:
    """What the losses inside of `node` have around them."""
    any_loss = around.any_loss or known.DETECTORS.get(name_of(node))
    box_head = {**around.box_head, **known.ROI_HEADS.get(name_of(node), {})}
    train_cfg = node.get('train_cfg') or {}
    rcnn = train_cfg.get('rcnn') or {}
    for stage in rcnn if isinstance(rcnn, (list, tuple)) else [rcnn]:
        sampler = stage.get('sampler') or {}
        if 'type' in sampler and name_of(sampler) in known.RANKING_SAMPLERS:
            box_head['loss_cls'] = f'{name_of(sampler)} chooses RoIs by this loss of each'
    return _Around(any_loss, box_head, train_cfg or around.train_cfg)


def _is_known(head: dict) -> bool:
    tables = (known.HEADS, known.HEADS_WITH_LOSSES, known.HEADS_WITHOUT_LOSSES)
    return any(name_of(head) in table for table in tables)


def _known_calls(head: dict) -> dict[str, Call | str] | None:
    """How the head, or the nearest known class that it derives from, calls its losses."""
    if name_of(head) in known.HEADS:
        return known.HEADS[name_of(head)]
    return next((known.HEADS[n] for n in _ancestors(head) if n in known.HEADS), None)


def _ancestors(head: dict) -> list[str]:
    # A head of its own is registered by whoever loaded the config; MMDetection's are here.
    import mmdet.models  # noqa: F401
    from mmdet.registry import MODELS

    kind = head['type'] if isinstance(head['type'], type) else MODELS.get(str(head['type']))
    return [] if kind is None else [ancestor.__name__ for ancestor in kind.__mro__]


def _chosen(options: Options, path: Path, head: dict) -> bool:
    names = (name_of(head), dotted(path), dotted(path[1:]))
    return options.head is None or any(fnmatchcase(name, options.head) for name in names)


def _plan_head(plan: Plan, options: Options, path: Path, head: dict, around: _Around) -> None:
    if name_of(head) in known.HEADS_WITH_LOSSES:
        return _plan_head_with_losses(plan, options, path, head, around)
    if name_of(head) in known.HEADS_WITHOUT_LOSSES:
        why = known.HEADS_WITHOUT_LOSSES[name_of(head)]
        plan.losses.append(LossFound(dotted(path), name_of(head), 'its own losses', None, why))
        return
    calls = _known_calls(head)
    replaced = False
    for key, loss in _losses(head).items():
        ghm, why = _verdict(options, path, head, key, loss, calls, around)
        where = dotted((*path, key))
        plan.losses.append(LossFound(where, name_of(head), name_of(loss), ghm, why, loss))
        if ghm is not None:
            plan.changes[(*path, key)] = ghm
            replaced = True
    for key, call in (calls or {}).items():
        if isinstance(call, Call) and key in ('loss_cls', 'loss_bbox') and key not in head:
            plan.notes.append(
                f'{dotted((*path, key))} ({name_of(head)}): kept: the config leaves it to the '
                "head's default; write it out to have it replaced"
            )
    if options.batch_density and replaced:
        _plan_batch_density(plan, path, head)


def _plan_head_with_losses(
    plan: Plan, options: Options, path: Path, head: dict, around: _Around
) -> None:
    """SSD: another head, with both losses written out."""
    name = known.HEADS_WITH_LOSSES[name_of(head)]
    calls = dict(loss_cls=LOGITS, loss_bbox=OFFSETS)
    names = dict(loss_cls='softmax cross entropy', loss_bbox='smooth L1')
    kept = {
        key: around.any_loss or _why_not_chosen(options, path, head, call)
        for key, call in calls.items()
    }
    stays = all(kept.values())
    for key, original in _ssd_losses(around.train_cfg).items():
        ghm, why = None, kept[key]
        if why is None:
            ghm, why = _ghm_loss(options, head, original, calls[key])
        if not stays:
            plan.changes[(*path, 'type')] = name
            plan.changes[(*path, key)] = ghm or original
            why = '; '.join(filter(None, [why, f'the head becomes {name_of(name)}']))
        where = dotted((*path, key))
        plan.losses.append(LossFound(where, name_of(head), names[key], ghm, why, original))


def _ssd_losses(train_cfg: dict) -> dict[str, dict]:
    """What `SSDHead` computes by itself; the defaults are those of MMDetection's configs."""
    ratio = train_cfg.get('neg_pos_ratio', 3)
    beta = train_cfg.get('smoothl1_beta', 1.0)
    cross_entropy = dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=False, neg_pos_ratio=ratio)
    return dict(
        loss_cls=dict(**cross_entropy, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=beta, loss_weight=1.0),
    )


def _verdict(
    options: Options,
    path: Path,
    head: dict,
    key: str,
    loss: dict,
    calls: dict[str, Call | str] | None,
    around: _Around,
) -> tuple[dict[str, Any] | None, str]:
    """The GHM loss in the place of `loss` or None, and why."""
    call = None if calls is None else calls.get(key)
    why = _why_kept(head, key, loss, calls, around)
    why = why or _why_not_chosen(options, path, head, call)
    return (None, why) if why else _ghm_loss(options, head, loss, call)


def _why_not_chosen(options: Options, path: Path, head: dict, call: Call) -> str | None:
    """The reason to keep a loss that is in the options, or None."""
    if not _chosen(options, path, head):
        return f'head={options.head!r} does not choose it'
    if call.ghm == 'GHMC' and not options.cls:
        return 'cls=False'
    if call.ghm == 'GHMR' and not options.reg:
        return 'reg=False'
    return None


def _why_kept(
    head: dict, key: str, loss: dict, calls: dict[str, Call | str] | None, around: _Around
) -> str | None:
    """The reason to keep a loss whatever the options, or None."""
    name = name_of(loss)
    if name in ('GHMC', 'GHMR'):
        return 'it is a GHM loss'
    if around.any_loss:
        return around.any_loss
    if calls is not None and isinstance(calls.get(key), str) and 'IoU' not in name:
        return calls[key]
    if 'IoU' in name:
        return known.IOU_LOSS
    if name in known.LOSSES:
        return known.LOSSES[name]
    if calls is None or key not in calls:
        default = f'how {name_of(head)} calls it is not known: replace it by hand'
        return known.KEYS.get(key, default)
    if key in around.box_head and name_of(head) in known.SOFTMAX_HEADS:
        return around.box_head[key]
    if calls[key].ghm == 'GHMC':
        return _why_not_ghm_c(head, loss)
    return _why_not_ghm_r(head, loss)


def _why_not_ghm_c(head: dict, loss: dict) -> str | None:
    name = name_of(loss)
    if name not in known.CLASSIFICATION_LOSSES:
        return f'GHM-C takes the place of {_listed(known.CLASSIFICATION_LOSSES)}'
    if _is_sigmoid(loss):
        if name_of(head) in known.SOFTMAX_HEADS:
            return 'this head reads its scores through softmax, the loss through sigmoid'
        if loss.get('class_weight') is not None:
            return 'class_weight has no place in the sigmoid form of GHM-C'
    if loss.get('activated', False):
        return 'activated=True: it takes probabilities, GHM-C takes logits'
    return None


def _why_not_ghm_r(head: dict, loss: dict) -> str | None:
    if name_of(loss) not in known.REGRESSION_LOSSES:
        return f'GHM-R takes the place of {_listed(known.REGRESSION_LOSSES)}'
    if head.get('reg_decoded_bbox', False):
        return f'reg_decoded_bbox=True: the head {known._DECODED}'
    return None


def _listed(names: Any) -> str:
    return ', '.join(names)


def _is_sigmoid(loss: dict) -> bool:
    return bool(loss.get('use_sigmoid', known.CLASSIFICATION_LOSSES[name_of(loss)]))


def _ghm_loss(options: Options, head: dict, loss: dict, call: Call) -> tuple[dict[str, Any], str]:
    """The config of the GHM loss, and what to know of it."""
    ghm = dict(GHM_C if call.ghm == 'GHMC' else GHM_R)
    notes = []
    for name in ('bins', 'momentum'):
        if getattr(options, name) is not None:
            ghm[name] = getattr(options, name)
    ghm['loss_weight'] *= loss.get('loss_weight', 1.0)
    levels = _levels(head) if call.mean_of_levels else 1
    if levels > 1:
        ghm['loss_weight'] /= levels
        notes.append(f'its weight is divided by the {levels} levels it is called for')
    if call.ghm == 'GHMR':
        ghm['loss_weight'] *= call.positives
        if call.positives < 1:
            notes.append(
                f'its weight is multiplied by the share of positives among the samples, '
                f'{call.positives}'
            )
        if _scale(head) != 1:
            ghm['mu'] /= _scale(head)
            notes.append(f'μ is that of offsets divided by {_scale(head)}, their target_stds')
    if call.ghm == 'GHMC' and not _is_sigmoid(loss):
        ghm['use_sigmoid'] = False
        kept = ('class_weight', 'bg_cls_weight', 'ignore_index')
        ghm.update({key: loss[key] for key in kept if loss.get(key) is not None})
        notes.append('softmax form')
    if call.reduction != 'mean':
        ghm['reduction'] = call.reduction
        notes.append('the head divides it by the number of positives')
    if options.formula != 'official':
        ghm['formula'] = options.formula
    return ghm, '; '.join(notes)


def _scale(head: dict) -> float:
    """What the box coder divides the offsets by, on average; the paper's μ is for 1."""
    stds = (head.get('bbox_coder') or {}).get('target_stds') or (1.0,)
    return round(sum(stds) / len(stds), 6)


def _levels(head: dict) -> int:
    strides = (head[name]['strides'] for name in _ANCHORS if 'strides' in head.get(name, {}))
    return len(next(strides, DEFAULT_STRIDES))


def _plan_batch_density(plan: Plan, path: Path, head: dict) -> None:
    name = name_of(head)
    if name in known.BATCH_DENSITY_HEADS.values() or name.startswith('GHM'):
        return
    if name in known.BATCH_DENSITY_HEADS:
        plan.changes[(*path, 'type')] = known.BATCH_DENSITY_HEADS[name]
        plan.notes.append(f'{dotted(path)}: {name} becomes {known.BATCH_DENSITY_HEADS[name]}')
    else:
        plan.notes.append(
            f'{dotted(path)} ({name}): batch_density is not available; the density is that of '
            'each call of the loss'
        )


def _plan_clipping(plan: Plan, cfg: Config) -> None:
    optimizer = cfg.get('optim_wrapper')
    if not optimizer:
        plan.notes.append('gradient clipping: the config has no optim_wrapper to set it in')
    elif optimizer.get('clip_grad'):
        plan.notes.append(f'gradient clipping: kept, {dict(optimizer["clip_grad"])}')
    else:
        plan.changes[('optim_wrapper', 'clip_grad')] = dict(CLIP_GRAD)
        plan.notes.append(f'gradient clipping: set to {CLIP_GRAD}')


def _plan_warmup(plan: Plan, cfg: Config, iters: int) -> None:
    """The losses replaced lead for the first iterations.

    Those with weights of classes are left to the hook: DETR's head writes them to its loss.
    """
    leaders = {}
    for found in plan.replaced:
        loss = found.original
        if loss.get('class_weight') is None:
            scope = '' if '.' in str(loss['type']) else 'mmdet.'
            leaders[found.where.removeprefix('model.')] = {
                **loss, 'type': f'{scope}{loss["type"]}'
            }  # fmt: skip
    hook = dict(type='ghm_mmdet.GHMWarmupHook', iters=iters)
    if leaders:
        hook['losses'] = leaders
    hooks = cfg.get('custom_hooks') or []
    plan.changes[('custom_hooks',)] = [*hooks, hook]
    plan.notes.append(f'warm-up: the losses replaced lead for the first {iters} iterations')
