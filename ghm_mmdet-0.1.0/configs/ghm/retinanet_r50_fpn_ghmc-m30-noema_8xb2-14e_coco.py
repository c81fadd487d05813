# Table 1: GHM-C with M = 30, without the moving average.
_base_ = './retinanet_r50_fpn_ghmc_8xb2-14e_coco.py'
model = dict(bbox_head=dict(loss_cls=dict(bins=30, momentum=0)))
