# ATSS.
_base_ = ['../../configs/_base_/demo_atss.py', './chess_detection.py']
model = dict(
    **_base_.one_stage,
    bbox_head=dict(
        num_classes=12,
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(octave_base_scale=8, strides=[8, 16, 32, 64, 128]),
    ),
)
