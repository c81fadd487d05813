# AdamW with clipped gradients, a line of the log every 20 iterations, and seed 0.
_base_ = 'mmdet::_base_/default_runtime.py'
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1),
)
randomness = dict(seed=0)
