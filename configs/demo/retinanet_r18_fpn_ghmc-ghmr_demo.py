_base_ = './retinanet_r18_fpn_fl-sl1_demo.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(
            _delete_=True,
            type='ghm_mmdet.GHMC',
            bins=30,
            momentum=0.75,
            use_sigmoid=True,
            loss_weight=1.0,
        ),
        loss_bbox=dict(
            _delete_=True,
            type='ghm_mmdet.GHMR',
            mu=0.02,
            bins=10,
            momentum=0.7,
            loss_weight=10.0,
        ),
    )
)
custom_hooks = [dict(type='ghm_mmdet.GHMWarmupHook', iters=500)]
