# The demo's RetinaNet with focal loss, trained by iterations.
_base_ = '../../configs/demo/retinanet_r18_fpn_fl-sl1_demo.py'
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=200, val_interval=200)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=200))
