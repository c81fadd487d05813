# FCOS; its ranges are a quarter of COCO's, for images of 320 pixels.
_base_ = './chess_detection.py'
model = dict(
    type='FCOS',
    data_preprocessor={{_base_.preprocessor}},
    backbone={{_base_.backbone}},
    neck={{_base_.fpn}},
    bbox_head=dict(
        type='FCOSHead',
        num_classes=12,
        in_channels=96,
        stacked_convs=2,
        feat_channels=96,
        strides=[8, 16, 32, 64, 128],
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
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
