# RetinaNet with focal loss and smooth L1.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './chess_detection.py']
model = dict(
    data_preprocessor={{_base_.preprocessor}},
    backbone=dict(_delete_=True, type='EfficientNetLite0'),
    neck=dict(in_channels=[40, 112, 320], start_level=0, out_channels=96),
    bbox_head=dict(
        num_classes=12,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
    ),
)
