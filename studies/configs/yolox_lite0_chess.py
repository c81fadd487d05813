# YOLOX.
_base_ = ['../../configs/_base_/demo_yolox.py', './chess_detection.py']
model = dict(
    data_preprocessor={{_base_.preprocessor}},
    backbone={{_base_.backbone}},
    neck=dict(in_channels=[40, 112, 320], out_channels=96),
    bbox_head=dict(num_classes=12, in_channels=96, feat_channels=96),
)
