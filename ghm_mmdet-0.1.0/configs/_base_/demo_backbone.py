# ResNet-18 of half width that learns from random weights: batch normalization that learns. An FPN
# of 64 channels on strides 8, 16 and 32.
demo_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
demo_backbone = dict(
    type='ResNet',
    depth=18,
    stem_channels=32,
    base_channels=32,
    frozen_stages=-1,
    norm_eval=False,
    init_cfg=None,
)
demo_fpn = dict(
    type='FPN',
    in_channels=[32, 64, 128, 256],
    out_channels=64,
    start_level=1,
    num_outs=3,
)
