# FCOS; its ranges are a quarter of COCO's, for images of 320 pixels.
_base_ = ['../../configs/_base_/demo_fcos.py', './chess_detection.py']
model = dict(
    **_base_.one_stage,
    bbox_head=dict(
        num_classes=12,
        in_channels=96,
        feat_channels=96,
        strides=[8, 16, 32, 64, 128],
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
    ),
)
