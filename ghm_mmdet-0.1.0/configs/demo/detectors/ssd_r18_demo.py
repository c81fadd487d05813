_base_ = ['../../_base_/demo_ssd.py', '../../_base_/demo_detector.py']
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
    neck=dict(**_base_.ssd_neck, in_channels=(64, 128, 256), out_channels=(64, 128, 256, 128)),
    bbox_head=dict(
        in_channels=(64, 128, 256, 128),
        num_classes=3,
        anchor_generator=dict(min_sizes=[12, 24, 48, 96], max_sizes=[24, 48, 96, 160]),
    ),
)
