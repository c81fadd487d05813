# GHM-C and ASL1.
_base_ = ['./retinanet_r18_fpn_ghmc-sl1_bccd.py', '../_base_/box_losses.py']
model = dict(bbox_head=dict(loss_bbox={{_base_.authentic_smooth_l1}}))
