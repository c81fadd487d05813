# What the detectors in configs/demo/detectors/ share beside their heads.
_base_ = ['./demo_backbone.py', './demo_detection.py', './demo_short_schedule.py']
one_stage = dict(
    data_preprocessor=_base_.demo_preprocessor,
    backbone=_base_.demo_backbone,
    neck=_base_.demo_fpn,
)
two_stages = dict(
    backbone=_base_.demo_backbone,
    neck=_base_.demo_fpn,
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[2], strides=[8, 16, 32]),
    ),
)
