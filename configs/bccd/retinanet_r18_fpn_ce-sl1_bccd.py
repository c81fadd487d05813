# Cross entropy as in the paper's Table 4, weight 20, and smooth L1: the mean over all examples is
# GHM-C with one unit region (β = 1).
_base_ = './retinanet_r18_fpn_ghmc-sl1_bccd.py'
model = dict(bbox_head=dict(loss_cls=dict(bins=1, momentum=0, loss_weight=20.0)))
custom_hooks = []
