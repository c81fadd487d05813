# VarifocalNet; its deformable convolutions want contiguous features.
_base_ = './atss_lite0_chess.py'
model = dict(
    type='VFNet',
    backbone=dict(channels_last=False),
    bbox_head=dict(
        _delete_=True,
        type='VFNetHead',
        num_classes=12,
        in_channels=96,
        stacked_convs=2,
        feat_channels=96,
        strides=[8, 16, 32, 64, 128],
        use_atss=True,
        use_vfl=True,
        loss_cls=dict(
            type='VarifocalLoss',
            use_sigmoid=True,
            alpha=0.75,
            gamma=2.0,
            iou_weighted=True,
            loss_weight=1.0,
        ),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.5),
        loss_bbox_refine=dict(type='GIoULoss', loss_weight=2.0),
    ),
)
