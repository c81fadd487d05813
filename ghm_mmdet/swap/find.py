"""The heads of a config, the losses that each calls, and what surrounds it."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain, takewhile
from typing import Any, Tuple, Union

from ..checks import check_positive
from . import rules
from .rules import Calls

Path = Tuple[Union[str, int], ...]


def name_of(config_or_type: Any) -> str:
    """The class name of a config or of a `type`: without the scope, of a class its name."""
    kind = config_or_type['type'] if isinstance(config_or_type, dict) else config_or_type
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def several(value: Any) -> list:
    """A list as it is, anything else as its only item, and nothing for what is empty."""
    return [item for item in (value if isinstance(value, (list, tuple)) else [value]) if item]


def dotted(path: Path) -> str:
    return '.'.join(map(str, path))


def items_of(node: Any) -> list[tuple[Any, Any]]:
    """The keys and values of a dict, the indices and items of a list, else nothing."""
    if isinstance(node, (list, tuple)):
        return list(enumerate(node))
    return list(node.items()) if isinstance(node, dict) else []


def typed_in(node: Any, path: Path = ()) -> Iterator[tuple[Path, dict]]:
    """Every dict with a `type` in nested dicts and lists, by its path, outer ones first."""
    if isinstance(node, dict) and 'type' in node:
        yield path, node
    for key, value in items_of(node):
        yield from typed_in(value, (*path, key))


@dataclass(frozen=True)
class Kind:
    """What the `type` of a config stands for, whichever way it is named."""

    named: Any
    #: The package of a name that names none.
    scope: str = 'mmdet'
    #: Whether MMDetection is imported, which takes seconds, to find what it derives from.
    is_sought: bool = False

    @property
    def package(self) -> str:
        return _package(self.named) or self.scope

    @cached_property
    def name(self) -> str:
        """Its name, if it is of a package of the tables; '' of a namesake."""
        found = next(iter(self.classes), self.named)
        return name_of(found) if (_package(found) or self.scope) in rules.PACKAGES else ''

    def nearest_in(self, table: Collection[str]) -> str:
        """Its name, or that of the nearest type of a table that it derives from; '' if none is."""
        found = (kind.__name__ for kind in self.classes if _is_in(table, kind))
        return self.name if self.name in table else next(found, '')

    @cached_property
    def classes(self) -> tuple[type, ...]:
        """Its class and those that it derives from.

        None if the class is not found, or where it can only be MMDetection's of that name.
        """
        if isinstance(self.named, type):
            return self.named.__mro__
        is_foreign = self.package not in rules.PACKAGES
        if is_foreign or self.is_sought:
            import mmdet.models  # noqa: F401
        # Without that registry no other class has its name.
        if self.package == 'ghm_mmdet' or 'mmdet.registry' not in sys.modules:
            return ()
        from mmdet.registry import MODELS, TASK_UTILS

        name = str(self.named) if _package(self.named) else f'{self.scope}.{self.named}'
        with suppress(Exception):  # of a package that is not installed, or fails to import
            return (MODELS.get(name) or TASK_UTILS.get(name)).__mro__
        return ()


@dataclass(frozen=True)
class Around:
    """What surrounds a head, and the reasons there to keep its losses."""

    #: The package of the types that name none: the config's `default_scope`, or a `_scope_`.
    scope: str = 'mmdet'
    #: Why no loss is replaced, or None.
    keep_all: str | None = None
    #: Why a loss of a box head is kept, by its key.
    keep_of_box_head: dict[str, str] = field(default_factory=dict)
    #: The nearest one; a list of them in a detector with several heads, as Co-DETR.
    train_cfg: dict[str, Any] | list = field(default_factory=dict)

    def kind(self, config: dict[str, Any], is_sought: bool = False) -> Kind:
        return Kind(config['type'], config.get('_scope_') or self.scope, is_sought)

    def inside_of(self, config: dict[str, Any]) -> Around:
        """What surrounds the heads inside of a part of the model with a type."""
        kind, train_cfg = self.kind(config), config.get('train_cfg')
        keep = {
            **self.keep_of_box_head,
            **rules.ROI_HEADS.get(kind.nearest_in(rules.ROI_HEADS), {}),
        }
        for _, part in typed_in([cfg.get('rcnn') for cfg in several(train_cfg)]):
            if self.kind(part).nearest_in(rules.RANKING_SAMPLERS):
                keep['loss_cls'] = f'{name_of(part)} chooses RoIs by this loss of each'
        of_detector = rules.DETECTORS.get(kind.nearest_in(rules.DETECTORS))
        keep_all, train_cfg = self.keep_all or of_detector, train_cfg or self.train_cfg
        return Around(kind.scope, keep_all, keep, train_cfg)


@dataclass(frozen=True)
class Head:
    """A head of a config: it has losses, or a type that is known to call some."""

    path: Path
    config: dict[str, Any]
    around: Around

    @property
    def name(self) -> str:
        return name_of(self.config)

    @property
    def where(self) -> str:
        return dotted(self.path)

    @cached_property
    def kind(self) -> Kind:
        has_losses = any(_is_loss(*item) for item in self.config.items())
        return self.around.kind(self.config, has_losses and self.name not in rules.HEADS)

    @property
    def computes_its_losses(self) -> bool:
        """Whether it is SSD's: it takes no loss from the config, but another head in its place."""
        return self.kind.name in rules.HEADS_WITH_LOSSES

    @cached_property
    def losses(self) -> dict[str, dict]:
        """The config of each loss by its key."""
        if self.computes_its_losses:
            return _ssd_losses(dict(ChainMap(*self.settings)))
        return {key: value for key, value in self.config.items() if _is_loss(key, value)}

    @cached_property
    def known_as(self) -> str:
        """Its type, or the nearest type of the tables that it derives from; '' if there is none."""
        other_head = rules.HEADS_WITH_LOSSES.get(self.kind.name)
        return name_of(other_head) if other_head else self.kind.nearest_in(rules.HEADS)

    @property
    def why_without_losses(self) -> str | None:
        """Why the losses that it computes by itself stay, as far as it has such."""
        known = self.kind.nearest_in({**rules.HEADS, **rules.HEADS_WITHOUT_LOSSES})
        return None if self.computes_its_losses else rules.HEADS_WITHOUT_LOSSES.get(known)

    @property
    def calls(self) -> Calls:
        """How it calls its losses, as far as that is known."""
        return rules.HEADS.get(self.known_as, {})

    @property
    def is_derived(self) -> bool:
        """Whether it is of a type that the tables do not have, but have an ancestor of."""
        return not self.computes_its_losses and self.known_as not in ('', self.kind.name)

    @property
    def overridden(self) -> list[str]:
        """The methods of losses and targets that it does not have from its known ancestor."""
        own = takewhile(lambda kind: not _is_in(rules.HEADS, kind), self.kind.classes)
        names = {name for kind in own for name in vars(kind) if self.is_derived}
        return sorted(name for name in names if 'loss' in name or 'target' in name)

    @cached_property
    def settings(self) -> list[dict]:
        """Its part of the nearest `train_cfg`: several where there is one for each of the heads."""
        key = 'rpn' if self.known_as in rules.RPN_HEADS or 'rpn_head' in self.path else 'rcnn'
        of_detector = several(self.around.train_cfg)
        parts = [several(cfg[key]) for cfg in of_detector if cfg.get(key)]
        # A head that is not in a list is that of every stage.
        stage = next((key for key in reversed(self.path) if isinstance(key, int)), None)
        own = [p if stage is None else [p[min(stage, len(p) - 1)]] for p in parts if p]
        return [*chain(*own)] or of_detector

    def leaves_out(self, key: str) -> str | None:
        """The argument by which it does not call a loss."""
        return next((n for n in rules.SWITCHES.get(key, ()) if not self.config.get(n, True)), None)

    def share_of_positives(self, default: float) -> float:
        """That of its sampler, 1 if it does not sample; `default` if no settings say so."""
        trained = [s for s in self.settings if {'assigner', 'sampler'} & s.keys()]
        shares = [(s.get('sampler') or {}).get('pos_fraction', 1.0) for s in trained]
        for share in shares:
            check_positive(f'pos_fraction of the sampler of {self.where}', share)
        return min(shares, default=default)

    def matches(self, pattern: str | None) -> bool:
        """Whether its type or its place match a pattern of `fnmatch`; None matches all."""
        names = (self.name, self.where, dotted(self.path[1:]))
        return pattern is None or any(fnmatchcase(name, pattern) for name in names)


def find_heads(model: dict[str, Any], scope: str = 'mmdet') -> list[Head]:
    """Every head in a model; `scope` is the config's `default_scope`."""
    return list(_heads_in(model, ('model',), Around(scope)))


def _heads_in(config: Any, path: Path, around: Around) -> Iterator[Head]:
    if isinstance(config, dict) and 'type' in config:
        around = around.inside_of(config)
        head = Head(path, config, around)
        if head.losses or head.known_as or head.why_without_losses:
            yield head
    for key, value in items_of(config):
        if key not in ('train_cfg', 'test_cfg') and not _is_loss(key, value):
            yield from _heads_in(value, (*path, key), around)


def _is_loss(key: str | int, value: Any) -> bool:
    named = str(key).startswith('loss_') or key == 'initial_loss_cls'
    return named and isinstance(value, dict) and 'type' in value


def _package(kind: Any) -> str:
    """The package of a class, or of the name of a type; '' where the name has no scope."""
    name = kind.__module__ if isinstance(kind, type) else str(kind)
    return name.partition('.')[0] if isinstance(kind, type) or '.' in name else ''


def _is_in(table: Collection[str], kind: type) -> bool:
    return kind.__name__ in table and _package(kind) in rules.PACKAGES


def _ssd_losses(train_cfg: dict) -> dict[str, dict]:
    """What `SSDHead` computes by itself; the defaults are those of MMDetection's configs."""
    cross_entropy = dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=False, loss_weight=1.0)
    smooth_l1 = dict(type='SmoothL1Loss', loss_weight=1.0)
    return dict(
        loss_cls=dict(**cross_entropy, neg_pos_ratio=train_cfg.get('neg_pos_ratio', 3)),
        loss_bbox=dict(**smooth_l1, beta=train_cfg.get('smoothl1_beta', 1.0)),
    )
