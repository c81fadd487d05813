# GHM-C and smooth L1; focal loss for the first half of the training.
_base_ = ['./retinanet_r18_fpn_fl-sl1_bccd.py', '../_base_/ghm_losses.py']
model = dict(bbox_head=dict(loss_cls={{_base_.ghm_c}}))
custom_hooks = [dict(type='ghm_mmdet.GHMWarmupHook', iters=438)]
