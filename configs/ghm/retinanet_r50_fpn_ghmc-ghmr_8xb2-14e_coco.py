# Tables 5 and 6: GHM-C (M = 30, α = 0.75) and GHM-R (μ = 0.02), with the released code's
# M = 10, α = 0.7 and weight 10 for GHM-R.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_14e.py',
]
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
