# BCCD (blood cells) at 320 x 240 pixels, 3 classes, as tools/convert_bccd.py writes it. BCCD_ROOT
# in the environment names another folder.
# `__import__`, for a statement would mark a lazy config (ghm_losses.py).
_base_ = './demo_coco_format.py'
data_root = __import__('os').path.expanduser('{{$BCCD_ROOT:data/bccd/}}')
dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
    data_prefix=dict(img='images/'),
)
resize = dict(type='Resize', scale=(320, 240), keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
test_pipeline = [dict(type='LoadImageFromFile'), resize, *_base_.annotate_and_pack]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(**dataset, ann_file='trainval.json', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(**dataset, ann_file='test.json', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='ghm_mmdet.CocoIoUMetric',
    ann_file=__import__('os').path.join(data_root, 'test.json'),
    metric='bbox',
)
test_evaluator = val_evaluator
