"""The heads of a config, the losses that each calls, and what surrounds it."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain, takewhile
from typing import Any, Tuple, Union

from ..checks import check_real
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


@dataclass(frozen=True)
class Head:
    """A head of a config, or what surrounds one, and the reasons there to keep its losses."""

    path: Path
    config: dict[str, Any]
    #: Why none of its losses is replaced, or None.
    keep_all: str | None = None
    #: Why a loss of a box head is kept, by its key.
    keep_of_box_head: dict[str, str] = field(default_factory=dict)
    #: The nearest one; a list of them in a detector with several heads, as Co-DETR.
    train_cfg: dict[str, Any] | list = field(default_factory=dict)
    #: The package of the types that name none, the config's `default_scope`.
    scope: str = 'mmdet'

    @property
    def name(self) -> str:
        return name_of(self.config)

    @cached_property
    def known_name(self) -> str:
        """Its type, if it is of a package of the tables; '' of a namesake."""
        kind = next(iter(self._ancestors), self.config['type'])
        return name_of(kind) if (_package(kind) or self.scope) in rules.PACKAGES else ''

    @property
    def where(self) -> str:
        return dotted(self.path)

    @property
    def computes_its_losses(self) -> bool:
        """Whether it is SSD's: it takes no loss from the config, but another head in its place."""
        return self.known_name in rules.HEADS_WITH_LOSSES

    @cached_property
    def losses(self) -> dict[str, dict]:
        """The config of each loss by its key."""
        if self.computes_its_losses:
            return _ssd_losses(dict(ChainMap(*self.settings)))
        return {key: value for key, value in self.config.items() if _is_loss(key, value)}

    @cached_property
    def known_as(self) -> str | None:
        """Its type, or the nearest type of the tables that it derives from."""
        if self.computes_its_losses:
            return name_of(rules.HEADS_WITH_LOSSES[self.known_name])
        return self.nearest_in(rules.HEADS)

    @property
    def why_without_losses(self) -> str | None:
        """Why the losses that it computes by itself stay, as far as it has such."""
        known = self.nearest_in({**rules.HEADS, **rules.HEADS_WITHOUT_LOSSES})
        return None if self.computes_its_losses else rules.HEADS_WITHOUT_LOSSES.get(known or '')

    def nearest_in(self, table: Collection[str]) -> str | None:
        """Its type, or the nearest type of a table that it derives from."""
        if self.known_name in table:
            return self.known_name
        return next((kind.__name__ for kind in self._ancestors if _is_in(table, kind)), None)

    @property
    def calls(self) -> Calls:
        """How it calls its losses, as far as that is known."""
        return rules.HEADS.get(self.known_as or '', {})

    @property
    def is_derived(self) -> bool:
        """Whether it is of a type that the tables do not have, but have an ancestor of."""
        return not self.computes_its_losses and self.known_as not in (None, self.known_name)

    @property
    def overridden(self) -> list[str]:
        """The methods of losses and targets that it does not have from its known ancestor."""
        if not self.is_derived:
            return []
        own = takewhile(lambda kind: not _is_in(rules.HEADS, kind), self._ancestors)
        names = {name for kind in own for name in vars(kind)}
        return sorted(name for name in names if 'loss' in name or 'target' in name)

    @cached_property
    def _ancestors(self) -> tuple[type, ...]:
        """Its class and those that it derives from.

        None if the class is not found, or where it can only be MMDetection's of that name.
        """
        kind = self.config['type']
        if isinstance(kind, type):
            return kind.__mro__
        is_foreign = (_package(kind) or self.scope) not in rules.PACKAGES
        has_losses = any(_is_loss(*item) for item in self.config.items())
        if is_foreign or (has_losses and self.name not in rules.HEADS):
            import mmdet.models  # noqa: F401
        if 'mmdet.registry' not in sys.modules:  # by which another class would have its name
            return ()
        from mmdet.registry import MODELS, TASK_UTILS

        name = str(kind) if _package(kind) else f'{self.scope}.{kind}'
        for registry in (MODELS, TASK_UTILS, MODELS.parent, TASK_UTILS.parent):
            with suppress(Exception):  # of a package that is not installed, or fails to import
                # `get` imports a module of a name that is in no registry.
                found = registry.get(name) if is_foreign else registry.module_dict.get(self.name)
                if isinstance(found, type):
                    return found.__mro__
        return ()

    @cached_property
    def settings(self) -> list[dict]:
        """Its part of the nearest `train_cfg`: several where there is one for each of the heads."""
        key = 'rpn' if self.known_as in rules.RPN_HEADS or 'rpn_head' in self.path else 'rcnn'
        of_detector = several(self.train_cfg)
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
            check_real(f'pos_fraction of the sampler of {self.where}', share)
        return min(shares, default=default)

    def matches(self, pattern: str | None) -> bool:
        """Whether its type or its place match a pattern of `fnmatch`; None matches all."""
        names = (self.name, self.where, dotted(self.path[1:]))
        return pattern is None or any(fnmatchcase(name, pattern) for name in names)


def find_heads(model: dict[str, Any], scope: str = 'mmdet') -> list[Head]:
    """Every dict of a model that is a head: it has losses, or a type that is known to call some."""
    return list(_heads_in(Head(('model',), model, scope=scope)))


def _heads_in(node: Head) -> Iterator[Head]:
    config = node.config
    if isinstance(config, (list, tuple)):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return
    if 'type' in config:
        node = _with_reasons_of(node)
        if node.losses or node.known_as or node.why_without_losses:
            yield node
    for key, value in config.items():
        if key not in ('train_cfg', 'test_cfg') and not _is_loss(key, value):
            yield from _heads_in(replace(node, path=(*node.path, key), config=value))


def _is_loss(key: str | int, value: Any) -> bool:
    named = str(key).startswith('loss_') or key == 'initial_loss_cls'
    return named and isinstance(value, dict) and 'type' in value


def _with_reasons_of(node: Head) -> Head:
    """The node, with what its own config says of the losses inside of it."""
    of_roi_head = rules.ROI_HEADS.get(node.nearest_in(rules.ROI_HEADS) or '', {})
    keep = {**node.keep_of_box_head, **of_roi_head}
    train_cfg = node.config.get('train_cfg')
    for stage in (stage for cfg in several(train_cfg) for stage in several(cfg.get('rcnn'))):
        sampler = stage.get('sampler') or {}
        for part in (sampler, sampler.get('pos_sampler') or {}, sampler.get('neg_sampler') or {}):
            if 'type' in part and replace(node, config=part).nearest_in(rules.RANKING_SAMPLERS):
                keep['loss_cls'] = f'{name_of(part)} chooses RoIs by this loss of each'
    return replace(
        node,
        keep_all=node.keep_all or rules.DETECTORS.get(node.nearest_in(rules.DETECTORS) or ''),
        keep_of_box_head=keep,
        train_cfg=train_cfg or node.train_cfg,
    )


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
