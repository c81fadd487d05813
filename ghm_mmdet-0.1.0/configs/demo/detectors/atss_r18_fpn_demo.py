_base_ = ['../../_base_/demo_atss.py', '../../_base_/demo_detector.py']
model = dict(
    **_base_.one_stage,
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32]),
    ),
    train_cfg=dict(debug=False),
)
