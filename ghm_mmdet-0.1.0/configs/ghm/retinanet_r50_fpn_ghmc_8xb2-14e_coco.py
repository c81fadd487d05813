# Tables 2 ("GHM-C RU"), 4, 5 and 6 ("SL1"): GHM-C, smooth L1.
_base_ = ['./retinanet_r50_fpn_fl_8xb2-14e_coco.py', '../_base_/ghm_losses.py']
model = dict(bbox_head=dict(loss_cls={{_base_.ghm_c}}))
