# RetinaNet-R18 for small images on a CPU: the demo's at full width, with 128 channels.
_base_ = './demo_retinanet.py'
model = dict(
    backbone=dict(stem_channels=64, base_channels=64),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128),
)
