_base_ = [
    'mmdet::_base_/models/ssd300.py',
    '../../_base_/demo_backbone.py',
    '../../_base_/demo_detection.py',
    '../../_base_/demo_short_schedule.py',
]
model = dict(
    data_preprocessor={{_base_.demo_preprocessor}},
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        out_indices=(1, 2, 3),
        norm_eval=False,
        frozen_stages=-1,
    ),
    neck=dict(
        in_channels=(64, 128, 256),
        out_channels=(64, 128, 256, 128),
        level_strides=(2,),
        level_paddings=(1,),
        l2_norm_scale=None,
    ),
    bbox_head=dict(
        in_channels=(64, 128, 256, 128),
        num_classes=3,
        anchor_generator=dict(
            _delete_=True,
            type='SSDAnchorGenerator',
            scale_major=False,
            strides=[8, 16, 32, 64],
            ratios=[[2], [2], [2], [2]],
            min_sizes=[12, 24, 48, 96],
            max_sizes=[24, 48, 96, 160],
        ),
    ),
)
