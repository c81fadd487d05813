# The paper's "Optimization": SGD on 8 GPUs x 2 images, 14 epochs, x0.1 after epochs 9 and 12;
# the linear warm-up and the gradient clipping are the released code's.
_base_ = 'mmdet::_base_/default_runtime.py'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=14, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=14, by_epoch=True, milestones=[9, 12], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
# Records what the paper's figures are drawn from (gradient_density.npz); it changes no training.
default_hooks = dict(density=dict(type='ghm_mmdet.GradientDensityHook'))
