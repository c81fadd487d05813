# SSD with its own losses in a head that takes them from the config: MMDetection's `SSDHead` has no
# `loss_cls`, which its inference reads. The hard negatives are those of the whole mini-batch.
_base_ = ['../../configs/_base_/demo_ssd.py', './chess_detection.py']
model = dict(
    data_preprocessor={{_base_.preprocessor}},
    backbone=dict(_delete_=True, type='EfficientNetLite0'),
    neck=[
        dict(
            type='ChannelMapper',
            in_channels=[40, 112, 320],
            kernel_size=1,
            out_channels=96,
            norm_cfg=dict(type='GN', num_groups=32),
        ),
        dict(
            **_base_.ssd_neck,
            type='SSDNeck',
            in_channels=(96, 96, 96),
            out_channels=(96, 96, 96, 96),
        ),
    ],
    bbox_head=dict(
        type='ghm_mmdet.GHMSSDHead',
        loss_cls=dict(type='ghm_mmdet.OHEMLoss', use_sigmoid=False),
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0),
        in_channels=(96, 96, 96, 96),
        num_classes=12,
        anchor_generator=dict(min_sizes=[20, 40, 80, 160], max_sizes=[40, 80, 160, 280]),
    ),
)
