# GHM-C and GHM-R by the paper's formula.
_base_ = './retinanet_r18_fpn_ghmc-ghmr_bccd.py'
model = dict(bbox_head=dict(loss_cls=dict(formula='paper'), loss_bbox=dict(formula='paper')))
