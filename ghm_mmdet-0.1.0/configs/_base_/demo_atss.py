# ATSS with two convolutions: what the demo's and the studies' share.
_base_ = './demo_dense_head.py'
model = dict(
    type='ATSS',
    bbox_head=dict(
        type='ATSSHead',
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales_per_octave=1),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
