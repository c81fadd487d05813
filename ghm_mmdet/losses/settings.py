"""The settings of the released code, as configs: those of `configs/_base_/ghm_losses.py`."""

GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0)
GHM_R = dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)
