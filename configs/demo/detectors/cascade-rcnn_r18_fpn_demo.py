_base_ = [
    'mmdet::_base_/models/cascade-rcnn_r50_fpn.py',
    '../../_base_/demo_backbone.py',
    '../../_base_/demo_detection.py',
    '../../_base_/demo_short_schedule.py',
]
_stage = dict(
    type='Shared2FCBBoxHead',
    in_channels=64,
    fc_out_channels=128,
    roi_feat_size=7,
    num_classes=3,
    reg_class_agnostic=True,
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
)
_coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0])
_assigner = dict(type='MaxIoUAssigner', match_low_quality=False, ignore_iof_thr=-1)
_sampler = dict(
    type='RandomSampler', num=32, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
)
model = dict(
    backbone={{_base_.demo_backbone}},
    neck={{_base_.demo_fpn}},
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[2], strides=[8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[8, 16, 32]),
        bbox_head=[
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.1, 0.1, 0.2, 0.2])),
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.05, 0.05, 0.1, 0.1])),
            dict(**_stage, bbox_coder=dict(**_coder, target_stds=[0.033, 0.033, 0.067, 0.067])),
        ],
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
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
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
