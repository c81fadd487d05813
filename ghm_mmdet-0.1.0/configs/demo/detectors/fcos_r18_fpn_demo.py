_base_ = ['../../_base_/demo_fcos.py', '../../_base_/demo_detector.py']
model = dict(
    **_base_.one_stage,
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        strides=[8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
    ),
)
