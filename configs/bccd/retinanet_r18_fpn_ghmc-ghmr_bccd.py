# GHM-C and GHM-R; focal loss and smooth L1 for the first half of the training.
_base_ = './retinanet_r18_fpn_ghmc-sl1_bccd.py'
model = dict(bbox_head=dict(loss_bbox={{_base_.ghm_r}}))
