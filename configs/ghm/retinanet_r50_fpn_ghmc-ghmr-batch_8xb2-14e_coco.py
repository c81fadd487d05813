# GHM-C and GHM-R with one density for all FPN levels and all processes: the paper's mini-batch.
_base_ = './retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py'
model = dict(
    bbox_head=dict(
        type='ghm_mmdet.GHMRetinaHead', loss_cls=dict(sync=True), loss_bbox=dict(sync=True)
    )
)
