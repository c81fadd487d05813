_base_ = [
    '../../_base_/demo_backbone.py',
    '../../_base_/demo_detection.py',
    '../../_base_/demo_short_schedule.py',
]
model = dict(
    type='FCOS',
    data_preprocessor={{_base_.demo_preprocessor}},
    backbone={{_base_.demo_backbone}},
    neck={{_base_.demo_fpn}},
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        strides=[8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
