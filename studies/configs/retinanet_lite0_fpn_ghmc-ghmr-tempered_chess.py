# model.bbox_head.loss_cls (RetinaHead, FocalLoss): replaced by GHMC: its weight is multiplied by α
#   of the focal loss, 0.25
# model.bbox_head.loss_bbox (RetinaHead, SmoothL1Loss): replaced by GHMR
# gradient clipping: kept, {'max_norm': 35, 'norm_type': 2}
_base_ = 'retinanet_lite0_fpn_fl-sl1_chess.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(
            _delete_=True,
            type='ghm_mmdet.GHMC',
            bins=30,
            momentum=0.75,
            use_sigmoid=True,
            loss_weight=0.25,
            formula='tempered',
        ),
        loss_bbox=dict(
            _delete_=True,
            type='ghm_mmdet.GHMR',
            mu=0.02,
            bins=10,
            momentum=0,
            loss_weight=10.0,
            formula='floored',
            mu_momentum=0.9,
        ),
    ),
)
