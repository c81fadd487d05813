# Table 4: online hard example mining, three negatives to a positive over all levels.
_base_ = './retinanet_r101_fpn_fl_8xb2-14e_coco.py'
model = dict(
    bbox_head=dict(
        type='ghm_mmdet.GHMRetinaHead',
        loss_cls=dict(_delete_=True, type='ghm_mmdet.OHEMLoss', use_sigmoid=True),
    )
)
