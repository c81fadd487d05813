# The demo with one density for all FPN levels. The weights, 1 and 10, are multiplied by √3 for its
# three levels (docs/mini-batch.md).
_base_ = './retinanet_r18_fpn_ghmc-ghmr_demo.py'
model = dict(
    bbox_head=dict(
        type='ghm_mmdet.GHMRetinaHead',
        loss_cls=dict(loss_weight=1.73),
        loss_bbox=dict(loss_weight=17.3),
    )
)
