_base_ = ['../../_base_/demo_yolox.py', '../../_base_/demo_detector.py']
model = dict(
    data_preprocessor={{_base_.demo_preprocessor}},
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.25),
    neck=dict(in_channels=[64, 128, 256], out_channels=64),
    bbox_head=dict(num_classes=3, in_channels=64, feat_channels=64),
)
