# Generated shapes (python -m studies.demo_data): 160 x 160 pixels, 3 classes. DEMO_ROOT in the
# environment names another folder.
# `__import__`, for a statement would mark a lazy config (ghm_losses.py).
_base_ = './demo_coco_format.py'
data_root = __import__('os').path.expanduser('{{$DEMO_ROOT:work_dirs/demo/data/}}')
dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    metainfo=dict(classes=('disk', 'square', 'triangle')),
)

train_pipeline = [*_base_.load, *_base_.flip_and_pack]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    *_base_.annotate_and_pack,
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=__import__('os').path.join(data_root, 'annotations/val.json'),
    metric='bbox',
)
test_evaluator = val_evaluator
