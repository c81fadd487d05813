# Small data sets in COCO's format, the demo's and the studies': loaders, and parts of pipelines.
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
flip_and_pack = [dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
# After Resize: ground truth is drawn on the original image.
annotate_and_pack = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(test_mode=True),
)
test_dataloader = val_dataloader
