"""The scope `ghm_mmdet`: children of MMEngine's root registries.

MMEngine imports this module by itself when a config names a type with the prefix
`ghm_mmdet.`; the classes are imported from `locations` on first use.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='ghm_mmdet',
    locations=['ghm_mmdet.losses', 'ghm_mmdet.heads'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='ghm_mmdet', locations=['ghm_mmdet.hooks'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='ghm_mmdet', locations=['ghm_mmdet.evaluation']
)
