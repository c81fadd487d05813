# Table 2: GHM-C with the exact gradient density (Eqs. 4-6, ε = 1/30), which has no moving average.
_base_ = './retinanet_r50_fpn_ghmc_8xb2-14e_coco.py'
model = dict(bbox_head=dict(loss_cls=dict(density='exact', momentum=0)))
