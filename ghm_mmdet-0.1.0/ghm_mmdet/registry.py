"""The scope `ghm_mmdet`: children of MMEngine's root registries, and what they hold.

MMEngine imports this module by itself when a config names a type with the prefix `ghm_mmdet.`.
The losses are those of `ghm_mmdet.losses`, with two rules for trainings that a config describes:
it has to write `use_sigmoid`, and a new training begins with its own moving averages.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from mmengine.logging import MessageHub, print_log
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from torch import Tensor, nn

from . import losses

L = TypeVar('L', bound=nn.Module)

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='ghm_mmdet', locations=['ghm_mmdet.heads'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='ghm_mmdet', locations=['ghm_mmdet.hooks'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='ghm_mmdet', locations=['ghm_mmdet.evaluation']
)


class AsksForUseSigmoid:
    """A classification loss whose config has to write `use_sigmoid`.

    MMDetection's heads read it from the config, not from the loss, and take a missing key for a
    softmax: they would build one more channel.

    Raises:
        ValueError: It is missing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if 'use_sigmoid' not in kwargs:
            raise ValueError(
                f'use_sigmoid is missing from the config of ghm_mmdet.{type(self).__name__}: '
                "write use_sigmoid=True; use_sigmoid=False is the softmax form. MMDetection's "
                'heads read it from the config, and take a missing key for a softmax'
            )
        super().__init__(*args, **kwargs)


class BeginsAnew:
    """A loss with moving averages, which a new training does not inherit by `load_from`.

    They are of the data and the epoch that the checkpoint was trained on: where these are
    COCO's, hard examples would have a thousandth of their weight at first. A training that is
    resumed goes on with its own.
    """

    _has_loaded = False

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)  # type: ignore[misc]
        self._has_loaded = True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._has_loaded and self.training:  # type: ignore[attr-defined]
            self._has_loaded = False
            if is_first_iteration():
                self.reset_parameters()  # type: ignore[attr-defined]
                what = f'{type(self).__name__}: a new training begins, and so does S'
                print_log(what, logger='current', level=logging.INFO)
        return super().forward(*args, **kwargs)  # type: ignore[misc, no-any-return]


def is_first_iteration() -> bool:
    """Whether MMEngine's runner is in its iteration 0, in which no resumed training is."""
    return bool(MessageHub.get_current_instance().get_info('iter') == 0)


def registered(loss: type[L], *rules: type) -> type[L]:
    """Register a loss under its name, with rules for configs."""
    members = dict(__doc__=loss.__doc__, __module__=__name__)
    return MODELS.register_module()(type(loss.__name__, (*rules, loss), members))  # type: ignore[no-any-return]


GHMC = registered(losses.GHMC, AsksForUseSigmoid, BeginsAnew)
GHMR = registered(losses.GHMR, BeginsAnew)
OHEMLoss = registered(losses.OHEMLoss, AsksForUseSigmoid)
AuthenticSmoothL1Loss = registered(losses.AuthenticSmoothL1Loss)
