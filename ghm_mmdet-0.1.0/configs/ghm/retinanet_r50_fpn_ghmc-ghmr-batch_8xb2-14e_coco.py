# GHM-C and GHM-R with one density for all FPN levels and all processes: the paper's mini-batch.
# The sum of the five levels' losses becomes one loss: the weights, 1 and 10, are multiplied by 5
# (docs/mini-batch.md).
_base_ = './retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py'
model = dict(
    bbox_head=dict(
        type='ghm_mmdet.GHMRetinaHead',
        loss_cls=dict(sync=True, loss_weight=5.0),
        loss_bbox=dict(sync=True, loss_weight=50.0),
    )
)
