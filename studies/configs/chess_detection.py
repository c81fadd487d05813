# The photographs in data/chess at 320 pixels, 4 images an iteration, for a detector on
# EfficientNet-Lite0 with ImageNet weights: minutes on a CPU core.
_base_ = ['../../configs/_base_/demo_runtime.py', '../../configs/_base_/demo_coco_format.py']
custom_imports = dict(imports=['studies.efficientnet_lite'])

# Another folder in COCO's format: images/, train.json, test.json.
data_root = __import__('os').path.expanduser('{{$REAL_ROOT:data/chess/}}')
classes = (
    'black-bishop', 'black-king', 'black-knight', 'black-pawn', 'black-queen', 'black-rook',
    'white-bishop', 'white-king', 'white-knight', 'white-pawn', 'white-queen', 'white-rook',
)  # fmt: skip

dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    data_prefix=dict(img='images/'),
)
preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127, 127, 127],
    std=[128, 128, 128],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
backbone = dict(type='EfficientNetLite0')
one_stage = dict(
    data_preprocessor=preprocessor,
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=96, num_outs=5),
)
# Of detectors with two stages, as MMDetection's R-50-FPN are.
two_stages = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(_delete_=True, **backbone),
    # Without a norm the box head diverges.
    neck=dict(in_channels=[40, 112, 320], out_channels=96, norm_cfg=dict(type='GN', num_groups=32)),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64, 128]),
    ),
)
resize = dict(type='Resize', scale=(320, 320), keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
test_pipeline = [dict(type='LoadImageFromFile'), resize, *_base_.annotate_and_pack]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(**dataset, ann_file='train.json', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(**dataset, ann_file='test.json', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='ghm_mmdet.CocoIoUMetric', ann_file=data_root + 'test.json')
test_evaluator = val_evaluator

max_iters = 200
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=max_iters, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
