# Tables 5 and 6: GHM-C and ASL1.
_base_ = './retinanet_r50_fpn_ghmc_8xb2-14e_coco.py'
model = dict(bbox_head=dict(loss_bbox={{_base_.authentic_smooth_l1}}))
