# RetinaNet-R18 of half width that learns from random weights on two CPU cores: FPN of 64 channels,
# three levels, anchors from 16 pixels.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './demo_backbone.py']
model = dict(
    backbone={{_base_.demo_backbone}},
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_outs=3),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
        loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
    ),
)
