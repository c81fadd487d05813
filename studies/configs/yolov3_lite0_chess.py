# YOLOv3, with the anchors of MMDetection's config for 320 pixels.
_base_ = './chess_detection.py'
cross_entropy = dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum')
model = dict(
    type='YOLOV3',
    data_preprocessor={{_base_.preprocessor}},
    backbone={{_base_.backbone}},
    neck=dict(
        type='YOLOV3Neck', num_scales=3, in_channels=[320, 112, 40], out_channels=[96, 96, 96]
    ),
    bbox_head=dict(
        type='YOLOV3Head',
        num_classes=12,
        in_channels=[96, 96, 96],
        out_channels=[96, 96, 96],
        anchor_generator=dict(
            type='YOLOAnchorGenerator',
            base_sizes=[
                [(220, 125), (128, 222), (264, 266)],
                [(35, 87), (102, 96), (60, 170)],
                [(10, 15), (24, 36), (72, 42)],
            ],
            strides=[32, 16, 8],
        ),
        bbox_coder=dict(type='YOLOBBoxCoder'),
        featmap_strides=[32, 16, 8],
        loss_cls=dict(**cross_entropy, loss_weight=1.0),
        loss_conf=dict(**cross_entropy, loss_weight=1.0),
        loss_xy=dict(**cross_entropy, loss_weight=2.0),
        loss_wh=dict(type='MSELoss', loss_weight=2.0, reduction='sum'),
    ),
    train_cfg=dict(
        assigner=dict(type='GridAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0)
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        conf_thr=0.005,
        nms=dict(type='nms', iou_threshold=0.45),
        max_per_img=100,
    ),
)
