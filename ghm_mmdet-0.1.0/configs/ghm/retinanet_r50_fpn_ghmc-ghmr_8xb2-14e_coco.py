# Tables 5 and 6: GHM-C and GHM-R.
_base_ = './retinanet_r50_fpn_ghmc_8xb2-14e_coco.py'
model = dict(bbox_head=dict(loss_bbox={{_base_.ghm_r}}))
