# COCO, train2017 / val2017 (= the paper's trainval35k / minival), (1333, 800), flip 0.5.
# COCO_ROOT in the environment names another folder of the same layout.
# `__import__`, for a statement would mark a lazy config (ghm_losses.py).
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
data_root = __import__('os').path.expanduser('{{$COCO_ROOT:data/coco/}}')
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='ghm_mmdet.CocoIoUMetric',
    ann_file=__import__('os').path.join(data_root, 'annotations/instances_val2017.json'),
)
test_evaluator = val_evaluator
