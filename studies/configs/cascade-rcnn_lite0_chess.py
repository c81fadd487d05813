# Cascade R-CNN.
_base_ = ['mmdet::_base_/models/cascade-rcnn_r50_fpn.py', './chess_detection.py']
_stage = dict(
    type='Shared2FCBBoxHead',
    in_channels=96,
    fc_out_channels=256,
    roi_feat_size=7,
    num_classes=12,
    reg_class_agnostic=True,
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
)
_coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0])
_assigner = dict(type='MaxIoUAssigner', match_low_quality=False, ignore_iof_thr=-1)
_sampler = dict(
    type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
)
model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(_delete_=True, type='EfficientNetLite0'),
    # Without a norm the box head diverges.
    neck=dict(in_channels=[40, 112, 320], out_channels=96, norm_cfg=dict(type='GN', num_groups=32)),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64, 128]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, featmap_strides=[8, 16, 32, 64]),
        bbox_head=[
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.1, 0.1, 0.2, 0.2])),
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.05, 0.05, 0.1, 0.1])),
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.033, 0.033, 0.067, 0.067])),
        ],
    ),
    train_cfg=dict(
        rpn_proposal=dict(max_per_img=300),
        rcnn=[
            dict(
                assigner=dict(**_assigner, pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou),
                sampler=_sampler,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
