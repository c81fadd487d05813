# Focal loss and smooth L1 on BCCD, 12 epochs of 73 iterations, from random weights.
_base_ = [
    '../_base_/bccd_retinanet.py',
    '../_base_/bccd_detection.py',
    '../_base_/demo_schedule.py',
]
train_cfg = dict(max_epochs=12, val_interval=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=12, by_epoch=True, convert_to_iter_based=True),
]
