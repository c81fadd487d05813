# GFL.
_base_ = './atss_lite0_chess.py'
model = dict(
    type='GFL',
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=12,
        in_channels=96,
        stacked_convs=2,
        feat_channels=96,
        anchor_generator={{_base_.model.bbox_head.anchor_generator}},
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        reg_max=16,
        loss_bbox={{_base_.model.bbox_head.loss_bbox}},
    ),
)
